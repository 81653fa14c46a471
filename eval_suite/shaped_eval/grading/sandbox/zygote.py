"""The fork server: starts one confined process for each piece of work, within milliseconds.

It runs in a fresh interpreter that has seen no other work. It enters the namespaces that it may,
and a root directory of its own there. It tries out on children of its own which protections hold:
Landlock, with that root directory or without, or else the root directory alone. Then it obeys its
control socket: S forks (with the descriptors that the child gets), and R kills the child and
reports how it ended. The server ends with the socket, and the child with the server.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import gc
import importlib
import importlib.machinery as machinery
import importlib.util
import json
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from shaped_eval.grading.sandbox import confine, filters, root
from shaped_eval.grading.sandbox.wire import send_frame

ORDER = struct.Struct("=cII")  # START or REAP, CPU seconds, MiB
START, REAP = b"S", b"R"
# wait status, whether it had ended before it was killed, CPU seconds, peak KiB
ENDED = struct.Struct("=i?dq")
MOST_DESCRIPTORS = 3
WEAK = "weak"  # the confinement if not every required protection holds
_CHANNEL = 3
_PRELOADED = (
    "abc array bisect calendar cmath collections contextlib copy dataclasses datetime decimal "
    "enum fractions functools hashlib heapq itertools json math numbers operator queue random re "
    "statistics string textwrap time typing"
)


class _Chosen(machinery.FileFinder):
    """Finds only the named packages of a folder; others do not exist for a program."""

    names: frozenset[str]

    def find_spec(self, fullname: str, target: Any = None) -> machinery.ModuleSpec | None:
        return super().find_spec(fullname, target) if fullname in self.names else None


def _show_packages(names: list[str] | None, folders: list[str]) -> None:
    """Allow imports of the packages with these names, or of all, from the folders."""
    if names is None:
        sys.path += folders
        return
    _Chosen.names = frozenset(names)
    loaders = (
        (machinery.ExtensionFileLoader, machinery.EXTENSION_SUFFIXES),
        (machinery.SourceFileLoader, machinery.SOURCE_SUFFIXES),
    )

    def finder(path: str) -> _Chosen:
        if path not in folders:
            raise ImportError(path, path=path)
        return _Chosen(path, *loaders)

    sys.path_hooks.insert(0, finder)
    sys.path += folders


def _preload(names: list[str]) -> None:
    """Import modules without leaving temporary files, such as matplotlib's if there is no home."""
    with tempfile.TemporaryDirectory() as tempfile.tempdir:
        for name in names:
            importlib.import_module(name)
    tempfile.tempdir = None
    atexit.unregister(shutil.rmtree)  # matplotlib registers this, and it would not find its folder


def main(control_fd: int, options: dict[str, Any]) -> None:
    """Serve until the socket closes.

    Options:
        parent: process id.
        readable, listable, devices, folder: paths, see `confine.landlock_rules`.
        shown, hidden: paths, see `root.enter_root`.
        namespaces: enter them if possible.
        weak: continue without protections.
        packages: names, or null for all.
        package_folders: their locations.
        preloaded: modules.
        serves: ``module:function`` that a child runs.
        threads: whether a child may have them.
    """
    _show_packages(options["packages"], options["package_folders"])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.umask(0o022)
    _preload([*_PRELOADED.split(), *filter(importlib.util.find_spec, options["preloaded"])])
    module, _, function = options["serves"].partition(":")
    serve = getattr(importlib.import_module(module), function)
    gc.collect()
    gc.freeze()  # keep the imported pages shared with the children
    # the lowest number: a child closes those up to 4096, and the parent may have had more open
    control = socket.socket(fileno=os.dup(control_fd))
    os.close(control_fd)
    if sys.platform != "linux":
        _Server(control, options, serve).serve()
        return
    confine.die_with_parent()
    if os.getppid() != options["parent"]:  # it died before the request
        return
    confine.be_first_out_of_memory()
    server = _Server(control, options, serve)
    if not options["namespaces"]:
        server.serve()
        return
    try:
        root.enter_namespaces()
    except confine.Refused as error:
        server.no_root = str(error.strerror)
        server.serve()
        return
    except OSError as error:
        control.send(_refusal(error))
        return
    # process 1 of the new namespace: when it ends, the kernel ends all others in it
    first = os.fork()
    if first == 0:
        try:
            confine.die_with_parent()
            server.enter_root()
            server.serve()
        finally:
            os._exit(0)
    control.close()
    os.waitpid(first, 0)


class _Server:
    def __init__(
        self, control: socket.socket, options: dict[str, Any], run: Callable[..., None]
    ) -> None:
        self._control = control
        self._options = options
        self._run = run
        self.no_root = "namespaces were not asked for"  # why there is no root directory; or ""
        self._entered = False
        self._child = 0
        self._rules = -1
        self._user = 0  # the user to change to; 0 for no change

    def enter_root(self) -> None:
        """Enter a root directory of its own, in the namespaces that have been entered."""
        self._entered = True
        paths = (self._options[name] for name in ("shown", "hidden", "folder"))
        try:
            root.enter_root(*paths)
            self.no_root = ""
        except confine.Refused as error:
            self.no_root = str(error.strerror)

    @property
    def _rooted(self) -> bool:
        return not self.no_root

    def serve(self) -> None:
        try:
            self._prepare()
            confinement = self._protect()
        except OSError as error:
            self._control.send(_refusal(error))
            return
        hello = {
            "rooted": self._rooted,
            "user": self._user or os.getuid(),
            "confinement": confinement,
        }
        self._control.send(json.dumps(hello).encode())
        try:
            while True:
                message, descriptors, _, _ = socket.recv_fds(
                    self._control, ORDER.size, MOST_DESCRIPTORS
                )
                if not message:
                    return
                order, cpu_s, memory_mb = ORDER.unpack(message)
                if order == START:
                    self._start(descriptors, cpu_s, memory_mb)
                    self._control.send(START)
                else:
                    self._control.send(ENDED.pack(*self._reap()))
        except (BrokenPipeError, ConnectionResetError):
            return
        finally:
            self._reap()

    def _prepare(self) -> None:
        """Prepare the children's descriptors, folder and user."""
        devnull = os.open(os.devnull, os.O_RDWR)
        for standard in (0, 1, 2):
            os.dup2(devnull, standard)
        os.close(devnull)
        if self._rooted:
            os.chdir(self._options["folder"])
        else:  # a removed folder: nothing can be created in it, and nothing remains
            folder = tempfile.mkdtemp()
            os.chdir(folder)
            os.rmdir(folder)
        if os.getuid() == 0 and _in_child(_works_as_nobody):
            self._user = confine.NOBODY

    def _protect(self) -> str:
        """Choose the protections that hold on a process on trial, and return their names.

        Raises:
            Refused: they are not enough, and a weak sandbox is not allowed.
        """
        missing = [*filter(None, map(_refused, (self._prepare_calls, self._prepare_files)))]
        if not missing and not self._is_held():
            missing = ["a process on trial was not confined"]
        if not missing:
            held = {"seccomp": True, "Landlock": self._rules >= 0, "private root": self._rooted}
            return ", ".join(name for name, holds in held.items() if holds)
        if not self._options["weak"]:
            raise confine.Refused(errno.EPERM, "; ".join(missing))
        return WEAK

    def _prepare_calls(self) -> None:
        confine.check_calls()
        filters.program(self._options["threads"])

    def _prepare_files(self) -> None:
        folder = self._options["folder"] if self._rooted else None
        names = ("readable", "listable", "devices")
        readable, listable, devices = (self._options[name] for name in names)
        try:
            self._rules = confine.landlock_rules(readable, listable, devices, folder)
        except confine.Refused as error:
            if not self._rooted:
                instead = f"and there is no private root in its place ({self.no_root})"
                raise confine.Refused(error.errno, f"{error.strerror}, {instead}") from error

    def _is_held(self) -> bool:
        """Whether a process on trial is confined, with Landlock or without it."""
        if _in_child(self._holds):
            return True
        if self._rules < 0 or not self._rooted:
            return False
        os.close(self._rules)
        self._rules = -1
        return _in_child(self._holds)

    def _holds(self) -> bool:
        """Confine this process and check that forbidden actions fail; they would do no harm."""
        self._confine(cpu_s=10, memory_mb=1024)
        actions: tuple[Callable[[], Any], ...] = (
            lambda: os.open("/etc/passwd", os.O_RDONLY),
            lambda: os.open("/proc/self/status", os.O_RDONLY),
            lambda: os.open(os.__file__, os.O_WRONLY),
            lambda: os.open("/", os.O_TMPFILE | os.O_RDWR),
            os.fork,
            socket.socket,
            lambda: os.kill(os.getppid(), 0),
            lambda: os.chmod("/", os.stat("/").st_mode),
            lambda: os.execv("/bin/false", ["false"]),
        )
        return all(map(_is_refused, actions))

    def _start(self, descriptors: list[int], cpu_s: int, memory_mb: int) -> None:
        assert not self._child
        self._child = os.fork()
        if self._child == 0:
            try:
                self._be_confined(descriptors, cpu_s, memory_mb)
            finally:
                os._exit(0)
        for descriptor in descriptors:
            os.close(descriptor)

    def _be_confined(self, descriptors: list[int], cpu_s: int, memory_mb: int) -> None:
        """Keep only the channel, the given descriptors and the rules; confine; run the work."""
        self._control.detach()
        kept = [*descriptors, *([self._rules] if self._rules >= 0 else [])]
        above = [fcntl.fcntl(old, fcntl.F_DUPFD, 64) for old in kept]
        os.closerange(_CHANNEL, 64)
        for new, old in enumerate(above, _CHANNEL):
            os.dup2(old, new)
        os.closerange(_CHANNEL + len(kept), 4096)
        if self._rules >= 0:
            self._rules = _CHANNEL + len(descriptors)
        try:
            self._confine(cpu_s, memory_mb)
        except OSError as error:
            send_frame(_CHANNEL, {"refused": f"{error.strerror}"})
            return
        send_frame(_CHANNEL, {"confined": True})
        self._run(*range(_CHANNEL, _CHANNEL + len(descriptors)))

    def _confine(self, cpu_s: int, memory_mb: int) -> None:
        os.setpgid(0, 0)
        confine.limit_resources(cpu_s, memory_mb, self._most_processes())
        if self._user:
            confine.become(self._user)
        if sys.platform != "linux":
            return
        confine.die_with_parent()  # after the change of user, which would cancel it
        for protect in (confine.give_up_privileges, self._restrict_files, self._restrict_calls):
            try:
                protect()
            except OSError:
                if not self._options["weak"]:
                    raise

    def _most_processes(self) -> int | None:
        """The limit for the user of this process.

        It is None if the user has other processes on the machine, which would be counted too.
        """
        if not self._options["threads"]:
            return 0
        if self._entered:
            return confine.PROCESSES_IN_NAMESPACE
        return confine.PROCESSES_OF_NOBODY if self._user else None

    def _restrict_files(self) -> None:
        if self._rules >= 0:
            confine.restrict_files(self._rules)
            os.close(self._rules)
        elif not self._rooted:
            raise confine.Refused(errno.EPERM, "nothing restricts the files of this process")

    def _restrict_calls(self) -> None:
        confine.restrict_calls(self._options["threads"])

    def _reap(self) -> tuple[int, bool, float, int]:
        if not self._child:
            return 0, True, 0.0, 0
        had_ended = (
            os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        )
        os.kill(self._child, signal.SIGKILL)  # it is not reaped yet, so its id is not reused
        _, status, used = os.wait4(self._child, 0)
        self._child = 0
        folder = self._options["folder"]
        if self._rooted and os.listdir(folder):
            os.chdir("/")
            root.unmount_folder(folder)
            root.mount_folder(folder)
            os.chdir(folder)
            if self._rules >= 0:
                confine.allow_folder(self._rules, folder)
        return status, had_ended, used.ru_utime + used.ru_stime, used.ru_maxrss


def _refusal(error: OSError) -> bytes:
    return json.dumps({"refused": error.strerror or str(error)}).encode()


def _refused(prepare: Callable[[], None]) -> str | None:
    """The reason why `prepare` was refused; None if it was not."""
    try:
        prepare()
    except confine.Refused as error:
        return str(error.strerror)
    return None


def _in_child(action: Callable[[], bool]) -> bool:
    """Whether `action` returns True in a child process."""
    child = os.fork()
    if child == 0:
        with contextlib.suppress(BaseException):
            os._exit(0 if action() else 1)
        os._exit(1)
    return os.waitpid(child, 0)[1] == 0


def _works_as_nobody() -> bool:
    """Whether nobody can read the library; not if the interpreter is in a home folder."""
    confine.become(confine.NOBODY)
    for path in filter(os.path.isdir, sys.path):
        os.listdir(path)
    importlib.import_module("colorsys")  # a module that is not loaded yet
    return True


def _is_refused(action: Callable[[], Any]) -> bool:
    try:
        action()
    except OSError:
        return True
    return False

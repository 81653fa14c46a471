"""The fork server: starts one confined process for each piece of work, within milliseconds.

It runs in a fresh interpreter that has seen no other work. It enters the namespaces that it may,
verifies on a child of its own that the protections hold, and then obeys its control socket: S forks
(with the descriptors that the child gets), and R kills the child and reports how it ended. The
server ends with the socket, and the child with the server.
"""

from __future__ import annotations

import atexit
import contextlib
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

from shaped_eval.grading.sandbox import confine, filters
from shaped_eval.grading.sandbox.wire import send_frame

ORDER = struct.Struct("=cII")  # START or REAP, CPU seconds, MiB
START, REAP = b"S", b"R"
# wait status, whether it had ended before it was killed, CPU seconds, peak KiB
ENDED = struct.Struct("=i?dq")
MOST_DESCRIPTORS = 3
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
        readable, listable, devices, visible, folder: paths, see `confine`.
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
    control = socket.socket(fileno=control_fd)
    if sys.platform != "linux":
        _Server(control, options, serve).serve()
        return
    confine.die_with_parent()
    if os.getppid() != options["parent"]:  # it died before the request
        return
    confine.be_first_out_of_memory()
    try:
        entered = options["namespaces"] and confine.enter_namespaces()
    except OSError as error:
        control.send(_refusal(error))
        return
    if not entered:
        _Server(control, options, serve).serve()
        return
    # process 1 of the new namespace: when it ends, the kernel ends all others in it
    first = os.fork()
    if first == 0:
        try:
            confine.die_with_parent()
            rooted = confine.enter_root(options["visible"], options["folder"])
            _Server(control, options, serve, entered=True, rooted=rooted).serve()
        finally:
            os._exit(0)
    control.close()
    os.waitpid(first, 0)


class _Server:
    def __init__(
        self,
        control: socket.socket,
        options: dict[str, Any],
        run: Callable[..., None],
        *,
        entered: bool = False,
        rooted: bool = False,
    ) -> None:
        self._control = control
        self._options = options
        self._run = run
        self._entered = entered
        self._rooted = rooted
        self._child = 0
        self._rules = -1
        self._user = 0  # the user to change to; 0 for no change

    def serve(self) -> None:
        try:
            self._prepare()
        except OSError as error:
            self._control.send(_refusal(error))
            return
        self._control.send(
            json.dumps({"rooted": self._rooted, "user": self._user or os.getuid()}).encode()
        )
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
        """Prepare the children's folder, rules and user, and verify that the protections hold.

        Raises:
            OSError: a protection is missing, and a weak sandbox is not allowed.
        """
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
        if sys.platform != "linux":
            return
        folder_of_code = self._options["folder"] if self._rooted else None
        filters.program(self._options["threads"])
        try:
            readable, listable, devices = (
                self._options[name] for name in ("readable", "listable", "devices")
            )
            self._rules = confine.landlock_rules(readable, listable, devices, folder_of_code)
            if not _in_child(self._holds):
                raise confine.Refused(0, "a process on trial was not confined")
        except OSError:
            if not self._options["weak"]:
                raise

    def _holds(self) -> bool:
        """Confine this process and check that forbidden actions fail; they would do no harm."""
        self._confine(cpu_s=10, memory_mb=1024)
        actions: tuple[Callable[[], Any], ...] = (
            lambda: os.open("/etc/passwd", os.O_RDONLY),
            lambda: os.open("/proc/self/status", os.O_RDONLY),
            lambda: os.open(os.__file__, os.O_WRONLY),
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
        confine.restrict_files(self._rules)
        os.close(self._rules)

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
            confine.unmount_folder(folder)
            confine.mount_folder(folder)
            os.chdir(folder)
            if self._rules >= 0:
                confine.allow_folder(self._rules, folder)
        return status, had_ended, used.ru_utime + used.ru_stime, used.ru_maxrss


def _refusal(error: OSError) -> bytes:
    return json.dumps({"refused": error.strerror or str(error)}).encode()


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

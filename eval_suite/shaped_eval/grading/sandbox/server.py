"""The trusted side's handle to a fork server, which starts one confined process after another."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import weakref
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shaped_eval.errors import UserError
from shaped_eval.grading.sandbox import confine, root
from shaped_eval.grading.sandbox.wire import (
    CALLED,
    LARGEST_TASK,
    Gone,
    GoneAfterCall,
    recv_frame,
    send_frame,
)
from shaped_eval.grading.sandbox.zygote import ENDED, MOST_DESCRIPTORS, ORDER, REAP, START

ALLOW_WEAK_VARIABLE = "SHAPED_TRL_ALLOW_WEAK_SANDBOX"
_PATIENCE_S = 60.0  # patience with our own small processes on a busy machine
# On a busy machine, a process that was ended at the limit reports at least this share of it.
_LIMIT_SHARE = 0.75
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom")
_DEVICES = ("/dev/null",)
_BOOTSTRAP = """\
import json, sys, types
packages, options = json.loads(sys.argv[2])
for name, path in packages:  # without their __init__, which would import what must not be here
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from shaped_eval.grading.sandbox.zygote import main
main(int(sys.argv[1]), options)
"""


class SandboxUnavailable(UserError):
    """The code is not run, because this machine cannot confine it; the message says why."""


@dataclass(frozen=True)
class Role:
    """What the processes of a fork server do.

    Attributes:
        serves: ``module:function`` that each process runs, with the descriptors that it was started
            with.
        packages: packages besides the standard library that it may import; None for all that are
            installed.
        preloaded: modules that the fork server imports for its processes.
        threads: whether a process may have threads.
        needs_sandbox: whether the confinement is required. It is not if nothing untrusted is run,
            only read.
    """

    serves: str
    packages: tuple[str, ...] | None = ("numpy", "numpy.libs")
    preloaded: tuple[str, ...] = ()
    threads: bool = False
    needs_sandbox: bool = True


CANDIDATE = Role("shaped_eval.grading.sandbox.candidate:serve")


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        before: whether it had ended before it was killed.
        signal: the signal that ended it, or 0.
        cpu_s: the CPU time that it used.
        peak_mb: its peak memory in MiB.
    """

    before: bool
    signal: int
    cpu_s: float
    peak_mb: float

    def out_of_time(self, cpu_s: int) -> bool:
        """Whether the kernel ended it at its limit of CPU time."""
        return (
            self.signal in (signal.SIGKILL, signal.SIGXCPU) and self.cpu_s >= _LIMIT_SHARE * cpu_s
        )


def weak_allowed() -> bool:
    """Whether the user has set ``SHAPED_TRL_ALLOW_WEAK_SANDBOX=1``."""
    return os.environ.get(ALLOW_WEAK_VARIABLE, "") not in ("", "0")


def check_sandbox() -> None:
    """Check that code can be confined here.

    This takes a millisecond where there are Landlock and seccomp. Where Landlock is missing, it
    starts a fork server on trial; if that can confine a process, it is not tried again.

    Raises:
        SandboxUnavailable: code cannot be confined, and the user has not allowed a weak sandbox.
    """
    if confine.missing_protections() and not weak_allowed():
        _try_out()


@cache
def _try_out() -> None:
    SandboxServer().close()


def _explain(reason: str) -> str:
    return (
        f"generated code cannot be confined here: {reason}. It is not run; grade it on another "
        f"machine, or accept the risk with --allow_weak_sandbox (or {ALLOW_WEAK_VARIABLE}=1)"
    )


class SandboxServer:
    """One fork server, which holds one process at a time. Not thread-safe.

    It ends with this object or with this process.

    Args:
        role: what its processes do.
        namespaces: enter namespaces, and a private root, if the kernel allows it. Otherwise there
            are only Landlock and seccomp.

    Attributes:
        confinement: the protections of its processes, such as "seccomp, Landlock, private root", or
            "weak" if they are not enough for generated code.
        rooted: whether the processes have a private root.
        user: the id of their user.

    Raises:
        SandboxUnavailable: a protection is missing, and a weak sandbox is not allowed.
    """

    def __init__(self, role: Role = CANDIDATE, namespaces: bool = True) -> None:
        settings = _settings(role, namespaces)
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-s",
                    "-S",
                    "-P",
                    "-B",
                    "-c",
                    _BOOTSTRAP,
                    str(theirs.fileno()),
                    json.dumps([_own_packages(), settings]),
                ],
                pass_fds=[theirs.fileno()],
                env=_ENVIRONMENT
                | {"HOME": settings["folder"], "TMPDIR": settings["folder"]}
                | _homes(role),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.close = weakref.finalize(self, _close, self._control, process)
        self.pid = process.pid  # also the id of the session of all that it starts
        self._control.settimeout(_PATIENCE_S)
        hello = json.loads(self._control.recv(1 << 16) or b'{"refused": "the fork server ended"}')
        if "refused" in hello:
            self.close()
            raise SandboxUnavailable(_explain(hello["refused"]))
        self.confinement: str = hello["confinement"]
        self.rooted: bool = hello["rooted"]
        self.user: int = hello["user"]

    def start(self, cpu_s: int, memory_mb: int, *given: int) -> int:
        """Start a confined process; return our end of the channel to it, which the caller closes.

        There is one process at a time. `given` are further descriptors, of which it gets copies.
        """
        assert len(given) < MOST_DESCRIPTORS
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(
                self._control, [ORDER.pack(START, cpu_s, memory_mb)], [theirs.fileno(), *given]
            )
            self._receive()
            ours.setblocking(False)
            return ours.detach()

    def ask(self, message: Any, cpu_s: int, memory_mb: int, wall_s: float, *given: int) -> Any:
        """Start a process, send it a message and return its reply; `reap` then ends it.

        Raises:
            Gone, TimeoutError, BadReply: there is no valid reply (see `wire`).
            SandboxUnavailable: the process could not be confined.
            OSError: the fork server failed.
        """
        deadline_s = time.monotonic() + wall_s
        channel = self.start(cpu_s, memory_mb, *given)
        try:
            hello = recv_frame(channel, deadline_s)
            if "refused" in hello:
                raise SandboxUnavailable(_explain(hello["refused"]))
            send_frame(channel, message, deadline_s, LARGEST_TASK)
            reply = recv_frame(channel, deadline_s)
            if reply != CALLED:
                return reply
            try:
                return recv_frame(channel, deadline_s)
            except Gone as error:
                raise GoneAfterCall from error
        finally:
            os.close(channel)

    def reap(self) -> Ended:
        """End the process, whatever it is doing, and empty its folder."""
        self._control.send(ORDER.pack(REAP, 0, 0))
        status, before, cpu_s, peak_kib = ENDED.unpack(self._receive())
        return Ended(
            before, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, cpu_s, peak_kib / 1024
        )

    def _receive(self) -> bytes:
        reply = self._control.recv(64)
        if not reply:
            raise ConnectionError("the fork server of the sandbox ended")
        return reply


def _close(control: socket.socket, process: subprocess.Popen[bytes]) -> None:
    control.close()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()


_ENVIRONMENT = {
    "LANG": "C.UTF-8",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PATH": "/usr/bin:/bin",
    "PYTHONHASHSEED": "0",  # so that a verdict can be repeated
}


def _homes(role: Role) -> dict[str, str]:
    """The variables that locate caches of packages, such as matplotlib's list of fonts."""
    names = (
        ()
        if role.packages is not None
        else ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR")
    )
    return {name: os.environ[name] for name in names if name in os.environ}


def _own_packages() -> list[tuple[str, str]]:
    """Name and folder of the packages of ours that the fork server imports."""
    here = Path(__file__).resolve()
    return [
        (name, str(here.parents[up]))
        for name, up in (
            ("shaped_eval", 2),
            ("shaped_eval.grading", 1),
            ("shaped_eval.grading.sandbox", 0),
        )
    ]


def _settings(role: Role, namespaces: bool) -> dict[str, Any]:
    libraries = _library_folders()
    third_party = [str(path) for path in _third_party(role.packages)]
    parents = sorted(
        {path if role.packages is None else os.path.dirname(path) for path in third_party}
    )
    named = [*_SYSTEM_LIBRARIES, *_SYSTEM_FILES, *third_party]
    named += map(str, (Path(sys.base_prefix) / "lib").glob("lib*.so*"))
    inside = [entry.path for folder in libraries for entry in os.scandir(folder)]
    hidden = [path for path in inside if path.endswith(("/site-packages", "/dist-packages"))]
    shown = [*named, *libraries, *_DEVICES]
    return {
        "parent": os.getpid(),
        "readable": [*named, *(path for path in inside if path not in hidden)],
        "listable": [*libraries, *parents],
        "devices": _DEVICES,
        "shown": shown,
        "hidden": hidden,
        "folder": root.folder_beside(shown),
        "namespaces": namespaces,
        "weak": weak_allowed() or not role.needs_sandbox,
        "packages": role.packages,
        "package_folders": parents,
        "preloaded": role.preloaded,
        "serves": role.serves,
        "threads": role.threads,
    }


def _library_folders() -> list[str]:
    paths = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib"),
        sysconfig.get_config_var("DESTSHARED"),
    }
    return sorted(
        path for path in paths if path and os.path.isdir(path) and not _is_environment(path)
    )


def _is_environment(path: str) -> bool:
    """Whether this is a virtual environment's own lib folder, which has no standard library."""
    return path.startswith(sys.prefix + os.sep) and sys.prefix != sys.base_prefix


def _third_party(packages: tuple[str, ...] | None) -> list[Path]:
    """The folders of these packages, or the folders of all that are installed."""
    if packages is None:
        return [
            Path(path) for path in sys.path if path.endswith(("site-packages", "dist-packages"))
        ]
    found = importlib.util.find_spec(packages[0])
    if found is None or not found.submodule_search_locations:
        return []
    folder = Path(found.submodule_search_locations[0]).parent
    return [folder / name for name in packages if (folder / name).is_dir()]

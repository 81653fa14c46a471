"""The trusted side's handle to the fork server: start it, have it start and end the process of a piece of code."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import sysconfig
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_suite.errors import UserError
from eval_suite.grading.sandbox import confine
from eval_suite.grading.sandbox.zygote import ENDED, ORDER, REAP, START

ALLOW_WEAK_VARIABLE = "SHAPED_TRL_ALLOW_WEAK_SANDBOX"
_PATIENCE_S = 60.0  # for our own small processes on a busy machine
_PACKAGES = ("numpy", "numpy.libs")  # what the code may import beside the standard library
_SYSTEM_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64")
_SYSTEM_FILES = ("/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo", "/dev/urandom")
_DEVICES = ("/dev/null",)
_BOOTSTRAP = """\
import json, sys, types
packages, options = json.loads(sys.argv[2])
for name, path in packages:  # without their __init__, which would import what must not be here
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [path]
from eval_suite.grading.sandbox.zygote import main
main(int(sys.argv[1]), options)
"""


class SandboxUnavailable(UserError):
    """The code is not run, because this machine cannot confine it; the message says why."""


@dataclass(frozen=True)
class Ended:
    """What became of the process: the signal that ended it before we did (0 for none), and what it used."""

    signal: int
    cpu_s: float
    peak_mb: float


def weak_allowed() -> bool:
    """Has the user set ``SHAPED_TRL_ALLOW_WEAK_SANDBOX=1``?"""
    return os.environ.get(ALLOW_WEAK_VARIABLE, "") not in ("", "0")


def check_sandbox() -> None:
    """Can code be confined on this machine? In a millisecond, and without starting anything.

    Raises:
        SandboxUnavailable: Landlock or seccomp is missing, and the user has not allowed a weak sandbox.
    """
    missing = confine.missing_protections()
    if missing and not weak_allowed():
        raise SandboxUnavailable(_explain("; ".join(missing)))


def _explain(reason: str) -> str:
    return (
        f"generated code cannot be confined here: {reason}. It is not run; grade it on another machine, or accept the "
        f"risk with --allow_weak_sandbox (or {ALLOW_WEAK_VARIABLE}=1)"
    )


class SandboxServer:
    """One fork server, which holds one process at a time. Not thread-safe; ends with this object or this process.

    Args:
        namespaces: enter namespaces where the kernel allows it. Without, Landlock and seccomp stand alone.

    Raises:
        SandboxUnavailable: a protection is missing, and a weak sandbox is not allowed.
    """

    def __init__(self, namespaces: bool = True) -> None:
        check_sandbox()
        settings = _settings(namespaces)
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
                env=_ENVIRONMENT | {"HOME": settings["folder"], "TMPDIR": settings["folder"]},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.close = weakref.finalize(self, _close, self._control, process)
        self.pid = process.pid  # its session, and all that it starts
        self._control.settimeout(_PATIENCE_S)
        hello = json.loads(self._control.recv(1 << 16) or b'{"refused": "the fork server ended"}')
        if "refused" in hello:
            self.close()
            raise SandboxUnavailable(_explain(hello["refused"]))
        self.rooted: bool = hello["rooted"]
        self.user: int = hello["user"]

    def start(self, cpu_s: int, memory_mb: int) -> int:
        """A new confined process: our end of the channel to it, to be closed by the caller. One at a time."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(self._control, [ORDER.pack(START, cpu_s, memory_mb)], [theirs.fileno()])
            self._receive()
            ours.setblocking(False)
            return ours.detach()

    def reap(self) -> Ended:
        """End the process, whatever it is doing, and empty its folder."""
        self._control.send(ORDER.pack(REAP, 0, 0))
        status, cpu_s, peak_kib = ENDED.unpack(self._receive())
        return Ended(os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0, cpu_s, peak_kib / 1024)

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
    "PYTHONHASHSEED": "0",  # a verdict is the same again
}


def _own_packages() -> list[tuple[str, str]]:
    """Name and folder of the packages that the fork server imports of ours."""
    here = Path(__file__).resolve()
    return [
        (name, str(here.parents[up]))
        for name, up in (("eval_suite", 2), ("eval_suite.grading", 1), ("eval_suite.grading.sandbox", 0))
    ]


def _settings(namespaces: bool) -> dict[str, Any]:
    libraries = _library_folders()
    third_party = _third_party()
    parents = sorted({str(path.parent) for path in third_party})
    readable = [*_SYSTEM_LIBRARIES, *_SYSTEM_FILES, *map(str, third_party)]
    for folder in libraries:
        readable += [
            entry.path for entry in os.scandir(folder) if entry.name not in ("site-packages", "dist-packages")
        ]
    base = Path(sys.base_prefix) / "lib"
    readable += [str(path) for path in base.glob("lib*.so*")]
    visible = [*_SYSTEM_LIBRARIES, *_SYSTEM_FILES, *_DEVICES, *libraries, *map(str, third_party), str(base)]
    return {
        "parent": os.getpid(),
        "readable": readable,
        "listable": [*libraries, *parents],
        "devices": _DEVICES,
        "visible": visible,
        "folder": confine.folder_beside(visible),
        "namespaces": namespaces,
        "weak": weak_allowed(),
        "packages": _PACKAGES,
        "package_folders": parents,
    }


def _library_folders() -> list[str]:
    paths = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sysconfig.get_config_var("DESTSHARED")}
    return sorted(path for path in paths if path and os.path.isdir(path) and not _is_environment(path))


def _is_environment(path: str) -> bool:
    """A virtual environment's own lib folder, which holds no standard library."""
    return path.startswith(sys.prefix + os.sep) and sys.prefix != sys.base_prefix


def _third_party() -> list[Path]:
    found = importlib.util.find_spec(_PACKAGES[0])
    if found is None or not found.submodule_search_locations:
        return []
    folder = Path(found.submodule_search_locations[0]).parent
    return [folder / name for name in _PACKAGES if (folder / name).is_dir()]

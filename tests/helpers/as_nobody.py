"""Run a command as an ordinary user: ``python as_nobody.py COMMAND…``, as root. Exits with 77 where
that cannot be.

The interpreter and this checkout may lie in a folder that only root may enter. Then a mount
namespace of the command's own shows the ways to them, and nothing else there.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

NOBODY = 65534
SOURCES = [Path(__file__).resolve().parents[2] / name for name in ("eval_suite", "tests")]
_NEWNS, _BIND, _REC, _PRIVATE = 0x20000, 4096, 16384, 1 << 18


def main(command: list[str]) -> None:
    try:
        closed = [
            path for path in map(Path, (sys.base_prefix, sys.prefix, *SOURCES)) if _is_closed(path)
        ]
        if closed:
            _call("unshare", _NEWNS)
            _call("mount", None, b"/", None, ctypes.c_ulong(_REC | _PRIVATE), None)
        _open_ways(closed)
    except OSError as error:
        print(f"no ordinary user can run {sys.executable}: {error}", file=sys.stderr)
        raise SystemExit(77) from error
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    os.execv(command[0], command)


def _is_closed(path: Path) -> bool:
    return any(not parent.stat().st_mode & 0o001 for parent in path.parents)


def _open_ways(paths: list[Path]) -> None:
    """In place of the first closed folder above each of them, an open one that holds the ways to
    `paths` alone."""
    # a folder before what lies in it
    held = {path: os.open(path, os.O_PATH) for path in sorted(set(paths))}
    firsts = {
        next(parent for parent in reversed(path.parents) if not parent.stat().st_mode & 0o001)
        for path in held
    }
    for first in firsts:
        _call("mount", b"tmpfs", os.fsencode(first), b"tmpfs", ctypes.c_ulong(0), b"mode=755")
    for path, descriptor in held.items():
        if not path.exists():
            path.mkdir(parents=True)
            _call(
                "mount",
                b"/proc/self/fd/%d" % descriptor,
                os.fsencode(path),
                None,
                ctypes.c_ulong(_BIND | _REC),
                None,
            )


def _call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


if __name__ == "__main__":
    main(sys.argv[1:])

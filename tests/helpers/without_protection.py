"""Run Python text as on a machine that lacks protections: ``python without_protection.py NAME,NAME
TEXT``.

A filter of this process's own makes the kernel say that it does not know the call. The processes
that it starts inherit the filter.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

_LOAD, _AND, _EQUAL, _RETURN, _ALLOW, _ERRNO = 0x20, 0x54, 0x15, 0x06, 0x7FFF0000, 0x50000
SUCCESS, EPERM, EINVAL, ENOSYS, EOPNOTSUPP = 0, 1, 22, 38, 95
X86 = platform.machine() == "x86_64"
PRCTL, MOUNT, UNSHARE = (157, 165, 272) if X86 else (167, 40, 97)
PR_SET_SECCOMP = 22
MS_REMOUNT, NEWUSER, NEWNS = 1 << 5, 1 << 28, 1 << 17
# name: the call, its arguments that decide (place, bits, value), the answer
HIDDEN: dict[str, tuple[int, list[tuple[int, int, int]], int]] = {
    "landlock": (444, [], ENOSYS),
    "landlock off": (444, [], EOPNOTSUPP),
    "restrict_self": (446, [], EPERM),
    "seccomp": (PRCTL, [(0, 0xFFFFFFFF, PR_SET_SECCOMP)], EINVAL),
    "user namespaces": (UNSHARE, [(0, NEWUSER, NEWUSER)], EPERM),
    "mount namespaces": (UNSHARE, [(0, NEWNS, NEWNS)], EPERM),
    # the kernel says that it has done so
    "read-only": (MOUNT, [(3, MS_REMOUNT, MS_REMOUNT)], SUCCESS),
}


def hide(name: str) -> None:
    number, arguments, answer = HIDDEN[name]
    allow = (_RETURN, 0, 0, _ALLOW)
    steps = [(_LOAD, 0, 0, 0), (_EQUAL, 1, 0, number), allow]
    for place, bits, value in arguments:
        steps += [(_LOAD, 0, 0, 16 + 8 * place), (_AND, 0, 0, bits), (_EQUAL, 1, 0, value), allow]
    steps.append((_RETURN, 0, 0, _ERRNO | answer))
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, 2, program) == 0, ctypes.get_errno()


if __name__ == "__main__":
    for each in sys.argv[1].split(","):
        hide(each)
    exec(sys.argv[2])

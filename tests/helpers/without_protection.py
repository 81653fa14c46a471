"""Run Python text as on a machine that lacks a protection: ``python without_protection.py NAME
TEXT``.

A filter of this process's own makes the kernel say that it does not know the call.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys

_LOAD, _EQUAL, _RETURN, _ALLOW, _ERRNO = 0x20, 0x15, 0x06, 0x7FFF0000, 0x50000
ENOSYS, EINVAL, EPERM = 38, 22, 1
PRCTL = {"x86_64": 157, "aarch64": 167}[platform.machine()]
PR_SET_SECCOMP = 22
# name: the call, its first argument if that decides, the answer
HIDDEN = {
    "landlock": (444, None, ENOSYS),
    "landlock off": (444, None, 95),
    "restrict_self": (446, None, EPERM),
    "seccomp": (PRCTL, PR_SET_SECCOMP, EINVAL),
}


def hide(name: str) -> None:
    number, argument, answer = HIDDEN[name]
    refuse = (_RETURN, 0, 0, _ERRNO | answer)
    allow = (_RETURN, 0, 0, _ALLOW)
    steps = [(_LOAD, 0, 0, 0), (_EQUAL, 1, 0, number), allow]
    if argument is not None:
        steps += [(_LOAD, 0, 0, 16), (_EQUAL, 1, 0, argument), allow]
    code = b"".join(struct.pack("=HBBI", *step) for step in [*steps, refuse])
    kept = ctypes.create_string_buffer(code)
    program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(kept))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0
    assert libc.prctl(PR_SET_SECCOMP, 2, program) == 0, ctypes.get_errno()


if __name__ == "__main__":
    hide(sys.argv[1])
    exec(sys.argv[2])

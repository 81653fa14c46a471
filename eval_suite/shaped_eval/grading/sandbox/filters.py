"""The system calls that code under test may make, as a seccomp-BPF program.

It allows what a Python program needs and refuses everything else with EPERM, including calls that a
newer kernel adds. So there is no fork, exec, clone or thread, socket, kill, ptrace, mount, chmod,
chown, utime, symlink, xattr, io_uring, memfd, pipe, prctl, setsid or namespace. The arguments of
four calls are checked:

- fcntl: only duplicating, flags and locks. F_SETOWN with F_SETSIG would send any signal to any
process of the user.
- prlimit64: only the caller's own limits. Changing another process's limits could kill it.
- openat: not O_TRUNC without O_WRONLY or O_RDWR, nor both of these at once, because Landlock before
version 3 does not see the truncation.
- ioctl: ENOTTY, the reply of a file that is not a terminal.

A process with `threads` may start threads with the C library's own flags, but still no other
process.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from functools import cache

# name: (x86_64, aarch64); from Linux's asm/unistd_64.h and asm-generic/unistd.h
_ALLOWED: dict[str, tuple[int | None, int | None]] = {
    "read": (0, 63),
    "write": (1, 64),
    "futex": (202, 98),
    "mmap": (9, 222),
    "munmap": (11, 215),
    "brk": (12, 214),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "mprotect": (10, 226),
    "close": (3, 57),
    "fstat": (5, 80),
    "stat": (4, None),
    "lstat": (6, None),
    "newfstatat": (262, 79),
    "statx": (332, 291),
    "lseek": (8, 62),
    "pread64": (17, 67),
    "pwrite64": (18, 68),
    "readv": (19, 65),
    "writev": (20, 66),
    "access": (21, None),
    "faccessat": (269, 48),
    "faccessat2": (439, 439),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "fsync": (74, 82),
    "fdatasync": (75, 83),
    "ftruncate": (77, 46),
    "getdents64": (217, 61),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "rename": (82, None),
    "renameat": (264, 38),
    "renameat2": (316, 276),
    "mkdir": (83, None),
    "mkdirat": (258, 34),
    "rmdir": (84, None),
    "unlink": (87, None),
    "unlinkat": (263, 35),
    "readlink": (89, None),
    "readlinkat": (267, 78),
    "umask": (95, 166),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "time": (201, None),
    "times": (100, 153),
    "alarm": (37, None),
    "pause": (34, None),
    "getitimer": (36, 102),
    "setitimer": (38, 103),
    "poll": (7, None),
    "ppoll": (271, 73),
    "select": (23, None),
    "pselect6": (270, 72),
    "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123),
    "getcpu": (309, 168),
    "getpid": (39, 172),
    "getppid": (110, 173),
    "gettid": (186, 178),
    "getpgrp": (111, None),
    "getuid": (102, 174),
    "geteuid": (107, 175),
    "getgid": (104, 176),
    "getegid": (108, 177),
    "getgroups": (115, 158),
    "getresuid": (118, 148),
    "getresgid": (120, 150),
    "getrusage": (98, 165),
    "getrlimit": (97, 163),
    "sysinfo": (99, 179),
    "uname": (63, 160),
    "getrandom": (318, 278),
    "rseq": (334, 293),
    "set_robust_list": (273, 99),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
_FCNTL, _PRLIMIT64, _OPENAT, _IOCTL = (72, 25), (302, 261), (257, 56), (16, 29)
_FCNTL_COMMANDS = (0, 1, 2, 3, 4, 5, 6, 7, 1030)  # F_DUPFD … F_SETLKW, F_DUPFD_CLOEXEC
_ACCESS_MODE, _TRUNCATE = 0o3, 0o1000  # O_ACCMODE, O_TRUNC
_CLONE, _CLONE3 = (56, 220), (435, 435)
# flags of pthread_create: VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID,
# CHILD_CLEARTID (and DETACHED)
_THREAD_FLAGS = (0x3D0F00, 0x7D0F00)  # glibc, musl

# machine: (index into the table, AUDIT_ARCH_…)
MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# BPF_LD|W|ABS, BPF_ALU|AND|K, BPF_JMP|JEQ|K, BPF_RET|K
_LOAD, _AND, _JUMP_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _MACHINE_AT, _ARGUMENTS_AT = 0, 4, 16  # offsets in struct seccomp_data

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, operand


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def instructions(machine: str, threads: bool = False) -> list[Instruction]:
    """The BPF program for this machine; `threads` allows starting threads.

    Raises:
        KeyError: `machine` is not one of `MACHINES`.
    """
    column, audit_machine = MACHINES[machine]
    program = [(_LOAD, 0, 0, _MACHINE_AT), *_when(audit_machine, [], otherwise=[_end(_KILL)])]
    program.append((_LOAD, 0, 0, _NUMBER_AT))
    for numbers in _ALLOWED.values():
        number = numbers[column]
        if number is not None:
            program += _when(number, [_end(_ALLOW)])
    refuse = _end(_ERRNO | errno.EPERM)
    commands = [step for command in _FCNTL_COMMANDS for step in _when(command, [_end(_ALLOW)])]
    program += _when(_FCNTL[column], [_argument(1), *commands, refuse])
    program += _when(_PRLIMIT64[column], [_argument(0), *_when(0, [_end(_ALLOW)]), refuse])
    opening = [_argument(2), (_AND, 0, 0, _ACCESS_MODE), *_when(_ACCESS_MODE, [refuse])]
    opening += [
        _argument(2),
        (_AND, 0, 0, _ACCESS_MODE | _TRUNCATE),
        *_when(_TRUNCATE, [refuse]),
        _end(_ALLOW),
    ]
    program += _when(_OPENAT[column], opening)
    program += _when(_IOCTL[column], [_end(_ERRNO | errno.ENOTTY)])
    if threads:
        allow = [step for flags in _THREAD_FLAGS for step in _when(flags, [_end(_ALLOW)])]
        program += _when(_CLONE[column], [_argument(0), *allow, refuse])
        # its flags are in memory, which a filter cannot read; the C library then tries clone
        program += _when(_CLONE3[column], [_end(_ERRNO | errno.ENOSYS)])
    return [*program, refuse]


@cache  # the fork server creates it, and its children inherit it
def program(threads: bool = False) -> _Program:
    """``struct sock_fprog`` for the running machine.

    The x32 calls of x86_64 have numbers that are not allowed.
    """
    steps = instructions(platform.machine(), threads)
    code = b"".join(struct.pack("=HBBI", *step) for step in steps)
    return _Program(len(steps), code)


def _when(
    value: int, steps: list[Instruction], otherwise: list[Instruction] | None = None
) -> list[Instruction]:
    """Run `steps`, which end the program, if the loaded word is `value`; else continue.

    If `otherwise` is given, it is run instead of continuing.
    """
    if otherwise is not None:
        return [(_JUMP_EQUAL, len(otherwise), 0, value), *otherwise, *steps]
    return [(_JUMP_EQUAL, 0, len(steps), value), *steps]


def _argument(index: int) -> Instruction:
    """Load the low word of an argument. All checked arguments are 32 bits wide to the kernel."""
    return (_LOAD, 0, 0, _ARGUMENTS_AT + 8 * index)


def _end(result: int) -> Instruction:
    return (_RETURN, 0, 0, result)

"""Confines the calling process, step by step, with Linux's own system calls.

Uses only the standard library. Two steps are required, and neither replaces the other:

- files: none can be opened except those of the Python library and of one private folder. Landlock
does this, or else a root directory that holds nothing else (`root`);
- calls: with seccomp, no system call is possible except those of `filters`.

Where the kernel allows it, a process has Landlock and such a root directory, so that a flaw in one
of them is not yet an escape. It also has namespaces (user, process ids, network, IPC, host name).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import resource
import signal
import stat
import struct
import sys
from collections.abc import Iterable
from functools import cache

from shaped_eval.grading.sandbox import filters

NOBODY = 65534
FILE_BYTES = 16 * 2**20
OPEN_FILES = 64
STACK_BYTES = 64 * 2**20
# Limits of a user's threads and processes. In a user namespace the kernel counts those in it, and
# otherwise all of the machine.
PROCESSES_IN_NAMESPACE = 64
PROCESSES_OF_NOBODY = 1024

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SECCOMP_MODE_FILTER = 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = (
    444,
    445,
    446,
)  # Landlock's numbers are the same on every machine
_CAPSET = {"x86_64": 126, "aarch64": 91}

# linux/landlock.h: access rights, by the version of the interface that introduced them
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (
    1 << bit for bit in range(6)
)
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE = 1 << 13, 1 << 14
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}
_OF_FILES = _READ_FILE | _WRITE_FILE | _EXECUTE | _TRUNCATE
_READ = _READ_FILE | _READ_DIR
_OWN = _READ | _WRITE_FILE | _TRUNCATE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER


class Refused(OSError):
    """A protection is not available here; the message says which one and why."""


@cache
def libc() -> ctypes.CDLL:
    """The C library, through which the system calls are made."""
    return ctypes.CDLL(None, use_errno=True)


def call(what: str, result: int) -> int:
    """The result of a system call.

    Raises:
        Refused: it is an error; `what` is named in the message.
    """
    if result < 0:
        number = ctypes.get_errno()
        raise Refused(number, f"{what}: {os.strerror(number)}")
    return result


def missing_protections() -> list[str]:
    """The reasons why this process cannot have Landlock or seccomp; empty if it can have both.

    Changes nothing.
    """
    missing = []
    for check in (check_calls, landlock_version):
        try:
            check()
        except Refused as error:
            missing.append(str(error.strerror))
    return missing


def check_calls() -> None:
    """Check that this process can have the filter of system calls. Changes nothing.

    Raises:
        Refused: this is not Linux, or not one of the machines of `filters`, or the kernel has no
            filters for this process.
    """
    if sys.platform != "linux":
        raise Refused(errno.ENOSYS, f"seccomp is Linux's, and this is {sys.platform}")
    if platform.machine() not in filters.MACHINES:
        raise Refused(
            errno.ENOSYS,
            f"the table of system calls has no {platform.machine()}, only "
            f"{' and '.join(filters.MACHINES)}",
        )
    ctypes.set_errno(0)  # with no program, a kernel that has filters fails to read it (EFAULT)
    libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None)
    number = ctypes.get_errno()
    if number != errno.EFAULT:
        raise Refused(number, f"seccomp filters are not available ({os.strerror(number)})")


def landlock_version() -> int:
    """The version of the kernel's Landlock, at least 1.

    Raises:
        Refused: the kernel has no Landlock, or its use is forbidden.
    """
    if sys.platform != "linux":
        raise Refused(errno.ENOSYS, f"Landlock is Linux's, and this is {sys.platform}")
    version = libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    if version < 1:
        number = ctypes.get_errno()
        why = {
            errno.ENOSYS: "Landlock is not in this kernel (Linux 5.13 has it), or a filter hides "
            "it",
            errno.EOPNOTSUPP: "Landlock is off: boot with landlock in the lsm= list",
            errno.EPERM: "Landlock is forbidden, as by a container's filter",
        }
        raise Refused(number, why.get(number, f"Landlock cannot be used ({os.strerror(number)})"))
    return version


def landlock_rules(
    readable: Iterable[str], listable: Iterable[str], devices: Iterable[str], folder: str | None
) -> int:
    """Create a descriptor of Landlock rules.

    They allow to read `readable` (files or trees), to list `listable`, to read and write `devices`,
    and to create, write and remove files in `folder`. Nothing can be executed anywhere. No TCP port
    can be bound or reached (from version 4), and no abstract socket or process outside can be
    reached (from version 6).

    Raises:
        Refused: Landlock is not available.
    """
    version = landlock_version()
    handled = max(rights for since, rights in _RIGHTS.items() if since <= version)
    attributes = struct.pack("=QQQ", handled, 3, 3)[
        : 8 if version < 4 else 16 if version < 6 else 24
    ]
    rules = call(
        "Landlock's rules", libc().syscall(_CREATE_RULESET, attributes, len(attributes), 0)
    )
    for path in readable:
        _allow(rules, path, _READ & handled)
    for path in listable:
        _allow(rules, path, _READ_DIR & handled)
    for path in devices:
        _allow(rules, path, (_READ_FILE | _WRITE_FILE) & handled)
    if folder is not None:
        allow_folder(rules, folder)
    return rules


def allow_folder(rules: int, folder: str) -> None:
    """Add a folder in which files may be created, written and removed."""
    version = landlock_version()
    _allow(
        rules, folder, _OWN & max(rights for since, rights in _RIGHTS.items() if since <= version)
    )


def _allow(rules: int, path: str, rights: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # a path that does not exist needs no rule
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _OF_FILES
        rule = struct.pack("=Qi", rights, descriptor)
        call(f"Landlock's rule of {path}", libc().syscall(_ADD_RULE, rules, 1, rule, 0))
    finally:
        os.close(descriptor)


def limit_resources(cpu_s: int, memory_mb: int, processes: int | None = 0) -> None:
    """Set hard limits of this process. CPU time ends in SIGKILL, which nothing can catch.

    `processes` is the number of processes and threads that the user may have when this process
    starts a thread; None for no limit.
    """
    limits = {
        "CPU": cpu_s,
        "AS": memory_mb * 2**20,
        "FSIZE": FILE_BYTES,
        "NOFILE": OPEN_FILES,
        "STACK": STACK_BYTES,
        "NPROC": processes,
        "CORE": 0,
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
        "RTPRIO": 0,
    }
    for name, limit in limits.items():
        kind = getattr(resource, f"RLIMIT_{name}", None)
        if kind is None or limit is None or (sys.platform != "linux" and name in ("AS", "STACK")):
            continue  # macOS refuses these
        hard = resource.getrlimit(kind)[1]
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))


def become(user: int) -> None:
    """Change to this user and group, without other groups; then no capability is left."""
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def die_with_parent() -> None:
    """Request SIGKILL when the parent ends. A later change of user cancels the request."""
    libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_first_out_of_memory() -> None:
    """Let the kernel end this process or its children first when memory runs out."""
    with contextlib.suppress(OSError):
        write("/proc/self/oom_score_adj", "1000")


def give_up_privileges() -> None:
    """Drop all capabilities, also for executed programs, and prevent core dumps."""
    call("no core dump", libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    call("no new privileges", libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = struct.pack("=Ii", 0x20080522, 0)
    nothing = bytes(24)
    call("capabilities", libc().syscall(_CAPSET[platform.machine()], header, nothing))


def restrict_files(rules: int) -> None:
    """Apply the rules of `landlock_rules` to this process permanently."""
    call("Landlock", libc().syscall(_RESTRICT_SELF, rules, 0))


def restrict_calls(threads: bool = False) -> None:
    """Apply the filter of `filters` to this process permanently."""
    program = filters.program(threads)
    call("seccomp", libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)))


def write(path: str, text: str) -> None:
    """Write a text into a file of the kernel's."""
    with open(path, "w") as file:
        file.write(text)

"""Confines the calling process, step by step, with Linux's own system calls.

Uses only the standard library. Two steps are required, and neither replaces the other:

- Landlock: no file can be opened except those of the Python library and of one private folder;
- seccomp: no system call is possible except those of `filters`.

Two more are taken where the kernel allows them, so that a flaw in one of the above is not yet an
escape: namespaces (user, process ids, network, IPC, host name), and a root directory that holds
nothing else.
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
from collections.abc import Iterable, Sequence
from functools import cache

from shaped_eval.grading.sandbox import filters

NOBODY = 65534
# candidates for the code's folder in its root directory; the first possible one is used
FOLDERS = ("/tmp", "/sandbox")
FOLDER_MB = 16
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
_MOUNT_SETATTR = 442
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    1 << bit for bit in (17, 26, 27, 28, 29, 30)
)
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = (
    2,
    4,
    8,
    1 << 12,
    1 << 14,
    1 << 18,
)
_MNT_DETACH = 2

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
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _call(what: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise Refused(number, f"{what}: {os.strerror(number)}")
    return result


def missing_protections() -> list[str]:
    """The reasons why this process cannot have Landlock or seccomp; empty if it can have both.

    Changes nothing.
    """
    if sys.platform != "linux":
        return [f"Landlock and seccomp are Linux's, and this is {sys.platform}"]
    if platform.machine() not in filters.MACHINES:
        return [
            f"the table of system calls has no {platform.machine()}, only "
            f"{' and '.join(filters.MACHINES)}"
        ]
    missing = []
    try:
        landlock_version()
    except Refused as error:
        missing.append(str(error.strerror))
    ctypes.set_errno(0)  # with no program, a kernel that has filters fails to read it (EFAULT)
    _libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, None)
    if ctypes.get_errno() != errno.EFAULT:
        missing.append(f"seccomp filters are not available ({os.strerror(ctypes.get_errno())})")
    return missing


def landlock_version() -> int:
    """The version of the kernel's Landlock, at least 1.

    Raises:
        Refused: the kernel has no Landlock, or its use is forbidden.
    """
    version = _libc().syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), 1)
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
    rules = _call(
        "Landlock's rules", _libc().syscall(_CREATE_RULESET, attributes, len(attributes), 0)
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
        _call(f"Landlock's rule of {path}", _libc().syscall(_ADD_RULE, rules, 1, rule, 0))
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
    _libc().prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def be_first_out_of_memory() -> None:
    """Let the kernel end this process or its children first when memory runs out."""
    with contextlib.suppress(OSError):
        _write("/proc/self/oom_score_adj", "1000")


def give_up_privileges() -> None:
    """Drop all capabilities, also for executed programs, and prevent core dumps."""
    libc = _libc()
    _call("no core dump", libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))
    _call("no new privileges", libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    header = struct.pack("=Ii", 0x20080522, 0)
    nothing = bytes(24)
    _call("capabilities", libc.syscall(_CAPSET[platform.machine()], header, nothing))


def restrict_files(rules: int) -> None:
    """Apply the rules of `landlock_rules` to this process permanently."""
    _call("Landlock", _libc().syscall(_RESTRICT_SELF, rules, 0))


def restrict_calls(threads: bool = False) -> None:
    """Apply the filter of `filters` to this process permanently."""
    program = filters.program(threads)
    _call("seccomp", _libc().prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)))


def enter_namespaces() -> bool:
    """Enter new user, process id, network, IPC and host name namespaces, if the kernel allows it.

    Users keep their ids; for root, nobody's id exists too. The next child is process 1 of its
    namespace. Returns whether the namespaces were entered.
    """
    wake_read, wake_write = os.pipe()
    parent, user, group = os.getpid(), os.getuid(), os.getgid()
    helper = os.fork()  # stays outside, because the ids can only be mapped there
    if helper == 0:
        try:
            os.close(wake_write)
            if os.read(wake_read, 1):
                _map_ids(parent, user, group)
            os._exit(0)
        finally:
            os._exit(1)
    os.close(wake_read)
    entered = _libc().unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS) == 0
    if entered:
        os.write(wake_write, b"!")
    os.close(wake_write)
    mapped = os.waitpid(helper, 0)[1] == 0
    if entered and not mapped:
        raise Refused(
            errno.EPERM, "the user namespace was entered, but its ids could not be mapped"
        )
    return entered


def _map_ids(pid: int, user: int, group: int) -> None:
    nobody = f"\n{NOBODY} {NOBODY} 1" if user == 0 else ""
    if user != 0:
        _write(f"/proc/{pid}/setgroups", "deny")
    for name, own in (("uid_map", user), ("gid_map", group)):
        try:
            _write(f"/proc/{pid}/{name}", f"{own} {own} 1{nobody}")
        except PermissionError:  # root with limited capabilities
            if name == "gid_map":
                _write(f"/proc/{pid}/setgroups", "deny")
            _write(f"/proc/{pid}/{name}", f"{own} {own} 1")


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def folder_beside(visible: Sequence[str]) -> str:
    """The code's folder: /tmp, unless something that must stay visible lies below it.

    An example is an environment that was created in /tmp.
    """
    return next(
        folder for folder in FOLDERS if not any(path.startswith(f"{folder}/") for path in visible)
    )


def enter_root(visible: Sequence[str], folder: str) -> bool:
    """Enter a root directory with only `visible` and an empty folder, all else read-only.

    Needs the namespaces. Returns whether it was possible; if not, nothing has changed.
    """
    libc = _libc()
    if libc.unshare(_NEWNS) != 0:
        return False
    root = "/proc"  # exists everywhere, and contains none of the needed files
    try:
        _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
        _mount("tmpfs", root, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
    except OSError:
        return False
    try:
        for path in sorted(filter(os.path.exists, visible)):
            target = root + path
            if os.path.isdir(path):
                os.makedirs(target, exist_ok=True)
            elif not os.path.exists(target):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                open(target, "x").close()
            _mount(path, target, None, _MS_BIND | _MS_REC)
        old = root + folder
        os.makedirs(old, exist_ok=True)
        _call(
            "pivot_root", libc.syscall(_PIVOT_ROOT[platform.machine()], root.encode(), old.encode())
        )
    except OSError:
        libc.umount2(root.encode(), _MNT_DETACH)
        return False
    os.chdir("/")
    _call("the old root", libc.umount2(folder.encode(), _MNT_DETACH))
    attributes = struct.pack("=QQQQ", 1 | 2, 0, 0, 0)  # MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID
    libc.syscall(_MOUNT_SETATTR, -100, b"/", 0x8000, attributes, len(attributes))  # Linux 5.12
    mount_folder(folder)
    return True


def mount_folder(folder: str) -> None:
    """Mount an empty folder in memory, of limited size, over `folder`."""
    options = f"size={FOLDER_MB}m,nr_inodes=1024,mode=777"
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def unmount_folder(folder: str) -> None:
    """Drop the folder and its content, whatever that is, in constant time."""
    _call("the folder", _libc().umount2(folder.encode(), _MNT_DETACH))


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    arguments = [None if text is None else text.encode() for text in (source, target, kind)]
    data = None if options is None else options.encode()
    _call(f"mount at {target}", _libc().mount(*arguments, ctypes.c_ulong(flags), data))

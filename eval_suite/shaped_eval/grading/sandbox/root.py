"""Namespaces of a process's own, and a root directory that holds only what it may read.

Both need user namespaces, which not every kernel or container gives. The root directory is required
where Landlock is missing: then nothing else keeps a process from the user's files. It is checked
before it is entered, and `zygote` tries it out on a process afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import re
from collections.abc import Iterable, Sequence
from typing import BinaryIO

from shaped_eval.grading.sandbox.confine import NOBODY, Refused, call, libc, write

# candidates for the code's folder in its root directory; the first possible one is used
FOLDERS = ("/tmp", "/sandbox")
FOLDER_MB = 16
# where the root directory is put together: it exists everywhere, and holds no file that is needed
_STAGE = "/proc"

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (
    1 << bit for bit in (17, 26, 27, 28, 29, 30)
)
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_REMOUNT = 1, 2, 4, 8, 32
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18
_MNT_DETACH = 2


def enter_namespaces() -> None:
    """Enter new user, process id, network, IPC and host name namespaces.

    Users keep their ids; for root, nobody's id exists too. The next child is process 1 of its
    namespace.

    Raises:
        Refused: the kernel does not allow it, and nothing has changed.
        OSError: the ids of the new user namespace could not be mapped. The process is of no use.
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
    try:
        call("namespaces", libc().unshare(_NEWUSER | _NEWPID | _NEWNET | _NEWIPC | _NEWUTS))
        os.write(wake_write, b"!")
    finally:
        os.close(wake_write)
        mapped = os.waitpid(helper, 0)[1] == 0
    if not mapped:
        raise OSError(
            errno.EPERM, "the user namespace was entered, but its ids could not be mapped"
        )


def _map_ids(pid: int, user: int, group: int) -> None:
    nobody = f"\n{NOBODY} {NOBODY} 1" if user == 0 else ""
    if user != 0:
        write(f"/proc/{pid}/setgroups", "deny")
    for name, own in (("uid_map", user), ("gid_map", group)):
        try:
            write(f"/proc/{pid}/{name}", f"{own} {own} 1{nobody}")
        except PermissionError:  # root with limited capabilities
            if name == "gid_map":
                write(f"/proc/{pid}/setgroups", "deny")
            write(f"/proc/{pid}/{name}", f"{own} {own} 1")


def folder_beside(paths: Sequence[str]) -> str:
    """The code's folder: /tmp, unless one of `paths` lies below it.

    An example is an environment that was created in /tmp.
    """
    return next(
        folder for folder in FOLDERS if not any(path.startswith(f"{folder}/") for path in paths)
    )


def enter_root(shown: Iterable[str], hidden: Iterable[str], folder: str) -> None:
    """Enter a root directory with the paths `shown`, all read-only, and an empty folder for files.

    Needs the namespaces. Folders `hidden` inside those paths are empty, but for what is shown
    inside them again. A path that does not exist is left out. There is no /proc, and no device but
    those that are shown, which can be written because they are devices.

    Raises:
        Refused: it is not possible, or a part of it cannot be made read-only.
    """
    hidden = set(hidden)
    call("a mount namespace", libc().unshare(_NEWNS))
    try:
        with open("/proc/self/mountinfo", "rb") as mounts:  # before it is covered
            _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
            _mount("tmpfs", _STAGE, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
            try:
                _show(set(shown), hidden)
                os.makedirs(_STAGE + folder, exist_ok=True)
                _make_read_only(mounts, hidden)
                pivot_root = _PIVOT_ROOT[platform.machine()]
                old = (_STAGE + folder).encode()
                call("pivot_root", libc().syscall(pivot_root, _STAGE.encode(), old))
            except OSError:
                libc().umount2(_STAGE.encode(), _MNT_DETACH)
                raise
        os.chdir("/")
        call("the old root", libc().umount2(folder.encode(), _MNT_DETACH))
        mount_folder(folder)
    except Refused:
        raise
    except OSError as error:
        raise Refused(error.errno, str(error)) from error


def _show(shown: set[str], hidden: set[str]) -> None:
    """Show each path at its place in the new root, with what is mounted below it."""
    placed = {"/": False}  # outer before inner; whether the path is shown there
    for path in sorted(filter(os.path.exists, shown | hidden)):
        is_inside = next(placed[above] for above in reversed(placed) if _is_below(path, above))
        if is_inside == (path in shown):
            continue
        target = _STAGE + path
        if path not in shown:
            _mount("tmpfs", target, "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=755")
        else:
            if os.path.isdir(path):
                os.makedirs(target, exist_ok=True)
            else:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                open(target, "x").close()
            _mount(path, target, None, _MS_BIND | _MS_REC)
        placed[path] = path in shown


def _is_below(path: str, above: str) -> bool:
    return path.startswith(above.rstrip("/") + "/")


def _make_read_only(mounts: BinaryIO, hidden: set[str]) -> None:
    """Make every mount of the new root read-only, and check that it is.

    The call that does it for a tree is Linux 5.12's, so each one is remounted. Flags that a mount
    has outside may not be dropped in a user namespace. A mount that a hidden folder covers cannot
    be reached, and so it cannot be remounted either.
    """
    covers = [_STAGE + folder for folder in hidden]
    points = [
        point
        for point in _below(os.stat(_STAGE).st_dev, os.fsdecode(mounts.read()))
        if os.path.lexists(point) or not any(_is_below(point, above) for above in covers)
    ]
    for point in points:
        with contextlib.suppress(OSError):  # whether it has been done is checked next
            kept = os.statvfs(point).f_flag & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
            _mount(None, point, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | kept)
    for point in points:
        if not os.statvfs(point).f_flag & os.ST_RDONLY:
            raise Refused(errno.EPERM, f"{point} cannot be made read-only")


def _below(device: int, mountinfo: str) -> list[str]:
    """The mount point of this device, and those of all mounts below it (proc_pid_mountinfo(5))."""
    rows = [line.split(" ", 5) for line in mountinfo.split("\n") if line]
    number = f"{os.major(device)}:{os.minor(device)}"
    inside = {row[0] for row in rows if row[2] == number}
    size = 0
    while len(inside) > size:
        size = len(inside)
        inside |= {row[0] for row in rows if row[1] in inside}
    return [_unescaped(row[4]) for row in rows if row[0] in inside]


def _unescaped(path: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def mount_folder(folder: str) -> None:
    """Mount an empty folder in memory, of limited size, over `folder`."""
    options = f"size={FOLDER_MB}m,nr_inodes=1024,mode=777"
    _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, options)


def unmount_folder(folder: str) -> None:
    """Drop the folder and its content, whatever that is, in constant time."""
    call("the folder", libc().umount2(folder.encode(), _MNT_DETACH))


def _mount(
    source: str | None, target: str, kind: str | None, flags: int, options: str | None = None
) -> None:
    arguments = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    call(f"mount at {target}", libc().mount(*arguments, ctypes.c_ulong(flags), data))

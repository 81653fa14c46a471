"""Locks that keep a folder to one process. A lock ends with its process, however that ends."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from shaped_eval.errors import UserError
from shaped_eval.untrusted.files import check_folder

LOCK = ".lock"
# How long to retry a lock that is held: a killed process may need a moment to disappear.
GRACE_S = 2.0
POLL_S = 0.1
# the errors of `flock` on file systems without locks, such as some network file systems
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)

_held: set[int] = set()


def _release_in_child() -> None:
    """A forked process would otherwise hold its parent's locks beyond the parent's death."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)


@contextmanager
def locked_folder(folder: str | Path, field: str = "out") -> Iterator[None]:
    """Hold `folder`, which is created if needed, against other processes that write to it.

    On a file system without locks, this prints a warning on standard error and goes on. A folder
    that was created here and is still empty at the end is removed.

    Args:
        field: the option that named the folder, for the error.

    Raises:
        UserError: another process holds the folder, it cannot be written, or it is not a folder.
    """
    folder = Path(folder)
    check_folder(folder, field)
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with lock_in(folder, LOCK, field, lambda: _in_use(folder, field)):
            yield
    finally:
        for path in made:
            try:
                path.rmdir()
            except OSError:  # it is not empty, or was never created
                break


def _in_use(folder: Path, field: str) -> UserError:
    return UserError(
        f"{field}={str(folder)!r} is in use by another shaped-trl process: wait until that has "
        f"ended, or choose another {field}"
    )


@contextmanager
def locked_folders(folders: Iterable[str | Path], field: str = "out") -> Iterator[None]:
    """Hold each of `folders` once, as `locked_folder` does."""
    with ExitStack() as stack:
        for folder in {Path(folder).resolve(): folder for folder in folders}.values():
            stack.enter_context(locked_folder(folder, field))
        yield


@contextmanager
def lock_in(
    folder: Path, name: str, field: str, in_use: Callable[[], Exception] | None = None
) -> Iterator[None]:
    """Hold the lock file `name` in `folder`, which is created if needed, as `lock` does.

    Args:
        field: the option that named the folder, for the error.

    Raises:
        UserError: the folder or the file in it cannot be created.
    """
    with ExitStack() as held:
        try:
            held.enter_context(lock(folder / name, in_use))
        except OSError as error:
            raise UserError(
                f"{field}={str(folder)!r} cannot be written: {error.strerror}: {error.filename}"
            ) from error
        yield


@contextmanager
def lock(path: Path, in_use: Callable[[], Exception] | None = None) -> Iterator[None]:
    """Hold the lock file `path`, which is removed afterwards.

    Args:
        in_use: makes the exception to raise if another process holds the lock. If it is None, this
            waits until the lock is free, without a time limit.

    Raises:
        OSError: the file cannot be created, or `path` is not a regular file.
    """
    descriptor = _acquire(path, in_use)
    owner = os.getpid()
    _held.add(descriptor)
    try:
        yield
    finally:
        if os.getpid() == owner:  # a child that was forked meanwhile has released it
            # removed while it is held: those who wait notice that in `_is_still_at`
            path.unlink(missing_ok=True)
            _held.discard(descriptor)
            os.close(descriptor)


def _acquire(path: Path, in_use: Callable[[], Exception] | None) -> int:
    """The descriptor of the lock file, locked."""
    tried_until = time.monotonic() + GRACE_S
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if in_use else fcntl.LOCK_EX)
        except BlockingIOError:
            os.close(descriptor)
            if in_use and time.monotonic() > tried_until:
                raise in_use() from None
            time.sleep(POLL_S)
            continue
        except OSError as error:
            if error.errno not in NO_LOCKS:
                os.close(descriptor)
                raise
            print(
                f"{path.parent}: this file system has no locks ({error.strerror}): do not start a "
                "second command that writes there at the same time, because nothing would "
                "prevent it",
                file=sys.stderr,
            )
            return descriptor
        if _is_still_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder has removed it since it was opened


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    # do not follow a symbolic link, and do not wait for something that is not a file
    descriptor = os.open(
        path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666
    )
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, "not a regular file", str(path))


def _is_still_at(descriptor: int, path: Path) -> bool:
    """Whether the open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False

"""Writing into folders that others may have prepared, such as somebody else's run or study.

Files are written only inside the folder that the user named. A name from a file becomes part of a
path only through `file_name`, and nothing is written through a symbolic link.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from shaped_eval.errors import UserError
from shaped_eval.untrusted.texts import shorten

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=+-]{0,149}")
_HASH_DIGITS = 8


def file_name(text: str) -> str:
    """`text` as one part of a path.

    It is unchanged if it consists of letters, digits and ``._=+-``. Otherwise it keeps these
    characters, and a hash distinguishes it from other names that keep the same ones.
    """
    if _NAME.fullmatch(text):
        return text
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    kept = re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:100]
    return f"{kept or 'name'}-{digest}"


def check_folder(out: str | Path, field: str = "out") -> None:
    """Raise UserError if `out`, given by the option `field`, or a parent of it is not a folder.

    The same error is raised for a name that is too long, or that lies where nothing may be read.
    """
    try:
        found = next(path for path in (Path(out), *Path(out).absolute().parents) if path.exists())
    except OSError as error:
        raise UserError(
            f"{field}={shorten(str(out), 100, 50)!r} cannot be used: {error.strerror}"
        ) from error
    if not found.is_dir():
        raise UserError(f"{field}={str(out)!r}: {found} is a file: name a folder")


def own_folder(root: str | Path, *names: str) -> Path:
    """The folder ``root/names[0]/…``, which is created if it does not exist.

    Raises:
        UserError: one of `names` is a symbolic link, which could lead anywhere.
    """
    folder = Path(root)
    for name in names:
        folder = folder / name
        if folder.is_symlink():
            raise _is_link(folder)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def open_own(path: str | Path, mode: str, **options: Any) -> IO[Any]:
    """`open` for a file that is written in place.

    Raises:
        UserError: it is a symbolic link.
    """
    try:
        return open(path, mode, opener=_without_links, **options)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _is_link(Path(path)) from error
        raise


@contextmanager
def replacing(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """A new file that replaces `path` at the end of the block, or is removed if the block fails.

    Its name cannot be predicted, and it is opened only if it can be created, so nobody can have put
    a link there. `path` itself may be a link: the link is replaced, and its target is untouched.
    Left-over files of killed processes are removed; a file that is still being written is locked,
    and stays.

    Args:
        path: its folder must exist.
        mode: ``w`` for UTF-8 text with unchanged line ends, ``wb`` for bytes.
    """
    path = Path(path)
    _remove_left_over(path)
    file = _create_beside(path, mode)
    try:
        with file:
            yield file
            file.flush()
            os.replace(file.name, path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(file.name)
        raise


def _create_beside(path: Path, mode: str) -> IO[Any]:
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    while True:
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        file = open(temporary, mode, opener=_exclusively, **text)  # noqa: SIM115
        with suppress(OSError):  # without locks in the file system, left-over files are not removed
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        file.close()  # another process removed it as a left-over file before it was locked


def _remove_left_over(path: Path) -> None:
    left_over = re.compile(re.escape(path.name) + r"\.[0-9a-f]{16}\.tmp")
    for name in filter(left_over.fullmatch, os.listdir(path.parent)):
        with suppress(OSError):  # it is locked, gone, or not a file
            descriptor = os.open(path.with_name(name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(path.with_name(name))
            finally:
                os.close(descriptor)


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _exclusively(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_EXCL | os.O_NOFOLLOW, 0o666)


def _is_link(path: Path) -> UserError:
    return UserError(
        f"{str(path)!r} is a symbolic link, and nothing is written through links: replace it by "
        "the file or folder itself"
    )

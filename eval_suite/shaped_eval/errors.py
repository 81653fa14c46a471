"""Errors that the user can fix."""

import errno
import os

# the system's reasons why a file cannot be written or read
NOT_WRITTEN = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    errno.EIO,
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """Bad input. The message is one line that names the field and its value and says what to do.

    The command line prints it and exits with 2.
    """


def describe_os_error(error: OSError) -> str | None:
    """One line about a disk, folder or file that cannot be used; None for any other error."""
    if error.errno not in NOT_WRITTEN:
        return None
    where = f"{error.filename}: " if error.filename else ""
    remedy = "free some space" if error.errno in _FULL else "fix this"
    return (
        f"{where}{os.strerror(error.errno)}; {remedy}, then run the same command again: "
        "it continues from what is saved"
    )

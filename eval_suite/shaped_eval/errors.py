"""Errors that are the user's to fix."""

import errno
import os

# what the system says of a file that it does not let us write, or read
NOT_WRITTEN = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG),
    *(errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    errno.EIO,
)
_FULL = (errno.ENOSPC, errno.EDQUOT)


class UserError(ValueError):
    """Bad input: one line naming the field, the value, and what to do. The command line exits with
    2."""


def said_of(error: OSError) -> str | None:
    """One line on a disk, a folder or a file that cannot be used; None where an error is another
    one."""
    if error.errno not in NOT_WRITTEN:
        return None
    where = f"{error.filename}: " if error.filename else ""
    remedy = "free some" if error.errno in _FULL else "mend that"
    return f"{where}{os.strerror(error.errno)}; {remedy}, then the same command goes on from what is saved"

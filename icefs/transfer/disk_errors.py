"""What a user's directory answers to an import or export, as errors that say whose fault it is."""

import errno
from typing import Final, Literal

from icefs.errors import AccessDeniedError, NoSpaceError, StorageError

_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def disk_error(action: Literal["read", "write"], path: str, error: OSError) -> StorageError:
    """Returns the error to raise where a file or directory outside of the repository fails."""
    message = f"cannot {action} {path}: {error.strerror or error}"
    if error.errno in _DENIED:
        hint = "change its permissions, or name another directory"
        return AccessDeniedError(message, kind="io", hint=hint, path=path)
    if error.errno in _FULL:
        return NoSpaceError(message, kind="io", path=path)
    return StorageError(message, kind="io", path=path)

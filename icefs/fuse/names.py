"""Names as the kernel sends them, in bytes, and as the file system has them.

A name that is not UTF-8 names nothing: it is not found, and cannot be created.
"""

import errno
from typing import Final

from icefs.fuse.boundary import FuseError

MAX_NAME_BYTES: Final = 255
"""The longest name that `readdir(3)` can return."""


def new_name(name: bytes | memoryview) -> str:
    """Decodes a name that is to be created.

    Raises:
        FuseError: ENAMETOOLONG, or EINVAL if it is not UTF-8.
    """
    if len(name) > MAX_NAME_BYTES:
        raise _too_long(name)
    try:
        return str(name, "utf-8")
    except UnicodeDecodeError:
        raise FuseError(errno.EINVAL, f"{bytes(name)!r} is not UTF-8") from None


def existing_name(name: bytes | memoryview) -> str:
    """Decodes a name that is to be found.

    Raises:
        FuseError: ENAMETOOLONG, or ENOENT if it is not UTF-8.
    """
    if len(name) > MAX_NAME_BYTES:
        raise _too_long(name)
    try:
        return str(name, "utf-8")
    except UnicodeDecodeError:
        raise FuseError(errno.ENOENT) from None


def _too_long(name: bytes | memoryview) -> FuseError:
    return FuseError(errno.ENAMETOOLONG, f"a name of {len(name)} bytes is longer than {MAX_NAME_BYTES}")

"""What must hold before a repository can be mounted, checked before anything is started.

The kernel and fusermount3 would refuse most of this as well, after the daemon is up and in their own words.
"""

import errno
import os
import re
import shutil
import stat
from pathlib import Path

from icefs.cli.locations import is_url
from icefs.cli.mounts import FILESYSTEM_TYPE, absolute, mounted_at
from icefs.errors import (
    EntryNotFoundError,
    InvalidInputError,
    NotADirectoryTreeError,
    NotEmptyError,
    SessionStateError,
    StaleError,
    UnsupportedError,
)

DEVICE = Path("/dev/fuse")
FUSE_CONF = Path("/etc/fuse.conf")


def check_fuse(*, allow_other: bool) -> None:
    """Checks that this machine and user can mount FUSE file systems.

    Raises:
        UnsupportedError: FUSE is not there.
        PermissionError: the administrator does not let users share their mounts.
    """
    if not DEVICE.exists():
        raise UnsupportedError(
            f"FUSE is not available: {DEVICE} does not exist",
            hint="run 'modprobe fuse', or start the container with '--device /dev/fuse --cap-add SYS_ADMIN'",
        )
    if shutil.which("fusermount3") is None:
        raise UnsupportedError("FUSE is not installed: there is no fusermount3", hint="install it: apt install fuse3")
    if allow_other and os.geteuid() != 0:
        allowed = FUSE_CONF.is_file() and re.search(r"(?m)^\s*user_allow_other\b", FUSE_CONF.read_text())
        if not allowed:
            raise PermissionError(
                errno.EPERM, "--allow-other needs the line user_allow_other, which is missing", str(FUSE_CONF)
            )


def check_mountpoint(mountpoint: str, location: str) -> Path:
    """Checks that a repository can be mounted at a place, and returns the place as an absolute path.

    Args:
        mountpoint: As the user typed it.
        location: The repository, as the user typed it.

    Raises:
        EntryNotFoundError, NotADirectoryTreeError: it is no directory.
        StaleError: a daemon died there.
        SessionStateError: something is mounted there.
        NotEmptyError: it has entries, which the mount would hide.
        InvalidInputError: it lies in the repository.
        PermissionError: it belongs to somebody else.
    """
    place = absolute(mountpoint)
    try:
        mode = place.stat().st_mode
    except FileNotFoundError:
        raise EntryNotFoundError(f"the mountpoint does not exist: {place}", hint=f"run 'mkdir -p {place}'") from None
    except OSError as exc:
        if exc.errno != errno.ENOTCONN:
            raise
        raise StaleError(
            f"the mountpoint holds a mount whose daemon has ended: {place}", hint=f"run 'icefs umount {place}'"
        ) from None
    if not stat.S_ISDIR(mode):
        raise NotADirectoryTreeError(f"the mountpoint is not a directory: {place}", hint="give an empty directory")
    place = place.resolve()
    entry = mounted_at(place)
    if entry is not None and entry.filesystem_type == FILESYSTEM_TYPE:
        raise SessionStateError(
            f"the mountpoint is busy: {place}: {entry.source} is mounted there",
            hint=f"run 'icefs umount {place}', or choose another directory",
        )
    # Reading the repository through a mount that hides it would make the daemon wait for itself.
    if (repository := local_path(location)) is not None and place.is_relative_to(repository):
        raise InvalidInputError(f"the mountpoint lies in the repository: {place}", hint="mount somewhere else")
    if not os.access(place, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "no permission to mount here, because you may not write to it", str(place))
    with os.scandir(place) as entries:
        if next(entries, None) is not None:
            raise NotEmptyError(f"the mountpoint is not empty: {place}", hint="choose an empty directory")
    return place


def local_path(location: str) -> Path | None:
    """Returns the directory of a local repository, links resolved; None for other locations."""
    path = location.removeprefix("file://") if location.startswith("file:///") else location
    return None if is_url(path) else Path(path).resolve()

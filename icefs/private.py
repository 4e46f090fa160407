"""Directories that only their user can look into, and files that only trusted users can have written."""

import os
import stat
from pathlib import Path


def make_private(directory: Path) -> None:
    """Makes a directory of mode 0700; one of this user's that is there already gets that mode.

    Raises:
        OSError: as mkdir(2).
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.stat()
    if status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o077:
        directory.chmod(0o700)


def who_may_change(path: Path, *, far: bool = False) -> str | None:
    """Says which users besides root and this one can change a file, or put another in its place.

    Args:
        path: The file; links count as what they lead to.
        far: Look at all the directories above it, and not only at its own.

    Returns:
        What is wrong with which path, as "PATH belongs to user 1000"; None where only root and this user can.

    Raises:
        OSError: it cannot be looked at.
    """
    place = path.resolve()
    reason = _writers(place, place.stat())
    for above in place.parents if far else place.parents[:1]:
        if reason is not None:
            return reason
        status = above.stat()
        if not status.st_mode & stat.S_ISVTX:  # in /tmp and its like nobody replaces another's file
            reason = _writers(above, status)
    return reason


def _writers(path: Path, status: os.stat_result) -> str | None:
    if status.st_uid not in (0, os.geteuid()):
        return f"{path} belongs to user {status.st_uid}"
    if status.st_mode & stat.S_IWOTH:
        return f"every user can write to {path}"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        return f"group {status.st_gid} can write to {path}"
    return None

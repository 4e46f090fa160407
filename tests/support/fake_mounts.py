"""Plain directories that the mount table calls mounts, for what is quicker to test without a daemon."""

import os
from pathlib import Path

from icefs.daemon.mountinfo import FILESYSTEM_TYPE, MountEntry

ROOT_LINE = "21 1 0:1 / / rw - rootfs rootfs rw\n"


def line(place: Path, *, kind: str = FILESYSTEM_TYPE, user: int | None = None, root: str = "/") -> str:
    """Returns the line of the kernel's table that makes a directory a mount."""
    device = place.stat().st_dev
    owner = os.geteuid() if user is None else user
    return (
        f"38 21 {os.major(device)}:{os.minor(device)} {root} {place} rw,nosuid - {kind} fake"
        f" rw,user_id={owner},group_id=0,default_permissions\n"
    )


def entry(place: str | Path) -> MountEntry:
    """Returns the same, as `mounted_at` does; the directory need not exist."""
    return MountEntry(str(place), "0:50", FILESYSTEM_TYPE, "fake", "/", os.geteuid())

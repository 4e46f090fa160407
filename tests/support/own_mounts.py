"""The mount table without the mounts of other test processes, whose daemons may be dead on purpose."""

import os

from icefs.daemon import mountinfo
from icefs.daemon.mountinfo import FILESYSTEM_TYPE, MountEntry
from tests.support.mounting import PREFIX


def own_mount_table() -> list[MountEntry]:
    """Reads the mount table; of icefs's mounts only those that this process made."""
    own = f"/{PREFIX}{os.getpid()}-"
    entries = _real_table()
    return [entry for entry in entries if entry.filesystem_type != FILESYSTEM_TYPE or own in entry.mountpoint]


_real_table = mountinfo.mount_table

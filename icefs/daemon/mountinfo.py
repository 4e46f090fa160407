"""The kernel's mount table: what is mounted where, and by whom.

Source: proc_pid_mountinfo(5).
"""

import os
import re
from pathlib import Path
from typing import Final, NamedTuple

MOUNT_TABLE: Final = Path("/proc/self/mountinfo")
FILESYSTEM_TYPE: Final = "fuse.icefs"
AUTOMOUNT_TYPE: Final = "autofs"
# In the last field of a line; a source could hold the same text, and has a field of its own.
_USER_ID: Final = re.compile(r"(?:^|,)user_id=(\d+)(?:,|$)")


class MountEntry(NamedTuple):
    """One line of the kernel's mount table.

    Attributes:
        mountpoint: Where.
        device: `major:minor`.
        filesystem_type: `fuse.icefs` for ours.
        source: What is mounted.
        root: Which directory of the file system is seen there; `/` but for bind mounts of a part.
        user_id: The user that mounted it, as the kernel says of FUSE mounts; None of others.
    """

    mountpoint: str
    device: str
    filesystem_type: str
    source: str
    root: str = "/"
    user_id: int | None = None

    @property
    def is_icefs(self) -> bool:
        """Whether it calls itself a mount of icefs, which any user who may mount can do."""
        return self.filesystem_type == FILESYSTEM_TYPE

    @property
    def is_trusted(self) -> bool:
        """Whether root or this very user has mounted it; another user's daemon may answer what it likes."""
        return self.user_id is not None and self.user_id in (0, os.geteuid())


def mount_table(table: Path | None = None) -> list[MountEntry]:
    """Reads what this process, or another by its `mountinfo`, sees mounted, oldest first."""
    entries = []
    for line in (MOUNT_TABLE if table is None else table).read_text(errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields = before.split(" ")
        filesystem_type, source, options = f"{after} ".split(" ")[:3]
        found = _USER_ID.search(options)
        entries.append(
            MountEntry(
                _unescape(fields[4]),
                fields[2],
                filesystem_type,
                _unescape(source),
                _unescape(fields[3]),
                int(found[1]) if found and filesystem_type.startswith("fuse") else None,
            )
        )
    return entries


def mount_of(path: str, device: int | None = None) -> MountEntry | None:
    """Returns the mount that a path lies in, according to the kernel alone.

    Args:
        path: Absolute, and without links.
        device: What stat(2) says of the path (`st_dev`), where it could be asked: of mounts that hide each other it
            tells which one is seen.
    """
    best: MountEntry | None = None
    for entry in mount_table():
        point = entry.mountpoint.rstrip("/")
        if path != point and not path.startswith(f"{point}/"):
            continue
        if device is not None and entry.device != f"{os.major(device)}:{os.minor(device)}":
            continue
        if best is None or len(entry.mountpoint) >= len(best.mountpoint):
            best = entry
    return best


def mounted_at(mountpoint: str) -> MountEntry | None:
    """Returns what is mounted exactly at an absolute path; of several, the one on top."""
    return next((entry for entry in reversed(mount_table()) if entry.mountpoint == mountpoint), None)


def _unescape(text: str) -> str:
    """Undoes the kernel's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)

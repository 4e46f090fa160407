"""`mount -o remount,ro MNT` and `remount,rw`, which the kernel does without asking the daemon.

While a mount is `ro` the kernel refuses what would write. The working tree keeps its changes, and commands go on: they
come through ioctl(2), so what is staged can be committed, rebased or discarded.
"""

import subprocess
from typing import Final

from icefs.cli.support.mounts import find_mount
from icefs.errors import EntryNotFoundError, IcefsError, InvalidInputError, ReadOnlyError, SessionStateError
from icefs.words import command, shell_word

# What mount(8) repeats from the kernel's table, and what says nothing of the mount itself.
_REPEATED: Final = frozenset(
    (
        "remount",
        "nosuid",
        "nodev",
        "relatime",
        "noatime",
        "nodiratime",
        "default_permissions",
        "allow_other",
        "defaults",
    )
)
_REPEATED_PREFIXES: Final = ("user_id=", "group_id=", "max_read=", "x-", "X-")


def is_remount(options: list[str]) -> bool:
    """Tells whether option lists ask for a remount."""
    return "remount" in _items(options)


def remount(mountpoint: str, options: list[str]) -> None:
    """Makes a mount read-only, or writable again.

    Args:
        mountpoint: The mountpoint.
        options: Lists of options; the last of `ro` and `rw` counts.

    Raises:
        InvalidInputError: they ask for anything else.
        EntryNotFoundError: nothing of icefs is mounted there.
        ReadOnlyError: it was mounted read-only, and `rw` is asked for.
        SessionStateError: a program has a file open for writing, or this user may not do it.
    """
    wanted = "rw"
    for item in _items(options):
        if item in ("ro", "rw"):
            wanted = item
        elif item not in _REPEATED and not item.startswith(_REPEATED_PREFIXES):
            raise InvalidInputError(
                f"a remount changes ro and rw only, not {item}",
                hint=f"'{command('umount', mountpoint)}', and mount again: uncommitted changes are kept",
            )
    mounted = find_mount(mountpoint)
    if mounted is None or str(mounted.root) != mountpoint.rstrip("/"):
        raise EntryNotFoundError(
            f"not a mountpoint of icefs: {mountpoint}", hint="'findmnt -t fuse.icefs' lists the mounts"
        )
    if wanted == "rw" and not mounted.info.get("writable", True):
        raise ReadOnlyError(
            f"it was mounted read-only: {mountpoint}",
            hint=f"'{command('umount', mountpoint)}', and mount again without ro",
        )
    done = subprocess.run(
        ["mount", "-i", "-o", f"remount,{wanted}", "--", mountpoint], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise _refused(mountpoint, done.stderr.strip().rpartition(": ")[2].rstrip("."))


def _refused(mountpoint: str, reason: str) -> IcefsError:
    if "busy" in reason:
        hint = f"'fuser -vm {shell_word(mountpoint)}' shows which programs have files open for writing"
    else:
        hint = "run it as root"
    return SessionStateError(f"the kernel does not remount {mountpoint}: {reason}", hint=hint)


def _items(options: list[str]) -> list[str]:
    return [item for text in options for item in text.split(",") if item]

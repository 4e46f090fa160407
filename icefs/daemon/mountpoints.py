"""Checks a mountpoint before anything is mounted, and says what is wrong with it in words.

`/proc/self/mountinfo` is asked first: a mountpoint whose daemon has died must not be touched.
"""

import errno
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from icefs.daemon.mountinfo import AUTOMOUNT_TYPE, FILESYSTEM_TYPE, mounted_at
from icefs.errors import (
    AccessDeniedError,
    IcefsError,
    InvalidInputError,
    StaleError,
    StorageError,
    UnsupportedError,
)
from icefs.words import command, shell_word

FUSE_DEVICE: Final = Path("/dev/fuse")
FUSE_CONF: Final = Path("/etc/fuse.conf")
UPDATEDB_CONF: Final = Path("/etc/updatedb.conf")


PROCESS_STATUS: Final = Path("/proc/self/status")

_CAP_SYS_ADMIN: Final = 21
_IN_CONTAINERS: Final = (
    "start the container with --device /dev/fuse --cap-add SYS_ADMIN (and --security-opt apparmor=unconfined)"
)
_INSTALL: Final = "install it: apt install fuse3"


UPDATEDB: Final = (
    f"updatedb goes through the mounts that other users may see, and reads every directory of them: add fuse.icefs to"
    f" PRUNEFS in {UPDATEDB_CONF}"
)
"""What to say where `updatedb_reads_mounts`."""


def updatedb_reads_mounts() -> bool:
    """Tells whether there is an updatedb(8), for locate(1), whose configuration does not leave mounts of icefs out."""
    try:
        text = UPDATEDB_CONF.read_text()
    except (OSError, UnicodeDecodeError):
        return False
    left_out = re.findall(r"^\s*PRUNEFS\s*=\s*[\"']?([^\"'\n]*)", text, re.MULTILINE)
    return FILESYSTEM_TYPE not in " ".join(left_out).lower().split()


def check_fuse(*, allow_other: bool) -> None:
    """Checks that this process can mount FUSE file systems.

    Raises:
        UnsupportedError: something is not installed, or not there.
        InvalidInputError: `allow_other` is not allowed.
    """
    if not FUSE_DEVICE.exists():
        raise UnsupportedError(
            "FUSE is not available: there is no /dev/fuse",
            hint="run 'modprobe fuse', or start the container with --device /dev/fuse",
        )
    if shutil.which("fusermount3") is None:
        raise UnsupportedError("FUSE is not installed: there is no fusermount3", hint=_INSTALL)
    if os.geteuid() == 0:
        return
    if not os.access(FUSE_DEVICE, os.R_OK | os.W_OK):
        raise UnsupportedError(
            "no permission to use FUSE: /dev/fuse cannot be opened", hint="ask for membership in the group of /dev/fuse"
        )
    if allow_other and not _user_allow_other():
        raise InvalidInputError(
            "--allow-other is not allowed to users", hint="add the line 'user_allow_other' to /etc/fuse.conf"
        )


def _user_allow_other() -> bool:
    try:
        lines = FUSE_CONF.read_text().splitlines()
    except OSError:
        return False
    return any(line.split("#")[0].strip() == "user_allow_other" for line in lines)


def refused(mountpoint: str, reason: str) -> IcefsError:
    """Returns the error to raise where the kernel, or fusermount3, does not mount."""
    message = f"cannot mount at {mountpoint}: {reason}"
    if "not permitted" in reason or "ermission denied" in reason:
        return AccessDeniedError(message, hint=_missing_privilege() or _IN_CONTAINERS)
    return StorageError(message, hint="'icefs doctor' looks at what a mount needs")


def check_privileges() -> None:
    """Checks that a program that this process starts can come by the right to mount.

    Raises:
        AccessDeniedError: it cannot, whatever its owner and mode.
    """
    missing = _missing_privilege()
    if missing is not None:
        raise AccessDeniedError("this process may not mount", hint=missing)


def _missing_privilege() -> str | None:
    status = dict(line.split(":\t", 1) for line in PROCESS_STATUS.read_text().splitlines() if ":\t" in line)
    if not int(status.get("CapBnd", "-1"), 16) >> _CAP_SYS_ADMIN & 1:
        return f"CAP_SYS_ADMIN is out of reach; {_IN_CONTAINERS}"
    if os.geteuid() != 0 and status.get("NoNewPrivs", "0").strip() == "1":
        return "no_new_privs is set, so that fusermount3 gets no rights; start icefs without it"
    return None


def check_mountpoint(mountpoint: str) -> None:
    """Checks that a directory can become a mountpoint.

    Raises:
        InvalidInputError: it is missing, no directory, not empty, not ours, or a mountpoint already.
        StaleError: a daemon has died there.
    """
    entry = mounted_at(mountpoint)
    if entry is not None and entry.filesystem_type == FILESYSTEM_TYPE and _is_dead(mountpoint):
        raise StaleError(
            f"the daemon of an earlier mount has died here: {mountpoint}",
            hint=f"run '{command('umount', mountpoint)}' first",
        )
    if entry is not None and entry.filesystem_type == AUTOMOUNT_TYPE:
        return  # what waits for this very mount; to look into it would wait for the mount as well
    if entry is not None:
        raise InvalidInputError(
            f"already a mountpoint, of {entry.source} ({entry.filesystem_type}): {mountpoint}",
            hint=(
                f"run '{command('umount', mountpoint)}' or choose another directory"
                if entry.filesystem_type == FILESYSTEM_TYPE
                else "choose another directory"
            ),
        )
    try:
        entries = os.scandir(mountpoint)
    except FileNotFoundError:
        raise InvalidInputError(
            f"the mountpoint does not exist: {mountpoint}", hint=f"run 'mkdir -p -- {shell_word(mountpoint)}'"
        ) from None
    except NotADirectoryError:
        raise InvalidInputError(f"the mountpoint is not a directory: {mountpoint}", hint="choose a directory") from None
    except PermissionError:
        raise InvalidInputError(f"no permission to mount at {mountpoint}", hint="choose a directory of yours") from None
    with entries:
        if next(entries, None) is not None:
            raise InvalidInputError(f"the mountpoint is not empty: {mountpoint}", hint="choose an empty directory")
    if os.geteuid() != 0 and not os.access(mountpoint, os.W_OK):
        raise InvalidInputError(f"no permission to mount at {mountpoint}", hint="choose a directory of yours")


def check_apart(mountpoint: str, repository: str) -> None:
    """Checks that a mountpoint and a local repository do not lie in each other.

    Reading through the one would wait for the other, which waits for the first.

    Raises:
        InvalidInputError: they do.
    """
    one, other = os.path.realpath(mountpoint), os.path.realpath(repository)
    if one == other or one.startswith(f"{other}/"):
        raise InvalidInputError(
            f"the mountpoint lies in the repository itself: {mountpoint}", hint="choose a directory outside of it"
        )
    if other.startswith(f"{one.rstrip('/')}/"):
        raise InvalidInputError(
            f"the mountpoint would hide the repository: {mountpoint}", hint="choose a directory next to it"
        )


def _is_dead(mountpoint: str) -> bool:
    try:
        os.statvfs(mountpoint)  # stat would be answered from the kernel's cache
    except OSError as error:
        return error.errno in (errno.ENOTCONN, errno.ECONNABORTED)
    return False


def clear_dead_mounts(mountpoint: str) -> int:
    """Takes down mounts of icefs whose daemons have died; a living one, and what is not ours, is left alone.

    Returns:
        How many there were.

    Raises:
        StaleError: one of them cannot be taken down.
    """
    count = 0
    while (
        (entry := mounted_at(mountpoint)) is not None
        and entry.filesystem_type == FILESYSTEM_TYPE
        and _is_dead(mountpoint)
    ):
        done = subprocess.run(["fusermount3", "-uz", "--", mountpoint], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise StaleError(
                f"the daemon of an earlier mount has died here, and it cannot be cleared away: {mountpoint}:"
                f" {done.stderr.strip()}",
                hint=f"as root, run 'umount -l -- {shell_word(mountpoint)}'",
            )
        count += 1
    return count


def raise_read_ahead(mountpoint: str, kilobytes: int) -> bool:
    """Lets the kernel read larger pieces of this mount ahead; only root may, and nothing depends on it.

    Returns:
        Whether it was done.
    """
    entry = mounted_at(mountpoint)
    if entry is None:
        return False
    try:
        Path(f"/sys/class/bdi/{entry.device}/read_ahead_kb").write_text(str(kilobytes))
    except OSError:
        return False
    return True

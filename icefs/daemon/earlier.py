"""Files that programs have open in mounts that were detached: an earlier mount's daemon lives for as long as they are.

The kernel names neither such a mount nor its daemon any more. The signs: the file's mount is not in the process's
mount table, and its file system is FUSE. Files of other users' processes are seen by root alone.

Sources: proc_pid_fd(5), proc_pid_fdinfo(5), statfs(2).
"""

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from icefs.words import quoted, some

_FUSE_MAGIC: Final = 0x65735546  # statfs(2)
_STATFS_BYTES: Final = 256  # more than any struct statfs takes; it begins with the type, a long
_PATIENCE_S: Final = 3.0
_SHOWN: Final = 5
_libc: Final = ctypes.CDLL(None)


class OpenFile(NamedTuple):
    """A file that a process has open in a detached mount; its path begins at the mount's root."""

    path: str
    pid: int
    program: str


def describe_open_files() -> str | None:
    """Returns the names of files that are open in detached mounts, with their processes; None if it sees none."""
    found = [f"{quoted(one.path)} (process {one.pid}, {quoted(one.program)})" for one in open_in_detached_mounts()]
    return some(found, _SHOWN) if found else None


def open_in_detached_mounts() -> list[OpenFile]:
    """Lists the files that are open in FUSE mounts that no mount table has.

    A daemon may not answer for its files: then the list ends there, after some seconds.
    """
    found: list[OpenFile] = []
    looked_at = 0

    def look() -> None:
        nonlocal looked_at
        with contextlib.suppress(OSError):
            for process in Path("/proc").iterdir():
                if process.name.isdecimal():
                    found.extend(_open_in(process))
                    looked_at += 1

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    before = -1
    while thread.is_alive() and before != looked_at:  # on a machine with much to do it is slow, and gets on
        before = looked_at
        thread.join(_PATIENCE_S)
    return sorted(found)


def _open_in(process: Path) -> Iterator[OpenFile]:
    with contextlib.suppress(OSError):  # another user's, or it has ended
        mounts = {line.partition(" ")[0] for line in (process / "mountinfo").read_text().splitlines()}
        for name in os.listdir(process / "fd"):
            with contextlib.suppress(OSError):
                path = os.readlink(process / "fd" / name)
                if not path.startswith("/") or _mount_id(process / "fdinfo" / name) in mounts:
                    continue
                if _is_fuse(process / "fd" / name):
                    yield OpenFile(path, int(process.name), (process / "comm").read_text().strip())


def _is_fuse(path: Path) -> bool:
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.statfs(os.fsencode(path), buffer):
        return False
    return int.from_bytes(buffer.raw[: ctypes.sizeof(ctypes.c_long)], sys.byteorder) == _FUSE_MAGIC


def _mount_id(fdinfo: Path) -> str:
    for line in fdinfo.read_text().splitlines():
        if line.startswith("mnt_id:"):
            return line.split()[1]
    return ""

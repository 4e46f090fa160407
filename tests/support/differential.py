"""A mounted branch and a plain directory, which have the same done to them.

Where the two may differ is listed here, and nowhere else:

1.  Names of Zarr v2 metadata cannot be created: EPERM. Icechunk holds Zarr v3 only.
2.  A file cannot become a `zarr.json` by rename or link unless it is one, and closing one that was written and is
    none fails: EINVAL. Programs learn it before the commit does.
3.  A directory has two links and size 0: counting subdirectories would mean listing them.
4.  A commit, or following one of others, gives files and directories the default modes, and gives names that shared
    a file and were committed files of their own: Icechunk has neither modes nor links. Both are then done to the
    plain directory, too.
5.  A remount gives new inode numbers, and what was committed the time of a commit: a snapshot has one time.
6.  What was written through a shared mapping gets its new mtime with `msync`, `fsync` or `close`: until then the
    kernel has told nobody.
7.  There are no holes: SEEK_DATA and SEEK_HOLE see one extent.
8.  `fallocate` is EOPNOTSUPP; `posix_fallocate` falls back to writing.
9.  Content changes always give another mtime; on the plain directory the clock may have stood still.
10. A commit of others gives the directories above what it changed its time, not only those with other entries.
11. A rebase, or a commit with one, leaves directories in which nothing is left, or takes them away: whether somebody
    made them is not what it is about.
"""

import ctypes
import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import icechunk

from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.errors import IcefsError
from icefs.format.zarr_json import parse_zarr_json
from icefs.zarr.keys import METADATA_NAME, V2_METADATA_NAMES
from tests.conformance.official import commit, create
from tests.support.mounting import Mount
from tests.support.tree_checks import checking_daemons

AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
_OF_BASE = "user.icefs-test.base"

_libc = ctypes.CDLL(None, use_errno=True)


def renameat2(old: str, new: str, flags: int) -> None:
    """Calls renameat2(2)."""
    if _libc.renameat2(AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), old)


def is_reserved(path: str) -> bool:
    """Tells whether allowed difference 1 is about a path."""
    return path.rpartition("/")[2] in V2_METADATA_NAMES


def is_metadata(path: str) -> bool:
    """Tells whether a path is one of a `zarr.json`."""
    return path.rpartition("/")[2] == METADATA_NAME


def is_valid(data: bytes) -> bool:
    """Tells whether bytes can be a `zarr.json`, which allowed difference 2 is about."""
    try:
        parse_zarr_json(data, name="zarr.json", spec_version=2)
    except IcefsError:
        return False
    return True


class Outcome(NamedTuple):
    """What became of a system call: its errno, or its result."""

    number: int
    result: Any

    def __repr__(self) -> str:
        return errno.errorcode.get(self.number, "ok") + ("" if self.result is None else f" {self.result!r:.60}")


@dataclass
class Side:
    """One of the two directories, with what is open in it.

    Attributes:
        root: The directory.
        fds: Descriptors by a number that both sides share.
    """

    root: str
    fds: dict[int, int] = field(default_factory=dict)

    def at(self, path: str) -> str:
        """Returns the whole path."""
        return f"{self.root}/{path}"

    def open(self, number: int, path: str, flags: int, mode: int = 0o666) -> None:
        """Opens a file or directory under a number."""
        self.fds[number] = os.open(self.at(path), flags, mode)

    def close(self, number: int) -> None:
        """Closes it."""
        os.close(self.fds.pop(number))

    def write_file(self, path: str, data: bytes, flags: int = os.O_TRUNC) -> None:
        """Writes a whole file, as most programs do."""
        fd = os.open(self.at(path), os.O_WRONLY | os.O_CREAT | flags, 0o666)
        try:
            assert os.write(fd, data) == len(data)
        finally:
            os.close(fd)

    def do(self, action: Callable[["Side"], Any]) -> Outcome:
        """Does something, and returns what became of it."""
        try:
            return Outcome(0, action(self))
        except OSError as error:
            return Outcome(error.errno or -1, None)


class Seen(NamedTuple):
    """What a look at one path shows; `data` is None for a directory."""

    mode: int
    nlink: int
    ino: int
    mtime_ns: int
    data: bytes | None


def look(root: str) -> dict[str, Seen]:
    """Looks at everything below a directory, as programs do: lists, stats, reads."""
    found: dict[str, Seen] = {}
    waiting = [""]
    while waiting:
        above = waiting.pop()
        with os.scandir(f"{root}/{above}") as entries:
            listed = [(entry.name, entry.is_dir(follow_symlinks=False), entry.inode()) for entry in entries]
        for name, is_dir, ino in listed:
            path = f"{above}/{name}" if above else name
            told = os.stat(f"{root}/{path}", follow_symlinks=False)
            assert told.st_ino == ino, f"{path}: inode {ino} in the listing, {told.st_ino} by stat"
            data = None
            if is_dir:
                waiting.append(path)
            else:
                fd = os.open(f"{root}/{path}", os.O_RDONLY)
                try:
                    data = os.pread(fd, told.st_size + 1, 0)
                finally:
                    os.close(fd)
                assert len(data) == told.st_size, f"{path}: {len(data)} bytes where stat says {told.st_size}"
            found[path] = Seen(told.st_mode, told.st_nlink, told.st_ino, told.st_mtime_ns, data)
    return found


def partition(seen: dict[str, Seen]) -> set[frozenset[str]]:
    """Returns which paths are names of one file."""
    groups: dict[int, set[str]] = {}
    for path, one in seen.items():
        groups.setdefault(one.ino, set()).add(path)
    return {frozenset(paths) for paths in groups.values()}


class Station:
    """A repository that stays mounted: a fresh branch for each example, and a mount that can be killed.

    Every branch starts at the same snapshot.
    """

    def __init__(self, scratch: Path, content: dict[str, bytes]) -> None:
        self.scratch = scratch
        self.content = content
        self.official = create(scratch / "repo", 2, inline_chunk_threshold_bytes=8)
        self.first = commit(self.official, "first", content)
        self.broken = scratch / "broken-trees"
        self.place = scratch / "mnt"
        self.place.mkdir()
        self._branches = 0
        self._logs = 0
        self.mount: Mount
        self._start()

    def _start(self) -> None:
        self._logs += 1
        log = self.scratch / f"log.{self._logs}"
        options = MountOptions(
            repository=str(self.scratch / "repo"),
            mountpoint=str(self.place),
            poll_interval_s=0.0,
            state_dir=str(self.scratch / "state"),
            log_file=str(log),
        )
        with checking_daemons(self.broken):
            self.mount = Mount(self.place, spawn(options), log)

    def check(self) -> None:
        """Fails where a daemon found one of its working trees broken after a change."""
        assert not self.broken.exists(), self.broken.read_text()

    def new_branch(self) -> str:
        """Makes a branch and returns its name."""
        self._branches += 1
        name = f"b{self._branches}"
        self.official.create_branch(name, self.first)
        self.mount.refresh()
        return name

    def drop_branch(self, name: str) -> None:
        """Deletes a branch."""
        if self.mount.exit_code is None:
            self.official.delete_branch(name)
            self.mount.refresh()

    def remount(self, *, kill: bool) -> None:
        """Ends the daemon, kindly or not, and starts another one. Nothing may be open."""
        if kill:
            os.kill(self.mount.pid, 9)
            assert self.mount.wait() == -9
            subprocess.run(["fusermount3", "-uz", self.place], check=True)
        else:
            assert self.mount.unmount() == 0
            assert not self.mount.complaints(), self.mount.complaints()
        self._start()

    def stop(self) -> None:
        """Unmounts."""
        if self.mount.exit_code is None:
            assert self.mount.unmount() == 0
            assert not self.mount.complaints(), self.mount.complaints()

    def read_branch(self, name: str) -> dict[str, bytes]:
        """Returns what the official library finds in a branch, by key."""
        from zarr.core.buffer import default_buffer_prototype
        from zarr.core.sync import _collect_aiterator, sync

        official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(self.scratch / "repo")))
        store = official.readonly_session(name).store
        keys = sync(_collect_aiterator(store.list()))
        return {key: sync(store.get(key, default_buffer_prototype())).to_bytes() for key in keys}


def populate(root: Path, content: dict[str, bytes]) -> None:
    """Makes a plain directory hold what a fresh branch holds."""
    if root.exists():
        shutil.rmtree(root)
    root.mkdir()
    for path, data in content.items():
        restore(root, path, data)
    for directory, _, names in os.walk(root):
        os.chmod(directory, 0o755)
        for name in names:
            os.chmod(os.path.join(directory, name), 0o644)
    mark_base(root, content)


def restore(root: Path, path: str, data: bytes) -> None:
    """Puts a file in its place as another one than was there, which a program may have open."""
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name("restored")
    new.write_bytes(data)
    os.chmod(new, 0o644)
    if target.is_dir():
        shutil.rmtree(target)
    new.replace(target)


def mark_base(root: Path, content: dict[str, bytes]) -> None:
    """Marks the directories that are those of the base, which one of the same name that is made later is not."""
    for directory in {"", *(path[:cut] for path in content for cut, char in enumerate(path) if char == "/")}:
        if (root / directory).is_dir():
            os.setxattr(root / directory, _OF_BASE, b"1")


def is_of_base(directory: Path) -> bool:
    """Tells whether a directory is one of the base."""
    return directory.is_dir() and _OF_BASE in os.listxattr(directory)

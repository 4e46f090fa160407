"""A state directory's disk that fails when a test says so."""

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from icefs.worktree.spool.files import DiskIo
from icefs.worktree.spool.journal import Batch, Journal


class Fuse:
    """Fails the n-th call that passes it, and every later one until it is mended.

    Attributes:
        left: Calls that still pass; None for all.
        passed: Calls that have passed.
    """

    def __init__(self) -> None:
        self.left: int | None = None
        self.passed = 0

    def blow(self, after: int = 0) -> None:
        self.left = after

    def mend(self) -> None:
        self.left = None

    def __call__(self) -> bool:
        """Tells whether this call is to fail."""
        self.passed += 1
        if self.left is None:
            return False
        self.left -= 1
        return self.left < 0


class FullDisk(DiskIo):
    """Spool files on a disk that is full while the fuse is blown."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def _check(self) -> None:
        if self._fuse():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def create(self, path: str) -> int:
        self._check()
        return super().create(path)

    def mkdir(self, path: str) -> None:
        self._check()
        super().mkdir(path)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        self._check()
        return super().pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        self._check()
        super().truncate(fd, size)

    def copy_range(self, source: int, target: int, size: int, offset: int) -> int:
        self._check()
        return super().copy_range(source, target, size, offset)


class FullJournal(Journal):
    """A database that is full while the fuse is blown: SQLite itself fails, in the middle of a transaction."""

    fuse = Fuse()

    def _fail_if_full(self) -> None:
        if self.fuse():
            # What SQLite says when a page cannot be added: a limit on pages is a full disk to it.
            self._execute("pragma max_page_count = 1")
            try:
                self._execute("create table filler as select randomblob(100000)")
            finally:
                self._execute("pragma max_page_count = 4294967294")

    def _write(self, batch: Batch) -> None:
        super()._write(batch)
        self._fail_if_full()

    def _write_meta(self, values: Mapping[str, str | int | None]) -> None:
        super()._write_meta(values)
        self._fail_if_full()


def full_journal(fuse: Fuse) -> Callable[[Path], Journal]:
    """Returns what opens such a database, with nothing kept back for a full disk."""

    def open_journal(path: Path) -> Journal:
        journal = FullJournal(path, reserve_bytes=0)
        journal.fuse = fuse
        return journal

    return open_journal


class LosingDisk(DiskIo):
    """Spool files on a disk with so much room, which it loses and gets back as a test says.

    Attributes:
        room: How many bytes can still be written; None for any number.
        syncs: Whether the disk carries out a sync.
        failed_syncs: How often it did not.
    """

    def __init__(self) -> None:
        self.room: int | None = None
        self.syncs = True
        self.failed_syncs = 0

    def create(self, path: str) -> int:
        if self.room == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return super().pwrite(fd, memoryview(data)[: self._taken(len(data))], offset)

    def copy_range(self, source: int, target: int, size: int, offset: int) -> int:
        return super().copy_range(source, target, self._taken(size), offset)

    def _taken(self, size: int) -> int:
        if self.room is None:
            return size
        if not self.room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = min(size, self.room)
        self.room -= taken
        return taken

    def sync(self, fd: int) -> None:
        if not self.syncs:
            self.failed_syncs += 1
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)

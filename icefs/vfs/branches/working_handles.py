"""Open files of a working tree."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from icefs.errors import StaleError
from icefs.inode import Ino
from icefs.paths import TreePath
from icefs.vfs.branches.metadata_checks import MetadataChecks
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.session_base import Guarded
from icefs.vfs.interface import FileHandle, Notifier, NotInMemoryError
from icefs.worktree.tree import WorkTree
from icefs.zarr.keys import METADATA_NAME

_WRITING = os.O_WRONLY | os.O_RDWR


_FLUSHES_FIRST: Final = (6, 6)


def kernel_version() -> tuple[int, int]:
    """Returns the version of the Linux that runs: its first two numbers."""
    found = re.match(r"(\d+)\.(\d+)", os.uname().release)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


class DirectWriters:
    """Files whose bytes come past the kernel's page cache, from the program that made them and only writes.

    That saves a copy of every byte and the question for `security.capability` that the kernel asks before each write:
    two thirds of the time of a file of 1 MiB. When a file is made no other program has it open, so there are
    no pages of it, nor a mapping. A program that opens it meanwhile goes through the page cache as always, and from
    then on a write is answered only when the kernel has dropped what it had cached before.

    Linux 6.6 is the first to write dirty pages of others' mappings before such a write, and not over it later.

    Concurrency: on the event loop's thread.
    """

    def __init__(self, notifier: Notifier, kernel: tuple[int, int] | None = None) -> None:
        """Takes what drops pages, and the version of Linux; None for the one that runs."""
        self._notifier = notifier
        self._is_safe = (kernel or kernel_version()) >= _FLUSHES_FIRST
        # Whether others have opened the file, by inode number.
        self._shared: dict[int, bool] = {}

    def begin(self, ino: Ino) -> bool:
        """Tells whether the bytes of a file that was made just now may come directly; `end` must follow then."""
        if self._is_safe:
            self._shared[ino] = False
        return self._is_safe

    def opened(self, ino: Ino) -> None:
        """Records that a file was opened, whichever."""
        if ino in self._shared:
            self._shared[ino] = True

    async def written(self, ino: Ino) -> None:
        """Returns when nobody can read what was there before a write."""
        if self._shared.get(ino):
            await self._notifier.drop_pages([ino])

    def end(self, ino: Ino) -> None:
        """Records that the writer has closed its file."""
        self._shared.pop(ino, None)


class WorkingHandle(FileHandle):
    """An open file of a branch that has a working tree.

    Spool files are on a local disk and mostly in its page cache, so reads and writes of them happen on the event
    loop's thread. A read or write that may have to wait for the object store, or copy a file first, goes to a thread.

    Attributes:
        fh: The working tree's handle.
        is_writable: Whether it was opened for writing.
        direct_io: Whether it is one of the branch's direct writers.
    """

    __slots__ = (
        "_base_handle",
        "_checks",
        "_direct",
        "_is_made",
        "_operations",
        "_work",
        "_wrote",
        "direct_io",
        "fh",
        "is_writable",
    )

    def __init__(
        self,
        operations: Operations,
        direct: DirectWriters,
        checks: MetadataChecks,
        work: WorkTree,
        ino: Ino,
        fh: int,
        flags: int,
        base_handle: FileHandle | None,
    ) -> None:
        """Takes a handle of the working tree.

        Args:
            operations: Runs what may wait.
            direct: The branch's files that are written past the page cache.
            checks: Checks a `zarr.json` when it is closed.
            work: The working tree.
            ino: The inode that was opened.
            fh: The working tree's handle.
            flags: Those of `open(2)`.
            base_handle: A handle of the base's file, where nobody has changed that.
        """
        super().__init__(ino)
        self.fh = fh
        self.direct_io = False
        self.is_writable = bool(flags & _WRITING)
        self._operations = operations
        self._direct = direct
        self._checks = checks
        self._work = work
        self._base_handle = base_handle
        self._is_made = bool(flags & os.O_CREAT)
        self._wrote = bool(flags & os.O_TRUNC)

    @property
    def wants_flush(self) -> bool:  # type: ignore[override]  # what another kind of file knows without asking
        """Whether it was opened for writing, or made: what is made has to be kept."""
        return self.is_writable or self._is_made

    @property
    def size(self) -> int:
        """The file's size now."""
        return self._work.files.getattr(self.fh).size

    def read_nowait(self, offset: int, size: int) -> bytes | bytearray | memoryview | None:
        """Reads what is near."""
        work = self._work
        if self._base_handle is not None:
            if isinstance(work.files.where(self.fh), str):
                return self._base_handle.read_nowait(offset, size)
            self._drop_base()  # somebody wrote to the file since
        return work.files.read(self.fh, offset, size) if work.files.is_local(self.fh) else None

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads, and waits."""
        data = self.read_nowait(offset, size)
        if data is not None:
            return data
        if self._base_handle is not None:
            return await self._base_handle.read(offset, size)
        return await self._operations.in_thread(lambda: self._work.files.read(self.fh, offset, size))

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Writes bytes."""
        await self._operations.may_write()
        self._wrote = True
        work = self._work
        if work.files.is_ready(self.fh):
            count = work.files.write(self.fh, offset, data)
        else:
            # The first write to a file of the base, or after a freeze, copies it.
            count = await self._operations.in_thread(lambda: work.files.write(self.fh, offset, data))
        if self.direct_io:
            await self._direct.written(self.ino)
        return count

    async def fallocate(self, offset: int, length: int, mode: int) -> None:
        """Gives a part of the file its place on the disk, or takes it away."""
        await self._operations.may_write()
        self._wrote = True
        await self._operations.in_thread(lambda: self._work.files.fallocate(self.fh, offset, length, mode))

    async def write_back(self, offset: int, data: bytes | memoryview) -> int:
        """Writes what the kernel had cached; the working tree marks what it cannot store."""
        await self._operations.may_write()
        self._wrote = True
        work = self._work
        if work.files.is_ready(self.fh):
            work.files.write_back(self.fh, offset, data)
        else:
            await self._operations.in_thread(lambda: work.files.write_back(self.fh, offset, data))
        return len(data)

    async def flush(self) -> None:
        """Makes what was written survive the death of the daemon.

        Raises:
            InvalidMetadataError: the file is not a valid `zarr.json`; it is kept.
        """
        if not self.wants_flush:
            return
        self._work.files.flush(self.fh)
        if self._wrote:
            self._wrote = False
            if self._work.files.name(self.fh) == METADATA_NAME:
                await self._operations.run(lambda: self._checks.check_open(self._work, self.fh))

    async def fsync(self) -> None:
        """Makes what was written survive power loss."""
        await self._operations.in_thread(lambda: self._work.files.fsync(self.fh))

    def release(self) -> None:
        """Gives the file back."""
        if self.direct_io:
            self._direct.end(self.ino)
        self._drop_base()
        self._work.files.release(self.fh)

    def _drop_base(self) -> None:
        if self._base_handle is not None:
            self._base_handle.release()
            self._base_handle = None


class EarlyHandle(FileHandle):
    """A file that was opened to be read when its branch had no working tree yet.

    A program that writes to the file later changes it for this reader, too: when a working tree is opened it *adopts*
    the handle, and answers from then on. A file of a snapshot that the branch has left stays what it was.

    Concurrency: it is adopted in a worker thread, and released on the event loop's; the branch's lock decides which of
    the two is first. The working tree's lock comes before that one, so the file is opened there without it.

    Attributes:
        adopted: What answers instead.
    """

    __slots__ = ("_early", "adopted", "base_handle")

    def __init__(self, early: "EarlyHandles", base_handle: FileHandle) -> None:
        """Takes the table that it is in, and the base's handle, which does not answer once it is adopted."""
        super().__init__(base_handle.ino)
        self.adopted: WorkingHandle | None = None
        self.base_handle = base_handle
        self._early = early

    @property
    def _now(self) -> FileHandle:
        return self.base_handle if self.adopted is None else self.adopted

    @property
    def size(self) -> int:
        """The file's size now."""
        return self._now.size

    def read_nowait(self, offset: int, size: int) -> bytes | bytearray | memoryview | None:
        """Reads what is near."""
        return self._now.read_nowait(offset, size)

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads, and waits."""
        return await self._now.read(offset, size)

    async def fsync(self) -> None:
        """Makes what was written by others survive power loss."""
        await self._now.fsync()

    def release(self) -> None:
        """Gives the file back."""
        self._early.remove(self)
        self._now.release()


class WorkingHandles:
    """Makes the open files of one branch.

    Attributes:
        direct: Those that are written past the page cache.
    """

    def __init__(self, operations: Operations, checks: MetadataChecks, notifier: Notifier) -> None:
        self.direct = DirectWriters(notifier)
        self._operations = operations
        self._checks = checks

    def make(
        self, work: WorkTree, ino: Ino, fh: int, flags: int, base_handle: FileHandle | None = None
    ) -> WorkingHandle:
        """Makes the open file of a handle of the working tree; see `WorkingHandle`."""
        return WorkingHandle(self._operations, self.direct, self._checks, work, ino, fh, flags, base_handle)


class EarlyHandles:
    """What was opened while a branch had no working tree, and is still open.

    Concurrency: `adopt` runs in the worker thread that has opened the working tree, the rest on the event loop's.
    """

    def __init__(self, guarded: Guarded, path_of: Callable[[Ino], TreePath], handles: WorkingHandles) -> None:
        """Takes the lock, what finds the path of an inode in the base, and what makes files of a working tree."""
        self._guarded = guarded
        self._path_of = path_of
        self._opened = handles
        self._handles: dict[EarlyHandle, None] = {}

    def add(self, base_handle: FileHandle) -> EarlyHandle:
        """Takes an open file of the base; the lock is held."""
        handle = EarlyHandle(self, base_handle)
        self._handles[handle] = None
        return handle

    def remove(self, handle: EarlyHandle) -> None:
        """Forgets a file that is closed."""
        with self._guarded.lock:
            self._handles.pop(handle, None)

    def adopt(self, work: WorkTree) -> None:
        """Has a working tree answer for what is open."""
        for handle in list(self._handles):
            if handle.adopted is None:
                with suppress(StaleError):  # the branch has left its snapshot
                    self._adopt(work, handle)

    def finish(self, work: WorkTree, *, is_gone: bool) -> None:
        """Has it answer for what was opened a moment ago as well, and ends the table."""
        for handle in list(self._handles):
            if is_gone:
                handle.adopted = None
            elif handle.adopted is None:
                # It was opened a moment ago, so that there is nothing to be fetched.
                with suppress(StaleError, NotInMemoryError):
                    self._adopt(work, handle)
        self._handles.clear()

    def _adopt(self, work: WorkTree, handle: EarlyHandle) -> None:
        path = self._guarded.call(lambda: self._path_of(handle.ino))
        fh = work.files.open(path, os.O_RDONLY)
        with self._guarded.lock:
            if handle in self._handles:
                handle.adopted = self._opened.make(work, handle.ino, fh, os.O_RDONLY, handle.base_handle)
                return
        work.files.release(fh)

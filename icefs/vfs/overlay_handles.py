"""Open files of a working tree."""

import os
from typing import TYPE_CHECKING

from icefs.vfs.interface import FileHandle
from icefs.worktree.overlay import WorkTree
from icefs.zarr.keys import METADATA_NAME

if TYPE_CHECKING:
    from icefs.vfs.working import WorkingTree

_WRITING = os.O_WRONLY | os.O_RDWR


class OverlayHandle(FileHandle):
    """An open file of a branch that has a working tree.

    Spool files are on a local disk and mostly in its page cache, so reads and writes of them happen on the event
    loop's thread. What may have to wait for the object store, or copy a file first, goes to a thread.

    Attributes:
        number: The working tree's handle.
        is_writable: Whether it was opened for writing.
    """

    __slots__ = ("_lower", "_tree", "_work", "_wrote", "is_writable", "number")

    def __init__(
        self, tree: "WorkingTree", work: WorkTree, ino: int, number: int, flags: int, lower: FileHandle | None
    ) -> None:
        """Takes a handle of the working tree and, of a file that nobody changed, one of the snapshot."""
        super().__init__(ino)
        self.number = number
        self.is_writable = bool(flags & _WRITING)
        self._tree = tree
        self._work = work
        self._lower = lower
        self._wrote = bool(flags & os.O_TRUNC)

    @property
    def size(self) -> int:
        """The file's size now."""
        return self._work.getattr_handle(self.number).size

    def read_nowait(self, offset: int, size: int) -> bytes | bytearray | memoryview | None:
        """Reads what is near."""
        work = self._work
        if self._lower is not None:
            if isinstance(work.where_of(self.number), str):
                return self._lower.read_nowait(offset, size)
            self._drop_lower()  # somebody wrote to the file since
        return work.read(self.number, offset, size) if work.is_local(self.number) else None

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads, and waits."""
        data = self.read_nowait(offset, size)
        if data is not None:
            return data
        if self._lower is not None:
            return await self._lower.read(offset, size)
        return await self._tree.in_thread(lambda: self._work.read(self.number, offset, size))

    async def write(self, offset: int, data: bytes) -> int:
        """Writes bytes."""
        await self._tree.may_write()
        self._wrote = True
        work = self._work
        if work.is_ready(self.number):
            return work.write(self.number, offset, data)
        # The first write to a file of the base, or after a freeze, copies it.
        return await self._tree.in_thread(lambda: work.write(self.number, offset, data))

    async def flush(self) -> None:
        """Makes what was written survive the death of the daemon.

        Raises:
            InvalidMetadataError: the file is a `zarr.json` that is none; it is kept.
        """
        if not self.is_writable:
            return
        self._work.flush(self.number)
        if self._wrote:
            self._wrote = False
            if self._work.name_of(self.number) == METADATA_NAME:
                await self._tree.check_metadata(self.number)

    async def fsync(self) -> None:
        """Makes what was written survive power loss."""
        await self._tree.in_thread(lambda: self._work.fsync(self.number))

    def release(self) -> None:
        """Gives the file back."""
        self._drop_lower()
        self._work.release(self.number)

    def _drop_lower(self) -> None:
        if self._lower is not None:
            self._lower.release()
            self._lower = None

"""The requests of a mount: finds the tree that answers for an inode, and waits where a tree may not.

lookup, getattr, …  →  the tree of the inode answers at once, or says what to fetch first
read, write, …      →  the handle answers
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from icefs.errors import CrossTreeError, StaleError
from icefs.inode import Ino
from icefs.ioctl import is_request
from icefs.vfs.attrs import BLOCK_SIZE, Attr, EntryRun, FsStats
from icefs.vfs.fetches import Fetches, ask
from icefs.vfs.handles import HandleTable
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import AttrChanges, Caller, FileHandle, NotInMemoryError

_PEBIBYTE: Final = 1 << 50
_FULL: Final = FsStats(_PEBIBYTE // BLOCK_SIZE, 0, 0, 1 << 40, 0)


class FileSystem:
    """Answers the requests of a mount from its trees and open files; implements `interface.Vfs`.

    Concurrency: on the event loop's thread. A request touches trees and handles between two awaits only, and
    whatever it found may be gone after one.

    Attributes:
        space: The inode numbers, with the tree that each belongs to.
        handles: What is open.
        wants_flush: Whether there is anything to do at a `close(2)`.
    """

    def __init__(
        self,
        space: InodeSpace,
        handles: HandleTable,
        fetches: Fetches,
        control_fetches: Fetches,
        state_root: Path | None = None,
    ) -> None:
        """Answers for the trees that have inode numbers.

        Args:
            space: The inode numbers.
            handles: Takes what is opened.
            fetches: Fetches what trees ask for.
            control_fetches: Fetches what control files ask for, in threads of its own.
            state_root: The directory of the changes that are not committed; None for a mount that only reads.
        """
        self.space = space
        self._tree_of = space.tree_of
        self.handles = handles
        self.wants_flush = state_root is not None
        self._fetches = fetches
        self._control_fetches = control_fetches
        self._state_root = state_root

    # What is to be fetched first.

    async def _after[R](self, missing: NotInMemoryError, question: Callable[[], R]) -> R:
        """Fetches what a question asked for, and asks again until there is an answer."""
        return await ask(question, self._bring, missing)

    async def _bring(self, missing: NotInMemoryError) -> None:
        if missing.by is not None:
            await missing.by.bring(missing)
        else:
            await (self._control_fetches if missing.is_for_asker else self._fetches).bring(missing)

    # Names and attributes.

    async def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a name in a directory."""
        try:
            return self._tree_of(parent).lookup(parent, name)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: self._tree_of(parent).lookup(parent, name))

    async def getattr(self, ino: Ino) -> Attr:
        """Returns attributes; of a file that is open also if its name leads elsewhere by now."""
        try:
            try:
                return self._tree_of(ino).getattr(ino)
            except NotInMemoryError as missing:
                return await self._after(missing, lambda: self._tree_of(ino).getattr(ino))
        except StaleError:
            file = self.handles.file_of(ino)
            if file is None:
                raise
            return self._tree_of(ino).getattr_open(file)

    def forget(self, ino: Ino, count: int) -> None:
        """Drops references of the kernel to an inode."""
        found = self.space.find(ino)
        if found is not None:
            found.tree.forget(ino, count)

    async def readlink(self, ino: Ino) -> str:
        """Returns where a symbolic link leads."""
        return self._tree_of(ino).readlink(ino)

    async def listxattr(self, ino: Ino) -> Sequence[str]:
        """Returns the names of extended attributes."""
        try:
            return self._tree_of(ino).listxattr(ino)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: self._tree_of(ino).listxattr(ino))

    async def getxattr(self, ino: Ino, name: str) -> bytes | None:
        """Returns an extended attribute, or None."""
        try:
            return self._tree_of(ino).getxattr(ino, name)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: self._tree_of(ino).getxattr(ino, name))

    async def statfs(self) -> FsStats:
        """Describes the disk that changes are kept on; on a read-only mount a large one without a free block."""
        return _FULL if self._state_root is None else _stats_of_disk(self._state_root)

    # Files.

    async def open(self, ino: Ino, flags: int) -> tuple[int, FileHandle]:
        """Opens a file."""
        try:
            file = self._tree_of(ino).open(ino, flags)
        except NotInMemoryError as missing:
            file = await self._after(missing, lambda: self._tree_of(ino).open(ino, flags))
        return self.handles.add_file(file), file

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads from an open file."""
        file = self.handles.file(fh)
        data = file.read_nowait(offset, size)
        return await file.read(offset, size) if data is None else data

    def only_reads(self, fh: int) -> bool:
        """Tells whether to read from what is open changes nothing."""
        return not self.handles.reading_acts(fh)

    async def write(self, fh: int, offset: int, data: bytes | memoryview, is_write_back: bool = False) -> int:
        """Writes to an open file."""
        file = self.handles.file(fh)
        return await (file.write_back(offset, data) if is_write_back else file.write(offset, data))

    async def fallocate(self, fh: int, offset: int, length: int, mode: int) -> None:
        """Gives a part of an open file its place on the disk, or takes it away."""
        await self.handles.file(fh).fallocate(offset, length, mode)

    def takes_ioctl(self, command: int) -> bool:
        """Tells whether an ioctl hands over a request, or a part of one."""
        return is_request(command)

    async def ioctl(self, fh: int, request: bytes) -> None:
        """Hands a request, or a part of one, to an open file."""
        await self.handles.file(fh).take_request(request)

    async def flush(self, fh: int) -> None:
        """Answers a `close(2)`."""
        await self.handles.file(fh).flush()

    async def release(self, fh: int) -> None:
        """Takes an open file back."""
        self.handles.pop_file(fh).release()

    async def fsync(self, fh: int) -> None:
        """Makes an open file durable."""
        await self.handles.file(fh).fsync()

    # Directories.

    async def opendir(self, ino: Ino) -> int:
        """Opens a directory."""
        try:
            directory = self._tree_of(ino).opendir(ino)
        except NotInMemoryError as missing:
            directory = await self._after(missing, lambda: self._tree_of(ino).opendir(ino))
        return self.handles.add_dir(directory)

    async def readdir(self, fh: int, position: int) -> EntryRun | None:
        """Returns the run of entries that holds a position."""
        directory = self.handles.dir(fh)
        try:
            return directory.run_at(position)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: directory.run_at(position))

    def entered(self, fh: int, run: EntryRun, first: int, end: int) -> None:
        """Records the entries of a run that the kernel was sent."""
        self.handles.dir(fh).entered(run, first, end)

    async def releasedir(self, fh: int) -> None:
        """Takes an open directory back."""
        self.handles.pop_dir(fh).release()

    async def fsyncdir(self, fh: int) -> None:
        """Makes an open directory durable."""
        ino = self.handles.dir(fh).ino
        await self._tree_of(ino).changes.fsyncdir(ino)

    # Changes: the tree decides.

    async def setattr(self, ino: Ino, changes: AttrChanges, fh: int | None, caller: Caller) -> Attr:
        """Changes attributes."""
        file = None if fh is None else self.handles.file(fh)
        return await self._tree_of(ino).changes.setattr(ino, changes, file, caller)

    async def create(
        self, parent: Ino, name: str, mode: int, flags: int, caller: Caller
    ) -> tuple[int, FileHandle, Attr]:
        """Creates and opens a file."""
        file, attr = await self._tree_of(parent).changes.create(parent, name, mode, flags, caller)
        return self.handles.add_file(file), file, attr

    async def mknod(self, parent: Ino, name: str, mode: int, rdev: int, caller: Caller) -> Attr:
        """Creates a file."""
        return await self._tree_of(parent).changes.mknod(parent, name, mode, rdev, caller)

    async def mkdir(self, parent: Ino, name: str, mode: int, caller: Caller) -> Attr:
        """Creates a directory."""
        return await self._tree_of(parent).changes.mkdir(parent, name, mode, caller)

    async def unlink(self, parent: Ino, name: str) -> None:
        """Removes a file."""
        await self._tree_of(parent).changes.unlink(parent, name)

    async def rmdir(self, parent: Ino, name: str) -> None:
        """Removes a directory."""
        await self._tree_of(parent).changes.rmdir(parent, name)

    async def symlink(self, parent: Ino, name: str, target: str, caller: Caller) -> Attr:
        """Creates a symbolic link."""
        return await self._tree_of(parent).changes.symlink(parent, name, target, caller)

    async def rename(self, old_parent: Ino, old_name: str, new_parent: Ino, new_name: str, flags: int) -> None:
        """Renames within a tree."""
        tree = self._tree_of(old_parent)
        if self._tree_of(new_parent) is not tree:
            raise CrossTreeError(f"cannot rename {old_name} from one tree to another")
        await tree.changes.rename(old_parent, old_name, new_parent, new_name, flags)

    async def link(self, ino: Ino, new_parent: Ino, new_name: str) -> Attr:
        """Makes a hard link within a tree."""
        tree = self._tree_of(ino)
        if self._tree_of(new_parent) is not tree:
            raise CrossTreeError(f"cannot link {new_name} from one tree to another")
        return await tree.changes.link(ino, new_parent, new_name)

    async def setxattr(self, ino: Ino, name: str, value: bytes) -> None:
        """Sets an extended attribute."""
        await self._tree_of(ino).changes.setxattr(ino, name, value)

    async def removexattr(self, ino: Ino, name: str) -> None:
        """Removes an extended attribute."""
        await self._tree_of(ino).changes.removexattr(ino, name)

    # For log lines.

    def describe_inode(self, ino: Ino) -> str:
        """Returns the path of an inode below the mountpoint."""
        found = self.space.find(ino)
        if found is None:
            return f"inode {ino}"
        path, label = found.tree.path_of(ino), found.tree.label
        return f"/{label}{path}" if label else path

    def describe_handle(self, fh: int) -> str:
        """Returns the path of what is open."""
        ino = self.handles.ino_of(fh)
        return f"handle {fh}" if ino is None else self.describe_inode(ino)


def _stats_of_disk(directory: Path) -> FsStats:
    """Describes the disk that a directory is on, or will be."""
    while not directory.exists():  # made with the first change
        directory = directory.parent
    disk = os.statvfs(directory)
    counts = disk.f_blocks, disk.f_bfree, disk.f_bavail
    blocks, free, available = (count * disk.f_frsize // BLOCK_SIZE for count in counts)
    return FsStats(blocks, free, available, disk.f_files, disk.f_ffree)

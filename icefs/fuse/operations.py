"""The handlers of FUSE requests: translates between the kernel's terms and the VFS's, and does nothing else.

How requests and answers are laid out is `requests`' business. Names arrive as bytes and are decoded here, once. A
name that is no UTF-8 is the name of nothing: it is not found, and cannot be created. Everything that may go wrong is
raised by the VFS and answered by `errno_map.handler`.
"""

import errno
import os
from collections.abc import Sequence
from stat import S_IFREG
from typing import Any, Final, NamedTuple

from icefs.errors import EntryNotFoundError, InvalidInputError, NameTooLongError, UnsupportedError
from icefs.fuse import abi
from icefs.fuse.bare_entries import Lister, Listers
from icefs.fuse.entries import EntryBuffer
from icefs.fuse.errno_map import FuseError, Recorder, handler, silent_handler
from icefs.vfs.attrs import ABSENT, Attr, EntryRun, FsStats
from icefs.vfs.interface import AttrChanges, Caller, FileHandle, Vfs

MAX_NAME_BYTES: Final = 255
"""The longest name that `readdir(3)` can return."""

# What requests on an open file carry instead of an inode.
_BY_HANDLE: Final = frozenset(
    ("read", "write", "fallocate", "ioctl", "flush", "release", "fsync", "readdir", "releasedir", "fsyncdir")
)
_NAMELESS: Final = frozenset(("statfs", "forget"))


class Opened(NamedTuple):
    """An open file, as the kernel is told of it.

    Attributes:
        fh: The handle's number.
        flags: `abi.FOPEN_…`.
    """

    fh: int
    flags: int


def _opened(fh: int, file: FileHandle) -> Opened:
    """Tells the kernel how to use an open file. Content never changes without the VFS saying so: pages are kept."""
    flags = abi.FOPEN_DIRECT_IO if file.direct_io else abi.FOPEN_KEEP_CACHE
    if file.nonseekable:
        flags |= abi.FOPEN_NONSEEKABLE
    if not file.wants_flush:
        flags |= abi.FOPEN_NOFLUSH
    return Opened(fh, flags)


def _decode(name: bytes) -> str:
    """Decodes a name that shall be created or removed."""
    if len(name) > MAX_NAME_BYTES:
        raise NameTooLongError(f"a name of {len(name)} bytes is longer than {MAX_NAME_BYTES}")
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise InvalidInputError(f"{name!r} is not UTF-8", kind="invalid-path") from None


def _decode_existing(name: bytes) -> str:
    """Decodes a name that must exist for the request to make sense."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        raise EntryNotFoundError(f"no entry {name!r}") from None


class Operations:
    """Answers the kernel.

    `default_permissions` is set at mount, so that the kernel checks modes and `access` is not asked.

    Attributes:
        recorder: Counts requests and remembers failures.
        vfs: Answers.

    Concurrency: a handler that does not wait runs from request to answer without anything in between.
    """

    def __init__(self, vfs: Vfs, recorder: Recorder) -> None:
        self.recorder = recorder
        self.vfs = vfs
        self._listers = Listers()

    def describe(self, operation: str, args: tuple[Any, ...]) -> str:
        """Says which path a request is about, for the log."""
        if operation in _NAMELESS or not args:
            return ""
        if operation in _BY_HANDLE:
            return self.vfs.describe_handle(args[0])
        where = self.vfs.describe_inode(args[0])
        if len(args) > 1 and isinstance(args[1], bytes) and operation not in ("setxattr", "getxattr", "removexattr"):
            return f"{where.rstrip('/')}/{args[1].decode(errors='backslashreplace')}"
        return where

    def only_reads(self, fh: int) -> bool:
        """Tells whether to read from what is open changes nothing; see `FileHandle.reading_acts`."""
        return self.vfs.only_reads(fh)

    # Names and attributes.

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: Caller) -> Attr:
        """Finds a name; an inode number 0 in the answer is a negative entry."""
        if len(name) > MAX_NAME_BYTES:
            raise NameTooLongError(f"a name of {len(name)} bytes is longer than {MAX_NAME_BYTES}")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return ABSENT
        attr = await self.vfs.lookup(parent_inode, text)
        if attr.mode & S_IFREG:
            self._listers.looked_up(ctx.pid)
        return attr

    @silent_handler
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Drops references of the kernel."""
        forget = self.vfs.forget
        for ino, count in inode_list:
            forget(ino, count)

    @handler
    async def getattr(self, inode: int, ctx: Caller) -> Attr:
        """Returns attributes."""
        return await self.vfs.getattr(inode)

    @handler
    async def setattr(self, inode: int, changes: AttrChanges, fh: int | None, ctx: Caller) -> Attr:
        """Changes attributes: chmod, chown, truncate, utimens."""
        return await self.vfs.setattr(inode, changes, fh, ctx)

    @handler
    async def access(self, inode: int, mode: int, ctx: Caller) -> bool:
        """Tells whether the caller may; asked only where the kernel does not check for itself."""
        return await self.vfs.access(inode, mode, ctx)

    @handler
    async def readlink(self, inode: int, ctx: Caller) -> bytes:
        """Returns where a symbolic link leads."""
        return os.fsencode(await self.vfs.readlink(inode))

    # The namespace.

    @handler
    async def mknod(self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Caller) -> Attr:
        """Creates a file that is not opened."""
        return await self.vfs.mknod(parent_inode, _decode(name), mode, rdev, ctx)

    @handler
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Caller) -> Attr:
        """Creates a directory."""
        return await self.vfs.mkdir(parent_inode, _decode(name), mode, ctx)

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: Caller) -> None:
        """Removes a file."""
        await self.vfs.unlink(parent_inode, _decode_existing(name))

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Caller) -> None:
        """Removes a directory."""
        await self.vfs.rmdir(parent_inode, _decode_existing(name))

    @handler
    async def symlink(self, parent_inode: int, name: bytes, target: bytes, ctx: Caller) -> Attr:
        """Creates a symbolic link."""
        return await self.vfs.symlink(parent_inode, _decode(name), os.fsdecode(target), ctx)

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Caller,
    ) -> None:
        """Renames."""
        await self.vfs.rename(parent_inode_old, _decode_existing(name_old), parent_inode_new, _decode(name_new), flags)

    @handler
    async def link(self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Caller) -> Attr:
        """Makes a hard link."""
        return await self.vfs.link(inode, new_parent_inode, _decode(new_name))

    # Files.

    @handler
    async def open(self, inode: int, flags: int, ctx: Caller) -> Opened:
        """Opens a file."""
        fh, file = await self.vfs.open(inode, flags)
        return _opened(fh, file)

    @handler
    async def create(self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Caller) -> tuple[Opened, Attr]:
        """Creates and opens a file."""
        fh, file, attr = await self.vfs.create(parent_inode, _decode(name), mode, flags, ctx)
        return _opened(fh, file), attr

    @handler
    async def read(self, fh: int, off: int, size: int) -> bytes | bytearray | memoryview:
        """Reads; a short answer is the end of the file."""
        return await self.vfs.read(fh, off, size)

    @handler
    async def write(self, fh: int, off: int, buf: bytes | memoryview, is_write_back: bool = False) -> int:
        """Writes; what the kernel had cached if `is_write_back`."""
        return await self.vfs.write(fh, off, buf, is_write_back)

    @handler
    async def fallocate(self, fh: int, offset: int, length: int, mode: int) -> None:
        """Gives a part of a file its place on the disk, or takes it away (`fallocate(2)`)."""
        await self.vfs.fallocate(fh, offset, length, mode)

    @handler
    async def ioctl(self, fh: int, request: bytes) -> None:
        """Hands a request, or a part of one, to an open file; see `conversation`."""
        await self.vfs.ioctl(fh, request)

    @handler
    async def flush(self, fh: int) -> None:
        """Answers `close(2)`; ENOSYS tells the kernel that nobody here wants to hear of it again."""
        if not self.vfs.wants_flush:
            raise FuseError(errno.ENOSYS)
        await self.vfs.flush(fh)

    @handler
    async def release(self, fh: int) -> None:
        """Gives an open file back."""
        await self.vfs.release(fh)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Makes a file durable."""
        await self.vfs.fsync(fh)

    # Directories.

    @handler
    async def opendir(self, inode: int, ctx: Caller) -> int:
        """Opens a directory."""
        fh = await self.vfs.opendir(inode)
        self._listers.begin(fh, ctx.pid)
        return fh

    @handler
    async def readdir(self, fh: int, position: int, size: int) -> bytes:
        """Returns entries from a position on, at most `size` bytes; see `bare_entries` for their attributes."""
        listing = self._listers.of(fh)
        buffer = EntryBuffer(size)
        # Counted when all is there: of an answer that fails half-way the kernel learns nothing.
        sent: list[tuple[EntryRun, int, int]] = []
        while (run := await self.vfs.readdir(fh, position)) is not None:
            first, count = position - run.start, len(run.names)
            # Directories are looked at by whoever lists a tree; files perhaps not.
            if not run.template.mode & S_IFREG:
                end = buffer.add_full(run, first, count)
                sent.append((run, first, end))
            elif listing.is_full:
                end = self._add_and_try(buffer, sent, listing.lister, run, first)
            else:
                end = buffer.add_bare(run, first, count)
            listing.sent(end - first)
            position = run.start + end
            if end < count:
                break
        for run, first, end in sent:
            self.vfs.entered(fh, run, first, end)
        return buffer.encode()

    def _add_and_try(
        self, buffer: EntryBuffer, sent: list[tuple[EntryRun, int, int]], lister: Lister, run: EntryRun, first: int
    ) -> int:
        """Adds entries with their attributes, but for a few, until the buffer is full; returns where it stopped."""
        position, count = first, len(run.names)
        while position < count:
            stop = min(count, position + lister.until_bare)
            end = buffer.add_full(run, position, stop)
            if end > position:
                sent.append((run, position, end))
            lister.until_bare -= end - position
            position = end
            if end < stop or end == count:
                break
            if buffer.add_bare(run, end, end + 1) == end:
                break
            position += 1
            lister.until_bare = lister.gap - 1
            lister.ignored += 1
        return position

    @handler
    async def releasedir(self, fh: int) -> None:
        """Gives an open directory back."""
        self._listers.end(fh)
        await self.vfs.releasedir(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Makes a directory durable."""
        await self.vfs.fsyncdir(fh)

    # The file system as a whole, and extended attributes.

    @handler
    async def statfs(self, ctx: Caller) -> FsStats:
        """Answers `df`."""
        return await self.vfs.statfs()

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Caller) -> None:
        """Sets an extended attribute."""
        await self.vfs.setxattr(inode, os.fsdecode(name), value)

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: Caller) -> bytes:
        """Returns an extended attribute."""
        text = os.fsdecode(name)
        if text.startswith("system.posix_acl_"):
            raise UnsupportedError("access control lists are not supported", name=text)
        value = await self.vfs.getxattr(inode, text)
        if value is None:
            raise FuseError(errno.ENODATA)
        return value

    @handler
    async def listxattr(self, inode: int, ctx: Caller) -> Sequence[bytes]:
        """Lists the names of extended attributes."""
        return [os.fsencode(name) for name in await self.vfs.listxattr(inode)]

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: Caller) -> None:
        """Removes an extended attribute."""
        await self.vfs.removexattr(inode, os.fsdecode(name))

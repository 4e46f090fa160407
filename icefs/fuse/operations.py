"""The handlers of FUSE requests: translates between the kernel's types and the VFS's, and does nothing else.

Names arrive as bytes and are decoded here, once. A name that is no UTF-8 is the name of nothing: it is not found,
and cannot be created. Everything that may go wrong is raised by the VFS and answered by `errno_map.handler`.
"""

import errno
import os
from collections.abc import Sequence
from stat import S_IFREG
from typing import Any, Final

import pyfuse3

from icefs.errors import EntryNotFoundError, InvalidInputError, NameTooLongError, UnsupportedError
from icefs.fuse.bare_entries import EntryBuffer, Lister, Listers
from icefs.fuse.errno_map import Recorder, handler, silent_handler
from icefs.vfs.attrs import ABSENT, BLOCK_SIZE, Attr, EntryRun
from icefs.vfs.interface import AttrChanges, Vfs

MAX_NAME_BYTES: Final = 255
"""The longest name that `readdir(3)` can return."""

_SECTOR: Final = 512
# What requests on an open file carry instead of an inode.
_BY_HANDLE: Final = frozenset(("read", "write", "flush", "release", "fsync", "readdir", "releasedir", "fsyncdir"))
_NAMELESS: Final = frozenset(("statfs", "forget"))


def fill(entry: pyfuse3.EntryAttributes, attr: Attr) -> pyfuse3.EntryAttributes:
    """Copies attributes into what pyfuse3 sends."""
    (
        entry.st_ino,
        entry.st_mode,
        entry.st_nlink,
        entry.st_uid,
        entry.st_gid,
        size,
        entry.st_mtime_ns,
        entry.st_ctime_ns,
        entry.st_atime_ns,
        entry.entry_timeout,
        entry.attr_timeout,
    ) = attr
    entry.st_size = size
    entry.st_blocks = -(-size // _SECTOR)
    entry.st_blksize = BLOCK_SIZE
    return entry


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


class Operations(pyfuse3.Operations):
    """Answers the kernel.

    `default_permissions` is set at mount, so that the kernel checks modes and `access` is not asked.

    Concurrency: a handler that does not wait runs from request to answer without anything in between, so one
    `EntryAttributes` serves for all of them: it is filled last, after every await.
    """

    supports_dot_lookup = False  # for NFS export only, whose file handles would have to outlive the daemon
    enable_writeback_cache = False
    enable_acl = False

    def __init__(self, vfs: Vfs, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder
        self._vfs = vfs
        self._buffer = EntryBuffer()
        self._entry = self._buffer.entry
        self._listers = Listers()

    def describe(self, operation: str, args: tuple[Any, ...]) -> str:
        """Says which path a request is about, for the log."""
        if operation in _NAMELESS or not args:
            return ""
        if operation in _BY_HANDLE:
            return self._vfs.describe_handle(args[0])
        where = self._vfs.describe_inode(args[0])
        if len(args) > 1 and isinstance(args[1], bytes) and operation not in ("setxattr", "getxattr", "removexattr"):
            return f"{where.rstrip('/')}/{args[1].decode(errors='backslashreplace')}"
        return where

    # Names and attributes.

    @handler
    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Finds a name; an inode number 0 in the answer is a negative entry."""
        if len(name) > MAX_NAME_BYTES:
            raise NameTooLongError(f"a name of {len(name)} bytes is longer than {MAX_NAME_BYTES}")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return fill(self._entry, ABSENT)
        attr = await self._vfs.lookup(parent_inode, text)
        if attr.mode & S_IFREG:
            self._listers.looked_up(ctx.pid)
        return fill(self._entry, attr)

    @silent_handler
    def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """Drops references of the kernel."""
        forget = self._vfs.forget
        for ino, count in inode_list:
            forget(ino, count)

    @handler
    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        """Returns attributes."""
        return fill(self._entry, await self._vfs.getattr(inode))

    @handler
    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Changes attributes: chmod, chown, truncate, utimens."""
        changes = AttrChanges(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
        )
        return fill(self._entry, await self._vfs.setattr(inode, changes, fh, ctx))

    @handler
    async def access(self, inode: int, mode: int, ctx: pyfuse3.RequestContext) -> bool:
        """Tells whether the caller may; asked only where the kernel does not check for itself."""
        return await self._vfs.access(inode, mode, ctx)

    @handler
    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        """Returns where a symbolic link leads."""
        return os.fsencode(await self._vfs.readlink(inode))

    # The namespace.

    @handler
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Creates a file that is not opened."""
        return fill(self._entry, await self._vfs.mknod(parent_inode, _decode(name), mode, rdev, ctx))

    @handler
    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Creates a directory."""
        return fill(self._entry, await self._vfs.mkdir(parent_inode, _decode(name), mode, ctx))

    @handler
    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Removes a file."""
        await self._vfs.unlink(parent_inode, _decode_existing(name))

    @handler
    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Removes a directory."""
        await self._vfs.rmdir(parent_inode, _decode_existing(name))

    @handler
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Creates a symbolic link."""
        return fill(self._entry, await self._vfs.symlink(parent_inode, _decode(name), os.fsdecode(target), ctx))

    @handler
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        """Renames."""
        await self._vfs.rename(parent_inode_old, _decode_existing(name_old), parent_inode_new, _decode(name_new), flags)

    @handler
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        """Makes a hard link."""
        return fill(self._entry, await self._vfs.link(inode, new_parent_inode, _decode(new_name)))

    # Files.

    @handler
    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        """Opens a file. An inode's content never changes without the VFS saying so: the kernel keeps its pages."""
        fh, file = await self._vfs.open(inode, flags)
        return pyfuse3.FileInfo(fh, file.direct_io, not file.direct_io, file.nonseekable)

    @handler
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        """Creates and opens a file."""
        fh, file, attr = await self._vfs.create(parent_inode, _decode(name), mode, flags, ctx)
        info = pyfuse3.FileInfo(fh, file.direct_io, not file.direct_io, file.nonseekable)
        return info, fill(self._entry, attr)

    @handler
    async def read(  # type: ignore[override]  # the stub says bytes, but anything with a buffer is sent as it is
        self, fh: int, off: int, size: int
    ) -> bytes | bytearray | memoryview:
        """Reads; a short answer is the end of the file."""
        return await self._vfs.read(fh, off, size)

    @handler
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        """Writes."""
        return await self._vfs.write(fh, off, buf)

    @handler
    async def flush(self, fh: int) -> None:
        """Answers `close(2)`; ENOSYS tells the kernel that nobody here wants to hear of it again."""
        if not self._vfs.wants_flush:
            raise pyfuse3.FUSEError(errno.ENOSYS)
        await self._vfs.flush(fh)

    @handler
    async def release(self, fh: int) -> None:
        """Gives an open file back."""
        await self._vfs.release(fh)

    @handler
    async def fsync(self, fh: int, datasync: bool) -> None:
        """Makes a file durable."""
        await self._vfs.fsync(fh)

    # Directories.

    @handler
    async def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        """Opens a directory."""
        fh = await self._vfs.opendir(inode)
        self._listers.begin(fh, ctx.pid)
        return fh

    @handler
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Fills the kernel's buffer with entries, from position `start_id`; see `bare_entries` for their attributes."""
        position = start_id
        listing = self._listers.of(fh)
        is_full = listing.is_full or self._buffer.node_id is None
        while (run := await self._vfs.readdir(fh, position)) is not None:
            first = position - run.start
            # Directories are looked at by whoever lists a tree; files perhaps not.
            if is_full or not run.template.mode & S_IFREG:
                end = self._reply_full(token, fh, listing.lister, run, first)
            else:
                end = self._reply_bare(token, run, first)
            listing.sent(end - first)
            position = run.start + end
            if end < len(run.names):
                return

    def _reply_full(self, token: pyfuse3.ReaddirToken, fh: int, lister: Lister, run: EntryRun, first: int) -> int:
        """Sends the entries of a run with their attributes until the buffer is full; returns where it stopped.

        This loop is most of the cost of a listing, so it sets what differs between entries and nothing else.
        """
        start, template, names, inos, sizes, mtimes_ns = run
        entry, node_id = fill(self._buffer.entry, template), self._buffer.node_id
        reply = pyfuse3.readdir_reply
        tries = bool(template.mode & S_IFREG) and node_id is not None
        counted, bare_at, end = first, first + lister.until_bare if tries else -1, len(names)
        for index in range(first, end):
            entry.st_ino = inos[index]
            if sizes is not None:
                size = sizes[index]
                entry.st_size = size
                entry.st_blocks = -(-size // _SECTOR)
            if mtimes_ns is not None:
                entry.st_mtime_ns = entry.st_ctime_ns = entry.st_atime_ns = mtimes_ns[index]
            if index == bare_at and node_id is not None:
                node_id.value = 0
            if not reply(token, names[index], entry, start + index + 1):
                end = index
                break
            if index == bare_at:
                self._vfs.entered(fh, run, counted, index)
                counted, bare_at = index + 1, index + lister.gap
                lister.ignored += 1
        self._vfs.entered(fh, run, counted, end)
        if tries:
            lister.until_bare = bare_at - end
        return end

    def _reply_bare(self, token: pyfuse3.ReaddirToken, run: EntryRun, first: int) -> int:
        """Sends the entries of a run without attributes until the buffer is full; returns where it stopped."""
        start, template, names, inos, _, _ = run
        entry, node_id = fill(self._buffer.entry, template), self._buffer.node_id
        assert node_id is not None  # without it, attributes are always sent
        reply = pyfuse3.readdir_reply
        position = start + first
        for name, ino in zip(names[first:] if first else names, inos[first:] if first else inos, strict=True):
            entry.st_ino = ino
            node_id.value = 0
            position += 1
            if not reply(token, name, entry, position):
                return position - 1 - start
        return len(names)

    @handler
    async def releasedir(self, fh: int) -> None:
        """Gives an open directory back."""
        self._listers.end(fh)
        await self._vfs.releasedir(fh)

    @handler
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        """Makes a directory durable."""
        await self._vfs.fsyncdir(fh)

    # The file system as a whole, and extended attributes.

    @handler
    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        """Answers `df`."""
        stats = await self._vfs.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_SIZE
        data.f_blocks = stats.blocks
        data.f_bfree = data.f_bavail = stats.free_blocks
        data.f_files = stats.files
        data.f_ffree = data.f_favail = stats.free_files
        data.f_namemax = MAX_NAME_BYTES
        return data

    @handler
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Sets an extended attribute."""
        await self._vfs.setxattr(inode, os.fsdecode(name), value)

    @handler
    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        """Returns an extended attribute."""
        text = os.fsdecode(name)
        if text.startswith("system.posix_acl_"):
            raise UnsupportedError("access control lists are not supported", name=text)
        value = await self._vfs.getxattr(inode, text)
        if value is None:
            raise pyfuse3.FUSEError(pyfuse3.ENOATTR)
        return value

    @handler
    async def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> Sequence[bytes]:
        """Lists the names of extended attributes."""
        return [os.fsencode(name) for name in await self._vfs.listxattr(inode)]

    @handler
    async def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        """Removes an extended attribute."""
        await self._vfs.removexattr(inode, os.fsdecode(name))

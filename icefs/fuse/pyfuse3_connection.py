"""The other way to the kernel: through pyfuse3 and libfuse.

Each handler translates between pyfuse3's values and those of `operations.Operations`, which both ways share: what a
system call answers does not depend on the way. What pyfuse3 does not offer is in the table of `vfs/SEMANTICS.md`.
"""

import contextlib
import os
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Final

import pyfuse3

from icefs.errors import StorageError
from icefs.fuse import abi
from icefs.fuse.errno_map import FuseError, handler
from icefs.fuse.operations import MAX_NAME_BYTES, Opened, Operations
from icefs.vfs.attrs import BLOCK_SIZE, Attr, EntryRun, FsStats
from icefs.vfs.interface import AttrChanges

_MIN_TASKS: Final = 4
"""Tasks that wait for requests; with pyfuse3's own default of one, each request starts a task."""

_MAX_TASKS: Final = 256
_SECTOR: Final = 512


class Pyfuse3Connection:
    """A file system that pyfuse3 has mounted; implements `connection.Connection`. A process can have one.

    Raises:
        StorageError: the kernel or `fusermount3` refused; its reason is on stderr.
    """

    def __init__(self, mountpoint: str, options: Iterable[str], operations: Operations) -> None:
        try:
            # It has no ioctl, the way to ask a mount that the kernel lets nobody write to.
            pyfuse3.init(_Handlers(operations), os.path.realpath(mountpoint), set(options) - {"ro"})
        except RuntimeError as error:
            raise StorageError(
                f"cannot mount at {mountpoint}: {error}", hint="the log has fusermount3's reason"
            ) from None
        self._is_open = True

    async def serve(self) -> None:
        """Answers requests; returns when the file system was unmounted, or after `stop`."""
        await pyfuse3.main(_MIN_TASKS, _MAX_TASKS)

    def stop(self) -> None:
        """Reads no more requests."""
        pyfuse3.terminate()

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Makes the kernel look a name up again; see `Connection`."""
        pyfuse3.invalidate_entry(pyfuse3.InodeT(parent), pyfuse3.FileNameT(name))

    def invalidate_inode(self, ino: int, *, attr_only: bool = False) -> None:
        """Makes the kernel drop what it cached of an inode; see `Connection`."""
        pyfuse3.invalidate_inode(pyfuse3.InodeT(ino), attr_only)

    def close(self) -> None:
        """Unmounts, unless the file system is unmounted already."""
        if self._is_open:
            self._is_open = False
            with contextlib.suppress(OSError):
                pyfuse3.close(unmount=True)


def _entry(attr: Attr) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(attr.ino)
    entry.generation = 0
    entry.entry_timeout = attr.entry_timeout_s
    entry.attr_timeout = attr.attr_timeout_s
    entry.st_mode = pyfuse3.ModeT(attr.mode)
    entry.st_nlink = attr.nlink
    entry.st_uid = attr.uid
    entry.st_gid = attr.gid
    entry.st_rdev = 0
    entry.st_size = attr.size
    entry.st_blksize = BLOCK_SIZE
    entry.st_blocks = -(-attr.size // _SECTOR)
    entry.st_mtime_ns = attr.mtime_ns
    entry.st_ctime_ns = attr.ctime_ns
    entry.st_atime_ns = attr.atime_ns
    return entry


def _opened(opened: Opened) -> pyfuse3.FileInfo:
    return pyfuse3.FileInfo(
        fh=pyfuse3.FileHandleT(opened.fh),
        direct_io=bool(opened.flags & abi.FOPEN_DIRECT_IO),
        keep_cache=bool(opened.flags & abi.FOPEN_KEEP_CACHE),
        nonseekable=bool(opened.flags & abi.FOPEN_NONSEEKABLE),
    )


class _Listing:
    """Sends directory entries behind the boundary; pyfuse3 wants them one by one."""

    def __init__(self, operations: Operations) -> None:
        self.recorder = operations.recorder
        self.describe = operations.describe
        self._vfs = operations.vfs

    @handler
    async def readdir(self, fh: int, position: int, token: pyfuse3.ReaddirToken) -> None:
        while (run := await self._vfs.readdir(fh, position)) is not None:
            first, count = position - run.start, len(run.names)
            end = first
            while end < count and pyfuse3.readdir_reply(
                token, pyfuse3.FileNameT(run.names[end]), _entry(_attr_of(run, end)), run.start + end + 1
            ):
                end += 1
            self._vfs.entered(fh, run, first, end)
            position = run.start + end
            if end < count:
                break


def _attr_of(run: EntryRun, index: int) -> Attr:
    attr = run.template._replace(ino=run.inos[index])
    if run.sizes is not None:
        attr = attr._replace(size=run.sizes[index])
    if run.mtimes_ns is not None:
        mtime_ns = run.mtimes_ns[index]
        attr = attr._replace(mtime_ns=mtime_ns, ctime_ns=mtime_ns, atime_ns=mtime_ns)
    return attr


def _translated(name: str, convert: Callable[[Any], Any] | None = None) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Makes the handler of that name: pyfuse3 passes the arguments that `Operations` takes, in their order."""

    async def handle(self: "_Handlers", *args: Any) -> Any:
        try:
            result = await getattr(self.operations, name)(*args)
        except FuseError as error:
            raise pyfuse3.FUSEError(error.errno) from None
        return result if convert is None else convert(result)

    return handle


def _stats(stats: FsStats) -> pyfuse3.StatvfsData:
    found = pyfuse3.StatvfsData()
    found.f_bsize = found.f_frsize = BLOCK_SIZE
    found.f_blocks = stats.blocks
    found.f_bfree = stats.free_blocks
    found.f_bavail = stats.available_blocks
    found.f_files = stats.files
    found.f_ffree = found.f_favail = stats.free_files
    found.f_namemax = MAX_NAME_BYTES
    return found


def _created(created: tuple[Opened, Attr]) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
    opened, attr = created
    return _opened(opened), _entry(attr)


class _Handlers(pyfuse3.Operations):
    """What pyfuse3 calls."""

    enable_writeback_cache = False
    supports_dot_lookup = False
    enable_acl = False

    def __init__(self, operations: Operations) -> None:
        super().__init__()
        self.operations = operations
        self._listing = _Listing(operations)

    lookup = _translated("lookup", _entry)
    forget = _translated("forget")
    getattr = _translated("getattr", _entry)
    access = _translated("access")
    readlink = _translated("readlink")
    mknod = _translated("mknod", _entry)
    mkdir = _translated("mkdir", _entry)
    unlink = _translated("unlink")
    rmdir = _translated("rmdir")
    symlink = _translated("symlink", _entry)
    rename = _translated("rename")
    link = _translated("link", _entry)
    open = _translated("open", _opened)
    create = _translated("create", _created)
    read = _translated("read")
    flush = _translated("flush")
    release = _translated("release")
    fsync = _translated("fsync")
    opendir = _translated("opendir")
    releasedir = _translated("releasedir")
    fsyncdir = _translated("fsyncdir")
    statfs = _translated("statfs", _stats)
    setxattr = _translated("setxattr")
    getxattr = _translated("getxattr")
    listxattr = _translated("listxattr")
    removexattr = _translated("removexattr")

    async def setattr(self, inode: Any, attr: Any, fields: Any, fh: Any, ctx: Any) -> pyfuse3.EntryAttributes:
        """Changes attributes; the kernel's "now" comes as a time."""
        changes = AttrChanges(
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
        )
        changed: pyfuse3.EntryAttributes = await _set_attributes(self, inode, changes, fh, ctx)
        return changed

    async def write(self, fh: Any, off: int, buf: bytes) -> int:
        """Writes. pyfuse3 does not say which bytes were cached, so each write is treated as one that nobody awaits."""
        written: int = await _write(self, fh, off, buf, True)
        return written

    async def readdir(self, fh: Any, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Sends directory entries, each with its attributes."""
        try:
            await self._listing.readdir(fh, start_id, token)
        except FuseError as error:
            raise pyfuse3.FUSEError(error.errno) from None


_set_attributes: Final = _translated("setattr", _entry)
_write: Final = _translated("write")

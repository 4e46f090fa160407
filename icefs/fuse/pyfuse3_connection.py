"""The other way to the kernel: through pyfuse3 and libfuse.

Each handler turns pyfuse3's arguments into those of the method of `Vfs` that answers, and the method's result into
pyfuse3's values. System calls answer as they do through the native connection. The table in `vfs/SEMANTICS.md` says
what pyfuse3 does not offer.
"""

import contextlib
import os
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import pyfuse3

from icefs.fuse.boundary import Boundary, FuseError, Recorder
from icefs.fuse.connection import MountError
from icefs.fuse.names import MAX_NAME_BYTES, existing_name, new_name
from icefs.fuse.requests import xattr_of
from icefs.vfs.attrs import BLOCK_SIZE, Attr, EntryRun, FsStats
from icefs.vfs.interface import AttrChanges, FileHandle, Vfs

_MIN_TASKS: Final = 4
"""Tasks that wait for requests; with pyfuse3's own default of one, each request starts a task."""

_MAX_TASKS: Final = 256
_SECTOR: Final = 512


class Pyfuse3Connection:
    """A file system that pyfuse3 has mounted; implements `connection.Connection`. A process can have one.

    Raises:
        MountError: the kernel or `fusermount3` refused; its reason is on stderr.
    """

    def __init__(self, mountpoint: str, options: Iterable[str], vfs: Vfs, recorder: Recorder) -> None:
        try:
            # pyfuse3 has no ioctl, by which programs command a mount that the kernel does not let them write to.
            pyfuse3.init(_Handlers(vfs, recorder), os.path.realpath(mountpoint), set(options) - {"ro"})
        except RuntimeError as error:
            raise MountError(str(error), advice="the log has fusermount3's reason") from None
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


def _opened(opened: tuple[int, FileHandle]) -> pyfuse3.FileInfo:
    fh, file = opened
    return pyfuse3.FileInfo(
        fh=pyfuse3.FileHandleT(fh),
        direct_io=file.direct_io,
        keep_cache=not file.direct_io,
        nonseekable=file.nonseekable,
    )


def _attr_of(run: EntryRun, index: int) -> Attr:
    attr = run.template._replace(ino=run.inos[index])
    if run.sizes is not None:
        attr = attr._replace(size=run.sizes[index])
    if run.mtimes_ns is not None:
        mtime_ns = run.mtimes_ns[index]
        attr = attr._replace(mtime_ns=mtime_ns, ctime_ns=mtime_ns, atime_ns=mtime_ns)
    return attr


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


def _created(created: tuple[int, FileHandle, Attr]) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
    fh, file, attr = created
    return _opened((fh, file)), _entry(attr)


def _changes(attr: Any, fields: Any) -> AttrChanges:
    """Returns the attributes to change; the kernel's "now" comes as a time."""
    return AttrChanges(
        mode=attr.st_mode if fields.update_mode else None,
        uid=attr.st_uid if fields.update_uid else None,
        gid=attr.st_gid if fields.update_gid else None,
        size=attr.st_size if fields.update_size else None,
        mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        atime_ns=attr.st_atime_ns if fields.update_atime else None,
    )


def _names(names: Sequence[str]) -> list[bytes]:
    return [os.fsencode(name) for name in names]


def _as_it_is(result: Any) -> Any:
    return result


class _Handler(NamedTuple):
    """One operation.

    Attributes:
        arguments: Reads the arguments of the method of `Vfs` of its name from those that pyfuse3 passes.
        convert: Turns the method's result into pyfuse3's.
    """

    arguments: Callable[..., tuple[Any, ...]]
    convert: Callable[[Any], Any] = _as_it_is


# By operation. pyfuse3 does not say which bytes of a WRITE were cached, so each counts as one that no program awaits.
_HANDLERS: Final[dict[str, _Handler]] = {
    "lookup": _Handler(lambda parent, name, ctx: (parent, existing_name(name)), _entry),
    "getattr": _Handler(lambda ino, ctx: (ino,), _entry),
    "setattr": _Handler(lambda ino, attr, fields, fh, ctx: (ino, _changes(attr, fields), fh, ctx), _entry),
    "readlink": _Handler(lambda ino, ctx: (ino,), os.fsencode),
    "mknod": _Handler(lambda parent, name, mode, rdev, ctx: (parent, new_name(name), mode, rdev, ctx), _entry),
    "mkdir": _Handler(lambda parent, name, mode, ctx: (parent, new_name(name), mode, ctx), _entry),
    "unlink": _Handler(lambda parent, name, ctx: (parent, existing_name(name))),
    "rmdir": _Handler(lambda parent, name, ctx: (parent, existing_name(name))),
    "symlink": _Handler(lambda parent, name, target, ctx: (parent, new_name(name), os.fsdecode(target), ctx), _entry),
    "rename": _Handler(
        lambda parent, old, new_parent, new, flags, ctx: (parent, existing_name(old), new_parent, new_name(new), flags)
    ),
    "link": _Handler(lambda ino, parent, name, ctx: (ino, parent, new_name(name)), _entry),
    "open": _Handler(lambda ino, flags, ctx: (ino, flags), _opened),
    "create": _Handler(lambda parent, name, mode, flags, ctx: (parent, new_name(name), mode, flags, ctx), _created),
    "read": _Handler(lambda fh, offset, size: (fh, offset, size)),
    "write": _Handler(lambda fh, offset, data: (fh, offset, data, True)),
    "flush": _Handler(lambda fh: (fh,)),
    "release": _Handler(lambda fh: (fh,)),
    "fsync": _Handler(lambda fh, datasync: (fh,)),
    "opendir": _Handler(lambda ino, ctx: (ino,)),
    "readdir": _Handler(lambda fh, position, token: (fh, position, token)),
    "releasedir": _Handler(lambda fh: (fh,)),
    "fsyncdir": _Handler(lambda fh, datasync: (fh,)),
    "statfs": _Handler(lambda ctx: (), _stats),
    "setxattr": _Handler(lambda ino, name, value, ctx: (ino, os.fsdecode(name), value)),
    "getxattr": _Handler(lambda ino, name, ctx: (ino, os.fsdecode(name))),
    "listxattr": _Handler(lambda ino, ctx: (ino,), _names),
    "removexattr": _Handler(lambda ino, name, ctx: (ino, os.fsdecode(name))),
}


def _translated(
    handle: Callable[..., Awaitable[Any]], convert: Callable[[Any], Any]
) -> Callable[..., Coroutine[Any, Any, Any]]:
    async def translated(*args: Any) -> Any:
        try:
            result = await handle(*args)
        except FuseError as error:
            raise pyfuse3.FUSEError(error.errno) from None
        return convert(result)

    return translated


async def _readdir(vfs: Vfs, fh: int, position: int, token: pyfuse3.ReaddirToken) -> None:
    """Sends directory entries one by one, each with its attributes."""
    while (run := await vfs.readdir(fh, position)) is not None:
        first, count = position - run.start, len(run.names)
        end = first
        while end < count and pyfuse3.readdir_reply(
            token, pyfuse3.FileNameT(run.names[end]), _entry(_attr_of(run, end)), run.start + end + 1
        ):
            end += 1
        vfs.entered(fh, run, first, end)
        position = run.start + end
        if end < count:
            break


class _Handlers(pyfuse3.Operations):
    """The object that pyfuse3 calls: its own methods refuse, those of `_HANDLERS` take their place."""

    enable_writeback_cache = False
    supports_dot_lookup = False
    enable_acl = False

    def __init__(self, vfs: Vfs, recorder: Recorder) -> None:
        super().__init__()
        boundary = Boundary(vfs, recorder)
        methods: dict[str, Callable[..., Awaitable[Any]]] = {
            "readdir": partial(_readdir, vfs),
            "getxattr": partial(xattr_of, vfs),
        }
        handlers: dict[str, Callable[..., Coroutine[Any, Any, Any]]] = {}
        for name, (arguments, convert) in _HANDLERS.items():
            if name != "flush" or vfs.wants_flush:
                handle = boundary.guard(name, arguments, methods.get(name) or getattr(vfs, name))
                handlers[name] = _translated(handle, convert)
        handlers["forget"] = boundary.guard_forget(tuple)
        vars(self).update(handlers)

"""The requests of the kernel: which method of the file system answers each, and how request and answer are laid out.

`REQUESTS` has them by opcode. Any other is answered with ENOSYS, and the kernel does without it from then on: LSEEK,
COPY_FILE_RANGE, POLL, and locks, which the kernel keeps itself. ACCESS never comes, as mounts have
`default_permissions`; and FLUSH is left out where the file system does not want it. INTERRUPT, which is about another
request, belongs to the loop.
"""

import errno
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from icefs.fuse import abi
from icefs.fuse.boundary import Boundary, FuseError, Handler, Recorder
from icefs.fuse.entries import encode_attr, encode_entry
from icefs.fuse.listings import Listings
from icefs.fuse.names import MAX_NAME_BYTES, existing_name, new_name
from icefs.inode import Ino
from icefs.vfs.attrs import BLOCK_SIZE, Attr, FsStats
from icefs.vfs.interface import AttrChanges, FileHandle, Vfs

_SECOND_NS: Final = 1_000_000_000


class Caller(NamedTuple):
    """The process behind a request; implements `interface.Caller`."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


type Payload = bytes | bytearray | memoryview
type Arguments = tuple[Any, ...]
type Opened = tuple[int, FileHandle]
type Created = tuple[int, FileHandle, Attr]


class Request(NamedTuple):
    """One kind of request.

    Attributes:
        operation: The method of `Vfs` that answers; one of `OPERATIONS`.
        arguments: Reads the method's arguments from the inode number, the request's body and the caller.
        encode: Lays the method's result out; None where the kernel expects no answer at all.
        method: Returns what answers in place of `Vfs`'s method, where the kernel's request is not quite that.
        undo: Takes a result back that the kernel never learns, because the program behind the request has gone.
        refuses: Returns the errno of a request that the file system never sees and that is not counted, or 0.
        keeps_body: Whether the method may look at the body after it has waited.
        may_be_cut: Tells, given the body, whether a request that waits may be interrupted and fail with EINTR; None if
            none of its kind may. Requests that change nothing may: one that writes, makes or removes is finished, or
            no program would know how far it came.
        may_be_fault: Whether a program that waits may want a page, so that a failure is a signal to it.
    """

    operation: str
    arguments: Callable[[Ino, memoryview, Caller], Arguments]
    encode: Callable[[Any], Payload] | None
    method: Callable[[Listings], Callable[..., Awaitable[Any]]] | None = None
    undo: Callable[[Listings, Any], Coroutine[Any, Any, None]] | None = None
    refuses: Callable[[Vfs, memoryview], int] | None = None
    keeps_body: bool = False
    may_be_cut: Callable[[Vfs, memoryview], bool] | None = None
    may_be_fault: bool = False


def _always(vfs: Vfs, body: memoryview) -> bool:
    return True


def _nothing(result: object) -> bytes:
    return b""


def _as_it_is(data: Payload) -> Payload:
    return data


def _two_names(body: memoryview) -> tuple[bytes, bytes]:
    first, second, _ = bytes(body).split(b"\0", 2)
    return first, second


# Arguments that several requests have in common.


def _no_arguments(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ()


def _inode(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return (ino,)


def _handle(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    fh: int = abi.FH_IN.unpack_from(body)[0]
    return (fh,)


def _existing_entry(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ino, existing_name(body[:-1])


# Names and attributes.


def _lookup(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ino, existing_name(body[:-1]), caller.pid


def _forget(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ((ino, abi.FORGET_IN.unpack_from(body)[0]),)


def _batch_forget(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    count, _ = abi.BATCH_FORGET_IN.unpack_from(body)
    first = abi.BATCH_FORGET_IN.size
    return tuple(abi.FORGET_ONE.iter_unpack(body[first : first + count * abi.FORGET_ONE.size]))


def _setattr(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    (
        valid, _, fh, size, _, atime_s, mtime_s, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _,
    ) = abi.SETATTR_IN.unpack_from(body)  # fmt: skip
    now_ns = time.time_ns() if valid & (abi.FATTR_ATIME_NOW | abi.FATTR_MTIME_NOW) else 0
    atime = mtime = None
    if valid & abi.FATTR_ATIME:
        atime = now_ns if valid & abi.FATTR_ATIME_NOW else atime_s * _SECOND_NS + atime_ns
    if valid & abi.FATTR_MTIME:
        mtime = now_ns if valid & abi.FATTR_MTIME_NOW else mtime_s * _SECOND_NS + mtime_ns
    changes = AttrChanges(
        mode=mode if valid & abi.FATTR_MODE else None,
        uid=uid if valid & abi.FATTR_UID else None,
        gid=gid if valid & abi.FATTR_GID else None,
        size=size if valid & abi.FATTR_SIZE else None,
        mtime_ns=mtime,
        atime_ns=atime,
    )
    return ino, changes, fh if valid & abi.FATTR_FH else None, caller


def _encode_path(path: str) -> bytes:
    return os.fsencode(path)


def _encode_statfs(stats: FsStats) -> bytes:
    return abi.STATFS_OUT.pack(
        stats.blocks, stats.free_blocks, stats.available_blocks, stats.files, stats.free_files,
        BLOCK_SIZE, MAX_NAME_BYTES, BLOCK_SIZE,
    )  # fmt: skip


# The namespace.


def _mknod(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    mode, rdev, umask, _ = abi.MKNOD_IN.unpack_from(body)
    return ino, new_name(body[abi.MKNOD_IN.size : -1]), mode, rdev, caller._replace(umask=umask)


def _mkdir(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    mode, umask = abi.MKDIR_IN.unpack_from(body)
    return ino, new_name(body[abi.MKDIR_IN.size : -1]), mode, caller._replace(umask=umask)


def _symlink(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    name, target = _two_names(body)
    return ino, new_name(name), os.fsdecode(target), caller


def _rename(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    (new_parent,) = abi.RENAME_IN.unpack_from(body)
    old, new = _two_names(body[abi.RENAME_IN.size :])
    return ino, existing_name(old), new_parent, new_name(new), 0


def _rename2(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    new_parent, flags, _ = abi.RENAME2_IN.unpack_from(body)
    old, new = _two_names(body[abi.RENAME2_IN.size :])
    return ino, existing_name(old), new_parent, new_name(new), flags


def _link(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    (source,) = abi.LINK_IN.unpack_from(body)
    return source, ino, new_name(body[abi.LINK_IN.size : -1])


async def _forget_entry(to: Listings, attr: Attr) -> None:
    if attr.ino:
        to.vfs.forget(attr.ino, 1)


# Files.


def _open(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ino, abi.OPEN_IN.unpack_from(body)[0]


def _opens_to_read(vfs: Vfs, body: memoryview) -> bool:
    return not abi.OPEN_IN.unpack_from(body)[0] & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)


def _encode_opened(opened: Opened) -> bytes:
    fh, file = opened
    return abi.OPEN_OUT.pack(fh, _flags(file), 0)


def _flags(file: FileHandle) -> int:
    """Returns how the kernel treats an open file. The file system announces each change of content: pages are kept."""
    flags = abi.FOPEN_DIRECT_IO if file.direct_io else abi.FOPEN_KEEP_CACHE
    if file.nonseekable:
        flags |= abi.FOPEN_NONSEEKABLE
    if not file.wants_flush:
        flags |= abi.FOPEN_NOFLUSH
    return flags


async def _release_opened(to: Listings, opened: Opened) -> None:
    await to.vfs.release(opened[0])


def _create(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
    return ino, new_name(body[abi.CREATE_IN.size : -1]), mode, flags, caller._replace(umask=umask)


def _encode_created(created: Created) -> bytes:
    fh, file, attr = created
    return encode_entry(attr) + abi.OPEN_OUT.pack(fh, _flags(file), 0)


async def _uncreate(to: Listings, created: Created) -> None:
    fh, _, attr = created
    await to.vfs.flush(fh)  # the file stays, as other programs may have seen it
    await to.vfs.release(fh)
    to.vfs.forget(attr.ino, 1)


def _read(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return abi.READ_IN.unpack_from(body)  # handle, offset, size


def _only_reads(vfs: Vfs, body: memoryview) -> bool:
    return vfs.only_reads(abi.READ_IN.unpack_from(body)[0])


def _write(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    fh, offset, size, flags, *_ = abi.WRITE_IN.unpack_from(body)
    first = abi.WRITE_IN.size
    return fh, offset, body[first : first + size], bool(flags & abi.WRITE_CACHE)


def _encode_written(count: int) -> bytes:
    return abi.WRITE_OUT.pack(count, 0)


def _fallocate(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    fh, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(body)
    return fh, offset, length, mode


def _ioctl(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    fh, _, _, _, size, _ = abi.IOCTL_IN.unpack_from(body)
    return fh, bytes(body[abi.IOCTL_IN.size :][:size])


def _is_no_terminal(vfs: Vfs, body: memoryview) -> int:
    """Refuses all other ioctls. As many come as files are opened: C libraries ask each whether it is a terminal."""
    _, flags, command, _, _, _ = abi.IOCTL_IN.unpack_from(body)
    return errno.ENOTTY if flags & abi.IOCTL_DIR or not vfs.takes_ioctl(command) else 0


def _encode_ioctl(result: object) -> bytes:
    return abi.IOCTL_OUT.pack(0, 0, 0, 0)


# Directories.


def _opendir(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ino, caller.pid


def _encode_fh(fh: int) -> bytes:
    return abi.OPEN_OUT.pack(fh, 0, 0)


# Extended attributes.


def _setxattr(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    size, _ = abi.SETXATTR_IN.unpack_from(body)
    name, _, value = bytes(body[abi.SETXATTR_IN.size :]).partition(b"\0")
    return ino, os.fsdecode(name), value[:size]


def _getxattr(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    size, _ = abi.GETXATTR_IN.unpack_from(body)
    return ino, os.fsdecode(bytes(body[abi.GETXATTR_IN.size : -1])), size


async def xattr_of(vfs: Vfs, ino: Ino, name: str) -> bytes:
    """Returns an extended attribute.

    Raises:
        FuseError: ENODATA, or EOPNOTSUPP for an access control list.
    """
    if name.startswith("system.posix_acl_"):
        raise FuseError(errno.EOPNOTSUPP, "access control lists are not supported")
    value = await vfs.getxattr(ino, name)
    if value is None:
        raise FuseError(errno.ENODATA)
    return value


async def _xattr_within(vfs: Vfs, ino: Ino, name: str, size: int) -> bytes:
    return _within(await xattr_of(vfs, ino, name), size)


def _listxattr(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ino, abi.GETXATTR_IN.unpack_from(body)[0]


async def _xattrs_within(vfs: Vfs, ino: Ino, size: int) -> bytes:
    names: Sequence[str] = await vfs.listxattr(ino)
    return _within(b"".join(os.fsencode(name) + b"\0" for name in names), size)


def _within(value: bytes, size: int) -> bytes:
    """Returns a value; or its length, if the program has no room and asks for that alone."""
    if not size:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise FuseError(errno.ERANGE)
    return value


def _removexattr(ino: Ino, body: memoryview, caller: Caller) -> Arguments:
    return ino, os.fsdecode(bytes(body[:-1]))


REQUESTS: Final[dict[int, Request]] = {
    abi.LOOKUP: Request("lookup", _lookup, encode_entry, lambda to: to.lookup, undo=_forget_entry, may_be_cut=_always),
    abi.FORGET: Request("forget", _forget, None),
    abi.BATCH_FORGET: Request("forget", _batch_forget, None),
    abi.GETATTR: Request("getattr", _inode, encode_attr, may_be_cut=_always),
    abi.SETATTR: Request("setattr", _setattr, encode_attr),
    abi.READLINK: Request("readlink", _inode, _encode_path, may_be_cut=_always),
    abi.STATFS: Request("statfs", _no_arguments, _encode_statfs, may_be_cut=_always),
    abi.MKNOD: Request("mknod", _mknod, encode_entry, undo=_forget_entry),
    abi.MKDIR: Request("mkdir", _mkdir, encode_entry, undo=_forget_entry),
    abi.UNLINK: Request("unlink", _existing_entry, _nothing),
    abi.RMDIR: Request("rmdir", _existing_entry, _nothing),
    abi.SYMLINK: Request("symlink", _symlink, encode_entry, undo=_forget_entry),
    abi.RENAME: Request("rename", _rename, _nothing),
    abi.RENAME2: Request("rename", _rename2, _nothing),
    abi.LINK: Request("link", _link, encode_entry, undo=_forget_entry),
    abi.OPEN: Request("open", _open, _encode_opened, undo=_release_opened, may_be_cut=_opens_to_read),
    abi.CREATE: Request("create", _create, _encode_created, undo=_uncreate),
    abi.READ: Request("read", _read, _as_it_is, may_be_cut=_only_reads, may_be_fault=True),
    abi.WRITE: Request("write", _write, _encode_written, keeps_body=True),
    abi.FALLOCATE: Request("fallocate", _fallocate, _nothing),
    abi.IOCTL: Request("ioctl", _ioctl, _encode_ioctl, refuses=_is_no_terminal),
    abi.FLUSH: Request("flush", _handle, _nothing),
    abi.RELEASE: Request("release", _handle, _nothing),
    abi.FSYNC: Request("fsync", _handle, _nothing),
    abi.OPENDIR: Request(
        "opendir", _opendir, _encode_fh, lambda to: to.opendir, undo=Listings.releasedir, may_be_cut=_always
    ),
    abi.READDIRPLUS: Request("readdir", _read, _as_it_is, lambda to: to.readdir, may_be_cut=_always),
    abi.RELEASEDIR: Request("releasedir", _handle, _nothing, lambda to: to.releasedir),
    abi.FSYNCDIR: Request("fsyncdir", _handle, _nothing),
    abi.SETXATTR: Request("setxattr", _setxattr, _nothing),
    abi.GETXATTR: Request(
        "getxattr", _getxattr, _as_it_is, lambda to: partial(_xattr_within, to.vfs), may_be_cut=_always
    ),
    abi.LISTXATTR: Request(
        "listxattr", _listxattr, _as_it_is, lambda to: partial(_xattrs_within, to.vfs), may_be_cut=_always
    ),
    abi.REMOVEXATTR: Request("removexattr", _removexattr, _nothing),
}


class BoundRequest(NamedTuple):
    """One kind of request to one file system; see `Request` for what is not said here.

    Attributes:
        handle: Answers, given the inode number, the request's body and the caller; raises nothing but `FuseError`.
    """

    handle: Handler
    encode: Callable[[Any], Payload] | None
    undo: Callable[[Any], Coroutine[Any, Any, None]] | None
    keeps_body: bool
    may_be_cut: Callable[[memoryview], bool] | None
    may_be_fault: bool


def bind(vfs: Vfs, recorder: Recorder) -> dict[int, BoundRequest]:
    """Returns the requests that a file system answers, by opcode."""
    boundary, listings = Boundary(vfs, recorder), Listings(vfs)
    return {
        opcode: BoundRequest(
            _handler(request, boundary, listings),
            request.encode,
            None if request.undo is None else partial(request.undo, listings),
            request.keeps_body,
            None if request.may_be_cut is None else partial(request.may_be_cut, vfs),
            request.may_be_fault,
        )
        for opcode, request in REQUESTS.items()
        if vfs.wants_flush or request.operation != "flush"
    }


def _handler(request: Request, boundary: Boundary, listings: Listings) -> Handler:
    vfs = listings.vfs
    if request.operation == "forget":
        return boundary.guard_forget(request.arguments)
    method = getattr(vfs, request.operation) if request.method is None else request.method(listings)
    handle = boundary.guard(request.operation, request.arguments, method)
    refuses = request.refuses
    if refuses is None:
        return handle

    async def unless_refused(ino: Ino, body: memoryview, caller: Caller) -> Any:
        number = refuses(vfs, body)
        if number:
            raise FuseError(number)
        return await handle(ino, body, caller)

    return unless_refused

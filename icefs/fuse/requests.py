"""The requests of the kernel: what each takes, which handler answers it, and how the answer is laid out.

`REQUESTS` is the whole of it, by opcode. What is not in it is answered with ENOSYS, which mostly makes the kernel do
without from then on: LSEEK, COPY_FILE_RANGE, POLL, and the locks, which it keeps itself. INTERRUPT, which is about
another request, is the loop's.
"""

import errno
import os
import time
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

from icefs.daemon.conversation import is_request
from icefs.fuse import abi
from icefs.fuse.entries import encode_attr, encode_entry
from icefs.fuse.errno_map import FuseError
from icefs.fuse.operations import MAX_NAME_BYTES, Opened, Operations
from icefs.vfs.attrs import BLOCK_SIZE, Attr, FsStats
from icefs.vfs.interface import AttrChanges

_SECOND_NS: Final = 1_000_000_000


class Caller(NamedTuple):
    """The process behind a request; implements `interface.Caller`."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


type Answering = Coroutine[Any, Any, Any]
type Payload = bytes | bytearray | memoryview


class Request(NamedTuple):
    """One kind of request.

    Attributes:
        begin: Reads what it takes and calls its handler: given the handlers, the inode, the request's body and the
            caller.
        encode: Lays out what the handler returned; None where the kernel expects no answer at all.
        undo: Takes back what the kernel will never know of, as the program behind the request has gone.
        keeps_body: Whether the handler may look at the body when it has waited.
        may_be_cut: Tells, given the handlers and the body, whether a request that waits may be cut off and fail with
            EINTR; None if none of its kind may. That is so for what changes nothing: whatever writes, makes or
            removes is finished, or nobody would know how far it came.
        may_be_fault: Whether a program that waits may want a page, so that a failure is a signal to it.
    """

    begin: Callable[[Operations, int, memoryview, Caller], Answering]
    encode: Callable[[Any], Payload] | None
    undo: Callable[[Operations, Any], Answering] | None = None
    keeps_body: bool = False
    may_be_cut: Callable[[Operations, memoryview], bool] | None = None
    may_be_fault: bool = False


def _always(to: Operations, body: memoryview) -> bool:
    return True


def _nothing(result: object) -> bytes:
    return b""


def _name(body: memoryview) -> bytes:
    """Reads a name that is all that is left of a body."""
    return bytes(body[:-1])


def _two_names(body: memoryview) -> tuple[bytes, bytes]:
    first, second, _ = bytes(body).split(b"\0", 2)
    return first, second


def _fh(body: memoryview) -> int:
    fh: int = abi.FH_IN.unpack_from(body)[0]
    return fh


# Names and attributes.


def _lookup(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.lookup(ino, _name(body), caller)


def _forget(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.forget([(ino, abi.FORGET_IN.unpack_from(body)[0])])


def _batch_forget(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    count, _ = abi.BATCH_FORGET_IN.unpack_from(body)
    first = abi.BATCH_FORGET_IN.size
    return to.forget(list(abi.FORGET_ONE.iter_unpack(body[first : first + count * abi.FORGET_ONE.size])))


def _getattr(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.getattr(ino, caller)


def _setattr(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
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
    return to.setattr(ino, changes, fh if valid & abi.FATTR_FH else None, caller)


def _readlink(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.readlink(ino, caller)


def _access(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return _must(to.access(ino, abi.ACCESS_IN.unpack_from(body)[0], caller))


async def _must(is_allowed: Answering) -> None:
    if not await is_allowed:
        raise FuseError(errno.EACCES)


def _statfs(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.statfs(caller)


def _encode_statfs(stats: FsStats) -> bytes:
    return abi.STATFS_OUT.pack(
        stats.blocks, stats.free_blocks, stats.available_blocks, stats.files, stats.free_files,
        BLOCK_SIZE, MAX_NAME_BYTES, BLOCK_SIZE,
    )  # fmt: skip


# The namespace.


def _mknod(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    mode, rdev, umask, _ = abi.MKNOD_IN.unpack_from(body)
    return to.mknod(ino, _name(body[abi.MKNOD_IN.size :]), mode, rdev, caller._replace(umask=umask))


def _mkdir(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    mode, umask = abi.MKDIR_IN.unpack_from(body)
    return to.mkdir(ino, _name(body[abi.MKDIR_IN.size :]), mode, caller._replace(umask=umask))


def _unlink(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.unlink(ino, _name(body), caller)


def _rmdir(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.rmdir(ino, _name(body), caller)


def _symlink(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    name, target = _two_names(body)
    return to.symlink(ino, name, target, caller)


def _rename(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    (new_parent,) = abi.RENAME_IN.unpack_from(body)
    old, new = _two_names(body[abi.RENAME_IN.size :])
    return to.rename(ino, old, new_parent, new, 0, caller)


def _rename2(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    new_parent, flags, _ = abi.RENAME2_IN.unpack_from(body)
    old, new = _two_names(body[abi.RENAME2_IN.size :])
    return to.rename(ino, old, new_parent, new, flags, caller)


def _link(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    (source,) = abi.LINK_IN.unpack_from(body)
    return to.link(source, ino, _name(body[abi.LINK_IN.size :]), caller)


def _forget_entry(to: Operations, attr: Attr) -> Answering:
    return to.forget([(attr.ino, 1)] if attr.ino else [])


# Files.


def _open(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.open(ino, abi.OPEN_IN.unpack_from(body)[0], caller)


def _opens_to_read(to: Operations, body: memoryview) -> bool:
    return not abi.OPEN_IN.unpack_from(body)[0] & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC)


def _encode_opened(opened: Opened) -> bytes:
    return abi.OPEN_OUT.pack(opened.fh, opened.flags, 0)


def _release_opened(to: Operations, opened: Opened) -> Answering:
    return to.release(opened.fh)


def _create(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    flags, mode, umask, _ = abi.CREATE_IN.unpack_from(body)
    caller = Caller(caller.uid, caller.gid, caller.pid, umask)
    return to.create(ino, bytes(body[abi.CREATE_IN.size : -1]), mode, flags, caller)


def _encode_created(created: tuple[Opened, Attr]) -> bytes:
    opened, attr = created
    return encode_entry(attr) + abi.OPEN_OUT.pack(opened.fh, opened.flags, 0)


async def _uncreate(to: Operations, created: tuple[Opened, Attr]) -> None:
    opened, attr = created
    await to.flush(opened.fh)  # the file is there, for all that anybody knows
    await to.release(opened.fh)
    await to.forget([(attr.ino, 1)])


def _read(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, offset, size = abi.READ_IN.unpack_from(body)
    return to.read(fh, offset, size)


def _only_reads(to: Operations, body: memoryview) -> bool:
    return to.only_reads(abi.READ_IN.unpack_from(body)[0])


def _encode_read(data: Payload) -> Payload:
    return data


def _write(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, offset, size, flags, *_ = abi.WRITE_IN.unpack_from(body)
    first = abi.WRITE_IN.size
    return to.write(fh, offset, body[first : first + size], bool(flags & abi.WRITE_CACHE))


def _encode_written(count: int) -> bytes:
    return abi.WRITE_OUT.pack(count, 0)


def _fallocate(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(body)
    return to.fallocate(fh, offset, length, mode)


def _ioctl(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, flags, command, _, size, _ = abi.IOCTL_IN.unpack_from(body)
    if flags & abi.IOCTL_DIR or not is_request(command):
        return _no_such_ioctl()  # as many as files are opened: C libraries ask each whether it is a terminal
    return to.ioctl(fh, bytes(body[abi.IOCTL_IN.size :][:size]))


async def _no_such_ioctl() -> None:
    raise FuseError(errno.ENOTTY)


def _encode_ioctl(result: object) -> bytes:
    return abi.IOCTL_OUT.pack(0, 0, 0, 0)


def _flush(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.flush(_fh(body))


def _release(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.release(_fh(body))


def _fsync(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, flags, _ = abi.FSYNC_IN.unpack_from(body)
    return to.fsync(fh, bool(flags & abi.FSYNC_FDATASYNC))


# Directories.


def _opendir(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.opendir(ino, caller)


def _encode_fh(fh: int) -> bytes:
    return abi.OPEN_OUT.pack(fh, 0, 0)


def _release_dir(to: Operations, fh: int) -> Answering:
    return to.releasedir(fh)


def _readdir(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, position, size = abi.READ_IN.unpack_from(body)
    return to.readdir(fh, position, size)


def _releasedir(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.releasedir(_fh(body))


def _fsyncdir(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    fh, flags, _ = abi.FSYNC_IN.unpack_from(body)
    return to.fsyncdir(fh, bool(flags & abi.FSYNC_FDATASYNC))


# Extended attributes.


def _setxattr(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    size, _ = abi.SETXATTR_IN.unpack_from(body)
    rest = bytes(body[abi.SETXATTR_IN.size :])
    name, _, value = rest.partition(b"\0")
    return to.setxattr(ino, name, value[:size], caller)


def _getxattr(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    size, _ = abi.GETXATTR_IN.unpack_from(body)
    return _fitted(to.getxattr(ino, _name(body[abi.GETXATTR_IN.size :]), caller), size)


def _listxattr(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    size, _ = abi.GETXATTR_IN.unpack_from(body)
    return _fitted(_joined(to.listxattr(ino, caller)), size)


async def _joined(names: Answering) -> bytes:
    return b"".join(name + b"\0" for name in await names)


async def _fitted(answer: Answering, size: int) -> bytes:
    """Answers with a value, or with how long it is if that is all that was asked for."""
    value: bytes = await answer
    if not size:
        return abi.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise FuseError(errno.ERANGE)
    return value


def _removexattr(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return to.removexattr(ino, _name(body), caller)


async def _done() -> None:
    """Answers what asks for nothing."""


def _destroy(to: Operations, ino: int, body: memoryview, caller: Caller) -> Answering:
    return _done()


REQUESTS: Final[dict[int, Request]] = {
    abi.LOOKUP: Request(_lookup, encode_entry, _forget_entry, may_be_cut=_always),
    abi.FORGET: Request(_forget, None),
    abi.BATCH_FORGET: Request(_batch_forget, None),
    abi.GETATTR: Request(_getattr, encode_attr, may_be_cut=_always),
    abi.SETATTR: Request(_setattr, encode_attr),
    abi.READLINK: Request(_readlink, _encode_read, may_be_cut=_always),
    abi.ACCESS: Request(_access, _nothing, may_be_cut=_always),
    abi.STATFS: Request(_statfs, _encode_statfs, may_be_cut=_always),
    abi.MKNOD: Request(_mknod, encode_entry, _forget_entry),
    abi.MKDIR: Request(_mkdir, encode_entry, _forget_entry),
    abi.UNLINK: Request(_unlink, _nothing),
    abi.RMDIR: Request(_rmdir, _nothing),
    abi.SYMLINK: Request(_symlink, encode_entry, _forget_entry),
    abi.RENAME: Request(_rename, _nothing),
    abi.RENAME2: Request(_rename2, _nothing),
    abi.LINK: Request(_link, encode_entry, _forget_entry),
    abi.OPEN: Request(_open, _encode_opened, _release_opened, may_be_cut=_opens_to_read),
    abi.CREATE: Request(_create, _encode_created, _uncreate),
    abi.READ: Request(_read, _encode_read, may_be_cut=_only_reads, may_be_fault=True),
    abi.WRITE: Request(_write, _encode_written, keeps_body=True),
    abi.FALLOCATE: Request(_fallocate, _nothing),
    abi.IOCTL: Request(_ioctl, _encode_ioctl),
    abi.FLUSH: Request(_flush, _nothing),
    abi.RELEASE: Request(_release, _nothing),
    abi.FSYNC: Request(_fsync, _nothing),
    abi.OPENDIR: Request(_opendir, _encode_fh, _release_dir, may_be_cut=_always),
    abi.READDIRPLUS: Request(_readdir, _encode_read, may_be_cut=_always),
    abi.RELEASEDIR: Request(_releasedir, _nothing),
    abi.FSYNCDIR: Request(_fsyncdir, _nothing),
    abi.SETXATTR: Request(_setxattr, _nothing),
    abi.GETXATTR: Request(_getxattr, _encode_read, may_be_cut=_always),
    abi.LISTXATTR: Request(_listxattr, _encode_read, may_be_cut=_always),
    abi.REMOVEXATTR: Request(_removexattr, _nothing),
    abi.DESTROY: Request(_destroy, _nothing),
}

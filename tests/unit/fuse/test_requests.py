"""Each request, laid out as the kernel does it, arrives at its handler; each answer is laid out for the kernel."""

import errno
import os
import time

import pytest

from icefs import errors
from icefs.fuse import abi
from icefs.fuse.boundary import OPERATIONS, FuseError
from icefs.fuse.requests import REQUESTS, Caller, bind
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, BLOCK_SIZE
from icefs.vfs.control.command_files import CommandHandle
from icefs.vfs.control.rpc import RpcHandle
from icefs.vfs.handles import BytesHandle, DirectBytesHandle
from icefs.vfs.interface import AttrChanges
from tests.support.fake_vfs import FILE, FakeRecorder, FakeVfs
from tests.support.fuse_kernel import names, pack

CALLER = Caller(1000, 1001, 77)
MASKED = CALLER._replace(umask=0o22)


@pytest.fixture
def vfs():
    vfs = FakeVfs()
    vfs.answers = {
        "readlink": "to", "getxattr": b"value", "listxattr": ["user.a", "user.b"], "access": True, "opendir": 3,
        "read": b"bytes", "write": 3,
    }  # fmt: skip
    return vfs


@pytest.fixture
def recorder():
    return FakeRecorder()


@pytest.fixture
def requests(vfs, recorder):
    return bind(vfs, recorder)


ENTRY = abi.ENTRY_OUT.size
REQUEST = 1 << 30 | 2 << 16 | ord("I") << 8 | 0xCE  # _IOW('I', 0xCE, char[2])
# Opcode, inode, body, what the file system is asked, and the answer or how long it is.
TABLE = [
    (abi.LOOKUP, 1, names(b"x"), ("lookup", (1, "x")), ENTRY),
    (abi.GETATTR, 9, pack("IIQ", 1, 0, 5), ("getattr", (9,)), abi.ATTR_OUT.size),
    (abi.READLINK, 9, b"", ("readlink", (9,)), b"to"),
    (abi.MKNOD, 1, pack("IIII", 0o644, 5, 0o22, 0) + names(b"x"), ("mknod", (1, "x", 0o644, 5, MASKED)), ENTRY),
    (abi.MKDIR, 1, pack("II", 0o755, 0o22) + names(b"x"), ("mkdir", (1, "x", 0o755, MASKED)), ENTRY),
    (abi.UNLINK, 1, names(b"x"), ("unlink", (1, "x")), b""),
    (abi.RMDIR, 1, names(b"x"), ("rmdir", (1, "x")), b""),
    (abi.SYMLINK, 1, names(b"x", b"to"), ("symlink", (1, "x", "to", CALLER)), ENTRY),
    (abi.RENAME, 1, pack("Q", 2) + names(b"x", b"y"), ("rename", (1, "x", 2, "y", 0)), b""),
    (abi.RENAME2, 1, pack("QII", 2, 1, 0) + names(b"x", b"y"), ("rename", (1, "x", 2, "y", 1)), b""),
    (abi.LINK, 2, pack("Q", 9) + names(b"y"), ("link", (9, 2, "y")), ENTRY),
    (abi.OPEN, 9, pack("II", 2, 0), ("open", (9, 2)), pack("QII", 5, abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH, 0)),
    (abi.CREATE, 1, pack("IIII", 2, 0o644, 0o22, 0) + names(b"x"), ("create", (1, "x", 0o644, 2, MASKED)), ENTRY + 16),
    (abi.READ, 9, pack("QQIIQII", 5, 10, 20, 0, 0, 0, 0), ("read", (5, 10, 20)), b"bytes"),
    (abi.FALLOCATE, 9, pack("QQQII", 5, 10, 3, 1, 0), ("fallocate", (5, 10, 3, 1)), b""),
    (abi.IOCTL, 9, pack("QIIQII", 5, 0, REQUEST, 7, 2, 0) + b"{}", ("ioctl", (5, b"{}")), bytes(16)),
    (abi.WRITE, 9, pack("QQIIQII", 5, 10, 3, 0, 0, 0, 0) + b"abc", ("write", (5, 10, b"abc", False)), pack("II", 3, 0)),
    (abi.WRITE, 9, pack("QQIIQII", 5, 10, 3, 1, 0, 0, 0) + b"abc", ("write", (5, 10, b"abc", True)), pack("II", 3, 0)),
    (abi.FLUSH, 9, pack("QIIQ", 5, 0, 0, 7), ("flush", (5,)), b""),
    (abi.RELEASE, 9, pack("QIIQ", 5, 0, 0, 7), ("release", (5,)), b""),
    (abi.FSYNC, 9, pack("QII", 5, 1, 0), ("fsync", (5,)), b""),
    (abi.OPENDIR, 2, pack("II", 0, 0), ("opendir", (2,)), pack("QII", 3, 0, 0)),
    (abi.READDIRPLUS, 2, pack("QQIIQII", 5, 7, 4096, 0, 0, 0, 0), ("readdir", (5, 7)), b""),
    (abi.RELEASEDIR, 2, pack("QIIQ", 5, 0, 0, 7), ("releasedir", (5,)), b""),
    (abi.FSYNCDIR, 2, pack("QII", 5, 0, 0), ("fsyncdir", (5,)), b""),
    (abi.SETXATTR, 9, pack("II", 3, 0) + names(b"user.x") + b"v\0w", ("setxattr", (9, "user.x", b"v\0w")), b""),
    (abi.GETXATTR, 9, pack("II", 5, 0) + names(b"user.x"), ("getxattr", (9, "user.x")), b"value"),
    (abi.LISTXATTR, 9, pack("II", 99, 0), ("listxattr", (9,)), names(b"user.a", b"user.b")),
    (abi.REMOVEXATTR, 9, names(b"user.x"), ("removexattr", (9, "user.x")), b""),
]


async def ask(requests, opcode, ino, body):
    request = requests[opcode]
    return request.encode(await request.handle(ino, memoryview(body), CALLER))


@pytest.mark.parametrize(("opcode", "ino", "body", "asked", "answer"), TABLE)
async def test_a_request_arrives_and_its_answer_is_laid_out(opcode, ino, body, asked, answer, requests, vfs):
    found = await ask(requests, opcode, ino, body)
    assert vfs.calls[0] == asked
    assert (len(found) if isinstance(answer, int) else found) == answer


def test_every_request_that_has_a_handler_is_in_the_table():
    others = {abi.SETATTR, abi.STATFS, abi.FORGET, abi.BATCH_FORGET}
    assert {row[0] for row in TABLE} | others == REQUESTS.keys()
    assert {row[3][0] for row in TABLE} | {"setattr", "statfs", "forget"} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        (0, 0x5401), (0, 0x80086601), (0, REQUEST ^ 3 << 30), (0, REQUEST ^ 1), (0, REQUEST ^ 0x100),
        (abi.IOCTL_DIR, REQUEST),
    ],
)  # fmt: skip
async def test_any_other_ioctl_is_of_no_terminal(flags, command, requests, vfs):
    with pytest.raises(FuseError) as caught:
        await ask(requests, abi.IOCTL, 9, pack("QIIQII", 5, flags, command, 7, 0, 0))
    assert caught.value.errno == errno.ENOTTY
    assert not vfs.calls


READERS = {
    abi.LOOKUP, abi.GETATTR, abi.READLINK, abi.STATFS, abi.OPEN, abi.READ, abi.OPENDIR, abi.READDIRPLUS,
    abi.GETXATTR, abi.LISTXATTR,
}  # fmt: skip


def test_what_changes_nothing_may_be_cut_off_and_nothing_else():
    assert {opcode for opcode, request in REQUESTS.items() if request.may_be_cut is not None} == READERS
    assert {opcode for opcode, request in REQUESTS.items() if request.may_be_fault} == {abi.READ}


@pytest.mark.parametrize(
    ("flags", "may"),
    [
        (os.O_RDONLY, True), (os.O_RDONLY | os.O_DIRECT | os.O_NONBLOCK, True),
        (os.O_WRONLY, False), (os.O_RDWR, False), (os.O_RDONLY | os.O_TRUNC, False),
    ],
)  # fmt: skip
def test_an_open_that_may_change_something_is_finished(flags, may, requests):
    assert requests[abi.OPEN].may_be_cut(memoryview(pack("II", flags, 0))) is may


def test_a_read_that_carries_something_out_is_finished(requests, vfs):
    vfs.acting = {5}
    for fh, may in ((5, False), (6, True)):
        body = memoryview(pack("QQIIQII", fh, 10, 20, 0, 0, 0, 0))
        assert requests[abi.READ].may_be_cut(body) is may


def setattr_body(valid):
    return pack("IIQQQQqqIIIIIIII", valid, 0, 5, 1000, 0, 10, 20, 30, 1, 2, 3, 0o600, 0, 11, 12, 0)


@pytest.mark.parametrize(
    ("valid", "changes", "fh"),
    [
        (0, AttrChanges(), None),
        (abi.FATTR_SIZE | abi.FATTR_FH, AttrChanges(size=1000), 5),
        (abi.FATTR_MODE | abi.FATTR_UID | abi.FATTR_GID, AttrChanges(mode=0o600, uid=11, gid=12), None),
        (abi.FATTR_MTIME | abi.FATTR_ATIME, AttrChanges(mtime_ns=20_000_000_002, atime_ns=10_000_000_001), None),
    ],
)
async def test_setattr_passes_what_shall_change_and_nothing_else(valid, changes, fh, requests, vfs):
    assert len(await ask(requests, abi.SETATTR, 9, setattr_body(valid))) == abi.ATTR_OUT.size
    assert vfs.calls == [("setattr", (9, changes, fh, CALLER))]


async def test_now_is_now(requests, vfs):
    before = time.time_ns()
    await ask(requests, abi.SETATTR, 9, setattr_body(abi.FATTR_MTIME | abi.FATTR_MTIME_NOW | abi.FATTR_ATIME))
    changes = vfs.calls[0][1][1]
    assert before <= changes.mtime_ns <= time.time_ns()
    assert changes.atime_ns == 10_000_000_001


async def test_statfs_counts_in_blocks(requests):
    assert abi.STATFS_OUT.unpack(await ask(requests, abi.STATFS, 1, b"")) == (
        100, 10, 8, 1000, 5, BLOCK_SIZE, 255, BLOCK_SIZE,
    )  # fmt: skip


async def test_forgetting_has_no_answer(requests, vfs):
    forget, several = requests[abi.FORGET], requests[abi.BATCH_FORGET]
    await forget.handle(9, memoryview(pack("Q", 3)), CALLER)
    await several.handle(0, memoryview(pack("II", 2, 0) + pack("QQQQ", 7, 1, 8, 2)), CALLER)
    assert vfs.calls == [("forget", (9, 3)), ("forget", (7, 1)), ("forget", (8, 2))]
    assert forget.encode is several.encode is None


async def test_attributes_say_how_long_they_are(requests):
    assert await ask(requests, abi.GETXATTR, 9, pack("II", 0, 0) + names(b"user.x")) == pack("II", 5, 0)
    assert await ask(requests, abi.LISTXATTR, 9, pack("II", 0, 0)) == pack("II", 14, 0)
    with pytest.raises(FuseError) as caught:
        await ask(requests, abi.GETXATTR, 9, pack("II", 4, 0) + names(b"user.x"))
    assert caught.value.errno == errno.ERANGE


async def test_missing_attributes_and_access_control_lists(requests, vfs, recorder):
    vfs.answers["getxattr"] = None
    for name, number in ((b"user.none", errno.ENODATA), (b"system.posix_acl_access", errno.EOPNOTSUPP)):
        with pytest.raises(FuseError) as caught:
            await ask(requests, abi.GETXATTR, 9, pack("II", 99, 0) + names(name))
        assert caught.value.errno == number
    assert len(recorder.failures) == 1


def test_access_is_the_kernels_and_flush_only_comes_where_it_is_wanted(vfs, recorder):
    assert abi.ACCESS not in bind(vfs, recorder)
    assert abi.FLUSH in bind(vfs, recorder)
    vfs.wants_flush = False
    assert abi.FLUSH not in bind(vfs, recorder)


OTHERS = [(abi.SETATTR, 9, bytes(88)), (abi.STATFS, 1, b"")]


@pytest.mark.parametrize("opcode", sorted(REQUESTS.keys() - {abi.FORGET, abi.BATCH_FORGET}))
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.EntryNotFoundError("x"), errno.ENOENT),
        (errors.StaleError("x"), errno.ESTALE),
        (errors.FormatError("x"), errno.EIO),
        (ZeroDivisionError("x"), errno.EIO),
    ],
)
async def test_every_error_becomes_an_errno(opcode, error, number, requests, vfs):
    vfs.error = error
    ino, body = next(row[1:3] for row in [*TABLE, *OTHERS] if row[0] == opcode)
    with pytest.raises(FuseError) as caught:
        await ask(requests, opcode, ino, body)
    assert caught.value.errno == number


@pytest.mark.parametrize("absent", [ABSENT, ABSENT_FOREVER])
async def test_a_missing_name_is_an_entry_without_inode(absent, requests, vfs):
    vfs.answers["lookup"] = absent
    entry = abi.ENTRY_OUT.unpack(await ask(requests, abi.LOOKUP, 1, names(b"x")))
    assert (entry[0], entry[2]) == (0, int(absent.entry_timeout_s))


# Names.

RENAME = pack("Q", 2)
CREATE = pack("IIII", 0, 0, 0, 0)
MKDIR = pack("II", 0, 0)


@pytest.mark.parametrize(
    ("opcode", "body", "number"),
    [
        (abi.LOOKUP, names(b"\xff"), errno.ENOENT),
        (abi.UNLINK, names(b"\xff"), errno.ENOENT),
        (abi.RENAME, RENAME + names(b"\xff", b"y"), errno.ENOENT),
        (abi.MKDIR, MKDIR + names(b"\xff"), errno.EINVAL),
        (abi.CREATE, CREATE + names(b"\xff"), errno.EINVAL),
        (abi.RENAME, RENAME + names(b"x", b"\xff"), errno.EINVAL),
        (abi.LOOKUP, names(b"x" * 256), errno.ENAMETOOLONG),
        (abi.MKDIR, MKDIR + names(b"x" * 256), errno.ENAMETOOLONG),
    ],
)
async def test_a_name_that_no_file_can_have_never_reaches_the_file_system(opcode, body, number, requests, vfs):
    with pytest.raises(FuseError) as caught:
        await ask(requests, opcode, 1, body)
    assert caught.value.errno == number
    assert not vfs.calls


async def test_names_have_up_to_255_bytes(requests, vfs):
    await ask(requests, abi.LOOKUP, 1, names(b"x" * 255))
    assert vfs.calls == [("lookup", (1, "x" * 255))]


# Open files.


@pytest.mark.parametrize(
    ("file", "flags"),
    [
        (BytesHandle(9, b""), abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH),
        (DirectBytesHandle(9, b""), abi.FOPEN_DIRECT_IO | abi.FOPEN_NOFLUSH),
        (RpcHandle(9, {}), abi.FOPEN_DIRECT_IO | abi.FOPEN_NONSEEKABLE | abi.FOPEN_NOFLUSH),
        (CommandHandle(9, os.O_WRONLY, None, None), abi.FOPEN_DIRECT_IO | abi.FOPEN_NONSEEKABLE),
    ],
)
async def test_files_are_opened_with_the_cache_that_suits_them(file, flags, requests, vfs):
    vfs.answers["open"] = file
    assert await ask(requests, abi.OPEN, 9, pack("II", os.O_RDWR, 0)) == abi.OPEN_OUT.pack(5, flags, 0)


@pytest.mark.parametrize(
    ("opcode", "result", "calls"),
    [
        (abi.LOOKUP, FILE, [("forget", (42, 1))]),
        (abi.LOOKUP, FILE._replace(ino=0), []),
        (abi.OPEN, (5, BytesHandle(42, b"")), [("release", (5,))]),
        (abi.OPENDIR, 3, [("releasedir", (3,))]),
        (abi.CREATE, (6, BytesHandle(42, b""), FILE), [("flush", (6,)), ("release", (6,)), ("forget", (42, 1))]),
    ],
)
async def test_what_the_kernel_never_heard_of_is_taken_back(opcode, result, calls, requests, vfs):
    await requests[opcode].undo(result)
    assert vfs.calls == calls

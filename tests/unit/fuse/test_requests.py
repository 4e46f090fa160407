"""Each request, laid out as the kernel does it, arrives at its handler; each answer is laid out for the kernel."""

import errno
import os
import time

import pytest

from icefs.fuse import abi
from icefs.fuse.errno_map import OPERATIONS, FuseError
from icefs.fuse.operations import Opened, Operations
from icefs.fuse.requests import REQUESTS, Caller
from icefs.vfs.attrs import BLOCK_SIZE
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
def operations(vfs):
    return Operations(vfs, FakeRecorder())


ENTRY = abi.ENTRY_OUT.size
REQUEST = 1 << 30 | 2 << 16 | ord("I") << 8 | 0xCE  # _IOW('I', 0xCE, char[2])
# Opcode, inode, body, what the file system is asked, and the answer or how long it is.
TABLE = [
    (abi.LOOKUP, 1, names(b"x"), ("lookup", (1, "x")), ENTRY),
    (abi.GETATTR, 9, pack("IIQ", 1, 0, 5), ("getattr", (9,)), abi.ATTR_OUT.size),
    (abi.READLINK, 9, b"", ("readlink", (9,)), b"to"),
    (abi.ACCESS, 9, pack("II", 4, 0), ("access", (9, 4, CALLER)), b""),
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


async def ask(operations, opcode, ino, body):
    request = REQUESTS[opcode]
    return request.encode(await request.begin(operations, ino, memoryview(body), CALLER))


@pytest.mark.parametrize(("opcode", "ino", "body", "asked", "answer"), TABLE)
async def test_a_request_arrives_and_its_answer_is_laid_out(opcode, ino, body, asked, answer, operations, vfs):
    found = await ask(operations, opcode, ino, body)
    assert vfs.calls[0] == asked
    assert (len(found) if isinstance(answer, int) else found) == answer


def test_every_request_that_has_a_handler_is_in_the_table():
    others = {abi.SETATTR, abi.STATFS, abi.FORGET, abi.BATCH_FORGET, abi.DESTROY}
    assert {row[0] for row in TABLE} | others == REQUESTS.keys()
    assert {row[3][0] for row in TABLE} | {"setattr", "statfs", "forget"} == set(OPERATIONS)


@pytest.mark.parametrize(
    ("flags", "command"),
    [
        (0, 0x5401), (0, 0x80086601), (0, REQUEST ^ 3 << 30), (0, REQUEST ^ 1), (0, REQUEST ^ 0x100),
        (abi.IOCTL_DIR, REQUEST),
    ],
)  # fmt: skip
async def test_any_other_ioctl_is_of_no_terminal(flags, command, operations, vfs):
    with pytest.raises(FuseError) as caught:
        await ask(operations, abi.IOCTL, 9, pack("QIIQII", 5, flags, command, 7, 0, 0))
    assert caught.value.errno == errno.ENOTTY
    assert not vfs.calls


READERS = {
    abi.LOOKUP, abi.GETATTR, abi.READLINK, abi.ACCESS, abi.STATFS, abi.OPEN, abi.READ, abi.OPENDIR, abi.READDIRPLUS,
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
def test_an_open_that_may_change_something_is_finished(flags, may, operations):
    assert REQUESTS[abi.OPEN].may_be_cut(operations, memoryview(pack("II", flags, 0))) is may


def test_a_read_that_carries_something_out_is_finished(operations, vfs):
    vfs.acting = {5}
    for fh, may in ((5, False), (6, True)):
        body = memoryview(pack("QQIIQII", fh, 10, 20, 0, 0, 0, 0))
        assert REQUESTS[abi.READ].may_be_cut(operations, body) is may


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
async def test_setattr_passes_what_shall_change_and_nothing_else(valid, changes, fh, operations, vfs):
    assert len(await ask(operations, abi.SETATTR, 9, setattr_body(valid))) == abi.ATTR_OUT.size
    assert vfs.calls == [("setattr", (9, changes, fh, CALLER))]


async def test_now_is_now(operations, vfs):
    before = time.time_ns()
    await ask(operations, abi.SETATTR, 9, setattr_body(abi.FATTR_MTIME | abi.FATTR_MTIME_NOW | abi.FATTR_ATIME))
    changes = vfs.calls[0][1][1]
    assert before <= changes.mtime_ns <= time.time_ns()
    assert changes.atime_ns == 10_000_000_001


async def test_statfs_counts_in_blocks(operations):
    assert abi.STATFS_OUT.unpack(await ask(operations, abi.STATFS, 1, b"")) == (
        100, 10, 8, 1000, 5, BLOCK_SIZE, 255, BLOCK_SIZE,
    )  # fmt: skip


async def test_forgetting_has_no_answer(operations, vfs):
    forget, several = REQUESTS[abi.FORGET], REQUESTS[abi.BATCH_FORGET]
    await forget.begin(operations, 9, memoryview(pack("Q", 3)), CALLER)
    await several.begin(operations, 0, memoryview(pack("II", 2, 0) + pack("QQQQ", 7, 1, 8, 2)), CALLER)
    assert vfs.calls == [("forget", (9, 3)), ("forget", (7, 1)), ("forget", (8, 2))]
    assert forget.encode is several.encode is None


async def test_attributes_say_how_long_they_are(operations):
    assert await ask(operations, abi.GETXATTR, 9, pack("II", 0, 0) + names(b"user.x")) == pack("II", 5, 0)
    assert await ask(operations, abi.LISTXATTR, 9, pack("II", 0, 0)) == pack("II", 14, 0)
    with pytest.raises(FuseError) as caught:
        await ask(operations, abi.GETXATTR, 9, pack("II", 4, 0) + names(b"user.x"))
    assert caught.value.errno == errno.ERANGE


async def test_access_that_is_not_granted_is_refused(operations, vfs):
    vfs.answers["access"] = False
    with pytest.raises(FuseError) as caught:
        await ask(operations, abi.ACCESS, 9, pack("II", 2, 0))
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize(
    ("opcode", "result", "calls"),
    [
        (abi.LOOKUP, FILE, [("forget", (42, 1))]),
        (abi.LOOKUP, FILE._replace(ino=0), []),
        (abi.OPEN, Opened(5, 0), [("release", (5,))]),
        (abi.OPENDIR, 3, [("releasedir", (3,))]),
        (abi.CREATE, (Opened(6, 0), FILE), [("flush", (6,)), ("release", (6,)), ("forget", (42, 1))]),
    ],
)
async def test_what_the_kernel_never_heard_of_is_taken_back(opcode, result, calls, operations, vfs):
    await REQUESTS[opcode].undo(operations, result)
    assert vfs.calls == calls

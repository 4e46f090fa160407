import errno
import os
from types import SimpleNamespace

import pytest

from icefs import errors
from icefs.fuse import abi
from icefs.fuse.errno_map import OPERATIONS, FuseError
from icefs.fuse.operations import Operations
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, EntryRun, FsStats
from icefs.vfs.control.command_files import CommandHandle
from icefs.vfs.control.rpc import RpcHandle
from icefs.vfs.handles import DirectBytesHandle
from icefs.vfs.interface import AttrChanges
from tests.support.fake_vfs import DIRECTORY, FILE, FakeRecorder, FakeVfs
from tests.support.fuse_kernel import read_entries

CALLER = SimpleNamespace(uid=1000, gid=1001, pid=77, umask=0o022)


@pytest.fixture
def vfs():
    return FakeVfs()


@pytest.fixture
def operations(vfs):
    return Operations(vfs, FakeRecorder())


# One call of each handler, with what the file system is asked then.
CALLS = {
    "lookup": ((1, b"x", CALLER), (1, "x")),
    "forget": (([(3, 4)],), (3, 4)),
    "getattr": ((1, CALLER), (1,)),
    "setattr": ((1, AttrChanges(size=5), 3, CALLER), (1, AttrChanges(size=5), 3, CALLER)),
    "readlink": ((1, CALLER), (1,)),
    "mknod": ((1, b"x", 0o644, 0, CALLER), (1, "x", 0o644, 0, CALLER)),
    "mkdir": ((1, b"x", 0o755, CALLER), (1, "x", 0o755, CALLER)),
    "unlink": ((1, b"x", CALLER), (1, "x")),
    "rmdir": ((1, b"x", CALLER), (1, "x")),
    "symlink": ((1, b"x", b"to", CALLER), (1, "x", "to", CALLER)),
    "rename": ((1, b"x", 2, b"y", 1, CALLER), (1, "x", 2, "y", 1)),
    "link": ((9, 2, b"y", CALLER), (9, 2, "y")),
    "open": ((9, os.O_RDONLY, CALLER), (9, os.O_RDONLY)),
    "create": ((1, b"x", 0o644, os.O_RDWR, CALLER), (1, "x", 0o644, os.O_RDWR, CALLER)),
    "read": ((5, 10, 20), (5, 10, 20)),
    "fallocate": ((5, 10, 3, 1), (5, 10, 3, 1)),
    "ioctl": ((5, b"{}"), (5, b"{}")),
    "write": ((5, 10, b"abc", True), (5, 10, b"abc", True)),
    "flush": ((5,), (5,)),
    "release": ((5,), (5,)),
    "fsync": ((5, True), (5,)),
    "opendir": ((2, CALLER), (2,)),
    "readdir": ((5, 0, 4096), (5, 0)),
    "releasedir": ((5,), (5,)),
    "fsyncdir": ((5, False), (5,)),
    "statfs": ((CALLER,), ()),
    "setxattr": ((9, b"user.x", b"v", CALLER), (9, "user.x", b"v")),
    "getxattr": ((9, b"user.x", CALLER), (9, "user.x")),
    "listxattr": ((9, CALLER), (9,)),
    "removexattr": ((9, b"user.x", CALLER), (9, "user.x")),
    "access": ((9, 4, CALLER), (9, 4, CALLER)),
}
ANSWERS = {
    "readlink": "to", "getxattr": b"v", "listxattr": ["user.x"], "access": True, "opendir": 3, "read": b"", "write": 3,
}  # fmt: skip


def test_every_handler_runs_behind_the_boundary():
    assert set(CALLS) == set(OPERATIONS)
    for name in OPERATIONS:
        assert getattr(vars(Operations)[name], "__is_handler__", False), name


@pytest.mark.parametrize("name", CALLS)
async def test_a_request_arrives_with_decoded_names(name, operations, vfs):
    args, asked = CALLS[name]
    vfs.answers = dict(ANSWERS)
    await getattr(operations, name)(*args)
    assert vfs.calls[0] == (name, asked)


@pytest.mark.parametrize("name", sorted(set(CALLS) - {"forget"}))
@pytest.mark.parametrize(
    ("error", "number"),
    [
        (errors.EntryNotFoundError("x"), errno.ENOENT),
        (errors.ReadOnlyError("x"), errno.EROFS),
        (errors.StaleError("x"), errno.ESTALE),
        (errors.FormatError("x"), errno.EIO),
        (ZeroDivisionError("x"), errno.EIO),
    ],
)
async def test_whatever_the_file_system_raises_becomes_an_errno(name, error, number, operations, vfs):
    vfs.error = error
    with pytest.raises(FuseError) as caught:
        await getattr(operations, name)(*CALLS[name][0])
    assert caught.value.errno == number


async def test_forget_swallows_errors(operations, vfs):
    vfs.error = ZeroDivisionError()
    await operations.forget([(1, 2)])


@pytest.mark.parametrize("absent", [ABSENT, ABSENT_FOREVER])
async def test_a_missing_name_is_an_entry_without_inode(absent, operations, vfs):
    vfs.answers["lookup"] = absent
    entry = await operations.lookup(1, b"x", CALLER)
    assert (entry.ino, entry.entry_timeout_s) == (0, absent.entry_timeout_s)


async def test_a_name_that_is_not_utf8_does_not_exist(operations, vfs):
    assert (await operations.lookup(1, b"\xff", CALLER)).ino == 0
    assert not vfs.calls
    for call in (operations.unlink(1, b"\xff", CALLER), operations.rename(1, b"\xff", 1, b"y", 0, CALLER)):
        with pytest.raises(FuseError) as caught:
            await call
        assert caught.value.errno == errno.ENOENT


async def test_a_name_that_is_not_utf8_cannot_be_created(operations, vfs):
    for call in (
        operations.mkdir(1, b"\xff", 0, CALLER),
        operations.create(1, b"\xff", 0, 0, CALLER),
        operations.rename(1, b"x", 1, b"\xff", 0, CALLER),
    ):
        with pytest.raises(FuseError) as caught:
            await call
        assert caught.value.errno == errno.EINVAL


async def test_names_are_at_most_255_bytes(operations, vfs):
    assert (await operations.lookup(1, b"x" * 255, CALLER)).ino == 42
    for call in (operations.lookup(1, b"x" * 256, CALLER), operations.mkdir(1, b"x" * 256, 0, CALLER)):
        with pytest.raises(FuseError) as caught:
            await call
        assert caught.value.errno == errno.ENAMETOOLONG


async def test_files_are_opened_with_the_cache_that_suits_them(operations, vfs):
    assert await operations.open(9, 0, CALLER) == (5, abi.FOPEN_KEEP_CACHE | abi.FOPEN_NOFLUSH)
    vfs.answers["open"] = DirectBytesHandle(9, b"")
    assert (await operations.open(9, 0, CALLER)).flags == abi.FOPEN_DIRECT_IO | abi.FOPEN_NOFLUSH
    vfs.answers["open"] = RpcHandle(9, {})
    opened = await operations.open(9, os.O_RDWR, CALLER)
    assert opened.flags == abi.FOPEN_DIRECT_IO | abi.FOPEN_NONSEEKABLE | abi.FOPEN_NOFLUSH
    opened, attr = await operations.create(1, b"x", 0o644, os.O_RDWR, CALLER)
    assert (opened.fh, opened.flags & abi.FOPEN_DIRECT_IO, attr.ino) == (6, abi.FOPEN_DIRECT_IO, 42)


async def test_the_kernel_says_when_a_command_is_closed(operations, vfs):
    vfs.answers["open"] = CommandHandle(9, os.O_WRONLY, None, None)
    opened = await operations.open(9, os.O_WRONLY, CALLER)
    assert not opened.flags & abi.FOPEN_NOFLUSH


async def test_flush_tells_the_kernel_once_that_nobody_listens(operations, vfs):
    vfs.wants_flush = False
    with pytest.raises(FuseError) as caught:
        await operations.flush(5)
    assert caught.value.errno == errno.ENOSYS
    assert not vfs.calls


async def test_missing_attributes_and_access_control_lists(operations, vfs):
    for name, number in ((b"user.none", errno.ENODATA), (b"system.posix_acl_access", errno.EOPNOTSUPP)):
        with pytest.raises(FuseError) as caught:
            await operations.getxattr(9, name, CALLER)
        assert caught.value.errno == number


async def test_statfs_is_passed_on(operations):
    assert await operations.statfs(CALLER) == FsStats(100, 10, 8, 1000, 5)


RUNS = [
    EntryRun(0, DIRECTORY, [b".", b".."], [2, 1]),
    EntryRun(2, FILE, [b"a", b"b", b"c"], [10, 11, 12], [1, 2, 3], [7, 8, 9]),
    EntryRun(5, FILE, [b"d"], [13], [4]),
]


async def test_a_directory_is_sent_whole_where_there_is_room(operations, vfs):
    vfs.runs = RUNS
    entries = read_entries(await operations.readdir(5, 0, 4096))
    assert [entry.name for entry in entries] == [b".", b"..", b"a", b"b", b"c", b"d"]
    assert entries[0] == (2, 2, 1, 4, b".", 0, DIRECTORY.mode, DIRECTORY.mtime_ns)
    assert entries[2] == (10, 10, 3, 8, b"a", 1, FILE.mode, 7)
    # One of the files comes without attributes, to see whether anybody misses them.
    assert entries[3] == (0, 11, 4, 8, b"b", 0, 0, 0)
    # What one run set does not leak into the next.
    assert entries[5] == (13, 13, 6, 8, b"d", 4, FILE.mode, FILE.mtime_ns)
    assert [call[1][1:] for call in vfs.calls if call[0] == "entered"] == [(0, 2), (2, 3), (4, 5), (5, 6)]


@pytest.mark.parametrize("room", [1, 2, 3, 4])
async def test_a_directory_is_sent_in_pieces_without_loss(room, operations, vfs):
    vfs.runs = RUNS
    sent, position = [], 0
    while entries := read_entries(await operations.readdir(5, position, room * 160)):
        assert len(entries) <= room
        sent += entries
        position = entries[-1].position
    assert [entry.name for entry in sent] == [b".", b"..", b"a", b"b", b"c", b"d"]
    references = sum(args[2] - args[1] for name, args in vfs.calls if name == "entered")
    assert references == sum(entry.node_id != 0 for entry in sent)


async def test_entries_that_the_kernel_is_not_sent_are_not_counted(operations, vfs, monkeypatch):
    vfs.runs = RUNS

    async def readdir(fh, position):
        if position >= 5:
            raise errors.UnreachableError("away")
        return await FakeVfs.readdir(vfs, fh, position)

    monkeypatch.setattr(vfs, "readdir", readdir)
    with pytest.raises(FuseError):
        await operations.readdir(5, 0, 4096)
    assert not [call for call in vfs.calls if call[0] == "entered"]


async def test_log_lines_say_which_path(operations):
    assert operations.describe("lookup", (7, b"x\xff", CALLER)) == "/path/of/7/x\\xff"
    assert operations.describe("read", (5, 0, 1)) == "/path/behind/5"
    assert operations.describe("getxattr", (7, b"user.x", CALLER)) == "/path/of/7"
    assert operations.describe("statfs", (CALLER,)) == ""

import errno
import inspect
import os
from types import SimpleNamespace

import pyfuse3
import pytest

from icefs import errors
from icefs.fuse.errno_map import OPERATIONS
from icefs.fuse.operations import Operations, fill
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, BLOCK_SIZE, FOREVER_S, EntryRun
from icefs.vfs.handles import DirectBytesHandle
from icefs.vfs.interface import AttrChanges
from icefs.vfs.rpc import RpcHandle
from tests.support.fake_vfs import DIRECTORY, FILE, FakeRecorder, FakeVfs

CALLER = SimpleNamespace(uid=1000, gid=1001, pid=77, umask=0o022)


@pytest.fixture
def vfs():
    return FakeVfs()


@pytest.fixture
def operations(vfs):
    return Operations(vfs, FakeRecorder())


HANDLERS = {
    name
    for name, function in inspect.getmembers(pyfuse3.Operations, inspect.iscoroutinefunction)
    if not name.startswith("_")
}

# One call of each handler, with what the file system is asked then.
CALLS = {
    "lookup": ((1, b"x", CALLER), (1, "x")),
    "forget": (([(3, 4)],), (3, 4)),
    "getattr": ((1, CALLER), (1,)),
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
    "write": ((5, 10, b"abc"), (5, 10, b"abc")),
    "flush": ((5,), (5,)),
    "release": ((5,), (5,)),
    "fsync": ((5, True), (5,)),
    "opendir": ((2, CALLER), (2,)),
    "readdir": ((5, 0, None), (5, 0)),
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


def test_every_handler_of_pyfuse3_is_ours_or_knowingly_left_out():
    left_out = {"poll"}  # ENOSYS makes the kernel poll regular files by itself
    assert HANDLERS - left_out == set(CALLS) | {"setattr"}


def test_every_handler_runs_behind_the_boundary():
    for name in HANDLERS - {"poll"}:
        function = vars(Operations)[name]
        assert getattr(function, "__is_handler__", False), name
        assert name in OPERATIONS


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
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await getattr(operations, name)(*CALLS[name][0])
    assert caught.value.errno == number


async def test_forget_swallows_errors(operations, vfs):
    vfs.error = ZeroDivisionError()
    await operations.forget([(1, 2)])


def test_attributes_are_copied_exactly():
    entry = fill(pyfuse3.EntryAttributes(), FILE)
    assert (entry.st_ino, entry.st_mode, entry.st_nlink, entry.st_uid, entry.st_gid) == (42, 0o100444, 1, 7, 8)
    assert (entry.st_size, entry.st_blocks, entry.st_blksize) == (1000, 2, BLOCK_SIZE)
    assert (entry.st_mtime_ns, entry.st_ctime_ns, entry.st_atime_ns) == (3_000_000_001, 2_000_000_002, 1_000_000_003)
    assert (entry.entry_timeout, entry.attr_timeout) == (FOREVER_S, 5.5)


@pytest.mark.parametrize("absent", [ABSENT, ABSENT_FOREVER])
async def test_a_missing_name_is_an_entry_without_inode(absent, operations, vfs):
    vfs.answers["lookup"] = absent
    entry = await operations.lookup(1, b"x", CALLER)
    assert (entry.st_ino, entry.entry_timeout) == (0, absent.entry_timeout_s)


async def test_a_name_that_is_not_utf8_does_not_exist(operations, vfs):
    assert (await operations.lookup(1, b"\xff", CALLER)).st_ino == 0
    assert not vfs.calls
    for call in (operations.unlink(1, b"\xff", CALLER), operations.rename(1, b"\xff", 1, b"y", 0, CALLER)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await call
        assert caught.value.errno == errno.ENOENT


async def test_a_name_that_is_not_utf8_cannot_be_created(operations, vfs):
    for call in (
        operations.mkdir(1, b"\xff", 0, CALLER),
        operations.create(1, b"\xff", 0, 0, CALLER),
        operations.rename(1, b"x", 1, b"\xff", 0, CALLER),
    ):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await call
        assert caught.value.errno == errno.EINVAL


async def test_names_are_at_most_255_bytes(operations, vfs):
    assert (await operations.lookup(1, b"x" * 255, CALLER)).st_ino == 42
    for call in (operations.lookup(1, b"x" * 256, CALLER), operations.mkdir(1, b"x" * 256, 0, CALLER)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await call
        assert caught.value.errno == errno.ENAMETOOLONG


async def test_setattr_passes_what_shall_change_and_nothing_else(operations, vfs):
    entry = fill(pyfuse3.EntryAttributes(), FILE)
    nothing = dict.fromkeys(("mode", "uid", "gid", "size", "mtime", "atime"), False)

    def fields(**chosen):
        return SimpleNamespace(**{f"update_{name}": value for name, value in {**nothing, **chosen}.items()})

    await operations.setattr(9, entry, fields(size=True), 5, CALLER)
    assert vfs.calls[-1] == ("setattr", (9, AttrChanges(size=1000), 5, CALLER))
    await operations.setattr(9, entry, fields(mtime=True, atime=True, mode=True), None, CALLER)
    changes = AttrChanges(mode=0o100444, mtime_ns=3_000_000_001, atime_ns=1_000_000_003)
    assert vfs.calls[-1] == ("setattr", (9, changes, None, CALLER))


async def test_files_are_opened_with_the_cache_that_suits_them(operations, vfs):
    info = await operations.open(9, 0, CALLER)
    assert (info.fh, info.direct_io, info.keep_cache, info.nonseekable) == (5, False, True, False)
    vfs.answers["open"] = DirectBytesHandle(9, b"")
    info = await operations.open(9, 0, CALLER)
    assert (info.direct_io, info.keep_cache) == (True, False)
    vfs.answers["open"] = RpcHandle(9, {})
    info = await operations.open(9, os.O_RDWR, CALLER)
    assert (info.direct_io, info.nonseekable) == (True, True)
    info, entry = await operations.create(1, b"x", 0o644, os.O_RDWR, CALLER)
    assert (info.fh, info.direct_io, entry.st_ino) == (6, True, 42)


async def test_flush_tells_the_kernel_once_that_nobody_listens(operations, vfs):
    vfs.wants_flush = False
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await operations.flush(5)
    assert caught.value.errno == errno.ENOSYS
    assert not vfs.calls


async def test_missing_attributes_and_access_control_lists(operations, vfs):
    for name, number in ((b"user.none", errno.ENODATA), (b"system.posix_acl_access", errno.EOPNOTSUPP)):
        with pytest.raises(pyfuse3.FUSEError) as caught:
            await operations.getxattr(9, name, CALLER)
        assert caught.value.errno == number


async def test_statfs_counts_in_blocks(operations):
    data = await operations.statfs(CALLER)
    assert (data.f_bsize, data.f_frsize, data.f_namemax) == (BLOCK_SIZE, BLOCK_SIZE, 255)
    assert (data.f_blocks, data.f_bfree, data.f_bavail, data.f_files, data.f_ffree) == (100, 10, 10, 1000, 5)


class Buffer:
    """Stands in for the kernel's buffer: takes a number of entries."""

    def __init__(self, monkeypatch, room):
        self.room = room
        self.entries = []
        monkeypatch.setattr(pyfuse3, "readdir_reply", self._reply)

    def _reply(self, token, name, entry, next_id):
        if len(self.entries) >= self.room:
            return False
        self.entries.append((name, entry.st_ino, entry.st_size, entry.st_mtime_ns, entry.st_mode, next_id))
        return True


RUNS = [
    EntryRun(0, DIRECTORY, [b".", b".."], [2, 1]),
    EntryRun(2, FILE, [b"a", b"b", b"c"], [10, 11, 12], [1, 2, 3], [7, 8, 9]),
    EntryRun(5, FILE, [b"d"], [13], [4]),
]


async def test_a_directory_is_sent_whole_where_there_is_room(operations, vfs, monkeypatch):
    operations._buffer.node_id = None  # every entry brings its attributes; the others have tests of their own
    vfs.runs = RUNS
    buffer = Buffer(monkeypatch, 100)
    await operations.readdir(5, 0, None)
    names = [entry[0] for entry in buffer.entries]
    assert names == [b".", b"..", b"a", b"b", b"c", b"d"]
    assert buffer.entries[3] == (b"b", 11, 2, 8, FILE.mode, 4)
    assert buffer.entries[0] == (b".", 2, 0, DIRECTORY.mtime_ns, DIRECTORY.mode, 1)
    # What one run set does not leak into the next.
    assert buffer.entries[5] == (b"d", 13, 4, FILE.mtime_ns, FILE.mode, 6)
    assert [call[1][1:] for call in vfs.calls if call[0] == "entered"] == [(0, 2), (2, 5), (5, 6)]


@pytest.mark.parametrize("room", [1, 2, 3, 4])
async def test_a_directory_is_sent_in_pieces_without_loss(room, operations, vfs, monkeypatch):
    operations._buffer.node_id = None
    vfs.runs = RUNS
    names, position = [], 0
    while True:
        buffer = Buffer(monkeypatch, room)
        await operations.readdir(5, position, None)
        if not buffer.entries:
            break
        names += [entry[0] for entry in buffer.entries]
        position = buffer.entries[-1][-1]
    assert names == [b".", b"..", b"a", b"b", b"c", b"d"]
    assert sum(args[2] - args[1] for name, args in vfs.calls if name == "entered") == 6


async def test_log_lines_say_which_path(operations):
    assert operations.describe("lookup", (7, b"x\xff", CALLER)) == "/path/of/7/x\\xff"
    assert operations.describe("read", (5, 0, 1)) == "/path/behind/5"
    assert operations.describe("getxattr", (7, b"user.x", CALLER)) == "/path/of/7"
    assert operations.describe("statfs", (CALLER,)) == ""

"""Views of branches with uncommitted changes."""

import contextlib
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest
import trio

from icefs.engine.write.repository import WritableRepository
from icefs.errors import EntryNotFoundError, StaleError
from icefs.fuse.boundary import OPERATIONS
from icefs.storage.memory import MemoryStorage
from icefs.vfs.branches.settings import WorkingOptions
from icefs.vfs.control.mount_control import MountControl
from icefs.vfs.mount import Mount, MountRequest
from icefs.vfs.observe.stats import Stats
from icefs.vfs.views.versions import view_tools
from tests.support.fake_vfs import FakeNotifier
from tests.support.repo_builder import RepoBuilder, group, inline
from tests.support.toy_format import ToyFormat
from tests.support.vfs_driver import OWNERSHIP, Driver
from tests.support.viewed import commit_arrays
from tests.support.zarr_documents import array_document

GROUP = b'{"node_type":"group","zarr_format":3}'
VIEW = ".icefs/views/npy"
CALLER = SimpleNamespace(uid=1000, gid=1001, pid=1, umask=0)


def document(length=40, **members):
    return array_document(
        shape=[length], chunk_grid={"name": "regular", "configuration": {"chunk_shape": [10]}}, **members
    )


def base():
    """An array `a` with chunks 0 and 2, a group `g` with `x` and `y` in it."""
    builder = RepoBuilder()
    builder.commit(
        [
            group("/", 1, user_data=GROUP),
            builder.array("/a", 2, (4,), inline((0,), (2,), tag="a"), user_data=document()),
            group("/g", 3, user_data=GROUP),
            builder.array("/g/x", 4, (4,), inline((1,), tag="x"), user_data=document()),
            builder.array("/g/y", 5, (4,), inline((3,), tag="y"), user_data=document()),
        ]
    )
    return builder.publish()


class WritingDriver(Driver):
    """A driver that writes whole files."""

    async def write(self, path, data):
        above, _, name = path.rpartition("/")
        parent = await self.walk(above)
        found = await self.fs.lookup(parent.ino, name)
        if found.ino:
            fh, _ = await self.fs.open(found.ino, os.O_WRONLY | os.O_TRUNC)
        else:
            fh, _, _ = await self.fs.create(parent.ino, name, 0o644, os.O_WRONLY | os.O_CREAT, CALLER)
        await self.fs.write(fh, 0, data)
        await self.fs.flush(fh)
        await self.fs.release(fh)

    async def mkdir(self, path):
        above, _, name = path.rpartition("/")
        await self.fs.mkdir((await self.walk(above)).ino, name, 0o755, CALLER)

    async def unlink(self, path):
        above, _, name = path.rpartition("/")
        await self.fs.unlink((await self.walk(above)).ino, name)

    async def rename(self, old, new):
        (old_above, _, old_name), (new_above, _, new_name) = old.rpartition("/"), new.rpartition("/")
        await self.fs.rename((await self.walk(old_above)).ino, old_name, (await self.walk(new_above)).ino, new_name, 0)


@contextlib.asynccontextmanager
async def writable(tmp_path, toy=None, storage=None):
    repository = WritableRepository.open(base() if storage is None else storage)
    refs, notifier = repository.refs(), FakeNotifier()
    request = MountRequest(
        OWNERSHIP, "branch", "main", refs.branch("main"),
        working=WorkingOptions(tmp_path), view_tools=(toy or ToyFormat()).tools(),
    )  # fmt: skip
    mount = Mount(repository, refs, request, notifier, Stats(OPERATIONS), MountControl)
    try:
        yield WritingDriver(mount, notifier)
    finally:
        mount.close()
        repository.close()


async def seen(driver, path=VIEW):
    """Returns all files of the view with their content, but the documents of groups."""
    found = {}
    for name in await driver.listdir(path):
        below = f"{path}/{name}"
        if (await driver.walk(below)).is_dir:
            found |= await seen(driver, below)
        elif name.endswith(".bin"):
            found[below.removeprefix(f"{VIEW}/")] = await driver.read(below)
    return found


CLEAN = {"a.bin": b"a(0,)a(2,)", "g/x.bin": b"x(1,)", "g/y.bin": b"y(3,)"}


async def test_a_chunk_that_was_written_is_shown_at_once(tmp_path):
    async with writable(tmp_path) as driver:
        assert await seen(driver) == CLEAN
        before = {name: await driver.walk(f"{VIEW}/{name}") for name in CLEAN}
        await driver.write("a/c/1", b"<new data>")
        assert await seen(driver) == CLEAN | {"a.bin": b"a(0,)<new data>a(2,)"}
        await driver.write("a/c/2", b"<other>")
        await driver.unlink("a/c/0")
        assert await seen(driver) == CLEAN | {"a.bin": b"<new data><other>"}
        after = {name: await driver.walk(f"{VIEW}/{name}") for name in CLEAN}
        assert after["a.bin"].ino != before["a.bin"].ino
        assert after["a.bin"].mtime_ns > before["a.bin"].mtime_ns
        assert after["g/x.bin"].mtime_ns == before["g/x.bin"].mtime_ns


class CountingStorage(MemoryStorage):
    """Notes the chunks that are read, from any thread."""

    def __init__(self):
        super().__init__()
        self.chunk_reads = []

    def get(self, key, *, start=0, end=None):
        if key.startswith("chunks/"):
            self.chunk_reads.append(key)
        return super().get(key, start=start, end=end)


class RealTools:
    """Makes views with the formats and decoder of mounts."""

    tools = staticmethod(view_tools)


async def test_after_a_write_the_other_chunks_are_not_decoded_again(tmp_path):
    storage = CountingStorage()
    repository = WritableRepository.create(storage)
    values = np.arange(4000, dtype="i4")

    def write(root):
        root.create_array("a", shape=(4000,), chunks=(1000,), dtype="i4", compressors=None)[...] = values

    commit_arrays(repository, write)
    repository.close()
    async with writable(tmp_path, RealTools(), storage) as driver:

        async def read():
            return np.frombuffer((await driver.read(f"{VIEW}/a.npy"))[-16000:], "i4").tolist()

        assert await read() == values.tolist()
        assert len(storage.chunk_reads) == 4
        await driver.write("a/c/1", bytes(4000))
        values[1000:2000] = 0
        assert await read() == values.tolist()
        assert len(storage.chunk_reads) == 4
        await driver.write("a/c/1", np.ones(1000, "i4").tobytes())
        await driver.unlink("a/c/3")
        values[1000:2000], values[3000:] = 1, 0
        assert await read() == values.tolist()
        assert len(storage.chunk_reads) == 4


async def test_arrays_and_groups_that_were_made_removed_and_renamed(tmp_path):
    async with writable(tmp_path) as driver:
        await driver.mkdir("g/h")
        await driver.write("g/h/zarr.json", GROUP)
        await driver.mkdir("g/h/z")
        await driver.write("g/h/z/zarr.json", document())
        await driver.mkdir("g/h/z/c")
        await driver.write("g/h/z/c/3", b"zzz")
        assert await seen(driver) == CLEAN | {"g/h/z.bin": b"zzz"}
        await driver.rename("g/x", "x")
        assert await seen(driver) == {
            "a.bin": b"a(0,)a(2,)",
            "x.bin": b"x(1,)",
            "g/y.bin": b"y(3,)",
            "g/h/z.bin": b"zzz",
        }
        await driver.rename("g", "moved")
        assert await seen(driver) == {
            "a.bin": b"a(0,)a(2,)", "x.bin": b"x(1,)", "moved/y.bin": b"y(3,)", "moved/h/z.bin": b"zzz",
        }  # fmt: skip
        await driver.unlink("a/zarr.json")
        assert "a.bin" not in await seen(driver)
        assert json.loads(await driver.read(f"{VIEW}/x.json"))["shape"] == [40]


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff", b'{"zarr_format":2}', b'{"zarr_format":3,"node_type":"array"}']
)
async def test_a_document_that_is_not_whole_yet_is_no_node(tmp_path, text):
    async with writable(tmp_path) as driver:
        parent = await driver.walk("")
        await driver.mkdir("new")
        with contextlib.suppress(Exception):  # an invalid document is refused when it is closed, and stays
            await driver.write("new/zarr.json", text)
        assert parent.ino
        assert await seen(driver) == CLEAN


async def test_an_open_file_reads_on_and_is_stale_when_its_document_changes(tmp_path):
    async with writable(tmp_path) as driver:
        await driver.write("g/note", b"a change somewhere")
        old = await driver.walk(f"{VIEW}/a.bin")
        fh, _ = await driver.fs.open(old.ino, os.O_RDONLY)
        await driver.write("g/x/c/0", b"elsewhere")
        assert await driver.fs.read(fh, 0, 5) == b"a(0,)"
        await driver.write("a/zarr.json", document(50))
        with pytest.raises(StaleError):
            await driver.fs.read(fh, 0, 5)
        new = await driver.walk(f"{VIEW}/a.bin")
        assert new.ino != old.ino
        assert await driver.read_ino(new.ino) == b"a(0,)a(2,)"
        await driver.unlink("a/zarr.json")
        with pytest.raises(StaleError):
            await driver.fs.read(fh, 0, 5)
        await driver.fs.release(fh)


async def test_a_file_opened_before_the_first_change_keeps_the_snapshot(tmp_path):
    async with writable(tmp_path) as driver:
        fh, _ = await driver.fs.open((await driver.walk(f"{VIEW}/a.bin")).ino, os.O_RDONLY)
        await driver.write("a/c/0", b"other")
        await driver.unlink("a/zarr.json")
        assert await driver.fs.read(fh, 0, 100) == b"a(0,)a(2,)"
        await driver.fs.release(fh)


async def test_to_read_a_view_is_no_change(tmp_path):
    toy = ToyFormat()
    async with writable(tmp_path, toy) as driver:
        await driver.write("a/c/1", b"<new data>")
        for _ in range(3):
            await seen(driver)
        # Of three arrays and two groups: five documents, and three files of chunks.
        assert (toy.roots, toy.layouts) == (1, 8)


async def test_views_go_on_over_a_commit_and_a_discard(tmp_path):
    async with writable(tmp_path) as driver:
        await driver.write("a/c/1", b"<new data>")
        fh, _ = await driver.fs.open((await driver.walk(f"{VIEW}/a.bin")).ino, os.O_RDONLY)
        await driver.write(".icefs/commit", b"views\n")
        assert await driver.fs.read(fh, 0, 100) == b"a(0,)<new data>a(2,)"
        await driver.fs.release(fh)
        committed = CLEAN | {"a.bin": b"a(0,)<new data>a(2,)"}
        assert await seen(driver) == committed
        await driver.write("a/c/3", b"<more data")
        assert await seen(driver) == CLEAN | {"a.bin": b"a(0,)<new data>a(2,)<more data"}
        await driver.write(".icefs/discard", b"yes\n")
        assert await seen(driver) == committed


async def test_changes_of_an_earlier_mount_are_shown(tmp_path):
    storage = base()
    async with writable(tmp_path, storage=storage) as driver:
        await driver.write("a/c/1", b"<new data>")
    async with writable(tmp_path, storage=storage) as driver:
        assert await seen(driver) == CLEAN | {"a.bin": b"a(0,)<new data>a(2,)"}


async def test_a_program_that_writes_all_the_time_keeps_no_reader_waiting(tmp_path):
    async with writable(tmp_path) as driver:
        await driver.write("a/c/1", b"-0")
        done = trio.Event()

        async def write():
            number = 0
            while not done.is_set():
                number += 1
                await driver.write("a/c/1", f"-{number % 10}".encode())
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            with trio.fail_after(60):
                for _ in range(20):
                    attr = await driver.walk(f"{VIEW}/a.bin")
                    assert attr.size in (10, 12)  # the chunk is truncated before it is written
                    with contextlib.suppress(StaleError, EntryNotFoundError):
                        await driver.listdir(VIEW)
            done.set()

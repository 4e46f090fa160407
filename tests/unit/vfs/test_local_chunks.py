"""Chunks of a local repository: their files are read directly."""

import os
import threading

import pytest
import trio

from icefs.errors import (
    InvalidObjectSizeError,
    NotAnObjectError,
    ObjectNotFoundError,
)
from icefs.format.layout import chunk_key
from icefs.storage.local.store import LocalStorage
from icefs.vfs.chunks.reader import LocalChunkHandle
from tests.support.repo_builder import RepoBuilder
from tests.support.vfs_driver import mounted, until


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "chunk"
    path.write_bytes(bytes(range(100)))
    return path


def open_descriptors():
    return set(os.listdir("/proc/self/fd"))


def opened(path, offset, size, fd=None):
    return LocalChunkHandle(5, os.open(path, os.O_RDONLY) if fd is None else fd, str(path), offset, size)


async def test_a_local_chunk_is_a_part_of_its_file(file):
    fd = os.open(file, os.O_RDONLY)
    handle = opened(file, 10, 50, fd)
    for offset, size in ((0, 50), (0, 1000), (5, 10), (49, 10), (50, 10), (60, 10), (0, 0)):
        expected = bytes(range(10, 60))[offset : offset + size]
        data = handle.read_nowait(offset, size)
        if data is None:
            data = await handle.read(offset, size)
        assert bytes(data) == expected
    assert handle.size == 50
    handle.release()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


@pytest.mark.parametrize("error", [BlockingIOError(11, "cold"), OSError(95, "not supported"), OSError(22, "invalid")])
async def test_where_the_disk_must_be_waited_for_a_thread_reads(file, error, monkeypatch):
    handle = opened(file, 10, 50)
    whole = os.preadv

    def preadv(fd, buffers, offset, flags=0):
        if flags:
            raise error
        assert threading.current_thread() is not threading.main_thread()
        return whole(fd, [memoryview(buffers[0])[:7]], offset)

    monkeypatch.setattr(os, "preadv", preadv)
    assert handle.read_nowait(0, 50) is None
    assert bytes(await handle.read(0, 50)) == bytes(range(10, 60))
    handle.release()


async def test_a_file_may_be_closed_while_a_cancelled_read_is_still_at_it(file, monkeypatch, nursery):
    fd = os.open(file, os.O_RDONLY)
    handle = opened(file, 10, 50, fd)
    begun, gate, read_from = threading.Event(), threading.Event(), []
    whole = os.preadv

    def preadv(fd, buffers, offset, flags=0):
        if flags:
            raise BlockingIOError(11, "cold")
        begun.set()
        assert gate.wait(30)
        read_from.append(os.fstat(fd).st_ino)
        return whole(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    scope = trio.CancelScope()

    async def read():
        with scope:
            await handle.read(0, 50)

    before = open_descriptors()
    nursery.start_soon(read)
    assert await trio.to_thread.run_sync(begun.wait, 30)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    handle.release()
    with file.with_name("other").open("wb") as other:
        assert other.fileno() == fd  # the number is another file's now
        gate.set()
        await until(lambda: read_from and open_descriptors() == before)
        assert read_from == [file.stat().st_ino]


async def test_a_read_that_is_cancelled_before_it_begins_leaves_nothing_open(file, monkeypatch, nursery):
    handle = opened(file, 10, 50)
    monkeypatch.setattr(LocalChunkHandle, "read_nowait", lambda self, offset, size: None)
    limiter = trio.to_thread.current_default_thread_limiter()
    holders = [object() for _ in range(int(limiter.available_tokens))]
    for holder in holders:
        limiter.acquire_on_behalf_of_nowait(holder)
    before = open_descriptors()
    try:
        with trio.move_on_after(0) as scope:
            await handle.read(0, 50)
    finally:
        for holder in holders:
            limiter.release_on_behalf_of(holder)
    assert scope.cancelled_caught
    assert open_descriptors() == before
    assert bytes(await handle.read(0, 50)) == bytes(range(10, 60))
    assert open_descriptors() == before
    handle.release()


async def test_what_the_page_cache_holds_only_in_part_is_read_whole(file, monkeypatch):
    handle = opened(file, 0, 100)
    whole = os.preadv
    monkeypatch.setattr(
        os, "preadv", lambda fd, buffers, offset, flags=0: whole(fd, [memoryview(buffers[0])[:30]], offset)
    )
    assert handle.read_nowait(0, 100) is None
    assert bytes(await handle.read(0, 100)) == bytes(range(100))
    handle.release()


async def test_a_file_that_shrinks_is_an_error_and_not_zeros(file):
    handle = opened(file, 0, 100)
    os.truncate(file, 60)
    assert handle.read_nowait(0, 100) is None
    with pytest.raises(InvalidObjectSizeError):
        await handle.read(0, 100)
    handle.release()


@pytest.mark.parametrize("damage", ["missing", "short", "directory", "link"])
async def test_a_damaged_chunk_file_is_an_error_at_open(tmp_path, damage):
    builder = RepoBuilder(LocalStorage(tmp_path))
    ref = builder.chunk(b"0123456789")
    builder.commit([builder.array("/a", 1, (2,), {(0,): ref, (1,): builder.chunk(b"good")})])
    storage = builder.publish()
    path = tmp_path / chunk_key(ref.chunk_id)
    whole = path.rename(tmp_path.parent / "outside")
    if damage == "short":
        path.write_bytes(b"012345678")
    elif damage == "directory":
        path.mkdir()
    elif damage == "link":
        path.symlink_to(whole)
    async with mounted(storage, branch="main") as driver:
        assert (await driver.walk("a/c/0")).size == 10
        expected = {"short": InvalidObjectSizeError, "link": NotAnObjectError}.get(damage, ObjectNotFoundError)
        with pytest.raises(expected):
            await driver.read("a/c/0")
        assert await driver.read("a/c/1") == b"good"
        assert driver.fs.handles.open_files == 0

"""Reading chunks, wherever they are."""

import os
import threading
from types import SimpleNamespace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from icefs.errors import (
    ObjectNotFoundError,
    UnauthorizedContainerError,
    UnreachableError,
)
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import NativeRef, VirtualRef
from icefs.storage.cache.disk import DiskCache
from icefs.storage.cache.entry import BLOCK_BYTES
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.vfs.chunks import reader as reading
from icefs.vfs.chunks.fetcher import ChunkFetcher
from icefs.vfs.chunks.reader import BlockChunkHandle, CachedChunkHandle, FetchedChunkHandle
from icefs.vfs.handles import BytesHandle
from icefs.vfs.threads import Threads
from tests.support.repo_builder import RepoBuilder
from tests.support.vfs_driver import mounted, until


@pytest.fixture
async def threads():
    pool = Threads(4, "test")
    yield pool
    pool.close()


def counted(data=b"data", error=None):
    calls = []

    def fetch():
        calls.append(threading.current_thread().name)
        if error is not None:
            raise error
        return data

    return fetch, calls


async def test_bytes_are_fetched_once_for_all_who_want_them(threads):
    fetcher = ChunkFetcher(threads, max_bytes=100)
    gate = threading.Event()
    calls = []

    def fetch():
        calls.append(1)
        gate.wait(5)
        return b"data"

    got = []
    async with trio.open_nursery() as nursery:
        for _ in range(5):

            async def want():
                got.append(await fetcher.get("key", fetch))

            nursery.start_soon(want)
        await trio.testing.wait_all_tasks_blocked()
        assert fetcher.in_flight == 1
        gate.set()
    assert got == [b"data"] * 5
    assert len(calls) == 1
    assert await fetcher.get("key", fetch) == b"data"
    assert len(calls) == 1
    assert (fetcher.hits, fetcher.misses, fetcher.fetched_bytes, fetcher.in_flight) == (1, 1, 4, 0)


async def test_what_is_kept_is_bounded_and_the_oldest_goes_first(threads):
    fetcher = ChunkFetcher(threads, max_bytes=10)
    for key in "abc":
        await fetcher.get(key, counted(b"1234")[0])
        fetcher.check_invariants()
    assert fetcher.get_nowait("a") is None
    assert fetcher.get_nowait("b") == b"1234"
    await fetcher.get("d", counted(b"1234")[0])
    assert fetcher.get_nowait("c") is None
    assert fetcher.get_nowait("b") == b"1234"
    assert await fetcher.get("huge", counted(b"x" * 11)[0]) == b"x" * 11
    assert fetcher.get_nowait("huge") is None
    fetcher.check_invariants()


async def test_a_failure_goes_to_all_who_wait_and_is_not_kept(threads):
    fetcher = ChunkFetcher(threads, max_bytes=100)
    for error in (UnreachableError("gone"), ZeroDivisionError("bug")):
        fetch, calls = counted(error=error)
        for _ in range(2):
            with pytest.raises(type(error)):
                await fetcher.get("key", fetch)
        assert len(calls) == 2
    assert await fetcher.get("key", counted()[0]) == b"data"


async def test_a_chunk_is_on_its_way_as_soon_as_it_is_opened(threads):
    fetcher = ChunkFetcher(threads, max_bytes=100)
    fetch, calls = counted(b"0123456789")
    handle = FetchedChunkHandle(5, fetcher, "key", fetch, 10)
    assert handle.read_nowait(0, 4) is None
    assert await handle.read(0, 100) == b"0123456789"
    assert bytes(handle.read_nowait(3, 4)) == b"3456"
    assert bytes(handle.read_nowait(8, 4)) == b"89"
    assert bytes(handle.read_nowait(10, 4)) == b""
    assert (handle.size, len(calls)) == (10, 1)
    handle.release()


async def test_a_chunk_that_was_fetched_together_with_a_bad_one_is_read_alone(threads):
    """Its reader waits already when the fetch of both fails."""
    fetcher = ChunkFetcher(threads, max_bytes=100)
    may_fail = threading.Event()

    def both():
        may_fail.wait(20)
        raise UnreachableError("one of them is gone")

    fetcher.start_ahead(["good", "bad"], both)
    good, calls = counted(b"good")
    bad, _ = counted(error=UnreachableError("gone"))
    handle = FetchedChunkHandle(5, fetcher, "good", good, 4)
    got = []

    async def read():
        got.append((await handle.read(0, 4), await fetcher.get("good", good)))

    async def fail():
        with pytest.raises(UnreachableError, match="gone"):
            await fetcher.get("bad", bad)
        got.append("failed")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        nursery.start_soon(fail)
        await trio.testing.wait_all_tasks_blocked()
        may_fail.set()
    assert sorted(map(str, got)) == ["(b'good', b'good')", "failed"]
    assert len(calls) == 1
    fetcher.check_invariants()


async def test_a_read_after_a_failure_tries_again(threads):
    fetcher = ChunkFetcher(threads, max_bytes=100)
    outcomes = [UnreachableError("gone"), UnreachableError("gone"), b"data"]

    def fetch():
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    handle = FetchedChunkHandle(5, fetcher, "key", fetch, 4)
    with pytest.raises(UnreachableError):
        await handle.read(0, 4)
    with pytest.raises(UnreachableError):
        await handle.read(0, 4)
    assert await handle.read(0, 4) == b"data"


async def test_an_open_chunk_keeps_its_bytes_while_others_push_them_out(threads):
    fetcher = ChunkFetcher(threads, max_bytes=10)
    fetch, calls = counted(b"01234567")
    handle = FetchedChunkHandle(5, fetcher, "key", fetch, 8)
    await handle.read(0, 1)
    await fetcher.get("other", counted(b"01234567")[0])
    assert fetcher.get_nowait("key") is None
    assert bytes(handle.read_nowait(7, 1)) == b"7"
    assert len(calls) == 1


@given(st.integers(0, 60), st.lists(st.tuples(st.integers(0, 70), st.integers(1, 70)), min_size=1, max_size=6))
async def test_blocks_make_up_the_chunk(size, reads):
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(reading, "BLOCK_BYTES", 16)
    pool = Threads(2, "test")
    try:
        data = bytes(range(size))
        asked = []

        def read(start, end):
            asked.append((start, end))
            return data[start:end]

        fetcher = ChunkFetcher(pool, max_bytes=1000)
        handle = BlockChunkHandle(5, fetcher, "key", read, size)
        for offset, length in reads:
            expected = data[offset : offset + length]
            ready = handle.read_nowait(offset, length)
            assert ready is None or bytes(ready) == expected
            assert bytes(await handle.read(offset, length)) == expected
        assert len(set(asked)) == len(asked)
        assert all(start % 16 == 0 and end <= size for start, end in asked)
    finally:
        pool.close()
        monkeypatch.undo()


async def test_a_forward_reader_has_the_next_block_fetched(threads, monkeypatch):
    monkeypatch.setattr(reading, "BLOCK_BYTES", 10)
    asked = []

    def read(start, end):
        asked.append(start)
        return bytes(end - start)

    handle = BlockChunkHandle(5, ChunkFetcher(threads, max_bytes=1000), "key", read, 100)
    for offset in (0, 10, 20):
        await handle.read(offset, 10)
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert sorted(asked) == [0, 10, 20, 30]
    await handle.read(70, 10)
    assert 80 not in asked


async def test_a_reader_who_is_cancelled_takes_nothing_from_the_others(threads, nursery):
    fetcher = ChunkFetcher(threads, max_bytes=100)
    gate, calls = threading.Event(), []

    def fetch():
        calls.append(1)
        assert gate.wait(30)
        return b"data"

    handles = [FetchedChunkHandle(5, fetcher, "key", fetch, 4) for _ in range(2)]
    scopes = [trio.CancelScope() for _ in handles]
    got = []

    async def read(handle, scope):
        with scope:
            got.append(bytes(await handle.read(0, 4)))

    for handle, scope in zip(handles, scopes, strict=True):
        nursery.start_soon(read, handle, scope)
    await trio.testing.wait_all_tasks_blocked()
    scopes[0].cancel()
    await trio.testing.wait_all_tasks_blocked()
    handles[0].release()
    gate.set()
    await until(lambda: got)
    assert (got, calls, fetcher.in_flight, threads.pending) == ([b"data"], [1], 0, 0)
    assert [scope.cancelled_caught for scope in scopes] == [True, False]
    handles[1].release()
    fetcher.check_invariants()


# Local files.


# Whole trees.


@pytest.mark.parametrize("storage", ["local", "memory"])
async def test_native_chunks_at_offsets(storage, tmp_path):
    builder = RepoBuilder(LocalStorage(tmp_path) if storage == "local" else MemoryStorage())
    whole = builder.chunk(b"0123456789")
    part = NativeRef(whole.chunk_id, 3, 4)
    empty = NativeRef(whole.chunk_id, 10, 0)
    builder.commit([builder.array("/a", 1, (3,), {(0,): whole, (1,): part, (2,): empty})])
    async with mounted(builder.publish(), branch="main") as driver:
        assert await driver.read("a/c/0") == b"0123456789"
        assert await driver.read("a/c/1", step=3) == b"3456"
        assert await driver.read("a/c/2") == b""
        assert driver.mount.opener.opened_local == (3 if storage == "local" else 0)
        driver.mount.fetcher.check_invariants()


async def test_a_missing_object_is_an_error_at_read():
    builder = RepoBuilder()
    ref = builder.chunk(b"0123456789")
    builder.commit([builder.array("/a", 1, (1,), {(0,): ref})])
    storage = builder.publish()
    storage.delete([chunk_key(ref.chunk_id)])
    async with mounted(storage, branch="main") as driver:
        with pytest.raises(ObjectNotFoundError):
            await driver.read("a/c/0")


async def test_a_virtual_chunk_that_nobody_allowed_is_refused(tmp_path):
    (tmp_path / "data").write_bytes(b"0123456789")
    builder = RepoBuilder()
    ref = VirtualRef(f"file://{tmp_path}/data", 2, 5, None, 0)
    builder.commit([builder.array("/a", 1, (1,), {(0,): ref})])
    async with mounted(builder.publish(), branch="main") as driver:
        assert (await driver.walk("a/c/0")).size == 5
        with pytest.raises(UnauthorizedContainerError):
            await driver.read("a/c/0")


async def test_chunks_opened_in_order_have_the_next_ones_fetched():
    builder = RepoBuilder()
    refs = {(i,): builder.chunk(bytes([i]) * 10) for i in range(30)}
    builder.commit([builder.array("/a", 1, (30,), refs)])
    async with mounted(builder.publish(), branch="main") as driver:
        fetched = []
        original = driver.mount.repository.assets.read_chunk_object

        def note(chunk_id, start, end):
            fetched.append(chunk_id)
            return original(chunk_id, start, end)

        driver.mount.repository.assets.read_chunk_object = note
        ids = [ref.chunk_id for ref in refs.values()]
        await driver.read("a/c/0")
        assert fetched == ids[:1]
        for number in range(1, 5):
            await driver.read(f"a/c/{number}")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert set(fetched) == set(ids[:13])
        assert len(fetched) == len(set(fetched))
        before = len(fetched)
        for number in (25, 3, 20):
            await driver.read(f"a/c/{number}")
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(fetched) == before + 2


def test_a_file_of_bytes_is_sent_without_a_copy_where_it_is_short():
    data = b"0123456789"
    handle = BytesHandle(5, data)
    assert handle.read_nowait(0, 100) is data
    assert bytes(handle.read_nowait(4, 3)) == b"456"
    assert handle.size == 10


async def test_somebody_else_may_own_the_files(tmp_path, monkeypatch):
    builder = RepoBuilder(LocalStorage(tmp_path))
    builder.commit([builder.array("/a", 1, (1,), {(0,): builder.chunk(b"0123456789")})])
    storage = builder.publish()
    whole = os.open

    def open_file(path, flags, *args, **kwargs):
        if flags & os.O_NOATIME:
            raise PermissionError(1, "not the owner", path)
        return whole(path, flags, *args, **kwargs)

    async with mounted(storage, branch="main") as driver:
        monkeypatch.setattr(os, "open", open_file)
        assert await driver.read("a/c/0") == b"0123456789"


async def test_what_is_fetched_ahead_waits_its_turn_until_it_is_wanted():
    pool = Threads(32, "test")
    fetcher = ChunkFetcher(pool, max_bytes=1000)
    gate, begun = threading.Event(), []

    def fetch(number):
        begun.append(number)
        gate.wait(5)
        return [bytes([number]), bytes([number + 100])]

    try:
        for number in range(20):
            fetcher.start_ahead([("a", number), ("b", number)], lambda number=number: fetch(number))
            fetcher.check_invariants()
        await until(lambda: len(begun) == fetcher.max_ahead < 20)
        assert begun == list(range(fetcher.max_ahead))
        wanted = fetcher.start(("b", 19), lambda: b"never called")
        fetcher.check_invariants()
        await until(lambda: 19 in begun)
        gate.set()
        await wanted.done.wait()
        assert wanted.data == bytes([119])
        await until(lambda: fetcher.in_flight == 0)
        assert sorted(begun) == list(range(20))
        assert fetcher.get_nowait(("a", 13)) == bytes([13])
        fetcher.check_invariants()
    finally:
        gate.set()
        pool.close()


async def test_more_is_fetched_ahead_at_a_time_from_further_away(monkeypatch):
    clock = SimpleNamespace(perf_counter=iter([0.0, 0.0, 0.0, 0.02, 0.0, 5.0]).__next__)
    monkeypatch.setattr("icefs.vfs.chunks.fetcher.time", clock)
    pool = Threads(1, "test")
    fetcher = ChunkFetcher(pool, max_bytes=1000)
    try:
        seen = [fetcher.max_ahead]
        for number in (2, 1, 0):
            fetcher._seconds.clear()
            fetcher.start_ahead([number], lambda: [b"data"])
            await until(lambda: fetcher.in_flight == 0)
            seen.append(fetcher.max_ahead)
        assert seen == [8, 4, 20, 32]
    finally:
        pool.close()


async def test_a_fetch_ahead_that_fails_lets_the_next_one_begin(threads):
    fetcher = ChunkFetcher(threads, max_bytes=100)

    def fail():
        raise UnreachableError("gone")

    for number in range(12):
        fetcher.start_ahead([number], fail)
    flight = fetcher.start(11, fail)
    await until(lambda: fetcher.in_flight == 0)
    assert isinstance(flight.error, UnreachableError)
    fetch, calls = counted()
    assert await fetcher.get(3, fetch) == b"data"
    assert len(calls) == 1


async def test_what_the_disk_cache_has_is_not_fetched_ahead(tmp_path):
    """A chunk in the middle that is missing there sets off nothing for the ones after it."""
    builder = RepoBuilder()
    refs = {(i,): builder.chunk(bytes([i]) * 10) for i in range(40)}
    builder.commit([builder.array("/a", 1, (40,), refs)])
    storage = builder.publish()
    missing = {5, 6, 7, 20}
    for cached in (True, False):
        cache = DiskCache(tmp_path / "cache", 1 << 30, reserve_bytes=0)
        async with mounted(storage, branch="main", cache=cache) as driver:
            if cached:
                for number in set(range(40)) - missing:
                    assets = driver.mount.repository.assets
                    await trio.to_thread.run_sync(assets.read_chunk_object, refs[number,].chunk_id, 0, 10)
                cache.flush()
                continue
            for number in range(40):
                assert await driver.read(f"a/c/{number}") == bytes([number]) * 10
            await until(lambda mount=driver.mount: mount.fetcher.in_flight == 0)
            assert driver.mount.opener.opened_cached == 40 - len(missing)
            assert driver.mount.fetcher.misses == len(missing)


async def test_a_cached_chunk_that_must_be_waited_for_is_read_in_a_thread(tmp_path, monkeypatch):
    cache = DiskCache(tmp_path / "cache", 1 << 30, reserve_bytes=0)
    for size in (10, 3 * BLOCK_BYTES):
        data = os.urandom(size)
        cache.put(b"d" * 16, data)
        waited = []
        original = os.preadv

        def slow(fd, buffers, offset, flags=0, waited=waited, original=original):
            if flags:
                raise BlockingIOError
            waited.append(threading.current_thread())
            return original(fd, [memoryview(buffers[0])[:7]] if len(waited) % 2 else buffers, offset, flags)

        monkeypatch.setattr(os, "preadv", slow)
        handle = CachedChunkHandle(5, cache.open(b"d" * 16), lambda: pytest.fail("it is in the cache"))
        assert handle.read_nowait(0, size) is None
        assert bytes(await handle.read(0, size)) == data
        assert threading.current_thread() not in waited
        handle.release()
        monkeypatch.undo()
        cache.drop(b"d" * 16)
    cache.close()


@pytest.mark.parametrize("arrives", [True, False])
async def test_what_can_be_had_without_a_thread_takes_none(threads, arrives):
    """What does not come in that way is fetched by a thread after all."""
    fetcher = ChunkFetcher(threads, max_bytes=100)
    tellers = []

    def begin(done):
        tellers.append(done)
        return True

    fetch, calls = counted()
    fetch_all, all_calls = counted([b"data"])
    flights = [fetcher.start("now", fetch, begin)]
    fetcher.start_ahead(["ahead"], fetch_all, begin)
    flights.append(fetcher.start("ahead", fetch, begin))
    assert len(tellers) == 2
    for tell in tellers:
        await trio.to_thread.run_sync(tell, bytearray(b"data") if arrives else None)
    for flight in flights:
        await flight.done.wait()
        assert flight.data == b"data"
    assert (len(calls), len(all_calls)) == ((0, 0) if arrives else (1, 1))
    assert (fetcher.in_flight, fetcher.fetched_bytes, fetcher.held_bytes) == (0, 8, 8)
    fetcher.check_invariants()
    refused = fetcher.start("refused", fetch, lambda done: False)
    await refused.done.wait()
    assert refused.data == b"data"

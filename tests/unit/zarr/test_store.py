"""The bridge from zarr-python's event loop to the engine; test_reader and conformance test its answers."""

import asyncio
import pickle
import threading

import pytest
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

import icefs
from icefs.engine.read.session import session_at
from icefs.engine.repository import Repository
from icefs.errors import InvalidInputError, ObjectNotFoundError, ReadOnlyError
from icefs.zarr.reader import KeyReader
from icefs.zarr.store import IcechunkStore
from tests.conformance.official import GROUP, array_json
from tests.support.repo_builder import RepoBuilder, group, inline

PROTOTYPE = default_buffer_prototype()


@pytest.fixture
def builder() -> RepoBuilder:
    builder = RepoBuilder()
    refs = inline((0,), (1,)) | {(2,): builder.chunk(b"native" * 200)}
    builder.commit([group("/", 1), builder.array("/a", 2, (9,), refs), builder.array("/b", 3, (9,), inline((5,)))])
    builder.publish()
    return builder


@pytest.fixture
def store(builder) -> IcechunkStore:
    return IcechunkStore(Repository.open(builder.storage).readonly_session("main"))


def get(store, key, byte_range=None):
    value = asyncio.run(store.get(key, PROTOTYPE, byte_range))
    return None if value is None else value.to_bytes()


@pytest.fixture
def jobs(store, monkeypatch) -> list[str]:
    """The functions that were handed to other threads."""
    started = []
    workers = store._session.context.assets.workers
    submit = workers.submit

    def watched(function, *args, **kwargs):
        started.append(getattr(function, "__name__", str(function)))
        return submit(function, *args, **kwargs)

    monkeypatch.setattr(workers, "submit", watched)
    return started


def test_what_is_in_memory_is_answered_at_once(store, jobs):
    assert get(store, "zarr.json")
    assert get(store, "b/zarr.json", SuffixByteRequest(1)) == b"}"
    assert get(store, "nothing/c/0") is None
    assert get(store, "a/c/7") is None, "outside of every manifest's extents"
    assert jobs == []
    assert get(store, "a/c/0") == b"(0,)"
    assert jobs == ["read"], "the manifest had to be fetched"
    assert get(store, "a/c/1") == b"(1,)"
    assert get(store, "a/c/1", RangeByteRequest(1, 2)) == b"1"
    assert jobs == ["read"]


def test_native_chunks_are_read_on_a_worker(store, jobs, monkeypatch):
    threads = []
    read = store._session.read_chunk

    def watched(*args):
        threads.append(threading.current_thread())
        return read(*args)

    monkeypatch.setattr(store._session, "read_chunk", watched)
    assert get(store, "a/c/2", OffsetByteRequest(1194)) == b"native"
    assert jobs == ["read"]
    assert threads != [threading.current_thread()]


def test_requests_run_side_by_side(store, monkeypatch):
    barrier = threading.Barrier(3, timeout=20)
    read = store._session.read_chunk

    def waiting(*args):
        barrier.wait()
        return read(*args)

    monkeypatch.setattr(store._session, "read_chunk", waiting)

    async def run():
        return await store.get_partial_values(
            PROTOTYPE, [("a/c/2", RangeByteRequest(6 * n, 6 * n + 6)) for n in range(3)]
        )

    assert [value.to_bytes() for value in asyncio.run(run())] == [b"native"] * 3


def test_errors_come_through(builder, store):
    with pytest.raises(InvalidInputError):
        get(store, "README.md")
    with pytest.raises(InvalidInputError):
        get(store, "a/c/0", OffsetByteRequest(4))
    with pytest.raises(ValueError, match="Unexpected byte_range, got"):
        get(store, "a/c/0", (0, 2))
    (native,) = [info.key for info in builder.storage.iter_objects("chunks/")]
    builder.storage.delete([native])
    with pytest.raises(ObjectNotFoundError):
        get(store, "a/c/2")


def test_the_last_no_bytes(store):
    assert get(store, "a/c/0", SuffixByteRequest(0)) == b""


def test_listing_can_be_given_up(store):
    async def run():
        async for key in store.list():
            return key
        return None

    assert asyncio.run(run()).endswith("zarr.json")


def test_equality_is_what_the_stores_show(builder, store):
    again = IcechunkStore(Repository.open(builder.storage).readonly_session("main"))
    assert store == again == pickle.loads(pickle.dumps(again))
    first = next(iter(builder.infos))
    assert store != IcechunkStore(session_at(store._session.context, first))
    assert store != "a store"
    with pytest.raises(TypeError, match="unhashable"):
        hash(store)


def test_a_read_only_session_stays_read_only(store):
    copy = store.with_read_only(read_only=False)
    assert copy.read_only
    with pytest.raises(ReadOnlyError, match="read-only mode and does not support writing") as caught:
        copy.set_sync("zarr.json", PROTOTYPE.buffer.from_bytes(b"{}"))
    assert caught.value.kind == "read-only-store"


@pytest.mark.parametrize("spec_version", [2, 1], ids=["v2", "v1"])
def test_deleting_an_array_leaves_what_is_below_it(spec_version: int):
    repo = icefs.Repository.create(icefs.in_memory_storage(), spec_version=spec_version)
    session = repo.writable_session("main")
    engine = session._engine
    keys = ["a/zarr.json", "a/c/0", "a/b/zarr.json", "a/b/c/0", "a/g/zarr.json", "g/zarr.json", "g/x/zarr.json"]
    for path in ("/a", "/a/b"):
        engine.nodes.put(path, array_json([2], [1]))
        engine.chunks.set(path, (0,), b"x")
    for path in ("/a/g", "/g", "/g/x"):
        engine.nodes.put(path, GROUP)
    reader = KeyReader(engine)
    assert all(reader.find(key) is not None for key in keys)
    asyncio.run(session.store.delete("a/zarr.json"))
    asyncio.run(session.store.delete("g/zarr.json"))
    left = [key for key in keys if reader.find(key) is not None]
    assert left == ["a/b/zarr.json", "a/b/c/0", "a/g/zarr.json"]
    asyncio.run(session.store.delete_dir("a"))
    assert not any(reader.find(key) is not None for key in keys)

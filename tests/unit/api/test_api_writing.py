"""The Python API that writes, on storage in memory; other tests compare it with the official library."""

import asyncio
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import zarr
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync

import icefs
from icefs.engine.write.chunk_editor import ChunkEditor

GROUP = b'{"zarr_format":3,"node_type":"group"}'


def array_json(chunks: int) -> bytes:
    return (
        f'{{"zarr_format":3,"node_type":"array","shape":[{chunks}],"data_type":"uint8","fill_value":0,'
        '"chunk_grid":{"name":"regular","configuration":{"chunk_shape":[1]}},'
        '"chunk_key_encoding":{"name":"default"},"codecs":[{"name":"bytes"}]}'
    ).encode()


def put(store, key, data):
    sync(store.set(key, cpu.Buffer.from_bytes(data)))


@pytest.fixture
def repo() -> icefs.Repository:
    repo = icefs.Repository.create(icefs.in_memory_storage())
    with repo.transaction("main", message="base") as store:
        put(store, "a/zarr.json", array_json(4))
        put(store, "zarr.json", GROUP)
    return repo


@pytest.mark.parametrize("spec_version", [1, 2, icefs.SpecVersion.v1, None])
def test_creating(spec_version):
    storage = icefs.in_memory_storage()
    repo = icefs.Repository.create(storage, spec_version=spec_version)
    assert repo.spec_version == (spec_version or 2)
    assert repo.list_branches() == {"main"}
    assert asyncio.run(repo.readonly_session("main").store.exists("zarr.json")) is False
    with pytest.raises(icefs.InvalidInputError) as caught:
        icefs.Repository.create(storage)
    assert caught.value.kind == icefs.ErrorKind.PARENT_DIRECTORY_NOT_CLEAN
    assert icefs.Repository.open_or_create(storage).lookup_branch("main") == repo.lookup_branch("main")


def test_opening_or_creating():
    storage = icefs.in_memory_storage()
    config = icefs.RepositoryConfig(inline_chunk_threshold_bytes=3)
    repo = asyncio.run(icefs.Repository.open_or_create_async(storage, config, create_version=1))
    assert repo.spec_version == 1
    assert icefs.Repository.open(storage).config.inline_chunk_threshold_bytes == 3
    repo.reopen(icefs.RepositoryConfig(inline_chunk_threshold_bytes=5)).save_config()
    assert icefs.Repository.open(storage).config.inline_chunk_threshold_bytes == 5


def test_the_session_is_read_only_after_its_commit(repo):
    session = repo.writable_session("main")
    store = session.store
    assert (session.mode, session.branch, session.read_only) == (icefs.SessionMode.writable, "main", False)
    assert not session.has_uncommitted_changes
    put(store, "a/c/1", b"x")
    assert session.has_uncommitted_changes
    assert session.status() == icefs.Diff(updated_chunks={"/a": [[1]]})
    session.discard_changes()
    assert session.status().is_empty()
    put(store, "a/c/2", b"x")
    snapshot_id = session.commit("second", {"by": "me"})
    assert snapshot_id == session.snapshot_id == repo.lookup_branch("main")
    assert (session.mode, session.branch, session.read_only) == (icefs.SessionMode.readonly, None, True)
    assert session.chunk_type("/a", [2]) is icefs.ChunkType.inline
    assert repo.lookup_snapshot(snapshot_id).metadata == {"by": "me"}
    for call in (lambda: session.commit("x"), lambda: session.amend("x"), lambda: session.flush("x")):
        with pytest.raises(icefs.SessionStateError) as caught:
            call()
        assert caught.value.kind == icefs.ErrorKind.COMMIT_NOT_ALLOWED
    with pytest.raises(icefs.ReadOnlyError):
        put(store, "a/c/3", b"x")


def test_a_reading_session_writes_nothing(repo):
    """Divergence 39."""
    session, detector = repo.readonly_session("main"), icefs.ConflictDetector()
    for call in (lambda: session.commit("x"), lambda: session.flush("x"), lambda: session.rebase(detector)):
        with pytest.raises(icefs.SessionStateError) as caught:
            call()
        assert caught.value.kind == icefs.ErrorKind.COMMIT_NOT_ALLOWED
    for call in (session.discard_changes, lambda: session.move("/a", "/b")):
        with pytest.raises(icefs.ReadOnlyError) as caught:
            call()
        assert caught.value.kind == icefs.ErrorKind.READ_ONLY_SESSION


def test_a_transaction_that_fails_leaves_nothing(repo):
    tip = repo.lookup_branch("main")

    def fail():
        with repo.transaction("main", message="never") as store:
            put(store, "b/zarr.json", GROUP)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert repo.lookup_branch("main") == tip


def test_conflicts_are_told(repo):
    ours, theirs = repo.writable_session("main"), repo.writable_session("main")
    base = ours.snapshot_id
    for session, positions in ((theirs, (0, 1)), (ours, (1, 2))):
        for position in positions:
            put(session.store, f"a/c/{position}", b"x")
    tip = theirs.commit("theirs")
    with pytest.raises(icefs.ConflictError) as moved:
        ours.commit("ours")
    copy = pickle.loads(pickle.dumps(moved.value))
    assert (copy.expected_parent, copy.actual_parent) == (base, tip)
    with pytest.raises(icefs.RebaseFailedError) as failed:
        ours.commit("ours", rebase_with=icefs.ConflictDetector())
    assert failed.value.snapshot == tip
    (conflict,) = failed.value.conflicts
    assert conflict.conflict_type is icefs.ConflictType.ChunkDoubleUpdate
    assert (conflict.path, conflict.conflicted_chunks) == ("/a", [[1]])
    assert ours.has_uncommitted_changes
    asyncio.run(ours.rebase_async(icefs.BasicConflictSolver(on_chunk_conflict=icefs.VersionSelection.UseOurs)))
    asyncio.run(ours.commit_async("ours"))
    assert [info.message for info in repo.log()][:3] == ["ours", "theirs", "base"]
    error = icefs.ConflictError("somebody")
    assert (error.expected_parent, error.actual_parent) == (None, None)


def test_what_is_refused_has_its_kind(repo):
    with pytest.raises(icefs.InvalidInputError) as caught:
        repo.set_feature_flag("nothing", True)
    assert caught.value.kind == icefs.ErrorKind.INVALID_FEATURE_FLAG
    repo.set_status(icefs.RepoStatus(icefs.RepoAvailability.read_only, limited_availability_reason="moving"))
    with pytest.raises(icefs.ReadOnlyError, match="moving") as refused:
        repo.writable_session("main")
    assert refused.value.kind == icefs.ErrorKind.READ_ONLY_REPOSITORY
    assert repo.status.set_at is not None


def test_writing_sessions_stay_where_they_are(repo):
    session = repo.writable_session("main")
    for what in (session, session.store):
        with pytest.raises(ValueError, match="cannot be pickled") as caught:
            pickle.dumps(what)
        assert caught.value.kind == icefs.ErrorKind.PICKLE
    session.commit("empty", allow_empty=True)
    assert pickle.loads(pickle.dumps(session)).snapshot_id == session.snapshot_id
    assert pickle.loads(pickle.dumps(repo)).writable_session("main").branch == "main"


def test_the_log_has_what_was_committed_last(repo):
    assert repo.log("main")[0].message == "base"
    other = repo.reopen()
    with other.transaction("main", message="by somebody else") as store:
        put(store, "b/zarr.json", GROUP)
    assert repo.log("main")[0].message == "by somebody else"


def test_large_chunks_are_stored_by_workers_and_small_ones_at_once(repo, monkeypatch):
    threads = []
    store_chunk = ChunkEditor.store

    def watched(self, data):
        threads.append(threading.current_thread().name)
        return store_chunk(self, data)

    monkeypatch.setattr(ChunkEditor, "store", watched)
    store = repo.writable_session("main").store

    async def run():
        me = threading.current_thread().name
        for key, data in (("a/c/0", b"x" * 512), ("a/c/1", b"x" * 513)):
            await store.set(key, cpu.Buffer.from_bytes(data))
            assert (await store.get(key, default_buffer_prototype())).to_bytes() == data
        return me

    me = asyncio.run(run())
    assert threads[0] == me
    assert threads[1].startswith("icefs")


def test_more_writers_than_workers_wait_for_a_commit(repo):
    """A commit needs the workers, so nobody may wait for the commit on one of them."""
    session = repo.writable_session("main")
    put(session.store, "big/zarr.json", array_json(1000))
    workers = session._engine.context.assets.workers
    count = workers.max_workers + 5

    async def run():
        with session._engine.draft.frozen():
            writes = [
                asyncio.create_task(session.store.set(f"big/c/{number}", cpu.Buffer.from_bytes(b"x" * 600)))
                for number in range(count)
            ]
            await asyncio.sleep(0.1)
            working = asyncio.get_running_loop().run_in_executor(committing, workers.map, abs, range(10))
            assert await asyncio.wait_for(working, 20) == list(range(10))
        await asyncio.gather(*writes)

    with ThreadPoolExecutor(1) as committing:
        asyncio.run(run())
    assert len(session.status().updated_chunks["/big"]) == count


def test_zarr_overwrites_and_deletes(repo):
    with repo.transaction("main", message="zarr") as store:
        root = zarr.open_group(store, mode="a")
        root.create_array("x/y", shape=(4,), chunks=(2,), dtype="i4")[:] = 5
        root.create_array("x/y", shape=(2,), chunks=(1,), dtype="i8", overwrite=True)
        del root["a"]
    root = zarr.open_group(repo.readonly_session("main").store, mode="r")
    assert root["x/y"][:].tolist() == [0, 0]
    assert "a" not in root

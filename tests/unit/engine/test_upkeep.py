"""Expiration and garbage collection, in memory: with others at work, with faults, and interrupted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.clock import system_clock
from icefs.engine.upkeep.expiration import ExpirationRequest, expire
from icefs.engine.upkeep.garbage import _ChunkIds, collect_garbage
from icefs.engine.write.repository import WritableRepository
from icefs.errors import IcefsError, SessionStateError
from icefs.format.ids import ChunkId, ManifestId, NodeId
from icefs.format.manifest.reader import Manifest
from icefs.format.manifest.refs import ArrayRefs, NativeRef
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import each_call_in_turn

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
LATER = 10**15


def array(size):
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    return json.dumps(
        {"zarr_format": 3, "node_type": "array", "shape": [size], "chunk_grid": grid, "attributes": {}}
    ).encode()


def commit(repo, message, chunks=(), branch="main"):
    session = repo.writable_session(branch)
    if session.get_node("/") is None:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array(100))
    for index in chunks:
        session.chunks.set("/a", (index,), message.encode() * 100)
    return session.commit(message, allow_empty=True)


def make(storage=None):
    """A history of five, of which the third's chunk is hidden by the fourth, and a snapshot that no ref leads to."""
    repo = WritableRepository.create(storage or MemoryStorage())
    ids = [commit(repo, f"number {number}", [number % 3]) for number in range(5)]
    commit(repo, "reset away", [7])
    repo.reset_branch("main", ids[-1])
    return repo, ids


def assert_whole(storage):
    repo = WritableRepository.open(storage)
    for name in repo.refs().branches:
        for info in repo.ancestry(branch=name):
            session = repo.session_at(info.id)
            for node in session.list_nodes():
                if node.array is not None:
                    for batch in session.array_chunks(node).iter_batches():
                        for row in range(len(batch)):
                            session.read_chunk(batch.ref(row))


def names(storage, directory):
    return {info.key for info in storage.iter_objects(f"{directory}/")}


def test_what_nothing_needs_goes():
    repo, ids = make()
    before = names(repo.storage, "chunks")
    summary = collect_garbage(repo, system_clock() + LATER)
    assert (summary.snapshots_deleted, summary.transaction_logs_deleted, summary.chunks_deleted) == (1, 1, 1)
    assert summary.bytes_deleted > 1000
    assert len(names(repo.storage, "chunks")) == len(before) - 1
    expire(repo, ExpirationRequest(system_clock() + LATER))
    assert next(info.id for info in repo.ancestry(branch="main")) == ids[-1]
    assert len(list(repo.ancestry(branch="main"))) == 2
    assert collect_garbage(repo, system_clock() + LATER).snapshots_deleted == 4
    assert len(names(repo.storage, "chunks")) == 3
    assert_whole(repo.storage)


def test_what_is_young_stays():
    repo, _ = make()
    before = {info.key for info in repo.storage.iter_objects()}
    summary = collect_garbage(repo, system_clock() - LATER)
    assert summary.to_json() == dict.fromkeys(summary.to_json(), 0)
    assert before <= {info.key for info in repo.storage.iter_objects()}


def test_a_commit_meanwhile_is_kept():
    repo, _ = make()
    other = WritableRepository.open(repo.storage)
    made = []

    def meanwhile(what, count):
        if what == "manifests read" and not made:
            made.append(commit(other, "meanwhile", [50]))

    collect_garbage(repo, system_clock() - 1, progress=meanwhile)
    assert repo.lookup_branch("main") == made[0]
    assert_whole(repo.storage)


def test_a_branch_that_goes_back_to_what_was_to_be_dropped_starts_it_again():
    repo, _ = make()
    other = WritableRepository.open(repo.storage)
    lost = next(each for each in repo.assets.fetch_repo_info()[0].snapshots.values() if each.message == "reset away")
    done = []

    def meanwhile(what, count):
        if what == "manifests read" and not done:
            done.append(True)
            other.create_branch("back", lost.id)

    collect_garbage(repo, system_clock() + LATER, progress=meanwhile)
    assert repo.lookup_branch("back") == lost.id
    assert_whole(repo.storage)


@pytest.mark.parametrize("fault", ["fail", "lose_answer"])
def test_a_fault_at_any_call_leaves_the_repository_whole(fault):
    def tidy(storage):
        repo = WritableRepository.open(storage)
        expire(repo, ExpirationRequest(system_clock() + LATER))
        collect_garbage(repo, system_clock() + LATER)

    hit = 0
    plans = {"fail": lambda storage, n: storage.fail(at=n), "lose_answer": lambda storage, n: storage.lose_answer(at=n)}
    for _, storage, error in each_call_in_turn(lambda: make()[0].storage, tidy, plans[fault]):
        hit += error is not None
        assert_whole(storage.inner)
        tidy(storage)
        assert len(names(storage.inner, "snapshots")) == 2
        assert len(names(storage.inner, "chunks")) == 3
        assert_whole(storage.inner)
    assert hit > 3


def test_what_cannot_be_read_stops_everything():
    repo, ids = make()
    storage = repo.storage
    key = f"snapshots/{ids[2]}"
    storage.put(key, b"damaged")
    before = {info.key for info in storage.iter_objects()}
    with pytest.raises(IcefsError):
        collect_garbage(WritableRepository.open(storage), system_clock() + LATER)
    assert {info.key for info in storage.iter_objects()} == before


@given(st.lists(st.binary(min_size=12, max_size=12), max_size=30), st.lists(st.binary(min_size=12, max_size=12)))
def test_chunk_ids_are_told_apart_to_the_last_byte(kept, others):
    # Trailing zeros are what fixed-width strings lose.
    kept = [*kept, bytes(12), b"\0" * 11 + b"\1", b"a" * 10 + b"\0\0"]
    refs = [((row,), NativeRef(ChunkId(raw), 0, 1)) for row, raw in enumerate(kept)]
    node = NodeId(b"n" * 8)
    ids = _ChunkIds()
    ids.add(Manifest(ManifestId(b"m" * 12), 2, {node: ArrayRefs.from_refs(node, 1, refs)}, len(refs), 0))
    ids.seal()
    assert all(raw in ids for raw in kept)
    assert [raw in ids for raw in others] == [raw in set(kept) for raw in others]


@pytest.mark.parametrize("kind", ["memory", "local"])
@pytest.mark.parametrize("hours", [-1, 1])
@pytest.mark.parametrize("spec_version", [1, 2])
def test_a_clock_that_differs_from_the_stores_is_refused(tmp_path, kind, hours, spec_version):
    storage = MemoryStorage() if kind == "memory" else LocalStorage(tmp_path / "repo")
    repo = WritableRepository.create(storage, spec_version=spec_version)
    commit(repo, "first", [1])
    commit(repo, "second", [1])
    before = names(storage, "snapshots"), names(storage, "chunks")
    repo.context.clock = lambda: system_clock() + hours * 3_600_000_000
    for collect in (
        lambda: collect_garbage(repo, repo.context.clock()),
        lambda: expire(repo, ExpirationRequest(repo.context.clock())),
    ):
        with pytest.raises(SessionStateError, match=r"seconds (ahead of|behind)") as caught:
            collect()
        assert caught.value.kind == "snapshot-timestamp"
        assert "set the clock" in caught.value.hint
    assert (names(storage, "snapshots"), names(storage, "chunks")) == before
    assert not [info.key for info in storage.iter_objects() if "clock" in info.key]
    assert len(list(WritableRepository.open(storage).ancestry(branch="main"))) == 3
    repo.context.clock = lambda: system_clock() + 300_000_000
    collect_garbage(repo, repo.context.clock())

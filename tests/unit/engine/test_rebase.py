"""Rebases over many commits at once, and fair turns among writers that commit to one branch."""

import json
import random
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.engine.read.session import Session
from icefs.engine.write.conflicts import BasicConflictSolver, ConflictDetector, ConflictSolver, VersionSelection
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.engine.write.turns import Turns
from icefs.errors import BranchMovedError, RebaseFailedError
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
SIZE = 8
SOLVERS: dict[str, ConflictSolver] = {
    "fail": ConflictDetector(),
    "ours": BasicConflictSolver(),
    "theirs": BasicConflictSolver(VersionSelection.UseTheirs, True, True),
}


def array(**attributes: object) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    document = {"zarr_format": 3, "node_type": "array", "shape": [SIZE], "chunk_grid": grid, "attributes": attributes}
    return json.dumps(document).encode()


def made(storage: MemoryStorage | FaultyStorage, spec_version: int = 2) -> WritableRepository:
    repo = WritableRepository.create(storage, spec_version=spec_version)
    session = repo.writable_session("main")
    session.nodes.put("/", GROUP)
    for path in ("/a", "/b"):
        session.nodes.put(path, array())
    session.nodes.put("/g", GROUP)
    session.commit("base")
    return repo


def content(session: Session) -> dict[str, object]:
    nodes = {node.path: node.user_data for node in session.list_nodes("/")}
    chunks = {
        f"{path}/{index[0]}": batch.ref(row)
        for path in nodes
        if session.node(path).array is not None
        for batch in session.array_chunks(path).iter_batches()
        for row, index in enumerate(batch.indices().tolist())
    }
    return nodes | chunks


@pytest.mark.parametrize("spec_version", [2, 1], ids=["v2", "v1"])
def test_to_be_many_commits_behind_costs_no_more_snapshots_than_one(spec_version: int):
    storage = FaultyStorage(MemoryStorage())
    made(storage, spec_version)
    slow, quick = (WritableRepository.open(storage) for _ in range(2))
    mine = slow.writable_session("main")
    mine.chunks.set("/b", (0,), b"mine")
    for number in range(12):
        theirs = quick.writable_session("main")
        theirs.chunks.set("/a", (number % SIZE,), b"%d" % number)
        theirs.commit("theirs")
    storage.clear()
    mine.rebase(ConflictDetector())
    fetched = [call.key for call in storage.calls if call.method == "get" and call.key.startswith("snapshots/")]
    # In spec 1 the history itself is in the snapshots.
    assert len(fetched) == (1 if spec_version == 2 else 12)
    assert mine.snapshot_id == quick.lookup_branch("main")


def test_a_conflict_in_the_middle_leaves_the_session_right_before_it():
    repo = made(MemoryStorage())
    mine = repo.writable_session("main")
    mine.chunks.set("/a", (3,), b"mine")
    ids = []
    for number in range(6):
        theirs = repo.writable_session("main")
        theirs.chunks.set("/a", (number,), b"theirs")
        ids.append(theirs.commit("theirs"))
    with pytest.raises(RebaseFailedError) as caught:
        mine.rebase(ConflictDetector())
    assert caught.value.facts["snapshot"] == str(ids[3])
    assert mine.snapshot_id == ids[2]


type Change = tuple[str, str, int]

CHANGES = st.lists(
    st.one_of(
        st.tuples(st.just("chunk"), st.sampled_from(["/a", "/b", "/new"]), st.integers(0, 3)),
        st.tuples(st.just("delete chunk"), st.sampled_from(["/a", "/b"]), st.integers(0, 3)),
        st.tuples(st.just("metadata"), st.sampled_from(["/a", "/b", "/new", "/g"]), st.integers(0, 3)),
        st.tuples(st.just("delete"), st.sampled_from(["/a", "/b", "/g", "/new"]), st.just(0)),
        st.tuples(st.just("move"), st.sampled_from(["/a", "/b"]), st.integers(0, 3)),
    ),
    min_size=1,
    max_size=3,
)


def change(session: WritableSession, what: Change, value: str) -> None:
    kind, path, number = what
    there = session.get_node(path)
    if kind == "metadata":
        if there is None or (there.array is None) == (path == "/g"):
            session.nodes.put(path, GROUP + b" " * number if path == "/g" else array(number=number))
    elif kind == "delete":
        session.nodes.delete(path)
    elif there is not None and there.array is not None and kind in {"chunk", "delete chunk"}:
        if kind == "chunk":
            session.chunks.set(path, (number,), value.encode())
        else:
            session.chunks.set_ref(path, (number,), None)


@given(commits=st.lists(CHANGES, min_size=2, max_size=5), ours=CHANGES, how=st.sampled_from(sorted(SOLVERS)))
def test_all_commits_at_once_and_one_by_one_lead_to_the_same(commits: list[list[Change]], ours: list[Change], how: str):
    repo = made(MemoryStorage())
    at_once, one_by_one = repo.writable_session("main"), repo.writable_session("main")
    for session in (at_once, one_by_one):
        for what in ours:
            change(session, what, "ours")
    ends = []
    for number, commit in enumerate(commits):
        if commit[0][0] == "move":
            theirs = repo.rearrange_session("main")
            if theirs.get_node(commit[0][1]) is not None:
                theirs.nodes.move(commit[0][1], f"/moved{number}")
        else:
            theirs = repo.writable_session("main")
            for what in commit:
                change(theirs, what, f"theirs {number}")
        theirs.commit("theirs", allow_empty=True)
        try:
            if not ends:
                one_by_one.rebase(SOLVERS[how])
        except RebaseFailedError as error:
            ends.append(error.facts["conflicts"])
    try:
        at_once.rebase(SOLVERS[how])
    except RebaseFailedError as error:
        ends.append(error.facts["conflicts"])
    assert len(ends) in {0, 2}
    if ends:
        assert ends[0] == ends[1]
    assert at_once.snapshot_id == one_by_one.snapshot_id
    assert content(at_once) == content(one_by_one)


# Turns.


class Watch:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.time_s = 100.0
        self.paused: list[float] = []

    def pause(self, seconds: float) -> None:
        self.paused.append(seconds)
        self.time_s += seconds

    def turns(self) -> Turns:
        return Turns(lambda: self.time_s, self.pause)


def test_a_process_lets_as_many_others_commit_as_had_to_try_again():
    watch = Watch()
    turns = watch.turns()
    assert not turns.yield_to_others("main", [4] * 16)  # it has not committed yet
    began_at = turns.now()
    watch.time_s += 0.1
    turns.had("main", began_at)
    assert not turns.yield_to_others("main", [0] * 16)  # nobody competes
    assert not turns.yield_to_others("other", [4] * 16)
    assert not watch.paused
    assert turns.yield_to_others("main", [4] * 16)
    assert 0.3 <= watch.paused.pop() <= 0.5
    assert not turns.yield_to_others("main", [4] * 16 if watch.time_s > 101 else [0])
    watch.time_s += 1
    assert not turns.yield_to_others("main", [4] * 16)  # slower than the others anyway


def test_nobody_waits_long_for_others():
    watch = Watch()
    turns = watch.turns()
    began_at = turns.now()
    watch.time_s += 20
    turns.had("main", began_at)
    assert turns.yield_to_others("main", [900] * 16)
    assert watch.paused.pop() <= 3
    turns.after_loss(turns.now() - 10)
    assert watch.paused.pop() <= 1


def test_each_of_several_writers_gets_its_share():
    """One of three runs shows it: a writer whose thread the machine does not run has no share in that run."""
    shares = []
    while not shares or (max(shares) < 1 / 2 and len(shares) < 3):
        counts = commits_of_writers(4, 64)
        shares.append(min(counts) / (sum(counts) / len(counts)))
    assert max(shares) >= 1 / 2, shares


def commits_of_writers(writers: int, total: int) -> list[int]:
    """Runs writers, each with a repository object of its own, on a store that takes a while for each request."""
    inner = MemoryStorage()
    repo = made(inner)
    session = repo.writable_session("main")
    for number in range(writers):
        session.nodes.put(f"/w{number}", array())
    session.commit("arrays")
    counts = [0] * writers
    errors: list[BaseException] = []
    start = threading.Barrier(writers)

    def write(number: int) -> None:
        storage = FaultyStorage(inner)
        storage.interfere(lambda: time.sleep(random.uniform(0.001, 0.003)), times=None)
        own = WritableRepository.open(storage)
        start.wait()
        try:
            while sum(counts) < total:
                session = own.writable_session("main")
                session.chunks.set(f"/w{number}", (counts[number] % SIZE,), b"%d" % counts[number])
                session.commit("x", rebase_with=ConflictDetector())
                counts[number] += 1
        except BaseException as error:
            errors.append(error)
            raise

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    return counts


def test_a_commit_that_never_gets_its_turn_says_how_often_it_tried():
    storage = FaultyStorage(MemoryStorage())
    repo = made(storage)
    other = WritableRepository.open(storage.inner)

    def others_commit() -> None:
        session = other.writable_session("main")
        session.chunks.set("/a", (0,), b"other")
        session.commit("other")

    session = repo.writable_session("main")
    session.chunks.set("/b", (0,), b"mine")
    storage.interfere(others_commit, methods="put", keys="repo", times=None)
    with pytest.raises(BranchMovedError, match="3 times") as caught:
        session.commit("mine", rebase_with=ConflictDetector(), rebase_tries=3)
    assert "rebase_tries" in (caught.value.hint or "")
    storage.clear()
    session.commit("mine", rebase_with=ConflictDetector())

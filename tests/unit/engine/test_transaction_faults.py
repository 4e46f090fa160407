"""Faults at every storage call of a commit, clocks, and many processes at once."""

import subprocess
import sys
from pathlib import Path

import pytest

from icefs.clock import system_clock
from icefs.engine.read.repo_state import ops_log
from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.repository import WritableRepository
from icefs.errors import (
    BranchMovedError,
    PreconditionFailedError,
    SessionStateError,
    StorageError,
)
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage, each_call_in_turn
from tests.support.transactions import array, chunks_of, commit_start


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def repo(request: pytest.FixtureRequest) -> WritableRepository:
    return WritableRepository.create(MemoryStorage(), spec_version=request.param)


@pytest.fixture
def repo2() -> WritableRepository:
    return WritableRepository.create(MemoryStorage())


def test_a_clock_that_goes_back_makes_no_unreadable_history(repo):
    commit_start(repo)
    repo.context.clock = lambda: 1_000_000
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"one")
    session.commit("from the past")
    times = [info.flushed_at for info in repo.ancestry(branch="main")]
    assert times == sorted(times, reverse=True)


def test_a_clock_that_differs_from_the_stores_commits_nothing(repo):
    first = commit_start(repo)
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"one")
    repo.context.clock = lambda: system_clock() + 11 * 60 * 1_000_000
    with pytest.raises(SessionStateError, match="clock") as raised:
        session.commit("far off")
    assert raised.value.kind == "snapshot-timestamp"
    assert repo.lookup_branch("main") == first
    repo.context.clock = lambda: system_clock() + 9 * 60 * 1_000_000
    assert session.commit("a little off") == repo.lookup_branch("main")


@pytest.mark.parametrize("spec_version", [2, 1])
@pytest.mark.parametrize("fault", ["fail", "lose_answer"])
def test_a_fault_at_any_call_leaves_the_old_or_the_new_state(spec_version, fault):
    def make() -> MemoryStorage:
        storage = MemoryStorage()
        commit_start(WritableRepository.create(storage, spec_version=spec_version))
        return storage

    def operation(storage: FaultyStorage) -> None:
        repo = WritableRepository.open(storage)
        session = repo.writable_session("main")
        session.chunks.set("/a", (1, 1), b"y" * 700)
        session.nodes.put("/n", array([2], [1]))
        try:
            session.commit("second")
        except StorageError:
            # The session is as usable as before, once the store answers again.
            storage.clear()
            session.commit("second")
            raise

    hit = 0
    for _, storage, error in each_call_in_turn(make, operation, lambda s, n: getattr(s, fault)(at=n)):
        hit += error is not None
        repo = WritableRepository.open(storage.inner)
        messages = [info.message for info in repo.ancestry(branch="main")]
        assert messages in (["start", "Repository initialized"], ["second", "start", "Repository initialized"])
        for info in repo.ancestry(branch="main"):
            session = repo.session_at(info.id)
            for node in session.list_nodes():
                if node.array is not None:
                    for batch in session.array_chunks(node).iter_batches():
                        for position in range(len(batch)):
                            session.read_chunk(batch.ref(position))
    assert hit > 5


def test_an_own_update_is_recognised_also_when_the_first_look_fails(repo2):
    """Ours arrived, its answer was lost, and `repo` could not be read right then; it is ours all the same."""
    commit_start(repo2)
    storage = FaultyStorage(repo2.storage)
    slow = WritableRepository.open(storage)
    tip = repo2.lookup_branch("main")
    storage.lose_answer(methods="put", keys="repo", error=lambda call: PreconditionFailedError("x", maybe_written=True))
    storage.interfere(lambda: storage.fail(methods=("get", "get_if_changed"), keys="repo"), methods="put", keys="repo")
    slow.create_tag("ours", tip)
    assert repo2.lookup_tag("ours") == tip
    assert [type(update.kind).__name__ for update in ops_log(repo2.context)].count("TagCreated") == 1


def test_a_commit_in_between_is_noticed_at_the_last_write(repo):
    """Somebody commits after our check of the tip and before our publishing write."""
    commit_start(repo)
    storage = FaultyStorage(repo.storage)
    slow = WritableRepository.open(storage)
    session = slow.writable_session("main")
    session.chunks.set("/a", (1, 1), b"slow")

    def other() -> None:
        fast = repo.writable_session("main")
        fast.chunks.set("/a", (2, 2), b"fast")
        fast.commit("fast")

    storage.interfere(other, methods="put", keys="snapshots/")
    with pytest.raises(BranchMovedError):
        session.commit("slow")
    session.commit("slow", rebase_with=ConflictDetector())
    assert chunks_of(repo)[(2, 2)] == b"fast"
    assert chunks_of(repo)[(1, 1)] == b"slow"


BRANCHER = """
import sys
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
repo = WritableRepository.open(LocalStorage(sys.argv[1]))
tip = repo.lookup_branch("main")
print("ready", flush=True)
sys.stdin.readline()
for number in range(50):
    repo.create_branch(f"{sys.argv[2]}-{number}", tip)
"""


def test_many_processes_lose_no_update_of_a_local_repository(tmp_path: Path):
    """4 processes, 50 branches each: the official library kept 67 of 200."""
    from icefs.storage.local.store import LocalStorage

    root = tmp_path / "repo"
    root.mkdir()
    WritableRepository.create(LocalStorage(root))
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", BRANCHER, str(root), name], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        for name in "abcd"
    ]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write(b"\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert len(WritableRepository.open(LocalStorage(root)).list_branches()) == 201

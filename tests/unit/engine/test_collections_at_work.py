"""Commits that come at each moment of a garbage collection: the objects that they refer to stay."""

import contextlib
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from icefs.clock import system_clock
from icefs.engine.upkeep.fsck import fsck
from icefs.engine.upkeep.garbage import Pace, collect_garbage
from icefs.engine.write.conflicts import ConflictDetector
from icefs.engine.write.forks import fork, merge
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ChunksCollectedError, ConflictError
from icefs.format.ids import SnapshotId
from icefs.format.repo.ops_log import GCRan
from icefs.storage.memory import MemoryStorage
from icefs.transfer.directory_import import ImportRequest, import_directory
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.uploader import storing_again
from tests.support.collecting import CONFIG, GROUP, SIZE, Values, array, values_of
from tests.support.faulty import FaultyStorage
from tests.support.soak import depth
from tests.support.staged_chunks import StagedChunks
from tests.support.turns import Turns

FUTURE = 10_000_000
MOST_CALLS = 200

type Commit = Callable[[], SnapshotId]


def made(storage: FaultyStorage, spec_version: int = 2) -> WritableRepository:
    repository = WritableRepository.create(storage, CONFIG, spec_version=spec_version)
    repository.save_config()
    with repository.transaction("main", message="arrays") as session:
        session.nodes.put("/", GROUP)
        session.nodes.put("/a", array())
    return repository


def with_session(storage: FaultyStorage, values: Values) -> Commit:
    session = made(storage).writable_session("main")
    for index, value in values.items():
        session.chunks.set("/a", index, value)
    return lambda: session.commit("late")


def with_fork(storage: FaultyStorage, values: Values) -> Commit:
    session = made(storage).writable_session("main")
    sent = fork(session)
    for index, value in values.items():
        sent.chunks.set("/a", index, value)
    merge(session, [sent])
    return lambda: session.commit("late")


def with_rebase(storage: FaultyStorage, values: Values) -> Commit:
    """A commit that others are faster than, so that it is written twice."""
    repository = made(storage)
    session = repository.writable_session("main")
    for index, value in values.items():
        session.chunks.set("/a", index, value)

    def commit() -> SnapshotId:
        with WritableRepository.open(storage).transaction("main", message="others") as other:
            other.nodes.put("/others", GROUP)
        return session.commit("late", rebase_with=ConflictDetector())

    return commit


def collect(storage: FaultyStorage) -> None:
    collect_garbage(WritableRepository.open(storage), system_clock() + FUTURE)


VALUES: Values = {(index,): f"{index:08d}".encode() for index in range(SIZE)}


@pytest.mark.parametrize("prepare", [with_session, with_fork, with_rebase])
def test_a_commit_at_any_moment_of_a_collection_is_whole(prepare: Callable[[FaultyStorage, Values], Commit]) -> None:
    for at in range(1, MOST_CALLS):
        storage = FaultyStorage(MemoryStorage())
        commit = prepare(storage, VALUES)
        made_ids: list[SnapshotId] = []
        rule = storage.interfere(lambda made_ids=made_ids, commit=commit: made_ids.append(commit()), at=at)
        collect(storage)
        if not rule.fired:
            storage.clear()
            with pytest.raises(ChunksCollectedError):
                commit()
            break
        storage.clear()
        assert values_of(WritableRepository.open(storage), made_ids[0]) == VALUES, at
    assert at > 10


@pytest.mark.parametrize("prepare", [with_session, with_fork, with_rebase])
@pytest.mark.parametrize("seed", range(depth(10, 200)))
def test_a_commit_and_a_collection_step_by_step(prepare: Callable[[FaultyStorage, Values], Commit], seed: int) -> None:
    storage = MemoryStorage()
    commits, collects = FaultyStorage(storage), FaultyStorage(storage)
    commit = prepare(commits, VALUES)
    turns = Turns(random.Random(seed), ["commit", "collect"])
    commits.interfere(lambda: turns.wait("commit"), times=None)
    collects.interfere(lambda: turns.wait("collect"), times=None)
    made_ids: list[SnapshotId] = []

    def late() -> None:
        # A cutoff in the future also takes chunks that the commit itself has just copied: then it publishes nothing.
        with contextlib.suppress(ChunksCollectedError):
            made_ids.append(commit())

    turns.run({"commit": late, "collect": lambda: collect(collects)})
    for made_id in made_ids:
        assert values_of(WritableRepository.open(storage), made_id) == VALUES


@pytest.mark.parametrize("spec_version", [1, 2])
@pytest.mark.parametrize("call", ["commit", "amend", "flush"])
def test_a_commit_whose_first_files_are_collected_writes_them_again(spec_version: int, call: str) -> None:
    """A collection with a cutoff in the future takes the transaction log before the commit asks for its time."""
    if (spec_version, call) == (1, "amend"):
        return  # spec 1 has no amended commits
    storage = FaultyStorage(MemoryStorage())
    session = made(storage, spec_version).writable_session("main")
    session.nodes.put("/late", GROUP)
    rule = storage.interfere(lambda: collect(storage), methods="head", keys="transactions/")
    made_id = getattr(session, call)("late")
    assert rule.fired
    repository = WritableRepository.open(storage)
    assert repository.session_at(made_id).get_node("/late") is not None
    assert fsck(storage).findings == []


def test_a_fork_whose_first_files_are_collected_is_refused() -> None:
    storage = FaultyStorage(MemoryStorage())
    session = made(storage).writable_session("main")
    session.nodes.put("/late", GROUP)
    storage.interfere(lambda: collect(storage), methods="head", keys="transactions/")
    with pytest.raises(ConflictError, match="as soon as it was written"):
        fork(session)
    storage.clear()
    assert fork(session).get_node("/late") is not None


def test_uploads_of_a_mount_outlive_a_collection_at_any_moment(tmp_path: Path) -> None:
    # More than the inline threshold, so that they are objects.
    big = {index: value * 100 for index, value in VALUES.items()}
    for at in range(1, MOST_CALLS):
        storage = FaultyStorage(MemoryStorage())
        staged = StagedChunks(storage, tmp_path / str(at))
        try:
            staged.start_uploads(UploadOptions(quiet_s=0.001, pack_bytes=0))
            with staged.repository.transaction("main", message="arrays") as session:
                session.nodes.put("/", GROUP)
                session.nodes.put("/a", array())
            staged.write(big)
            staged.wait_for(lambda state: state.stored == len(big))
            made_ids: list[SnapshotId] = []

            def late(staged: StagedChunks = staged, made_ids: list[SnapshotId] = made_ids) -> None:
                made_ids.append(storing_again(staged.driver.tree.uploads, lambda: staged.commit(list(big))))

            rule = storage.interfere(late, at=at)
            collect(storage)
            if not rule.fired:
                break
            storage.clear()
            assert values_of(WritableRepository.open(storage), made_ids[0]) == big, at
        finally:
            staged.close()
    assert at > 10


def test_an_import_that_goes_on_outlives_a_collection_at_any_moment(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a" / "c").mkdir(parents=True)
    (source / "zarr.json").write_bytes(GROUP)
    (source / "a" / "zarr.json").write_bytes(array())
    for (index,), value in VALUES.items():
        (source / "a" / "c" / str(index)).write_bytes(value)

    def request(number: int) -> ImportRequest:
        return ImportRequest(str(source), tmp_path / f"state{number}", overwrite=True, pack_bytes=0)

    class Interrupted(Exception):
        pass

    def interrupt(done: object) -> None:
        if getattr(done, "stored_files", 0):
            raise Interrupted

    for at in range(1, MOST_CALLS):
        storage = FaultyStorage(MemoryStorage())
        repository = made(storage)
        with pytest.raises(Interrupted):
            import_directory(repository, request(at), interrupt)
        made_ids: list[SnapshotId | None] = []

        def late(at: int = at, made_ids: list[SnapshotId | None] = made_ids, repository=repository) -> None:
            made_ids.append(import_directory(repository, request(at), lambda done: None).snapshot_id)

        rule = storage.interfere(late, at=at)
        collect(storage)
        if not rule.fired:
            break
        storage.clear()
        assert made_ids[0] is not None
        assert values_of(WritableRepository.open(storage), made_ids[0]) == VALUES, at


def copied_after(hours: float) -> list[str]:
    """Commits some time after a collection, and returns the chunks that the commit copied."""
    now = [system_clock()]
    storage = FaultyStorage(MemoryStorage(clock=lambda: now[0]))
    repository = made(storage)
    repository.context.clock = lambda: now[0]
    session = repository.writable_session("main")
    session.chunks.set("/a", (0,), b"12345678")
    collect_garbage(repository, 0)
    now[0] += int(hours * 3_600_000_000)
    storage.clear()
    made_id = session.commit("later")
    assert values_of(WritableRepository.open(storage), made_id) == {(0,): b"12345678"}
    return [call.key for call in storage.calls if call.method == "copy" and call.key.startswith("chunks/")]


def test_a_commit_copies_chunks_only_while_a_collection_may_delete() -> None:
    assert len(copied_after(0.1)) == 1
    assert copied_after(2) == []


def test_a_collection_that_takes_long_announces_itself_again() -> None:
    storage = FaultyStorage(MemoryStorage())
    repository = made(storage)
    for _ in range(5):
        session = repository.writable_session("main")
        session.chunks.set("/a", (0,), b"12345678")  # and is given up
    kept = repository.writable_session("main")
    kept.chunks.set("/a", (0,), b"abcdefgh")
    made_ids: list[SnapshotId] = []
    storage.interfere(lambda: made_ids.append(kept.commit("late")), methods="delete", keys="chunks/", at=2)
    summary = collect_garbage(repository, system_clock() + FUTURE, pace=Pace(batch=1, announced_s=-1))
    storage.clear()
    assert summary.chunks_deleted >= 5
    assert values_of(WritableRepository.open(storage), made_ids[0]) == {(0,): b"abcdefgh"}
    info, _ = WritableRepository.open(storage).assets.fetch_repo_info()
    assert sum(isinstance(update.kind, GCRan) for update in info.latest_updates) > 5


def test_in_spec_1_a_commit_before_a_batch_is_kept() -> None:
    storage = FaultyStorage(MemoryStorage())
    repository = made(storage, spec_version=1)
    session = repository.writable_session("main")
    session.chunks.set("/a", (0,), b"12345678")
    made_ids: list[SnapshotId] = []
    # The last listing of refs comes just before the batch.
    storage.interfere(lambda: made_ids.append(session.commit("late")), methods="iter_objects", keys="chunks/")
    collect_garbage(repository, system_clock() + FUTURE)
    storage.clear()
    assert values_of(WritableRepository.open(storage), made_ids[0]) == {(0,): b"12345678"}

"""The publishing writes, by themselves: a change is applied once, to the state that it was computed from."""

import pytest

from icefs.engine.read import repo_state
from icefs.engine.read.session import session_at
from icefs.engine.write import publish
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.snapshot_writer import write_snapshot
from icefs.errors import BranchMovedError, ConflictError, ReadOnlyError, RefNotFoundError, StorageError
from icefs.format.config.storage import StorageRetriesSettings
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.repo import update as edits
from icefs.format.repo.ops_log import RepoAvailability, RepoStatus
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage


@pytest.fixture
def storage():
    return FaultyStorage(MemoryStorage())


@pytest.fixture(params=[1, 2])
def context(request, storage):
    return WritableRepository.create(storage, spec_version=request.param).context


@pytest.fixture
def context_v2(storage):
    return WritableRepository.create(storage, spec_version=2).context


def note(key, value):
    """A change that adds to the repository's metadata, and counts its calls."""

    def change(info, stamp):
        change.calls += 1
        return edits.set_metadata(info, {**info.metadata, key: value}, stamp)

    change.calls = 0
    return change


def written(context, message="new", base=INITIAL_SNAPSHOT_ID):
    snapshot = session_at(context, base).snapshot
    return write_snapshot(context, snapshot, ChangeSet(), message=message, metadata={})


def metadata(storage):
    return dict(repo_state.metadata(WritableRepository.open(storage).context))


def test_a_change_is_computed_again_when_another_writer_was_faster(context_v2, storage):
    change, other = note("mine", 1), WritableRepository.open(storage)
    storage.interfere(lambda: other.update_metadata({"theirs": 1}), methods="put", keys="repo")
    assert publish.update_repo_info(context_v2, change).metadata == {"mine": 1, "theirs": 1}
    assert change.calls == 2
    assert metadata(storage) == {"mine": 1, "theirs": 1}


def test_a_change_that_changes_nothing_writes_nothing(context_v2, storage):
    storage.clear()
    before, _ = context_v2.assets.fetch_repo_info()
    assert publish.update_repo_info(context_v2, lambda info, stamp: info) is before
    assert not [call for call in storage.calls if call.method in ("put", "copy")]


@pytest.mark.parametrize("is_known", [False, True])
def test_a_lost_answer_is_looked_for(context_v2, storage, is_known):
    storage.lose_answer(methods="put", keys="repo")
    change = note("mine", 1)
    assert publish.update_repo_info(context_v2, change, is_known=is_known).metadata == {"mine": 1}
    assert change.calls == 1
    assert metadata(storage) == {"mine": 1}


def test_a_write_that_fails_leaves_the_state(context_v2, storage):
    storage.fail(methods="put", keys="repo")
    with pytest.raises(StorageError):
        publish.update_repo_info(context_v2, note("mine", 1))
    assert metadata(storage) == {}


def test_an_update_gives_up_where_others_are_faster_each_time():
    inner = MemoryStorage()
    storage = FaultyStorage(inner)
    context = WritableRepository.create(storage).context
    other, number = WritableRepository.open(inner), iter(range(100))
    storage.interfere(lambda: other.update_metadata({"theirs": next(number)}), methods="put", keys="repo", times=None)
    context.update_retries = StorageRetriesSettings(max_tries=3)
    change = note("mine", 1)
    with pytest.raises(ConflictError) as caught:
        publish.update_repo_info(context, change)
    assert caught.value.kind == "update-attempts-exhausted"
    assert change.calls == 3
    assert metadata(inner) == {"theirs": 2}


def test_a_repository_that_is_not_online_is_not_changed(context_v2, storage):
    WritableRepository.open(storage).set_status(RepoStatus(RepoAvailability.read_only, 0, "moving"))
    with pytest.raises(ReadOnlyError, match="moving"):
        publish.update_repo_info(context_v2, note("mine", 1))
    publish.update_repo_info(context_v2, note("mine", 1), check_online=False)
    assert metadata(storage) == {"mine": 1}


def test_of_two_snapshots_on_one_base_one_is_published(context):
    one, other = written(context, "one"), written(context, "other")
    publish.publish_commit(context, "main", INITIAL_SNAPSHOT_ID, one)
    with pytest.raises(BranchMovedError) as caught:
        publish.publish_commit(context, "main", INITIAL_SNAPSHOT_ID, other)
    assert caught.value.facts["actual_parent"] == str(one.id)
    assert context.refs().branches == {"main": one.id}


def test_publishing_one_snapshot_twice_is_publishing_it_once(context_v2):
    one = written(context_v2)
    publish.publish_commit(context_v2, "main", INITIAL_SNAPSHOT_ID, one)
    publish.publish_commit(context_v2, "main", INITIAL_SNAPSHOT_ID, one)
    info, _ = context_v2.assets.fetch_repo_info()
    assert [each.id for each in info.ancestry(one.id)] == [one.id, INITIAL_SNAPSHOT_ID]


def test_an_amended_commit_takes_the_place_of_its_base(context_v2):
    one = written(context_v2, "one")
    publish.publish_commit(context_v2, "main", INITIAL_SNAPSHOT_ID, one)
    better = written(context_v2, "better", one.id)
    publish.publish_commit(context_v2, "main", one.id, better, amend=True)
    info, _ = context_v2.assets.fetch_repo_info()
    assert info.branches == {"main": better.id}
    assert [each.id for each in info.ancestry(better.id)] == [better.id, INITIAL_SNAPSHOT_ID]


def test_a_detached_snapshot_is_known_and_moves_no_branch(context_v2):
    one = written(context_v2)
    publish.publish_detached(context_v2, INITIAL_SNAPSHOT_ID, one)
    info, _ = context_v2.assets.fetch_repo_info()
    assert one.id in info.snapshots
    assert info.branches == {"main": INITIAL_SNAPSHOT_ID}


def test_a_check_that_raises_publishes_nothing(context_v2):
    class RefusedError(Exception):
        pass

    def refuse(info):
        raise RefusedError

    with pytest.raises(RefusedError):
        publish.publish_commit(context_v2, "main", INITIAL_SNAPSHOT_ID, written(context_v2), check=refuse)
    assert context_v2.refs().branches == {"main": INITIAL_SNAPSHOT_ID}


def test_the_tip_is_checked(context):
    publish.check_tip(context, "main", INITIAL_SNAPSHOT_ID)
    with pytest.raises(BranchMovedError):
        publish.check_tip(context, "main", SnapshotId.random())
    with pytest.raises(RefNotFoundError):
        publish.check_tip(context, "gone", INITIAL_SNAPSHOT_ID)

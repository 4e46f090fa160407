"""Upgrading from spec version 1 to 2: what is read afterwards, faults at every storage call, and others at work."""

import json

import pytest

from icefs.clock import system_clock
from icefs.engine.read.repo_state import ops_log
from icefs.engine.upkeep.migrate import Upgrade, upgrade
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ConflictError, FormatError, SessionStateError, SnapshotNotFoundError
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.layout import CONFIG_V1, REPO_INFO, snapshot_key
from icefs.format.repo.ops_log import (
    BranchCreated,
    NewCommit,
    RepoInitialized,
    RepoMigrated,
    TagCreated,
    TagDeleted,
)
from icefs.format.repo.refs_v1 import branch_key, encode_ref, tag_key, tombstone_key
from icefs.storage.memory import MemoryStorage
from tests.support.faulty import FaultyStorage, each_call_in_turn

GROUP = b'{"zarr_format":3,"node_type":"group","attributes":{}}'


def array(length: int) -> bytes:
    grid = {"name": "regular", "configuration": {"chunk_shape": [1]}}
    return json.dumps({"zarr_format": 3, "node_type": "array", "shape": [length], "chunk_grid": grid}).encode()


class Ticking:
    """A clock that starts a minute ago and moves on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self.now = system_clock() - 60_000_000

    def __call__(self) -> int:
        self.now += 1_000_000
        return self.now


def write(repo: WritableRepository, message: str, *, branch: str = "main") -> SnapshotId:
    session = repo.writable_session(branch)
    session.nodes.put("/a", array(8))
    session.chunks.set("/a", (0,), message.encode())
    return session.commit(message, {"by": message})


def history() -> MemoryStorage:
    """main: first, second. dev: first, on dev. Tags: v1 at first, and one that was deleted at the second."""
    storage = MemoryStorage()
    repo = WritableRepository.create(storage, spec_version=1, clock=Ticking())
    first = write(repo, "first")
    repo.create_branch("dev", first)
    write(repo, "on dev", branch="dev")
    second = write(repo, "second")
    repo.create_tag("v1", first)
    repo.create_tag("gone", second)
    repo.delete_tag("gone")
    repo.reopen(RepositoryConfig(inline_chunk_threshold_bytes=7)).save_config()
    return storage


def upgraded(storage: MemoryStorage, **options: bool) -> Upgrade:
    return upgrade(WritableRepository.open(storage), **options)


def read(storage: MemoryStorage) -> dict[str, object]:
    """What both versions have."""
    repo = WritableRepository.open(storage)
    refs = repo.refs()
    return {
        "branches": dict(refs.branches),
        "tags": dict(refs.tags),
        "history": {
            name: [(info.id, info.message, info.metadata, info.flushed_at) for info in repo.ancestry(branch=name)]
            for name in refs.branches
        },
        "chunks": {
            name: repo.readonly_session(name).chunk_ref("/a", (0,)) for name in refs.branches
        },
        "threshold": repo.context.inline_threshold_bytes,
    }  # fmt: skip


def keys(storage: MemoryStorage) -> set[str]:
    return {info.key for info in storage.iter_objects()}


def test_everything_is_still_there():
    storage = history()
    before = read(storage)
    upgraded(storage)
    assert read(storage) == before
    assert WritableRepository.open(storage).spec_version == 2
    assert {key for key in keys(storage) if key.startswith("refs/")} == set()
    assert CONFIG_V1 not in keys(storage)
    repo = WritableRepository.open(storage)
    write(repo, "third")
    assert [info.message for info in repo.ancestry(branch="main")][:2] == ["third", "second"]
    with pytest.raises(Exception, match="cannot be used again"):
        repo.create_tag("gone", INITIAL_SNAPSHOT_ID)


def test_the_ops_log_says_what_may_have_happened():
    storage = history()
    upgraded(storage)
    repo = WritableRepository.open(storage)
    ids = {info.message: info for name in ("main", "dev") for info in repo.ancestry(branch=name)}
    root, first, dev, second = (ids[name] for name in ("Repository initialized", "first", "on dev", "second"))
    log = list(ops_log(repo.context))
    assert log[0].kind == RepoMigrated(1, 2)
    assert [(update.kind, update.updated_at) for update in log[:0:-1]] == [
        (RepoInitialized(), root.flushed_at),
        (NewCommit("main", first.id), first.flushed_at),
        (TagCreated("v1"), first.flushed_at + 1000),
        (NewCommit("dev", dev.id), dev.flushed_at),
        (BranchCreated("dev"), dev.flushed_at + 1000),
        (NewCommit("main", second.id), second.flushed_at),
        (TagCreated("gone"), second.flushed_at + 1000),
        (TagDeleted("gone", second.id), second.flushed_at + 2000),
    ]
    assert {update.backup_path for update in log} == {None}


def test_a_dry_run_writes_nothing():
    storage = history()
    before = {info.key: info.version for info in storage.iter_objects()}
    done = upgraded(storage, dry_run=True)
    assert {info.key: info.version for info in storage.iter_objects()} == before
    assert set(done.info.branches) == {"main", "dev"}
    assert done.unused_keys[0] == branch_key("main")
    assert set(done.unused_keys) == set(done.undeleted_keys) == {
        branch_key("main"), branch_key("dev"), tag_key("v1"), tag_key("gone"), tombstone_key("gone"), CONFIG_V1
    }  # fmt: skip


def test_files_that_were_kept_can_be_deleted_later():
    storage = history()
    done = upgraded(storage, delete_unused_v1_files=False)
    assert set(done.undeleted_keys) <= keys(storage)
    repo = WritableRepository.open(storage)
    assert repo.spec_version == 2
    assert upgrade(repo).undeleted_keys == ()
    assert not set(done.unused_keys) & keys(storage)
    with pytest.raises(SessionStateError) as raised:
        upgrade(repo)
    assert raised.value.kind == "invalid-repository-migration"


@pytest.mark.parametrize("fault", ["fail", "lose_answer"])
def test_a_fault_at_any_call_leaves_one_of_the_versions(fault):
    before = read(history())["history"]
    messages = {name: [entry[1] for entry in entries] for name, entries in before.items()}
    hit = 0
    for _, storage, error in each_call_in_turn(history, upgraded, lambda s, n: getattr(s, fault)(at=n)):
        hit += error is not None
        repo = WritableRepository.open(storage.inner)
        for name in ("main", "dev"):
            assert [info.message for info in repo.ancestry(branch=name)] == messages[name]
        if repo.spec_version == 1:
            upgrade(repo)
        else:
            with_leftovers = any(key.startswith("refs/") for key in keys(storage.inner))
            if with_leftovers:
                upgrade(repo)
        assert not any(key.startswith("refs/") for key in keys(storage.inner))
        assert WritableRepository.open(storage.inner).spec_version == 2
    assert hit > 10


def test_a_commit_right_before_the_upgrade_is_not_lost():
    inner = history()
    storage = FaultyStorage(inner)
    slow = WritableRepository.open(inner)

    def other() -> None:
        write(slow, "meanwhile")
        slow.create_branch("new", slow.lookup_branch("main"))

    storage.interfere(other, methods="put", keys=REPO_INFO)
    upgrade(WritableRepository.open(storage))
    repo = WritableRepository.open(inner)
    assert repo.spec_version == 2
    assert [info.message for info in repo.ancestry(branch="main")][:2] == ["meanwhile", "second"]
    assert repo.lookup_branch("new") == repo.lookup_branch("main")


def test_a_ref_written_while_the_upgrade_ends_is_taken_over():
    """Its writer had found no `repo` just before."""
    inner = history()
    storage = FaultyStorage(inner)
    tip = WritableRepository.open(inner).lookup_branch("main")
    late = branch_key("late"), encode_ref(tip)
    storage.interfere(lambda: inner.put(*late), methods="iter_objects", keys="refs/", at=2)
    upgrade(WritableRepository.open(storage))
    assert WritableRepository.open(inner).lookup_branch("late") == tip


def test_two_upgrades_at_once():
    inner = history()
    storage = FaultyStorage(inner)
    storage.interfere(lambda: upgraded(inner), methods="put", keys=REPO_INFO)
    with pytest.raises(ConflictError) as raised:
        upgrade(WritableRepository.open(storage))
    assert raised.value.kind == "repo-info-updated"
    assert WritableRepository.open(inner).spec_version == 2


def test_damage_is_found_before_anything_is_written():
    for damage, error in [
        (lambda s: s.put(tag_key("bad"), b"{}"), FormatError),
        (lambda s: s.put(branch_key("bad"), encode_ref(SnapshotId.random())), SnapshotNotFoundError),
        (lambda s: s.put(snapshot_key(WritableRepository.open(s).lookup_branch("main")), b"no"), FormatError),
    ]:
        storage = history()
        damage(storage)
        with pytest.raises(error):
            upgraded(storage)
        assert REPO_INFO not in keys(storage)


def test_what_lies_around_does_not_matter():
    storage = history()
    storage.put(snapshot_key(SnapshotId.random()), b"garbage that no ref leads to")
    storage.put("snapshots/README", b"?")
    storage.put("refs/notes", b"?")
    storage.put(tag_key("gone"), b"damaged, and deleted anyway")
    upgraded(storage)
    repo = WritableRepository.open(storage)
    assert repo.assets.fetch_repo_info()[0].deleted_tags == {"gone"}
    assert not any(isinstance(update.kind, TagDeleted) for update in ops_log(repo.context))
    assert "refs/notes" in keys(storage)

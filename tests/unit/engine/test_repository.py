import dataclasses
from datetime import UTC, datetime

import pytest

from icefs.clock import to_datetime
from icefs.engine.history.diff import diff_snapshots
from icefs.engine.read import repo_state
from icefs.engine.read.inspect import inspect_repo_info, inspect_snapshot, inspect_transaction_log
from icefs.engine.repository import Repository
from icefs.errors import (
    FormatError,
    InvalidInputError,
    ObjectNotFoundError,
    RefNotFoundError,
    RepositoryNotFoundError,
    SnapshotNotFoundError,
    UnsupportedSpecVersionError,
)
from icefs.format.config.codec import encode_config, encode_config_yaml
from icefs.format.config.values import CachingConfig, RepositoryConfig
from icefs.format.ids import INITIAL_SNAPSHOT_ID
from icefs.format.layout import backup_key, snapshot_key, transaction_log_key
from icefs.format.repo.info import encode_repo_info
from icefs.format.repo.ops_log import BranchCreated, NewCommit, OpsLog, RepoInitialized, TagCreated, Update
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import Move
from icefs.storage.memory import MemoryStorage
from tests.support.repo_builder import SECOND, START, RepoBuilder, group, inline, node_id, snapshot_id


class Counting(MemoryStorage):
    """Notes each request."""

    def __init__(self):
        super().__init__()
        self.requests = []

    def get(self, key, **range_):
        self.requests.append(key)
        return super().get(key, **range_)

    def get_if_changed(self, key, known):
        self.requests.append((key, known is not None))
        return super().get_if_changed(key, known)


def history(spec_version=2, storage=None):
    """Snapshots 1, 2, 3 on main; 4 on dev, from 1; 5 detached, from 3; tag t at 2."""
    builder = RepoBuilder(storage, spec_version=spec_version)
    refs = inline((0,))
    for number in (1, 2, 3):
        refs |= inline((number,))
        builder.commit(
            [group("/", 1), builder.array("/a", 2, (9,), refs)],
            chunks={2: [(number,)]},
            **({"new_groups": [1], "new_arrays": [2]} if number == 1 else {}),
        )
    builder.commit([group("/", 1)], branch="dev", parent=snapshot_id(1), deleted_arrays=[2])
    builder.commit([group("/", 1)], branch=None, parent=snapshot_id(3))
    builder.tags["t"] = snapshot_id(2)
    return builder


@pytest.fixture(params=[1, 2])
def repository(request):
    opened = Repository.open(history(request.param).publish())
    yield opened
    opened.close()


def test_nothing_is_there():
    storage = MemoryStorage()
    assert not Repository.exists(storage)
    assert Repository.fetch_spec_version(storage) is None
    for call in (Repository.open, Repository.fetch_config):
        with pytest.raises(RepositoryNotFoundError) as caught:
            call(storage)
        assert caught.value.kind == "repository-not-found"
        assert storage.url in str(caught.value)


def test_a_repo_file_that_is_none():
    storage = MemoryStorage()
    storage.put("repo", b"nonsense")
    assert Repository.exists(storage)
    with pytest.raises(FormatError, match="repo"):
        Repository.open(storage)


def test_refs(repository):
    assert Repository.exists(repository.storage)
    assert Repository.fetch_spec_version(repository.storage) == repository.spec_version
    assert repository.list_branches() == {"main", "dev"}
    assert repository.list_tags() == {"t"}
    assert repository.lookup_branch("dev") == snapshot_id(4)
    assert repository.lookup_tag("t") == snapshot_id(2)
    for lookup in (repository.lookup_branch, repository.lookup_tag):
        with pytest.raises(RefNotFoundError) as caught:
            lookup("nothing")
        assert caught.value.kind == "ref-not-found"


def test_ancestry(repository):
    def ids(**which):
        return [info.id for info in repository.ancestry(**which)]

    main = [snapshot_id(3), snapshot_id(2), snapshot_id(1), INITIAL_SNAPSHOT_ID]
    assert ids(branch="main") == main
    assert ids(tag="t") == main[1:]
    assert ids(branch="dev") == [snapshot_id(4), *main[2:]]
    assert ids(snapshot_id=snapshot_id(5)) == [snapshot_id(5), *main]
    assert [info.id for info in repository.log("t")] == main[1:]
    assert [info.id for info in repository.log(str(snapshot_id(2)))] == main[1:]
    first = next(repository.ancestry(branch="main"))
    assert first.message == "commit 3"
    assert first.metadata == {"number": 3}
    assert first.flushed_at == START + 3 * SECOND
    with pytest.raises(RefNotFoundError):
        repository.log("nothing")
    with pytest.raises(SnapshotNotFoundError):
        repository.ancestry(snapshot_id=snapshot_id(77))


def test_exactly_one_thing_is_asked_for(repository):
    for arguments in ({}, {"branch": "main", "tag": "t"}, {"tag": "t", "snapshot_id": snapshot_id(1)}):
        with pytest.raises(InvalidInputError):
            repository.ancestry(**arguments)
        with pytest.raises(InvalidInputError):
            repository.readonly_session(**arguments)
    with pytest.raises(InvalidInputError):
        repository.readonly_session(tag="t", as_of=START)


def test_sessions(repository):
    session = repository.readonly_session("main")
    assert session.snapshot_id == snapshot_id(3)
    assert session.branch == "main"
    assert session.read_only
    assert repository.readonly_session(tag="t").snapshot_id == snapshot_id(2)
    assert repository.readonly_session(snapshot_id=snapshot_id(5)).branch is None
    with pytest.raises(SnapshotNotFoundError) as caught:
        repository.readonly_session(snapshot_id=snapshot_id(77))
    assert caught.value.kind == "snapshot-not-found"


def test_as_of_is_the_newest_snapshot_that_is_not_younger(repository):
    def at(moment):
        return repository.readonly_session("main", as_of=moment).snapshot_id

    assert at(START + 2 * SECOND) == snapshot_id(2)
    assert at(START + 3 * SECOND - 1) == snapshot_id(2)
    assert at(to_datetime(START + SECOND)) == snapshot_id(1)
    assert at(to_datetime(START + SECOND).replace(tzinfo=None)) == snapshot_id(1)
    assert at(datetime(2100, 1, 1, tzinfo=UTC)) == snapshot_id(3)
    with pytest.raises(SnapshotNotFoundError) as caught:
        at(START - 1)
    assert caught.value.kind == "no-snapshot-at-time"


def test_a_snapshot_that_nothing_knows_is_not_found_and_one_that_is_lost_is_damage(repository):
    storage = repository.storage
    with pytest.raises(SnapshotNotFoundError):
        repository.session_at(snapshot_id(77))
    storage.delete([snapshot_key(snapshot_id(3))])
    with pytest.raises(ObjectNotFoundError):
        repository.readonly_session("main")


def test_diff(repository):
    found = diff_snapshots(repository.context, INITIAL_SNAPSHOT_ID, snapshot_id(3))
    assert found.new_arrays == {"/a"}
    assert found.new_groups == {"/"}
    assert {path: list(indices) for path, indices in found.updated_chunks.items()} == {"/a": [(1,), (2,), (3,)]}
    assert not found.is_empty()
    assert diff_snapshots(repository.context, snapshot_id(1), snapshot_id(4)).deleted_arrays == {"/a"}
    for pair in ((3, 3), (3, 1), (4, 3)):
        with pytest.raises(InvalidInputError) as caught:
            diff_snapshots(repository.context, *map(snapshot_id, pair))
        assert caught.value.kind == "bad-snapshot-chain-for-diff"


def test_a_missing_log_of_a_commit_is_an_error_of_the_diff(repository):
    repository.storage.delete([transaction_log_key(snapshot_id(2))])
    with pytest.raises(ObjectNotFoundError):
        diff_snapshots(repository.context, snapshot_id(1), snapshot_id(3))


def test_logs_of_pruned_ancestors_belong_to_the_diff(caplog):
    builder = history()
    info = builder.infos[snapshot_id(3)]
    builder.infos[snapshot_id(3)] = dataclasses.replace(
        info, parent_id=INITIAL_SNAPSHOT_ID, pruned_ancestor_tx_logs=(snapshot_id(1), snapshot_id(2))
    )
    repository = Repository.open(builder.publish())
    found = diff_snapshots(repository.context, INITIAL_SNAPSHOT_ID, snapshot_id(3))
    assert list(found.updated_chunks["/a"]) == [(1,), (2,), (3,)]
    described = inspect_transaction_log(repository.context, snapshot_id(3))
    assert described["updated_chunks"][0]["chunks"] == [[1], [2], [3]]
    merged = [str(snapshot_id(1)), str(snapshot_id(2))]
    assert described["synthetic_composite"]["merged_pruned_ancestor_tx_logs"] == merged

    builder.storage.delete([transaction_log_key(snapshot_id(1))])
    repository = repository.reopen()
    assert list(diff_snapshots(repository.context, INITIAL_SNAPSHOT_ID, snapshot_id(3)).updated_chunks["/a"]) == [
        (2,),
        (3,),
    ]
    assert str(snapshot_id(1)) in caplog.text
    missing = inspect_transaction_log(repository.context, snapshot_id(3))["synthetic_composite"]["missing_tx_logs"]
    assert missing == [str(snapshot_id(1))]


def test_a_diff_names_moved_nodes_by_their_new_path_and_leaves_out_what_came_and_went():
    builder = RepoBuilder()
    old = builder.commit([builder.array("/from", 1, (2,))], new_arrays=[1])
    builder.commit([builder.array("/from", 1, (2,)), group("/short", 2)], new_groups=[2])
    move = Move("/from", "/to", node_id(1), NodeType.ARRAY)
    new = builder.commit([builder.array("/to", 1, (2,))], moves=(move,), deleted_groups=[2], updated_arrays=[1])
    found = diff_snapshots(Repository.open(builder.publish()).context, old, new)
    assert found.moved_nodes == (move,)
    assert found.updated_arrays == {"/to"}
    assert not found.deleted_groups
    assert not found.new_groups


def test_polling_makes_one_conditional_request():
    builder = history(storage=Counting())
    repository = Repository.open(builder.publish())
    storage = repository.storage
    storage.requests.clear()
    before = repository.refs()
    assert repository.refs() == before
    assert storage.requests == [("repo", True)] * 2
    assert repository.refs(refresh=False) == before
    assert len(storage.requests) == 2
    builder.branches["new"] = snapshot_id(1)
    builder.publish()
    assert repository.refs(refresh=False) == before
    after = repository.refs()
    assert after.branches["new"] == snapshot_id(1)
    assert after.version != before.version


def test_polling_spec_1_reads_only_refs_that_changed():
    builder = history(1, storage=Counting())
    repository = Repository.open(builder.publish())
    before = repository.refs()
    storage = repository.storage
    storage.requests.clear()
    assert repository.refs() == before
    assert storage.requests == []
    storage.put("refs/branch.dev/ref.json", f'{{"snapshot":"{snapshot_id(1)}"}}'.encode())
    after = repository.refs()
    assert after.branches["dev"] == snapshot_id(1)
    assert after.version != before.version
    assert storage.requests == [("refs/branch.dev/ref.json", True)]
    storage.delete(["refs/branch.dev/ref.json"])
    assert repository.list_branches() == {"main"}


def test_refs_of_spec_1_deleted_malformed_and_foreign(caplog):
    builder = history(1)
    storage = builder.publish()
    storage.put("refs/tag.gone/ref.json", f'{{"snapshot":"{snapshot_id(1)}"}}'.encode())
    storage.put("refs/tag.gone/ref.json.deleted", b"")
    storage.put("refs/branch.bad/ref.json", b"{}")
    storage.put("refs/tag.bad/ref.json", b"\xff")
    storage.put("refs/README", b"not ours")
    storage.put("refs/other.x/ref.json", b"not ours")
    repository = Repository.open(storage)
    assert repository.list_branches() == {"main", "dev"}
    assert repository.list_tags() == {"t"}
    with pytest.raises(RefNotFoundError):
        repository.lookup_tag("gone")
    for lookup in (repository.lookup_branch, repository.lookup_tag):
        with pytest.raises(FormatError, match="bad"):
            lookup("bad")
    assert len(caplog.records) == 2, "once for each, not at each poll"


def test_an_ancestry_that_goes_round_in_a_circle_ends():
    builder = RepoBuilder(spec_version=1)
    one = builder.commit([])
    two = builder.commit([])
    builder.commit([], snapshot=one, parent=two)
    repository = Repository.open(builder.publish())
    with pytest.raises(FormatError, match="ancestor of itself"):
        list(repository.ancestry(branch="main"))


def test_expiration_in_spec_1_rewrites_a_snapshot_that_was_read_before():
    builder = history(1)
    repository = Repository.open(builder.publish())
    assert len(list(repository.ancestry(branch="main"))) == 4
    builder.commit([], snapshot=snapshot_id(3), parent=INITIAL_SNAPSHOT_ID)
    builder.storage.delete([snapshot_key(snapshot_id(n)) for n in (1, 2)])
    repository.assets.snapshots.discard(snapshot_id(1))
    repository.assets.snapshots.discard(snapshot_id(2))
    assert [info.id for info in repository.ancestry(branch="main")] == [snapshot_id(3), INITIAL_SNAPSHOT_ID]


def test_configuration_is_defaults_then_what_is_persisted_then_what_is_passed():
    persisted = RepositoryConfig(inline_chunk_threshold_bytes=7, caching=CachingConfig(num_chunk_refs=1234))
    for spec_version in (1, 2):
        builder = history(spec_version)
        if spec_version == 1:
            builder.storage.put("config.yaml", encode_config_yaml(persisted))
        builder.config = encode_config(persisted)
        storage = builder.publish()
        assert Repository.fetch_config(storage) == persisted
        repository = Repository.open(
            storage, RepositoryConfig(inline_chunk_threshold_bytes=9, max_concurrent_requests=3)
        )
        assert repository.config.inline_chunk_threshold_bytes == 9
        assert repository.config.max_concurrent_requests == 3
        assert repository.config.caching == CachingConfig(num_chunk_refs=1234)
        assert repository.assets.manifests.max_weight == 1234
        assert Repository.fetch_config(history(spec_version).publish()) is None


def test_what_spec_1_does_not_have():
    repository = Repository.open(history(1).publish())
    for call in (
        repo_state.ops_log,
        repo_state.status,
        repo_state.metadata,
        repo_state.feature_flags,
        inspect_repo_info,
    ):
        with pytest.raises(UnsupportedSpecVersionError):
            call(repository.context)


def ops(builder, *states):
    """Publishes states of `repo`, oldest first: the newest as `repo`, each before as the backup that is named."""
    for backup, updates, before in states:
        info = dataclasses.replace(builder.repo_info(), ops_log=OpsLog(updates), repo_before_updates=before)
        builder.storage.put("repo" if backup is None else backup_key(backup), encode_repo_info(info))
    return Repository.open(builder.storage)


def test_the_ops_log_goes_on_in_earlier_states():
    builder = history()
    first = (Update(BranchCreated("dev"), 2), Update(RepoInitialized(), 1, "one"))
    last = (Update(NewCommit("main", snapshot_id(1)), 4), Update(TagCreated("t"), 3, "three"))
    repository = ops(builder, ("two", first, None), (None, last, "two"))
    updates = list(repo_state.ops_log(repository.context))
    assert [(update.updated_at, update.backup_path) for update in updates] == [
        (4, None),
        (3, "three"),
        (2, "two"),
        (1, "one"),
    ]


@pytest.mark.parametrize("before", ["gone", "self", "../repo", "", "a/b", ".."])
def test_an_ops_log_that_leads_nowhere_ends(before):
    builder = history()
    updates = (Update(NewCommit("main", snapshot_id(1)), 4),)
    repository = ops(builder, ("self", updates, "self"), (None, updates, before))
    log = repo_state.ops_log(repository.context)
    assert next(log) == updates[0]
    if before in ("gone", "self"):
        assert len(list(log)) == (1 if before == "self" else 0)
    else:
        with pytest.raises(FormatError):
            list(log)


def test_feature_flags():
    builder = history()
    info = dataclasses.replace(builder.repo_info(), enabled_feature_flags=(4, 99), disabled_feature_flags=(3,))
    builder.storage.put("repo", encode_repo_info(info))
    repository = Repository.open(builder.storage)
    flags = {flag.name: (flag.enabled, flag.setting) for flag in repo_state.feature_flags(repository.context)}
    assert flags == {"move_node": (False, False), "create_tag": (True, True), "delete_tag": (True, None)}


def test_a_header_is_described_with_whatever_it_says():
    builder = history()
    key = snapshot_key(snapshot_id(3))
    for writer, expected in (
        (b"icefs", {"written_by": "icefs", "app_name": "icefs"}),
        (b"my-app-1.2", {"written_by": "my-app-1.2", "app_name": "my", "app_version": "app-1.2"}),
        (b"a-1\0\0", {"written_by": "a-1", "app_name": "a", "app_version": "1"}),
    ):
        data = bytearray(builder.storage.get(key).data)
        data[12:36] = writer.ljust(24)
        builder.storage.put(key, bytes(data))
        header = inspect_snapshot(Repository.open(builder.publish()).assets, snapshot_id(3))["header"]
        assert header == {**expected, "spec_version": "2.0", "file_type": "snapshot", "compression": "zstd"}

"""Everything that the JSON files say of the fixture repositories, read through the engine."""

import hashlib
import json
import os
import shutil

import pytest

from icefs.clock import to_datetime
from icefs.engine.history.changes import compare
from icefs.engine.history.diff import diff_snapshots
from icefs.engine.read import repo_state
from icefs.engine.read.inspect import inspect_repo_info
from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.errors import UnsupportedSpecVersionError
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.manifest.refs import ChunkKind, NativeRef
from icefs.storage.local.store import LocalStorage
from tests.support.fixture_files import FIXTURES

NAMES = ("basic-v1", "basic-v2", "history-v1", "history-v2")


class Fixture:
    def __init__(self, name: str) -> None:
        self.storage = LocalStorage(FIXTURES / name)
        self.repository = Repository.open(self.storage)
        document = json.loads((FIXTURES / f"{name}.json").read_text())
        self.content = document["content"]
        self.ids = document["ids"]
        self.is_v2 = self.content["spec_version"] == 2

    def id_of(self, message: str) -> SnapshotId:
        return SnapshotId.parse(self.ids["snapshots"][message]["id"])

    def sessions(self) -> list[tuple[str, dict, Session]]:
        found = self.content["snapshots"].items()
        return [(message, says, self.repository.session_at(self.id_of(message))) for message, says in found]


@pytest.fixture(scope="module", params=NAMES)
def fixture(request):
    opened = Fixture(request.param)
    yield opened
    opened.repository.close()


def chunk_key(path: str, index: tuple[int, ...]) -> str:
    return "/".join([*path.split("/")[1:], "c", *map(str, index)]) if path != "/" else "/".join(["c", *map(str, index)])


def metadata_key(path: str) -> str:
    return f"{path}/zarr.json".lstrip("/")


def describe(kind: str | None, data: bytes) -> dict:
    described = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return described if kind is None else {**described, "type": kind}


def keys_of(session: Session) -> dict[str, dict]:
    found = {}
    for node in session.snapshot.nodes():
        found[metadata_key(node.path)] = describe(None, node.user_data)
        if node.array is None:
            continue
        chunks = session.array_chunks(node)
        for batch in chunks.iter_batches():
            for position, row in enumerate(batch.indices().tolist()):
                index = tuple(row)
                ref = chunks.find(index)
                assert ref == batch.ref(position)
                assert chunks.length(index) == ref.length_bytes
                kind = ChunkKind(int(batch.kinds[position]))
                assert session.chunk_type(node.path, index) == kind == ref.kind
                data = session.read_chunk(ref)
                found[chunk_key(node.path, index)] = describe(kind.name.lower(), data)
                if isinstance(ref, NativeRef):
                    with os.fdopen(session.open_chunk_file(ref.chunk_id), "rb") as file:
                        assert file.read()[ref.offset_bytes :][: ref.length_bytes] == data
    return found


def test_spec_version(fixture):
    assert fixture.repository.spec_version == fixture.content["spec_version"]
    assert Repository.fetch_spec_version(fixture.storage) == fixture.content["spec_version"]
    assert Repository.exists(fixture.storage)


def test_refs_and_their_ancestry(fixture):
    repository, content = fixture.repository, fixture.content
    assert repository.list_branches() == set(content["branches"])
    assert repository.list_tags() == set(content["tags"])
    for name, messages in content["branches"].items():
        assert [info.message for info in repository.ancestry(branch=name)] == messages
        assert repository.lookup_branch(name) == fixture.id_of(messages[0])
        assert [info.message for info in repository.log(name)] == messages
    for name, messages in content["tags"].items():
        assert [info.message for info in repository.ancestry(tag=name)] == messages
        assert repository.lookup_tag(name) == fixture.id_of(messages[0])
    for messages in content["detached"]:
        ancestry = repository.ancestry(snapshot_id=fixture.id_of(messages[0]))
        assert [info.message for info in ancestry] == messages


def test_snapshots(fixture):
    for message, says, session in fixture.sessions():
        info = fixture.repository.lookup_snapshot(session.snapshot_id)
        assert info == fixture.repository.snapshot_info(session.snapshot_id)
        expected = fixture.ids["snapshots"][message]
        assert info.message == session.snapshot.message == message
        assert to_datetime(info.flushed_at).isoformat() == expected["written_at"]
        assert info.flushed_at == session.snapshot.flushed_at
        assert info.metadata == session.snapshot.metadata == says["metadata"]
        assert info.parent_id == (None if says["parent"] is None else fixture.id_of(says["parent"]))
        assert fixture.repository.resolve_ref(str(info.id)) == info.id


def test_every_key_of_every_snapshot(fixture):
    for message, says, session in fixture.sessions():
        assert keys_of(session) == says["keys"], message


def test_listings(fixture):
    for message, says, session in fixture.sessions():
        for directory, expected in says["list_dir"].items():
            path = f"/{directory}"
            node = session.get_node(path)
            found = {name for name in session.children(path) if session.get_node(f"{path.rstrip('/')}/{name}")}
            if node is not None:
                found.add("zarr.json")
                if node.array is not None:
                    found.add("c")
            assert found == set(expected), (message, directory)


def test_manifest_files(fixture):
    for message, says, session in fixture.sessions():
        files = list(fixture.repository.assets.fetch_snapshot(session.snapshot_id).manifest_files.values())
        assert len(files) == says["manifest_files"], message
        assert sorted(info.num_chunk_refs for info in files) == sorted(says["num_chunk_refs"])
        for info in files:
            manifest = fixture.repository.assets.fetch_manifest(info.id)
            assert manifest.num_chunk_refs == info.num_chunk_refs
            assert info.size_bytes == (fixture.storage.root / f"manifests/{info.id}").stat().st_size
        assert list(session.iter_virtual_chunk_locations()) == says["virtual_locations"]


def as_json(diff) -> dict:
    lists = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    return {
        **{name: sorted(getattr(diff, name)) for name in lists},
        "updated_chunks": {path: [list(index) for index in found] for path, found in diff.updated_chunks.items()},
        "moved_nodes": [[move.from_path, move.to_path] for move in diff.moved_nodes],
    }


def test_diffs_from_the_parent(fixture):
    for message, says, session in fixture.sessions():
        if "diff_from_parent" not in says:
            continue
        found = diff_snapshots(fixture.repository.context, fixture.id_of(says["parent"]), session.snapshot_id)
        assert as_json(found) == says["diff_from_parent"], message


def test_what_changed_between_any_two_snapshots(fixture):
    """Compares the changes that caches get with the keys themselves."""
    sessions = {message: session for message, _, session in fixture.sessions()}
    for old_message, new_message in [(a, b) for a in sessions for b in sessions if a != b]:
        old, new = (fixture.content["snapshots"][message]["keys"] for message in (old_message, new_message))
        changes = compare(sessions[old_message], sessions[new_message])
        told = {metadata_key(path) for path in changes.new | changes.deleted | changes.updated}
        gone_or_new = changes.new | changes.deleted
        any_chunk = tuple(f"{path.lstrip('/')}/c" for path, found in changes.chunks.items() if found is None)
        any_chunk += tuple(f"{path.lstrip('/')}/c" for path in gone_or_new)
        for path, found in changes.chunks.items():
            told.update(chunk_key(path, index) for index in found or ())
        differ = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
        untold = {key for key in differ - told if not key.startswith(any_chunk)}
        assert not untold, (old_message, new_message)
        assert {key for key in told if key.endswith("zarr.json")} <= differ, (old_message, new_message)


def test_as_of(fixture):
    for branch, messages in fixture.content["branches"].items():
        for message in messages:
            written_at = fixture.repository.lookup_snapshot(fixture.id_of(message)).flushed_at
            for moment in (written_at, to_datetime(written_at)):
                session = fixture.repository.readonly_session(branch, as_of=moment)
                assert session.snapshot_id == fixture.id_of(message)
                assert session.branch == branch


def test_what_only_spec_2_has(fixture):
    repository, content = fixture.repository, fixture.content
    if not fixture.is_v2:
        for call in (
            repo_state.ops_log,
            repo_state.status,
            repo_state.metadata,
            repo_state.feature_flags,
            inspect_repo_info,
        ):
            with pytest.raises(UnsupportedSpecVersionError) as caught:
                call(repository.context)
            assert caught.value.kind == "unsupported-spec-version"
        return
    updates = list(repo_state.ops_log(repository.context))
    assert [type(update.kind).__name__ for update in updates] == content["ops_log"]
    for update, expected in zip(updates, fixture.ids["ops_log"], strict=True):
        assert to_datetime(update.updated_at).isoformat() == expected["updated_at"]
        assert update.backup_path == expected["backup_path"]
    assert (
        f"RepoAvailability.{repo_state.status(repository.context).availability.name}"
        == content["status"]["availability"]
    )
    assert repo_state.status(repository.context).limited_availability_reason == content["status"]["reason"]
    assert repo_state.metadata(repository.context) == content["repo_metadata"]
    flags = {flag.name: [flag.enabled, flag.setting] for flag in repo_state.feature_flags(repository.context)}
    assert flags == content["feature_flags"]
    assert inspect_repo_info(repository.context) == fixture.ids["repo_info"]


def test_configuration(fixture):
    persisted = Repository.fetch_config(fixture.storage)
    assert persisted is None or persisted.merge(type(persisted)()) == persisted
    assert not fixture.repository.config.virtual_chunk_containers


def test_a_migrated_layout_prefers_repo_over_refs(tmp_path):
    """`repo` next to the refs of spec 1: a migration that was not cleaned up."""
    shutil.copytree(FIXTURES / "history-v1", tmp_path / "r")
    shutil.copytree(FIXTURES / "history-v2", tmp_path / "r", dirs_exist_ok=True)
    repository = Repository.open(LocalStorage(tmp_path / "r"))
    assert repository.spec_version == 2
    assert "feature/x y" in repository.list_branches()


def test_the_first_snapshot_is_empty(fixture):
    session = fixture.repository.session_at(INITIAL_SNAPSHOT_ID)
    assert len(session.snapshot) == 0
    assert session.children("/") == []
    assert not session.has_children("/")
    assert session.get_node("/") is None

"""Snapshots, repo infos, configuration and refs: what the official library wrote reads as it says, and what icefs
writes in their place it opens, answers the same about, and commits on top of.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import icechunk as ic
import pytest

from icefs.clock import to_datetime
from icefs.format.config.codec import encode_config, encode_config_yaml, parse_config, parse_config_yaml
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.layout import CONFIG_V1, OVERWRITTEN, REFS_V1, REPO_INFO, SNAPSHOTS
from icefs.format.repo.info import RepoInfo, encode_repo_info
from icefs.format.repo.ops_log import RepoAvailability, RepoStatus, Update
from icefs.format.repo.refs_v1 import encode_ref, parse_ref, parse_ref_key
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import (
    Stamp,
    add_branch,
    add_tag,
    delete_branch,
    delete_tag,
    set_config,
    set_feature_flag,
    set_metadata,
    set_status,
    update_branch,
)
from icefs.format.snapshot.nodes import NodeType
from icefs.format.snapshot.reader import Snapshot
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.zarr_json import parse_zarr_json
from tests.conformance.made import Made, local, read_repo, read_snapshot
from tests.conformance.official import GROUP, GeneratedRepo, array_json, commit, put
from tests.conformance.oracle import RepoContent, info_facts, status_facts, update_facts
from tests.conformance.oracle import oracle_of as official_view
from tests.conformance.test_encode_bulk import comparable
from tests.support.ci import require
from tests.support.fixture_files import FIXTURES
from tests.support.repo_samples import NOW, snapshot_id

FIXTURE_NAMES = ("basic-v1", "basic-v2", "history-v1", "history-v2")


# The fixtures


class Fixture:
    """A fixture repository and its JSON."""

    def __init__(self, name: str) -> None:
        self.path = FIXTURES / name
        require(self.path.is_dir(), f"no fixture repository {self.path}")
        document = json.loads((FIXTURES / f"{name}.json").read_text())
        self.content: dict[str, Any] = document["content"]
        self.ids: dict[str, Any] = document["ids"]
        self.messages = {item["id"]: message for message, item in self.ids["snapshots"].items()}

    def snapshots(self) -> Iterator[tuple[str, Snapshot]]:
        for message, item in self.ids["snapshots"].items():
            yield message, read_snapshot(self.path / SNAPSHOTS / item["id"])


@pytest.fixture(name="fixture", params=FIXTURE_NAMES)
def fixture_fixture(request: pytest.FixtureRequest) -> Fixture:
    return Fixture(request.param)


def test_snapshots_of_the_fixtures(fixture: Fixture) -> None:
    for message, snapshot in fixture.snapshots():
        expected = fixture.content["snapshots"][message]
        assert str(snapshot.id) == fixture.ids["snapshots"][message]["id"]
        assert snapshot.message == message
        assert snapshot.metadata == expected["metadata"]
        assert to_datetime(snapshot.flushed_at) == datetime.fromisoformat(
            fixture.ids["snapshots"][message]["written_at"]
        )
        assert len(snapshot.manifest_files) == expected["manifest_files"]
        assert sorted(info.num_chunk_refs for info in snapshot.manifest_files.values()) == expected["num_chunk_refs"]
        documents = {key: item for key, item in expected["keys"].items() if key.rpartition("/")[2] == "zarr.json"}
        nodes = list(snapshot.nodes())
        assert {f"{node.path}/zarr.json".lstrip("/") for node in nodes} == set(documents)
        for node in nodes:
            item = documents[f"{node.path}/zarr.json".lstrip("/")]
            assert (len(node.user_data), sha256(node.user_data).hexdigest()) == (item["size"], item["sha256"])
            metadata = parse_zarr_json(node.user_data, name=node.path, spec_version=snapshot.spec_version)
            assert metadata.node_type == node.node_type
            if node.array is not None:
                assert metadata.dimensions() == node.array.shape
                assert metadata.dimension_names == node.array.dimension_names
        shapes = {node.path[1:]: [size.array_length for size in node.array.shape] for node in nodes if node.array}
        for path, array in expected["arrays"].items():
            assert shapes[path] == array["shape"]


def test_manifest_files_of_the_fixtures_are_those_that_nodes_name(fixture: Fixture) -> None:
    for _, snapshot in fixture.snapshots():
        named = {ref.manifest_id for node in snapshot.nodes() if node.array for ref in node.array.manifests}
        assert named == set(snapshot.manifest_files)
        for info in snapshot.manifest_files.values():
            assert (fixture.path / "manifests" / str(info.id)).stat().st_size == info.size_bytes


def test_refs_and_history_of_the_fixtures(fixture: Fixture) -> None:
    content = fixture.content
    branches, tags, deleted, parents = refs_of(fixture.path)

    def history(tip: SnapshotId | None) -> list[str]:
        found = []
        while tip is not None:
            found.append(fixture.messages[str(tip)])
            tip = parents[tip]
        return found

    assert {name: history(tip) for name, tip in branches.items()} == content["branches"]
    assert {name: history(tip) for name, tip in tags.items()} == content["tags"]
    for message, item in fixture.ids["snapshots"].items():
        parent = parents[SnapshotId.parse(item["id"])]
        expected = content["snapshots"][message]["parent"]
        assert (None if parent is None else fixture.messages[str(parent)]) == expected
    assert deleted == ({"gone"} if content["tags"] else set())


type RefsAndParents = tuple[dict[str, SnapshotId], dict[str, SnapshotId], set[str], dict[SnapshotId, SnapshotId | None]]


def refs_of(repo: Path) -> RefsAndParents:
    """Branches, tags, deleted tags, and each snapshot's parent, in both spec versions."""
    if (repo / REPO_INFO).exists():
        info = read_repo(repo / REPO_INFO)
        parents = {found: info.snapshots.parent_of(found) for found in info.snapshots}
        return dict(info.branches), dict(info.tags), set(info.deleted_tags), parents
    found: dict[str, dict[str, SnapshotId]] = {"branch": {}, "tag": {}}
    deleted = set()
    for path in (repo / REFS_V1).glob("*/*"):
        key = parse_ref_key(path.relative_to(repo).as_posix())
        assert key is not None
        if key.is_tombstone:
            deleted.add(key.name)
        else:
            found[key.kind][key.name] = parse_ref(path.read_bytes(), name=path.name)
    tags = {name: target for name, target in found["tag"].items() if name not in deleted}
    parents = {}
    for path in (repo / SNAPSHOTS).iterdir():
        snapshot = read_snapshot(path)
        parents[snapshot.id] = snapshot.parent_id
    return found["branch"], tags, deleted, parents


@pytest.mark.parametrize("name", ["basic-v2", "history-v2"])
def test_repo_infos_of_the_fixtures(name: str) -> None:
    fixture = Fixture(name)
    repo, expected = read_repo(fixture.path / REPO_INFO), fixture.ids["repo_info"]
    assert {name: str(tip) for name, tip in repo.branches.items()} == expected["branches"]
    assert {name: str(target) for name, target in repo.tags.items()} == expected["tags"]
    assert sorted(repo.deleted_tags) == expected["deleted_tags"]
    assert repo.metadata == expected["metadata"] == fixture.content["repo_metadata"]
    assert repo.status.availability == RepoAvailability.online
    assert {str(found) for found in repo.snapshots} == {item["id"] for item in expected["snapshots"]}
    for item in expected["snapshots"]:
        found = repo.snapshots[SnapshotId.parse(item["id"])]
        assert (None if found.parent_id is None else str(found.parent_id)) == item.get("parent_id")
        assert to_datetime(found.flushed_at) == datetime.fromisoformat(item["flushed_at"])
        file = read_snapshot(fixture.path / SNAPSHOTS / item["id"])
        assert (found.message, found.metadata, found.flushed_at) == (file.message, file.metadata, file.flushed_at)
    assert [type(update.kind).__name__ for update in repo.latest_updates] == fixture.content["ops_log"]
    for update, item in zip(repo.latest_updates, fixture.ids["ops_log"], strict=True):
        assert update.backup_path == item["backup_path"]
        assert to_datetime(update.updated_at) == datetime.fromisoformat(item["updated_at"])
        assert item["kind"] == official_repr(update)


def official_repr(update: Update) -> str:
    """Writes an update's kind as the official library prints it, for kinds with names and ids only."""
    values = [(name, getattr(update.kind, name)) for name in update.kind.__dataclass_fields__]
    arguments = ", ".join(f'{name}="{value}"' for name, value in values)
    return (
        f"icechunk.ops.UpdateType.{type(update.kind).__name__}({arguments})"
        if values
        else (f"icechunk.ops.UpdateType.{type(update.kind).__name__}()")
    )


@pytest.mark.parametrize("name", ["basic-v2", "history-v2"])
def test_backups_of_the_fixtures_are_where_the_log_says(name: str) -> None:
    path = Fixture(name).path
    for update in read_repo(path / REPO_INFO).latest_updates[1:]:
        assert update.backup_path is not None
        [latest, *_] = read_repo(path / OVERWRITTEN / update.backup_path).latest_updates
        assert (latest.kind, latest.updated_at, latest.backup_path) == (update.kind, update.updated_at, None)


# Whole repositories, rewritten


def rewrite_snapshot(path: Path) -> None:
    old = read_snapshot(path)
    again = encode_snapshot(
        snapshot_id=old.id,
        parent_id=old.parent_id,
        flushed_at=old.flushed_at,
        message=old.message,
        metadata=old.metadata,
        nodes=reversed(list(old.nodes())),
        manifest_files=reversed(list(old.manifest_files.values())),
        spec_version=old.spec_version,
        extra=old.extra,
    )
    assert again[12:17] == b"icefs"
    path.write_bytes(again)


def rewrite_repo(path: Path) -> None:
    again = encode_repo_info(read_repo(path))
    assert again[12:17] == b"icefs"
    path.unlink()  # it shares its inode with a backup
    path.write_bytes(again)


def rewrite(repo: Path) -> None:
    """Replaces every snapshot, repo info, ref and configuration of a repository by icefs's encoding."""
    for path in (repo / SNAPSHOTS).iterdir():
        rewrite_snapshot(path)
    if (repo / REPO_INFO).exists():
        for path in (repo / REPO_INFO, *(repo / OVERWRITTEN).glob("repo.*")):
            rewrite_repo(path)
        info = read_repo(repo / REPO_INFO)
        if info.config is not None:
            config = encode_config(parse_config(info.config))
            (repo / REPO_INFO).write_bytes(encode_repo_info(replace(info, config=config)))
    for path in (repo / REFS_V1).glob("*/ref.json"):
        path.write_bytes(encode_ref(parse_ref(path.read_bytes(), name=path.name)))
    if (repo / CONFIG_V1).exists():
        path = repo / CONFIG_V1
        path.write_bytes(encode_config_yaml(parse_config_yaml(path.read_bytes())))


def without_writer(content: RepoContent) -> dict[str, Any]:
    """All but the library that wrote a file and the file's size."""
    found = comparable(content)
    if found["repo_info"] is not None:
        header = found["repo_info"].pop("header")
        assert header["app_name"] in ("ic", "icefs")
    return found


REWRITTEN = [
    "empty-v1", "empty-v2", "names-v1", "names-v2", "hostile-names-v2", "many-nodes-v2", "dtypes-v1", "oddities-v1",
    "oddities-v2", "ragged-v2", "rectilinear-v2", "split-manifests-v1", "history-v1", "history-v2", "amended-v2",
    "moved-v2", "expired-v1", "expired-v2", "collected-v2", "migrated-v2", "long-ops-log-v2", "configured-v1",
    "configured-v2", "virtual-v2",
]  # fmt: skip


@pytest.mark.parametrize("name", REWRITTEN)
def test_the_official_library_says_the_same_of_rewritten_repositories(
    name: str,
    generated: Callable[[str], GeneratedRepo],
    oracle_of: Callable[[str], RepoContent],
    tmp_path: Path,
) -> None:
    original, expected = generated(name), without_writer(oracle_of(name))
    copy = replace(original, path=tmp_path / "repo")
    shutil.copytree(original.path, copy.path)
    rewrite(copy.path)
    found = without_writer(official_view(copy))
    for part, value in expected.items():
        assert found[part] == value, part


@pytest.mark.parametrize("name", FIXTURE_NAMES)
def test_the_official_library_commits_on_top_of_rewritten_fixtures(name: str, tmp_path: Path) -> None:
    fixture = Fixture(name)
    path = tmp_path / "repo"
    shutil.copytree(fixture.path, path)
    for found in path.rglob("*"):
        found.chmod(0o755 if found.is_dir() else 0o644)
    rewrite(path)
    repo = ic.Repository.open(local(path))
    for branch, messages in fixture.content["branches"].items():
        assert [info.message for info in repo.ancestry(branch=branch)] == messages
    session = repo.writable_session("main")
    before = session.snapshot_id
    put(session.store, "added/zarr.json", GROUP)
    put(session.store, "added/array/zarr.json", array_json([4], [2]))
    put(session.store, "added/array/c/1", b"ab")
    after = session.commit("on top", metadata={"key": [1, None]})
    repo.create_tag("a new tag", after)
    branches, tags, _, parents = refs_of(path)
    new = read_snapshot(path / SNAPSHOTS / after)
    assert str(branches["main"]) == str(tags["a new tag"]) == after
    assert str(parents[new.id]) == before
    assert new.metadata == {"key": [1, None]}
    node = new.node("/added/array")
    assert node is not None
    assert node.node_type == NodeType.ARRAY
    assert set(read_snapshot(path / SNAPSHOTS / before).paths) < set(new.paths)
    # And once more by icefs, so that the next to open it is the official library.
    rewrite(path)
    assert next(iter(ic.Repository.open(local(path)).ancestry(branch="main"))).message == "on top"


# A repository that icefs made


@pytest.fixture(name="made")
def made_fixture(tmp_path: Path) -> Made:
    return Made(tmp_path / "repo")


def test_a_new_repository_opens(made: Made) -> None:
    repo = made.official()
    assert repo.list_branches() == {"main"}
    assert [info.id for info in repo.ancestry(branch="main")] == [str(INITIAL_SNAPSHOT_ID)]
    assert [type(update.kind).__name__.rpartition(".")[2] for update in repo.ops_log()] == ["RepoInitialized"]
    commit(repo, "first", {"zarr.json": GROUP})
    assert len(read_repo(made.path / REPO_INFO).snapshots) == 2


def test_each_update_is_seen(made: Made) -> None:
    """After each step of ours the official library says the same as our own reader of every part."""
    one = made.commit(1, INITIAL_SNAPSHOT_ID)
    two = made.commit(2, one)
    status = RepoStatus(RepoAvailability.read_only, NOW, "for a while")
    online = RepoStatus(RepoAvailability.online, NOW + 1)
    config = encode_config(RepositoryConfig(inline_chunk_threshold_bytes=5))
    changes: list[Callable[[RepoInfo, Stamp], RepoInfo]] = [
        lambda repo, stamp: add_branch(repo, "dev/ü", one, stamp),
        lambda repo, stamp: add_tag(repo, "", two, stamp),
        lambda repo, stamp: add_tag(repo, "v1", one, stamp),
        lambda repo, stamp: delete_tag(repo, "v1", stamp),
        lambda repo, stamp: update_branch(repo, "dev/ü", two, stamp),
        lambda repo, stamp: set_metadata(repo, {"b": [1, {"c": None}], "a": 2**64 - 1}, stamp),
        lambda repo, stamp: set_feature_flag(repo, 3, False, stamp),
        lambda repo, stamp: set_feature_flag(repo, 4, True, stamp),
        lambda repo, stamp: set_feature_flag(repo, 3, None, stamp),
        lambda repo, stamp: set_config(repo, config, stamp),
        lambda repo, stamp: set_status(repo, status, stamp),
        lambda repo, stamp: set_status(repo, online, stamp),
        lambda repo, stamp: delete_branch(repo, "dev/ü", stamp),
    ]
    for change in changes:
        ours, theirs = made.update(change), made.official()
        assert {name: theirs.lookup_branch(name) for name in theirs.list_branches()} == {
            name: str(tip) for name, tip in ours.branches.items()
        }
        assert {name: theirs.lookup_tag(name) for name in theirs.list_tags()} == {
            name: str(target) for name, target in ours.tags.items()
        }
        assert theirs.metadata == ours.metadata
        assert status_facts(theirs.status) == {
            "availability": f"RepoAvailability.{ours.status.availability.name}",
            "set_at": to_datetime(ours.status.set_at),
            "reason": ours.status.limited_availability_reason,
        }
        flags = {flag.id: flag.setting for flag in theirs.feature_flags()}
        assert flags == {flag: ours.feature_flag(flag) for flag in flags}
        assert [(update.updated_at, update.backup_path) for update in theirs.ops_log()] == [
            (to_datetime(update.updated_at), update.backup_path) for update in ours.latest_updates
        ]
    latest = [update_facts(update)["kind"] for update in theirs.ops_log()]
    assert latest == [type(update.kind).__name__ for update in ours.latest_updates]
    assert theirs.config.inline_chunk_threshold_bytes == 5
    with pytest.raises(ic.IcechunkError) as caught:
        theirs.create_tag("v1", str(one))
    assert caught.value.kind == "tag-previously-deleted"
    commit(theirs, "theirs", {"zarr.json": GROUP})
    again = read_repo(made.path / REPO_INFO)
    assert again.latest_updates[1:] == (
        replace(ours.latest_updates[0], backup_path=again.latest_updates[1].backup_path),
        *ours.latest_updates[1:],
    )


def test_history_with_pruned_logs_and_detached_snapshots(made: Made) -> None:
    one = made.commit(1, INITIAL_SNAPSHOT_ID)
    two = made.commit(2, one)
    made.commit(3, two, branch=None)
    pruned = (snapshot_id(50), snapshot_id(51))

    def prune(repo: RepoInfo, stamp: Stamp) -> RepoInfo:
        changed = replace(repo.snapshots[two], pruned_ancestor_tx_logs=pruned)
        named = set_metadata(repo, {}, stamp)
        return replace(named, snapshots=named.snapshots.rewritten(replace=[changed]))

    made.update(prune)
    repo = made.official()
    assert len(repo.inspect_repo_info()["snapshots"]) == 4
    composite = repo.inspect_transaction_log(str(two))["synthetic_composite"]
    assert sorted(composite["missing_tx_logs"]) == sorted(map(str, pruned))
    assert "synthetic_composite" not in repo.inspect_transaction_log(str(one))
    assert [info_facts(info)["metadata"] for info in repo.ancestry(snapshot_id=str(snapshot_id(3)))][:3] == [
        {"n": 3},
        {"n": 2},
        {"n": 1},
    ]
    commit(repo, "on top", {"zarr.json": GROUP})
    assert read_repo(made.path / REPO_INFO).snapshots[two].pruned_ancestor_tx_logs == pruned


def test_the_ops_log_spills_for_both(made: Made) -> None:
    """Updates of icefs and of the official library in turn, three to a file: each reader follows the whole chain."""
    config = encode_config(RepositoryConfig(num_updates_per_repo_info_file=3))
    made.update(lambda repo, stamp: set_config(repo, config, stamp), num_updates=3)
    for number in range(8):
        made.update(
            lambda repo, stamp, n=number: add_branch(repo, f"ours {n}", INITIAL_SNAPSHOT_ID, stamp), num_updates=3
        )
        if number % 3 == 2:
            made.official().create_branch(f"theirs {number}", str(INITIAL_SNAPSHOT_ID))
            made.now = read_repo(made.path / REPO_INFO).latest_updates[0].updated_at
    repo = read_repo(made.path / REPO_INFO)
    assert len(repo.latest_updates) == 3
    times = []
    while True:
        times += [to_datetime(update.updated_at) for update in repo.latest_updates]
        if repo.repo_before_updates is None:
            break
        repo = read_repo(made.path / OVERWRITTEN / repo.repo_before_updates)
    assert times == sorted(times, reverse=True)
    assert times == [update.updated_at for update in made.official().ops_log()]
    assert len(times) == 1 + 1 + 8 + 2


def test_ten_thousand_snapshots(made: Made) -> None:
    """The official library verifies a large repo info of ours as it opens, and commits on top."""
    infos = [
        SnapshotInfo(
            snapshot_id(number),
            snapshot_id(number - 1) if number > 1 else INITIAL_SNAPSHOT_ID,
            NOW + number,
            f"m{number}",
            {"n": number},
        )
        for number in range(1, 10_000)
    ]

    def grow(repo: RepoInfo, stamp: Stamp) -> RepoInfo:
        grown = replace(repo, snapshots=repo.snapshots.rewritten(add=infos))
        return update_branch(grown, "main", infos[-1].id, stamp)

    made.write_snapshot(infos[-1])
    made.update(grow)
    repo = made.official()
    assert sum(1 for _ in repo.ancestry(branch="main")) == 10_000
    commit(repo, "on top", {"zarr.json": GROUP})
    ours = read_repo(made.path / REPO_INFO)
    assert len(ours.snapshots) == 10_001
    assert sum(1 for _ in ours.ancestry_ids(ours.branches["main"])) == 10_001

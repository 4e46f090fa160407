"""Snapshots and repo infos with a bit of everything, as values, for tests of what reads and writes them."""

from random import Random

from icefs.format.flat.flexbuffer import encode_flexbuffer
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ManifestId, NodeId, SnapshotId
from icefs.format.repo.info import RepoInfo, encode_metadata
from icefs.format.repo.ops_log import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    CommitAmended,
    ConfigChanged,
    ExpirationRan,
    FeatureFlagChanged,
    GCRan,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    OpsLog,
    RepoAvailability,
    RepoInitialized,
    RepoMigrated,
    RepoStatus,
    RepoStatusChanged,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable
from icefs.format.snapshot.nodes import ArrayData, DimensionShape, ManifestFileInfo, ManifestRef, NodeSnapshot
from icefs.format.snapshot.writer import encode_snapshot

NOW = 1_700_000_000_000_000
GROUP_JSON = b'{"zarr_format":3,"node_type":"group"}'
ARRAY_JSON = b'{"zarr_format":3,"node_type":"array","shape":[10]}'


def snapshot_id(number: int) -> SnapshotId:
    """Makes an id; ids of successive numbers are not in order."""
    return SnapshotId(Random(number).randbytes(12))


def node_id(number: int) -> NodeId:
    """Makes an id."""
    return NodeId(Random(number).randbytes(8))


def manifest_id(number: int) -> ManifestId:
    """Makes an id."""
    return ManifestId(Random(number).randbytes(12))


def sample_nodes() -> list[NodeSnapshot]:
    """Groups and arrays of 0 to 3 dimensions, named, unnamed and partly named, with 0 to 2 manifests; not sorted."""
    three = ArrayData(
        (DimensionShape(100, 10), DimensionShape(5, 5), DimensionShape(0, 0)),
        ("time", None, "lon"),
        (
            ManifestRef(manifest_id(1), ((0, 5), (0, 5), (0, 1))),
            ManifestRef(manifest_id(2), ((5, 10), (0, 5), (0, 1))),
        ),
    )
    scalar = ArrayData((), (), (ManifestRef(manifest_id(3), ()),))
    unnamed = ArrayData((DimensionShape(2**40, 2**30),), None, ())
    return [
        NodeSnapshot(node_id(1), "/", GROUP_JSON),
        NodeSnapshot(node_id(2), "/b", GROUP_JSON),
        NodeSnapshot(node_id(3), "/b/three", ARRAY_JSON, three),
        NodeSnapshot(node_id(4), "/b-c", b"", scalar),
        NodeSnapshot(node_id(5), "/ü/ 🧊", b"\xff not even json", unnamed),
        NodeSnapshot(node_id(6), "/a", GROUP_JSON, extra=b"kept"),
    ]


def sample_files() -> list[ManifestFileInfo]:
    """Manifest files, not sorted."""
    return [
        ManifestFileInfo(manifest_id(1), 1234, 10),
        ManifestFileInfo(manifest_id(2), 2**40, 2**32 - 1),
        ManifestFileInfo(manifest_id(3), 0, 0),
    ]


def sample_snapshot(spec_version: int = 2) -> bytes:
    """Encodes them, with everything else that a snapshot can have."""
    return encode_snapshot(
        snapshot_id=snapshot_id(1),
        parent_id=snapshot_id(2),
        flushed_at=NOW,
        message="a messäge",
        metadata={"z": 1, "a": {"list": [1, None, 2.5]}},
        nodes=sample_nodes(),
        manifest_files=sample_files(),
        spec_version=spec_version,
        extra=b"extra",
    )


def sample_kinds() -> list[UpdateKind]:
    """One of each kind of update, and every state of a feature flag."""
    one, two = snapshot_id(1), snapshot_id(2)
    return [
        NewCommit("main", one),
        CommitAmended("main", one, two),
        NewDetachedSnapshot(two),
        BranchCreated("dev"),
        BranchDeleted("ö/x", one),
        BranchReset("main", two),
        TagCreated("v1"),
        TagDeleted("", one),
        ConfigChanged(),
        MetadataChanged(),
        FeatureFlagChanged(3, True),
        FeatureFlagChanged(4, False),
        FeatureFlagChanged(65_535, None),
        RepoStatusChanged(RepoStatus(RepoAvailability.read_only, NOW, "because")),
        GCRan(),
        ExpirationRan(),
        RepoMigrated(1, 2),
        RepoInitialized(),
    ]


def sample_updates() -> list[Update]:
    """All kinds, newest first, the newest without backup path."""
    kinds = sample_kinds()
    return [
        Update(kind, NOW + 1000 - row, f"repo.{row:014d}.X" if row and row < len(kinds) - 1 else None)
        for row, kind in enumerate(kinds)
    ]


def sample_infos(count: int = 12) -> list[SnapshotInfo]:
    """A line of snapshots, the first one the initial one, and a side line; some with metadata and pruned logs."""
    ids = [INITIAL_SNAPSHOT_ID, *(snapshot_id(number) for number in range(1, count))]
    return [
        SnapshotInfo(
            own_id,
            None if not row else ids[row - 1] if row % 4 else ids[row // 2],
            NOW + row,
            f"commit {row} ü",
            {"number": row, "nested": {"list": [row, None]}} if row % 3 else {},
            (snapshot_id(100 + row), snapshot_id(200)) if row == 5 else (),
        )
        for row, own_id in enumerate(ids)
    ]


def sample_repo() -> RepoInfo:
    """A repo info in which nothing is empty."""
    infos = sample_infos()
    return RepoInfo(
        snapshots=SnapshotTable.of(infos),
        branches={"main": infos[-1].id, "dev": infos[3].id, "ä/b c": infos[0].id},
        tags={"v2": infos[2].id, "v1": infos[1].id},
        deleted_tags=frozenset({"old", "older", "ö"}),
        status=RepoStatus(RepoAvailability.read_only, NOW, "for a test"),
        ops_log=OpsLog(sample_updates()),
        repo_before_updates="repo.99999999999999.X",
        config=encode_flexbuffer({"inline_chunk_threshold_bytes": 5}),
        metadata_items=encode_metadata({"b": [1, 2], "a": "text"}),
        enabled_feature_flags=(3, 9),
        disabled_feature_flags=(4,),
        extra=b"reserved",
    )

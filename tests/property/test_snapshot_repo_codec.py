"""Any snapshot and any repo info survive being written and read, and the reader does not depend on their order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from icefs.format.ids import ManifestId, NodeId, SnapshotId
from icefs.format.repo.info import RepoInfo, encode_metadata, encode_repo_info, parse_repo_info
from icefs.format.repo.ops_log import (
    OpsLog,
    RepoAvailability,
    RepoInitialized,
    RepoStatus,
    Update,
)
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable
from icefs.format.snapshot.nodes import ArrayData, DimensionShape, ManifestFileInfo, ManifestRef, NodeSnapshot
from icefs.format.snapshot.reader import parse_snapshot
from icefs.format.snapshot.writer import encode_snapshot
from tests.support.repo_samples import sample_kinds

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
SEGMENTS = TEXT.filter(lambda text: text not in ("", ".", "..") and "/" not in text)
PATHS = st.lists(SEGMENTS, max_size=3).map(lambda parts: "/" + "/".join(parts))
TIMES = st.integers(0, 253_402_300_799_999_999)
U32 = st.integers(0, 2**32 - 1)
METADATA = st.dictionaries(TEXT, st.none() | st.integers(-5, 300) | st.lists(TEXT, max_size=3), max_size=3)
SNAPSHOT_IDS = st.binary(min_size=12, max_size=12).map(SnapshotId)
MANIFEST_IDS = st.binary(min_size=12, max_size=12).map(ManifestId)
NODE_IDS = st.binary(min_size=8, max_size=8).map(NodeId)


@st.composite
def arrays(draw: st.DrawFn) -> ArrayData:
    ndim = draw(st.integers(0, 3))
    chunks = [draw(U32) for _ in range(ndim)]
    # In spec version 1 the number of chunks is what a regular grid can have.
    lengths = [count * draw(st.integers(1, 2**31)) for count in chunks]
    extents = st.tuples(*[st.tuples(U32, U32)] * ndim)
    names = st.none() | st.tuples(*[st.none() | TEXT.filter(bool)] * ndim)
    return ArrayData(
        tuple(map(DimensionShape, lengths, chunks)),
        draw(names),
        tuple(draw(st.lists(st.builds(ManifestRef, MANIFEST_IDS, extents), max_size=3))),
    )


NODES = st.builds(
    NodeSnapshot,
    NODE_IDS,
    PATHS,
    st.binary(max_size=20),
    st.none() | arrays(),
    st.none() | st.binary(max_size=5),
)
FILES = st.builds(ManifestFileInfo, MANIFEST_IDS, st.integers(0, 2**64 - 1), U32)


@given(
    st.integers(1, 2),
    st.lists(NODES, max_size=8, unique_by=(lambda node: node.path, lambda node: node.id)),
    st.lists(FILES, max_size=5, unique_by=lambda info: info.id),
    METADATA,
    TEXT,
    TIMES,
    st.none() | SNAPSHOT_IDS,
)
def test_snapshots(
    spec_version: int,
    nodes: list[NodeSnapshot],
    files: list[ManifestFileInfo],
    metadata: dict[str, Any],
    message: str,
    flushed_at: int,
    parent_id: SnapshotId | None,
) -> None:
    files = [ManifestFileInfo(info.id, info.size_bytes % 2**63, info.num_chunk_refs) for info in files]
    data = encode_snapshot(
        snapshot_id=SnapshotId(bytes(12)),
        parent_id=parent_id,
        flushed_at=flushed_at,
        message=message,
        metadata=metadata,
        nodes=nodes,
        manifest_files=files,
        spec_version=spec_version,
    )
    found = parse_snapshot(data, name="x")
    assert list(found.nodes()) == sorted(nodes, key=lambda node: node.path.encode())
    assert list(found.manifest_files.values()) == sorted(files, key=lambda info: info.id)
    assert (found.message, found.flushed_at, found.metadata) == (message, flushed_at, metadata)
    assert found.parent_id == (parent_id if spec_version == 1 else None)
    for node in nodes:
        assert found.node(node.path) == node
        assert found.node_by_id(node.id) == node


@st.composite
def histories(draw: st.DrawFn) -> list[SnapshotInfo]:
    ids = draw(st.lists(SNAPSHOT_IDS, min_size=1, max_size=12, unique=True))
    infos = []
    for row, own_id in enumerate(ids):
        parent = draw(st.none() | st.sampled_from(ids[:row])) if row else None
        pruned = tuple(draw(st.lists(SNAPSHOT_IDS, max_size=2)))
        infos.append(SnapshotInfo(own_id, parent, draw(TIMES), draw(TEXT), draw(METADATA), pruned))
    return infos


@given(histories(), st.data())
def test_repo_infos(infos: list[SnapshotInfo], data: st.DataObject) -> None:
    draw = data.draw
    ids = st.sampled_from([info.id for info in infos])
    kinds = st.sampled_from(sample_kinds())
    paths = st.none() | TEXT
    repo = RepoInfo(
        snapshots=SnapshotTable.of(infos),
        branches={**draw(st.dictionaries(TEXT, ids, max_size=3)), "main": draw(ids)},
        tags=draw(st.dictionaries(TEXT, ids, max_size=3)),
        deleted_tags=draw(st.frozensets(TEXT, max_size=3)),
        status=RepoStatus(draw(st.sampled_from(RepoAvailability)), draw(TIMES), draw(paths)),
        ops_log=OpsLog(
            [*draw(st.lists(st.builds(Update, kinds, TIMES, paths), max_size=4)), Update(RepoInitialized(), 0)]
        ),
        repo_before_updates=draw(paths),
        config=draw(st.none() | st.binary(max_size=5)),
        metadata_items=encode_metadata(draw(METADATA)),
        enabled_feature_flags=tuple(sorted(draw(st.sets(st.integers(0, 2**16 - 1), max_size=3)))),
        disabled_feature_flags=tuple(sorted(draw(st.sets(st.integers(0, 2**16 - 1), max_size=3)))),
        extra=draw(st.none() | st.binary(max_size=5)),
    )
    encoded = encode_repo_info(repo)
    found = parse_repo_info(encoded, name="x")
    assert encode_repo_info(found) == encoded
    assert dict(found.snapshots) == {info.id: info for info in infos}
    assert list(found.snapshots) == sorted(info.id for info in infos)
    for field in (
        "branches", "tags", "deleted_tags", "status", "latest_updates", "repo_before_updates", "config",
        "metadata", "enabled_feature_flags", "disabled_feature_flags", "extra",
    ):  # fmt: skip
        assert getattr(found, field) == getattr(repo, field), field


@given(histories(), st.data())
def test_rewriting_snapshots(infos: list[SnapshotInfo], data: st.DataObject) -> None:
    """Dropping, replacing and adding gives what a dict of values gives."""
    expected = {info.id: info for info in infos}
    dropped = set(data.draw(st.lists(st.sampled_from([info.id for info in infos]), max_size=4)))
    orphans = [
        SnapshotInfo(info.id, None, info.flushed_at ^ 1, info.message, {}, ())
        for info in infos
        if info.parent_id in dropped and info.id not in dropped
    ]
    new = data.draw(SNAPSHOT_IDS.filter(lambda found: found not in expected))
    kept = [info.id for info in infos if info.id not in dropped]
    added = [SnapshotInfo(new, data.draw(st.none() | st.sampled_from(kept)) if kept else None, 5, "new", {"x": 1})]
    table = SnapshotTable.of(infos).rewritten(drop=dropped, replace=orphans, add=added)
    expected |= {info.id: info for info in (*orphans, *added)}
    assert dict(table) == {found: info for found, info in expected.items() if found not in dropped}

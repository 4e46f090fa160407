"""What icefs writes as manifests and transaction logs, the official library opens, verifies, and reads the same from.

Whole repositories of the official library are rewritten in place: each manifest, transaction log and snapshot (which
knows the manifests' sizes) is replaced by icefs's encoding of what it says. After that, the official library must
give the same answers to everything. Then, manifests of every kind of reference, in sizes that it did not write.
"""

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from random import Random
from typing import Any

import icechunk as ic
import numpy as np
import pytest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from icefs.format.ids import ManifestId, NodeId, SnapshotId
from icefs.format.layout import MANIFESTS, SNAPSHOTS, TRANSACTIONS
from icefs.format.manifest.locations import MAX_COMPRESSIBLE_BYTES, LocationCompression
from icefs.format.manifest.reader import parse_manifest
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, InlineRef, VirtualRef
from icefs.format.manifest.writer import encode_manifest
from icefs.format.snapshot.nodes import ManifestFileInfo, ManifestRef
from icefs.format.snapshot.reader import Snapshot, parse_snapshot
from icefs.format.snapshot.writer import encode_snapshot
from icefs.format.transaction_log import TransactionLog, encode_transaction_log, parse_transaction_log
from tests.conformance.official import GROUP, GeneratedRepo, array_json, commit, create
from tests.conformance.oracle import RepoContent
from tests.conformance.oracle import oracle_of as ask_the_official_library
from tests.property.strategies_refs import as_map, sample_arrays, sample_indices

COMPRESS = LocationCompression(min_num_chunks=1)


def spec_version_of(data: bytes) -> int:
    return data[36]


def rewrite_manifests(repo: Path) -> dict[ManifestId, ManifestFileInfo]:
    """Replaces each manifest by icefs's encoding; returns what the snapshots must know of them."""
    infos = {}
    for path in sorted((repo / MANIFESTS).glob("*")):
        data = path.read_bytes()
        manifest = parse_manifest(data, name=path.name)
        again = encode_manifest(
            manifest.id,
            list(manifest.arrays.values()),
            spec_version=spec_version_of(data),
            location_compression=COMPRESS,
        )
        assert again != data
        path.write_bytes(again)
        infos[manifest.id] = ManifestFileInfo(manifest.id, len(again), manifest.num_chunk_refs)
    return infos


def rewrite_snapshot(
    path: Path,
    infos: dict[ManifestId, ManifestFileInfo],
    change: Callable[[Snapshot], dict[str, Any]] = lambda _: {},
) -> None:
    """Replaces a snapshot by icefs's encoding, with other sizes of manifests and whatever `change` says."""
    old = parse_snapshot(path.read_bytes(), name=path.name)
    parts: dict[str, Any] = {
        "snapshot_id": old.id,
        "flushed_at": old.flushed_at,
        "message": old.message,
        "metadata": old.metadata,
        "nodes": list(old.nodes()),
        "manifest_files": [infos[manifest_id] for manifest_id in old.manifest_files],
        "parent_id": old.parent_id,
        "spec_version": old.spec_version,
    }
    path.write_bytes(encode_snapshot(**{**parts, **change(old)}))


def rewrite(repo: Path) -> None:
    infos = rewrite_manifests(repo)
    for path in sorted((repo / SNAPSHOTS).glob("*")):
        rewrite_snapshot(path, infos)
    for path in sorted((repo / TRANSACTIONS).glob("*")):
        data = path.read_bytes()
        log = parse_transaction_log(data, name=path.name)
        again = encode_transaction_log(log, spec_version=spec_version_of(data))
        assert again != data
        path.write_bytes(again)


def comparable(content: RepoContent) -> dict[str, Any]:
    """What must be the same: all but sizes of files, the library that wrote them, and how well locations compressed."""
    found = asdict(content)
    for snapshot in found["contents"].values():
        snapshot["manifest_files"] = [(name, count) for name, _, count in snapshot["manifest_files"]]
        for description in (snapshot["inspected"], snapshot["transaction_log"], *snapshot["manifests"].values()):
            if description is not None:
                assert description.pop("header")["app_name"] in ("ic", "icefs")
                description.pop("size_bytes", None)
                description.pop("compression", None)
        for manifest in snapshot["inspected"]["manifests"]:
            manifest.pop("size_bytes")
    return found


@pytest.mark.parametrize(
    "name",
    [
        "virtual-v1", "virtual-v2", "many-virtual-v1", "many-virtual-v2", "split-manifests-v2", "root-array-v1",
        "root-array-v2", "history-v1", "history-v2", "amended-v2", "moved-v2",
    ],
)  # fmt: skip
def test_the_official_library_reads_the_same_from_rewritten_repositories(
    name: str,
    generated: Callable[[str], GeneratedRepo],
    oracle_of: Callable[[str], RepoContent],
    tmp_path: Path,
) -> None:
    original = generated(name)
    copy = tmp_path / "repo"
    shutil.copytree(original.path, copy)
    rewrite(copy)
    expected = comparable(oracle_of(name))
    assert comparable(ask_the_official_library(replace(original, path=copy))) == expected
    assert any(content["manifests"] for content in expected["contents"].values())


# What the official library did not write


@pytest.fixture(scope="module", name="repo")
def repo_fixture(tmp_path_factory: pytest.TempPathFactory) -> tuple[ic.Repository, Path]:
    """A repository with one array `a` of 40 x 30 x 20 chunks, of which one exists."""
    path = tmp_path_factory.mktemp("bulk") / "repo"
    repo = create(path, 2)
    commit(repo, "one", {"zarr.json": GROUP, "a/zarr.json": array_json([40, 30, 20], [1, 1, 1]), "a/c/0/0/0": b"x"})
    return repo, path


def check_counts(repo: ic.Repository, path: Path, arrays: list[ArrayRefs], **options: Any) -> dict[str, Any]:
    """Encodes a manifest, and checks that the official library verifies it and counts the same references."""
    manifest_id = ManifestId.random()  # the library keeps what it has read under an id
    (path / MANIFESTS / str(manifest_id)).write_bytes(encode_manifest(manifest_id, arrays, **options))
    found: dict[str, Any] = repo.inspect_manifest(str(manifest_id))
    assert found["id"] == str(manifest_id)
    assert found["arrays"] == [
        {
            "node_id": str(refs.node_id),
            "num_chunk_refs": len(refs),
            "num_inline": int((refs.kinds == ChunkKind.INLINE).sum()),
            "num_native": int((refs.kinds == ChunkKind.NATIVE).sum()),
            "num_virtual": int((refs.kinds == ChunkKind.VIRTUAL).sum()),
        }
        for refs in arrays
    ]
    return found


@pytest.mark.parametrize("compression", [None, COMPRESS], ids=["plain", "compressed"])
@pytest.mark.parametrize("spec_version", [1, 2])
def test_every_shape_of_manifest_is_verified(
    repo: tuple[ic.Repository, Path], spec_version: int, compression: LocationCompression | None
) -> None:
    """Alignment, vtables, offsets and strings, for arrays of every kind, alone and together."""
    how = {"spec_version": spec_version, "location_compression": compression}
    for count in (1, 2, 3, 50):
        arrays = sample_arrays(count, seed=count)
        check_counts(*repo, arrays, **how)
        for refs in arrays:
            found = check_counts(*repo, [refs], **how)["compression"]
            if compression is None or spec_version == 1 or refs.virtual is None:
                assert not found["uses_location_compression"]
            elif count == 50:
                assert found["num_compressed_refs"] == len(refs.virtual.rows)


def test_references_read_as_they_were_written(repo: tuple[ic.Repository, Path]) -> None:
    """All kinds in one array: types, coordinates, inline bytes, and compressed locations next to plain ones."""
    official, path = repo
    snapshot_id = official.lookup_branch("main")
    official = ic.Repository.open(official.storage)  # without what it has read
    snapshot_path = path / SNAPSHOTS / snapshot_id
    node = parse_snapshot(snapshot_path.read_bytes(), name=snapshot_id).node("/a")
    assert node is not None
    assert node.array is not None
    random = Random(2)
    indices = [(x, y, z) for x in range(40) for y in range(30) for z in range(20) if random.random() < 0.4]
    written = {}
    for number, index in enumerate(indices):
        if number % 3:
            size = random.choice((3, 30, 300, MAX_COMPRESSIBLE_BYTES, MAX_COMPRESSIBLE_BYTES + 1, 3000))
            location = f"s3://bucket/{number}/ü".ljust(size, "y")
            written[index] = VirtualRef(location, number, number + 1, f"e{number}" if number % 2 else None)
        else:
            written[index] = InlineRef(random.randbytes(1 + number % 40))
    refs = ArrayRefs.from_refs(node.id, 3, written.items())
    manifest_id = node.array.manifests[0].manifest_id
    data = encode_manifest(manifest_id, [refs], spec_version=2, location_compression=LocationCompression())
    (path / MANIFESTS / str(manifest_id)).write_bytes(data)
    assert official.inspect_manifest(str(manifest_id))["compression"]["num_compressed_refs"] > 2000

    array = replace(node.array, manifests=(ManifestRef(manifest_id, refs.bounding_box()),))
    rewrite_snapshot(
        snapshot_path,
        {manifest_id: ManifestFileInfo(manifest_id, len(data), len(refs))},
        lambda old: {"nodes": [replace(n, array=array) if n.path == "/a" else n for n in old.nodes()]},
    )
    session = official.readonly_session("main")
    assert _coordinates(session) == sorted(written)
    assert sorted(session.all_virtual_chunk_locations()) == sorted(refs.virtual_locations())
    for index, ref in as_map(refs).items():
        assert int(session.chunk_type("/a", list(index))) == ref.kind
        if isinstance(ref, InlineRef):
            assert _get(session.store, "a/c/" + "/".join(map(str, index))) == ref.data
    missing = next(index for index in np.ndindex(40, 30, 20) if index not in written)
    assert session.chunk_type("/a", list(missing)) == ic.ChunkType.uninitialized


def test_a_large_manifest(repo: tuple[ic.Repository, Path]) -> None:
    count = 200_000
    coords = np.unravel_index(np.arange(count), (100, 100, 20))
    ids = np.random.default_rng(1).integers(0, 256, (count, 12), np.uint8)
    refs = ArrayRefs.from_columns(NodeId(b"node-id."), coords, kinds=1, lengths=np.arange(count), chunk_ids=ids)
    check_counts(*repo, [refs], spec_version=2)


@pytest.mark.parametrize("spec_version", [1, 2])
def test_transaction_logs_are_verified(repo: tuple[ic.Repository, Path], spec_version: int) -> None:
    path = repo[1]
    official = ic.Repository.open(repo[0].storage)
    snapshot_id = official.lookup_branch("main")
    ids = tuple(NodeId(bytes(7) + bytes((number,))) for number in range(6))
    log = TransactionLog(
        SnapshotId.parse(snapshot_id), ids[:1], ids[:2], ids[:3], ids[:4], ids[:5], ids, updated_chunks=sample_indices()
    )
    (path / TRANSACTIONS / snapshot_id).write_bytes(encode_transaction_log(log, spec_version=spec_version))
    found = official.inspect_transaction_log(snapshot_id)
    for name in ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_arrays", "updated_groups"):
        assert found[name] == [str(node_id) for node_id in getattr(log, name)]
    assert found["updated_chunks"] == [
        {"node_id": str(node_id), "chunks": [list(index) for index in chunks]}
        for node_id, chunks in log.updated_chunks.items()
    ]


def _get(store: ic.IcechunkStore, key: str) -> bytes:
    value = sync(store.get(key, default_buffer_prototype()))
    assert value is not None
    return bytes(value.to_bytes())


def _coordinates(session: ic.Session) -> list[tuple[int, ...]]:
    async def collect() -> list[tuple[int, ...]]:
        return sorted([tuple(index) async for index in session.chunk_coordinates("/a")])

    return asyncio.run(collect())

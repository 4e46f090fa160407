"""Descriptions of a repository's files as plain JSON values, in the shape that the official library gives them.

The official library leaves out of a description what has no value, and so does this.
"""

import dataclasses
from typing import Any, Final

import numpy as np

from icefs.clock import to_datetime
from icefs.engine.read.assets import AssetManager
from icefs.engine.read.context import ReadContext
from icefs.engine.read.repo_state import repo_info
from icefs.errors import ObjectNotFoundError
from icefs.format.header import HEADER_BYTES, FileType, decode_file
from icefs.format.ids import ManifestId, ObjectId, SnapshotId
from icefs.format.layout import REPO_INFO, manifest_key, snapshot_key, transaction_log_key
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.repo.ops_log import FeatureFlagChanged, RepoAvailability, RepoMigrated, RepoStatus, Update
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.transaction_log import TransactionLog, merge

_AVAILABILITY: Final = {RepoAvailability.online: "Online", RepoAvailability.read_only: "ReadOnly"}
_COMPOSITE_NOTE: Final = (
    "expiration removed ancestors of this snapshot from the history; their logs are merged with its own here"
)


def inspect_snapshot(assets: AssetManager, snapshot_id: SnapshotId) -> dict[str, Any]:
    """Describes a snapshot's file: its metadata, its manifests and its nodes."""
    snapshot = assets.fetch_snapshot(snapshot_id)
    return {
        "id": str(snapshot.id),
        "header": _header(assets, snapshot_key(snapshot_id)),
        "flushed_at": _time(snapshot.flushed_at),
        "commit_message": snapshot.message,
        "metadata": dict(snapshot.metadata),
        "manifests": [
            {"id": str(info.id), "size_bytes": info.size_bytes, "num_chunk_refs": info.num_chunk_refs}
            for info in snapshot.manifest_files.values()
        ],
        "nodes": [_node(node) for node in snapshot.nodes()],
    }


def _node(node: NodeSnapshot) -> dict[str, Any]:
    described: dict[str, Any] = {"id": str(node.id), "path": node.path, "node_type": str(node.node_type)}
    if node.array is not None:
        names: tuple[str | None, ...] = node.array.dimension_names or ()
        shape = []
        for axis, dimension in enumerate(node.array.shape):
            name = names[axis] if axis < len(names) else None
            size = {"array_length": dimension.array_length, "num_chunks": dimension.num_chunks}
            shape.append(size if name is None else {"name": name, **size})
        described["shape"] = shape
        described["manifest_refs"] = [
            {"id": str(ref.manifest_id), "extents": [list(extent) for extent in ref.extents]}
            for ref in node.array.manifests
        ]
    return described


def inspect_repo_info(context: ReadContext) -> dict[str, Any]:
    """Describes `repo`: refs, all snapshots, and the latest updates; raises UnsupportedSpecVersionError."""
    assets, info = context.assets, repo_info(context, "the repo info")
    described: dict[str, Any] = {
        "header": _header(assets, REPO_INFO),
        "spec_version": f"{info.spec_version}.0",
        "branches": {name: str(info.branches[name]) for name in sorted(info.branches)},
        "tags": {name: str(info.tags[name]) for name in sorted(info.tags)},
        "deleted_tags": sorted(info.deleted_tags),
        "snapshots": [
            {
                "id": str(snapshot.id),
                **({} if snapshot.parent_id is None else {"parent_id": str(snapshot.parent_id)}),
                "flushed_at": _time(snapshot.flushed_at),
                "message": snapshot.message,
                "metadata": dict(snapshot.metadata),
            }
            for snapshot in info.snapshots.values()
        ],
        "metadata": dict(info.metadata),
        "latest_updates": [_update(update) for update in info.latest_updates],
    }
    if info.repo_before_updates is not None:
        described["repo_before_updates"] = info.repo_before_updates
    return described


def _update(update: Update) -> dict[str, Any]:
    kind = update.kind
    name = type(kind).__name__
    details: dict[str, Any] = {"type": name if isinstance(kind, FeatureFlagChanged) else f"{name}Update"}
    for field in dataclasses.fields(kind):
        value = getattr(kind, field.name)
        if isinstance(kind, RepoMigrated):
            value = f"{value}.0"
        elif isinstance(value, RepoStatus):
            value = {
                "availability": _AVAILABILITY[value.availability],
                "limited_availability_reason": value.limited_availability_reason,
                "set_at": _time(value.set_at),
            }
        elif isinstance(value, ObjectId):
            value = str(value)
        details[field.name] = value
    described = {"update_type": details, "updated_at": _time(update.updated_at)}
    if update.backup_path is not None:
        described["backup_path"] = update.backup_path
    return described


def inspect_manifest(assets: AssetManager, manifest_id: ManifestId) -> dict[str, Any]:
    """Describes a manifest's file: how many references of which kind it has, by array."""
    key = manifest_key(manifest_id)
    data = assets.storage.get(key).data
    _, body = decode_file(data, file_type=FileType.MANIFEST, name=key)
    manifest = assets.fetch_manifest(manifest_id)
    arrays, compressed, dictionary = [], 0, None
    totals = np.zeros(len(ChunkKind), np.int64)
    for node_id, refs in manifest.arrays.items():
        counts = np.bincount(refs.kinds, minlength=len(ChunkKind))
        totals += counts
        arrays.append(
            {
                "node_id": str(node_id),
                "num_chunk_refs": len(refs),
                "num_inline": int(counts[ChunkKind.INLINE]),
                "num_native": int(counts[ChunkKind.NATIVE]),
                "num_virtual": int(counts[ChunkKind.VIRTUAL]),
            }
        )
        found = _location_compression(refs)
        compressed += found[0]
        dictionary = found[1] if dictionary is None else dictionary
    return {
        "id": str(manifest.id),
        "header": describe_header(data),
        "size_bytes": len(body),
        "num_arrays": len(arrays),
        "total_chunk_refs": int(totals.sum()),
        "total_inline": int(totals[ChunkKind.INLINE]),
        "total_native": int(totals[ChunkKind.NATIVE]),
        "total_virtual": int(totals[ChunkKind.VIRTUAL]),
        "arrays": arrays,
        "compression": {
            "uses_location_compression": dictionary is not None,
            **({} if dictionary is None else {"dictionary_size_bytes": dictionary}),
            "num_compressed_refs": compressed,
        },
    }


def _location_compression(refs: ArrayRefs) -> tuple[int, int | None]:
    """Returns how many locations are compressed, and the size of the dictionary that they are compressed with."""
    locations = None if refs.virtual is None else refs.virtual.locations
    if locations is None or locations.compressed is None or locations.dictionary is None:
        return 0, None
    return int(locations.compressed.sum()), len(locations.dictionary.raw)


def inspect_transaction_log(context: ReadContext, snapshot_id: SnapshotId) -> dict[str, Any]:
    """Describes a snapshot's transaction log, merged with those of its pruned ancestors (oldest first)."""
    assets = context.assets
    listed = None if context.spec_version == 1 else repo_info(context, "the repo info").snapshots.get(snapshot_id)
    pruned = () if listed is None else tuple(listed.pruned_ancestor_tx_logs)
    own = assets.fetch_transaction_log(snapshot_id)
    header = _header(assets, transaction_log_key(snapshot_id))
    if not pruned:
        return {"header": header, **_transaction_log(own)}
    logs, merged, missing = [], [], []
    for pruned_id in pruned:
        try:
            logs.append(assets.fetch_transaction_log(pruned_id))
            merged.append(str(pruned_id))
        except ObjectNotFoundError:
            missing.append(str(pruned_id))
    return {
        "header": header,
        **_transaction_log(merge(snapshot_id, [*logs, own])),
        "synthetic_composite": {
            "note": _COMPOSITE_NOTE,
            "merged_pruned_ancestor_tx_logs": merged,
            "missing_tx_logs": missing,
        },
    }


def _transaction_log(log: TransactionLog) -> dict[str, Any]:
    lists = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays")
    return {
        **{name: [str(node_id) for node_id in getattr(log, name)] for name in lists},
        "updated_chunks": [
            {"node_id": str(node_id), "chunks": [list(index) for index in indices]}
            for node_id, indices in log.updated_chunks.items()
        ],
        "moved_nodes": [{"from": move.from_path, "to": move.to_path} for move in log.moved_nodes],
    }


def _header(assets: AssetManager, key: str) -> dict[str, Any]:
    return describe_header(assets.storage.get(key, end=HEADER_BYTES).data)


def describe_header(data: bytes) -> dict[str, Any]:
    """Describes the header of a file that was decoded already."""
    written_by = data[12:36].decode(errors="replace").rstrip(" \0")
    app_name, dash, app_version = written_by.partition("-")
    described = {"written_by": written_by, "app_name": app_name}
    if dash:
        described["app_version"] = app_version
    described["spec_version"] = f"{data[36]}.0"
    described["file_type"] = FileType(data[37]).name.lower().replace("_", "-")
    described["compression"] = "zstd"
    return described


def _time(micros: int) -> str:
    """Writes a time as the official library does: in UTC, with 0, 3 or 6 digits of the second."""
    moment = to_datetime(micros).replace(tzinfo=None)
    precision = "seconds" if not micros % 1_000_000 else "milliseconds" if not micros % 1000 else "microseconds"
    return f"{moment.isoformat(timespec=precision)}Z"

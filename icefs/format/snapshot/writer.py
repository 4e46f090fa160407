"""Writes snapshot files; `reader` describes them."""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from icefs.errors import InvalidInputError, InvalidMetadataError
from icefs.format.flat.writer import OFFSET, FlatBuilder
from icefs.format.header import FileType, encode_file
from icefs.format.ids import SnapshotId
from icefs.format.metadata_items import add_items, encode_items
from icefs.format.snapshot.encoding import ARRAY, GROUP, MAX_U32, V1_DIMENSION
from icefs.format.snapshot.nodes import ArrayData, DimensionShape, ManifestFileInfo, NodeSnapshot, is_canonical_path
from icefs.paths import NodePath

_V1_FILE_INFO: Final = struct.Struct("<12s4xQI4x")

_SNAPSHOT = ("12s", "12s", OFFSET, "Q", OFFSET, OFFSET, OFFSET, OFFSET, OFFSET)
_NODE = ("8s", OFFSET, OFFSET, "B", OFFSET, OFFSET)
_ARRAY_DATA = (OFFSET, OFFSET, OFFSET, OFFSET)
_MANIFEST_REF = ("12s", OFFSET)
_DIMENSION = ("Q", "I")
_DIMENSION_NAME = (OFFSET,)
_FILE_INFO = ("12s", "Q", "I", OFFSET)


def encode_snapshot(
    *,
    snapshot_id: SnapshotId,
    flushed_at: int,
    message: str,
    metadata: Mapping[str, Any],
    nodes: Iterable[NodeSnapshot],
    manifest_files: Iterable[ManifestFileInfo],
    spec_version: int,
    parent_id: SnapshotId | None = None,
    extra: bytes | None = None,
    level: int = 3,
) -> bytes:
    """Writes a snapshot file, with nodes and manifest files in the order that official readers search by.

    Args:
        snapshot_id: Its id.
        flushed_at: When it is written, in microseconds since the epoch.
        message: The commit message.
        metadata: The commit's metadata: JSON values.
        nodes: All nodes, in any order.
        manifest_files: The manifests that the nodes refer to, in any order.
        spec_version: 1 or 2.
        parent_id: For spec version 1, where only the first snapshot has none; ignored for version 2.
        extra: Reserved by the format.
        level: Of zstd.

    Raises:
        InvalidInputError: two nodes have the same path, a path is not canonical, or a value cannot be encoded.
        InvalidMetadataError: an array has more chunks than the format can count.
        TypeError: the metadata hold something that is no JSON value.
    """
    builder = FlatBuilder()
    ordered = sorted(nodes, key=lambda node: node.path)
    _check_nodes(ordered)
    files = sorted(manifest_files, key=lambda info: info.id)
    node_refs = builder.offsets([_add_node(builder, node, spec_version) for node in ordered])
    metadata_ref = add_items(builder, encode_items(metadata, spec_version))
    root = builder.table(
        _SNAPSHOT,
        (
            snapshot_id,
            parent_id if spec_version == 1 else None,
            node_refs,
            flushed_at,
            builder.string(message),
            metadata_ref,
            _add_v1_files(builder, files if spec_version == 1 else []),
            _add_files(builder, files) if spec_version > 1 else None,
            None if extra is None else builder.byte_vector(extra),
        ),
    )
    return encode_file(builder.finish(root), file_type=FileType.SNAPSHOT, spec_version=spec_version, level=level)


def _check_nodes(ordered: Sequence[NodeSnapshot]) -> None:
    previous = None
    for node in ordered:
        if node.path == previous:
            raise InvalidInputError(f"two nodes at {node.path}", kind="node-already-exists", path=node.path)
        if not is_canonical_path(node.path):
            raise InvalidInputError(f"{node.path!r} is no path of a node", kind="invalid-path", path=node.path)
        previous = node.path


def _add_v1_files(builder: FlatBuilder, files: Sequence[ManifestFileInfo]) -> int:
    items = b"".join(_V1_FILE_INFO.pack(info.id, info.size_bytes, info.num_chunk_refs) for info in files)
    return builder.vector(items, len(files), alignment=8)


def _add_files(builder: FlatBuilder, files: Sequence[ManifestFileInfo]) -> int:
    refs = []
    for info in files:
        extra = None if info.extra is None else builder.byte_vector(info.extra)
        refs.append(builder.table(_FILE_INFO, (info.id, info.size_bytes, info.num_chunk_refs, extra)))
    return builder.offsets(refs)


def _add_node(builder: FlatBuilder, node: NodeSnapshot, spec_version: int) -> int:
    if node.array is None:
        code, data = GROUP, builder.table((), ())
    else:
        code, data = ARRAY, _add_array(builder, node.path, node.array, spec_version)
    path, user_data = builder.string(node.path), builder.byte_vector(node.user_data)
    extra = None if node.extra is None else builder.byte_vector(node.extra)
    return builder.table(_NODE, (node.id, path, user_data, code, data, extra))


def _add_array(builder: FlatBuilder, path: NodePath, array: ArrayData, spec_version: int) -> int:
    for dimension in array.shape:
        if dimension.num_chunks > MAX_U32:
            raise InvalidMetadataError(f"{path}: {dimension.num_chunks} chunks along one dimension", path=path)
    manifests = []
    for ref in array.manifests:
        extents = b"".join(struct.pack("<II", *extent) for extent in ref.extents)
        manifests.append(builder.table(_MANIFEST_REF, (ref.manifest_id, builder.vector(extents, len(ref.extents)))))
    names = None
    if array.dimension_names is not None:
        shared = [builder.shared_string(name) if name else None for name in array.dimension_names]
        names = builder.offsets([builder.table(_DIMENSION_NAME, (name,)) for name in shared])
    if spec_version == 1:
        first, second = _add_v1_shape(builder, path, array.shape), None
    else:
        first = builder.vector(b"", 0, alignment=8)
        lengths = [(dimension.array_length, dimension.num_chunks) for dimension in array.shape]
        second = builder.offsets([builder.table(_DIMENSION, length) for length in lengths])
    return builder.table(_ARRAY_DATA, (first, names, builder.offsets(manifests), second))


def _add_v1_shape(builder: FlatBuilder, path: NodePath, shape: Sequence[DimensionShape]) -> int:
    items = b""
    for dimension in shape:
        if dimension.array_length and not dimension.num_chunks:
            raise InvalidMetadataError(f"{path}: spec version 1 cannot hold chunks of length 0", path=path)
        chunk_length = -(-dimension.array_length // dimension.num_chunks) if dimension.num_chunks else 0
        items += V1_DIMENSION.pack(dimension.array_length, chunk_length)
    return builder.vector(items, len(shape), alignment=8)

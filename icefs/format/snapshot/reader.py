"""Snapshot files: every group and array of one version of the hierarchy, and which manifests hold their chunks.

    Snapshot          0 id  1 parent_id (v1)  2 nodes  3 flushed_at  4 message  5 metadata  6 manifest_files (v1)
                      7 manifest_files_v2  8 extra
    NodeSnapshot      0 id  1 path  2 user_data  3 + 4 node_data (1 array, 2 group)  5 extra
    ArrayNodeData     0 shape (v1)  1 dimension_names  2 manifests  3 shape_v2
    ManifestRef       0 object_id  1 extents           DimensionName     0 name
    DimensionShapeV2  0 array_length  1 num_chunks     MetadataItem      0 name  1 value
    ManifestFileInfo  struct: id, 4 bytes of padding, u64 size_bytes, u32 num_chunk_refs, padding (32 bytes)
    ManifestFileInfoV2  0 id  1 size_bytes  2 num_chunk_refs  3 extra

Opening a snapshot decodes the paths and checks the required fields of all nodes at once; a node becomes an object when
it is asked for, so that damage inside one node is an error of that node.

Order of the nodes: the schema's comment asks for component-wise order (`/a/b` before `/a-b`); the official writer
sorts by the bytes of the whole path (`/a-b` first; session.rs) and the official reader searches that way. So the
bytes decide for `encode_snapshot`. The reader here depends on no order, neither of nodes nor of manifest files.

Paths are absolute and canonical, as the official library creates them; a file with another path is malformed.

Source: spec 2.1 "Snapshot Files"; format notes §7.8; upstream icechunk-format/src/snapshot.rs.
"""

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from icefs.format.flat.reader import ByteArray, FlatBuffer, Int64Array, Table, TableArray
from icefs.format.header import FileType, decode_file
from icefs.format.ids import ManifestId, NodeId, SnapshotId
from icefs.format.metadata_items import checked_timestamp, decode_items, parse_items, short_tables
from icefs.format.snapshot.encoding import ARRAY, GROUP, MAX_U32, V1_DIMENSION
from icefs.format.snapshot.nodes import (
    ArrayData,
    DimensionShape,
    ManifestFileInfo,
    ManifestRef,
    NodeSnapshot,
    is_canonical_path,
)
from icefs.paths import NodePath


class ManifestFiles(Mapping[ManifestId, ManifestFileInfo]):
    """The manifest files of a snapshot, in the file's order."""

    __slots__ = ("_counts", "_extras", "_ids", "_rows", "_sizes")

    def __init__(self, ids: ByteArray, sizes: Int64Array, counts: Int64Array, extras: TableArray | None) -> None:
        raw = ids.tobytes()
        self._ids = [ManifestId(raw[at : at + 12]) for at in range(0, len(raw), 12)]
        self._rows = {manifest_id: row for row, manifest_id in enumerate(self._ids)}
        self._sizes = sizes
        self._counts = counts
        self._extras = extras

    def __getitem__(self, manifest_id: ManifestId) -> ManifestFileInfo:
        row = self._rows[manifest_id]
        extra = self._extras[row].byte_vector(3) if self._extras is not None else None
        return ManifestFileInfo(
            self._ids[row], int(self._sizes[row]), int(self._counts[row]), None if extra is None else bytes(extra)
        )

    def __iter__(self) -> Iterator[ManifestId]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


class Snapshot:
    """One version of the hierarchy. Immutable; all methods may be called from several threads at once.

    Attributes:
        id: Its id.
        parent_id: Its parent's id, which only files of spec version 1 hold.
        flushed_at: When it was written, in microseconds since the epoch.
        message: The commit message.
        spec_version: Of the file, from its header; it may be 1 in a repository of version 2.
        manifest_files: The manifests that its arrays refer to.
        paths: The nodes' paths, in the file's order, each once.
        shadowed: Paths at which the file has several nodes. The last of them counts, which is the newest: writers sort
            the nodes that were there before their own ones, by a sort that keeps the order of equals (Divergence 80).
        extra: Reserved by the format; kept.
    """

    __slots__ = (
        "_all_paths", "_body", "_metadata", "_name", "_node_rows", "_nodes", "_rows", "extra", "flushed_at",
        "id", "manifest_files", "message", "parent_id", "paths", "shadowed", "spec_version",
    )  # fmt: skip

    def __init__(self, buffer: FlatBuffer, spec_version: int) -> None:
        root = buffer.root()
        self._body = buffer.data
        self._name = buffer.name
        self.spec_version = spec_version
        self.id = SnapshotId(buffer.require(root.struct(0, 12), "id"))
        parent_id = root.struct(1, 12)
        self.parent_id = None if parent_id is None else SnapshotId(parent_id)
        self.flushed_at = checked_timestamp(buffer, root.u64(3))
        self.message = buffer.require(root.string(4), "message")
        self._metadata = parse_items(buffer, buffer.require(root.tables(5), "metadata"))
        self.manifest_files = _manifest_files(root)
        extra = root.byte_vector(8)
        self.extra = None if extra is None else bytes(extra)
        self._nodes = buffer.require(root.tables(2), "nodes")
        paths = tuple(_node_paths(buffer, self._nodes))
        self._rows = {path: row for row, path in enumerate(paths)}
        self._node_rows: dict[NodeId, int] | None = None
        self._all_paths = self.paths = paths
        self.shadowed: tuple[NodePath, ...] = ()
        if len(self._rows) < len(paths):
            self.paths = tuple(self._rows)
            self.shadowed = tuple(path for path, count in Counter(paths).items() if count > 1)

    @property
    def metadata(self) -> dict[str, Any]:
        """The commit's metadata: JSON values by name.

        Raises:
            FormatError: a value is malformed.
        """
        return decode_items(self._metadata, self.spec_version, self._name)

    def __len__(self) -> int:
        return len(self.paths)

    def node(self, path: NodePath) -> NodeSnapshot | None:
        """Returns the node at an absolute, canonical path.

        Raises:
            FormatError: the node is malformed.
        """
        row = self._rows.get(path)
        return None if row is None else self._node(row, self._fresh_buffer())

    def node_by_id(self, node_id: NodeId) -> NodeSnapshot | None:
        """Returns the node of an id.

        Raises:
            FormatError: the node is malformed.
        """
        rows = self._node_rows
        if rows is None:
            ids, _ = self._nodes.structs(0, 8)
            raw = ids.tobytes()
            # Two threads may both do this; either result is right.
            found = self._rows.values()
            rows = self._node_rows = {NodeId(raw[8 * row : 8 * row + 8]): row for row in found}
        row = rows.get(node_id)
        return None if row is None else self._node(row, self._fresh_buffer())

    def nodes(self) -> Iterator[NodeSnapshot]:
        """Iterates over the nodes in the file's order.

        Raises:
            FormatError: a node is malformed.
        """
        buffer = self._fresh_buffer()
        return (self._node(row, buffer) for row in self._rows.values())

    def _fresh_buffer(self) -> FlatBuffer:
        # Each lookup has an allowance of its own.
        return FlatBuffer(self._body, name=self._name)

    def _node(self, row: int, buffer: FlatBuffer) -> NodeSnapshot:
        table = Table(buffer, int(self._nodes.positions[row]))
        path = self._all_paths[row]
        code, data = table.union(3, 4)
        if data is None or code not in (ARRAY, GROUP):
            raise buffer.error(f"the node {path} is neither group nor array, but of type {code}")
        user_data = buffer.require(table.byte_vector(2), "user_data")
        buffer.charge(len(user_data))
        extra = table.byte_vector(5)
        return NodeSnapshot(
            NodeId(buffer.require(table.struct(0, 8), "id")),
            path,
            bytes(user_data),
            _array_data(data) if code == ARRAY else None,
            None if extra is None else bytes(extra),
        )


def parse_snapshot(data: bytes | memoryview, *, name: str) -> Snapshot:
    """Reads a snapshot file.

    Args:
        data: The whole file.
        name: Its key, for errors.

    Raises:
        FormatError: it is malformed.
    """
    spec_version, body = decode_file(data, file_type=FileType.SNAPSHOT, name=name)
    return Snapshot(FlatBuffer(body, name=name), spec_version)


def _node_paths(buffer: FlatBuffer, nodes: TableArray) -> list[NodePath]:
    for slot, size, field in ((0, 8, "id"), (1, 0, "path"), (2, 0, "user_data"), (4, 0, "node_data")):
        positions, present = nodes.fields(slot)
        if not present.all():
            raise buffer.error(f"a node lacks the required field {field}")
        buffer.check_all(positions, size or 4, f"the {field} of a node")
    names = [name or "" for name in nodes.strings(1, "a node's path")]
    paths = [name for name in names if is_canonical_path(name)]
    if len(paths) < len(names):
        bad = next(name for name in names if not is_canonical_path(name))
        raise buffer.error(f"{bad!r} is no path of a node")
    return paths


def _manifest_files(root: Table) -> ManifestFiles:
    buffer = root.buffer
    first = buffer.require(root.struct_vector(6, 32), "manifest_files")
    tables = root.tables(7)
    if tables is None:
        columns = np.ascontiguousarray(first)
        sizes = columns[:, 16:24].copy().view("<u8").reshape(-1)
        counts = columns[:, 24:28].copy().view("<u4").reshape(-1)
        return ManifestFiles(columns[:, :12], sizes.astype(np.int64), counts.astype(np.int64), None)
    ids, present = tables.structs(0, 12)
    if not present.all():
        raise buffer.error("a manifest file lacks its id")
    _, has_extra = tables.fields(3)
    sizes = tables.column(1, "<u8").astype(np.int64)
    counts = tables.column(2, "<u4").astype(np.int64)
    return ManifestFiles(ids, sizes, counts, tables if has_extra.any() else None)


def _array_data(table: Table) -> ArrayData:
    buffer = table.buffer
    names = short_tables(table, 1)
    manifests = buffer.require(short_tables(table, 2), "manifests")
    return ArrayData(
        _shape(table),
        None if names is None else tuple([_dimension_name(name) for name in names]),
        tuple([_manifest_ref(manifest) for manifest in manifests]),
    )


def _dimension_name(table: Table) -> str | None:
    found = table.vector(0, 1)
    if found is None:
        return None
    table.buffer.charge(found[1])
    return table.buffer.text(*found, "a dimension's name") or None


def _shape(table: Table) -> tuple[DimensionShape, ...]:
    buffer = table.buffer
    found = buffer.require(table.vector(0, 16), "shape")
    second = short_tables(table, 3)
    if second is not None:
        return tuple([DimensionShape(dimension.u64(0), dimension.u32(1)) for dimension in second])
    buffer.charge(16 * found[1])
    shape = []
    for row in range(found[1]):
        length, chunk_length = V1_DIMENSION.unpack_from(buffer.data, found[0] + 16 * row)
        if length and not chunk_length:
            raise buffer.error(f"an array of length {length} has chunks of length 0")
        shape.append(DimensionShape(length, min(-(-length // chunk_length), MAX_U32) if length else 0))
    return tuple(shape)


def _manifest_ref(table: Table) -> ManifestRef:
    buffer = table.buffer
    manifest_id = ManifestId(buffer.require(table.struct(0, 12), "object_id"))
    start, count = buffer.require(table.vector(1, 8), "extents")
    buffer.charge(8 * count)
    bounds = struct.unpack_from(f"<{2 * count}I", buffer.data, start)
    return ManifestRef(manifest_id, tuple(zip(bounds[::2], bounds[1::2], strict=True)))

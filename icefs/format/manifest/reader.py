"""Manifests: the chunk references of one array, or of several.

    table Manifest       0 id: 12 bytes   1 arrays: [ArrayManifest]   2 location_dictionary: [u8]
                         3 compression_algorithm: u8 = 1   4 extra
    table ArrayManifest  0 node_id: 8 bytes   1 refs: [ChunkRef]   2 extra
    table ChunkRef       0 index: [u32]   1 inline: [u8]   2 offset: u64   3 length: u64   4 chunk_id: 12 bytes
                         5 location: string   6 checksum_etag: string   7 checksum_last_modified: u32
                         8 compressed_location: [u8]   9 extra

Arrays ascend by node id, references by chunk index; both are checked. A reference with several kinds of content is
what comes first of chunk_id, compressed_location, location and inline, as the official reader has it.

Divergence 4: a compressed location under compression algorithm 0 is taken as it stands, as the schema says; the
official reader fails on it. Divergence 5: unsorted references are refused, where the official reader does not find it.

Source: spec 2.1 "Manifest files"; format notes §7.2, §7.3, §7.9. Encoding is in `manifest_encode`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from icefs.format.chunk_indices import Int64Array
from icefs.format.chunk_tables import IndexColumns, parse_node_ids
from icefs.format.flat.columns import BuiltMapping, ByteColumn
from icefs.format.flat.reader import FlatBuffer, Table, TableArray, Vectors
from icefs.format.header import FileType, decode_file
from icefs.format.ids import ChunkId, ManifestId, NodeId
from icefs.format.manifest.locations import MAX_COMPRESSIBLE_BYTES, LocationDictionary, Locations
from icefs.format.manifest.refs import (
    ArrayRefs,
    ByteArray,
    ChunkKind,
    InlineColumn,
    Uint64Array,
    VirtualColumn,
    no_chunk_ids,
)

_PLAIN, _ZSTD_DICTIONARY = range(2)
# The official reader has the same bound for a whole file.
_MAX_COPIED_BYTES = 2**31


@dataclass(frozen=True, slots=True, eq=False)
class Manifest:
    """The content of a manifest.

    Attributes:
        id: The id in the manifest itself.
        spec_version: The version of the format that it was written in.
        arrays: The references of each array in it.
        num_chunk_refs: The number of all of them.
        nbytes: Memory that they take, about.
    """

    id: ManifestId
    spec_version: int
    arrays: Mapping[NodeId, ArrayRefs]
    num_chunk_refs: int
    nbytes: int


def parse_manifest(data: bytes | memoryview, *, name: str) -> Manifest:
    """Reads a manifest file.

    Args:
        data: The whole file; not kept.
        name: The file's key, for errors.

    Raises:
        FormatError: it is malformed. A compressed location is looked at only when it is asked for.
    """
    spec_version, body = decode_file(data, file_type=FileType.MANIFEST, name=name)
    buffer = FlatBuffer(body, name=name)
    root = buffer.root()
    manifest_id = ManifestId(buffer.require(root.struct(0, ManifestId.SIZE), "id"))
    arrays = buffer.require(root.tables(1), "arrays")
    numbers = parse_node_ids(arrays, 0)
    refs, bounds = arrays.nested(1)
    columns = _Columns(refs, bounds, root)
    return Manifest(manifest_id, spec_version, BuiltMapping(numbers, columns.of), len(refs), columns.nbytes)


class _Columns:
    """The references of all arrays of a manifest as columns; `of` cuts out one array's."""

    __slots__ = ("_bounds", "_chunk_ids", "_indices", "_inline", "_kinds", "_lengths", "_offsets", "_virtual")

    def __init__(self, refs: TableArray, bounds: Int64Array, root: Table) -> None:
        self._bounds = bounds
        self._indices = IndexColumns(refs, 0, bounds)
        self._chunk_ids, is_native = refs.structs(4, ChunkId.SIZE)
        self._lengths: Uint64Array = refs.column(3, "<u8").astype(np.uint64, copy=False)
        self._offsets: Uint64Array = refs.column(2, "<u8").astype(np.uint64, copy=False)
        self._kinds: ByteArray = np.full(len(refs), ChunkKind.NATIVE, np.uint8)
        self._inline: InlineColumn | None = None
        self._virtual: VirtualColumn | None = None
        if not is_native.all():
            self._read_others(refs, np.flatnonzero(~is_native), root)

    def _read_others(self, refs: TableArray, rows: Int64Array, root: Table) -> None:
        others = refs.select(rows)
        compressed, plain, inline = (others.vectors(slot, 1) for slot in (8, 5, 1))
        is_virtual = compressed.present | plain.present
        if not (is_virtual | inline.present).all():
            raise refs.buffer.error("a chunk reference has none of chunk id, location and inline data")
        self._kinds[rows] = np.where(is_virtual, ChunkKind.VIRTUAL, ChunkKind.INLINE)
        if is_virtual.any():
            chosen = np.flatnonzero(is_virtual)
            self._virtual = _read_virtual(others.select(chosen), rows[chosen], root)
        if not is_virtual.all():
            chosen = np.flatnonzero(~is_virtual)
            data = _copy(refs.buffer, inline.select(chosen))
            self._inline = InlineColumn(rows[chosen], data)
            self._lengths[rows[chosen]] = data.lengths
            self._offsets[rows[chosen]] = 0
        if len(rows) == len(refs):
            self._chunk_ids = no_chunk_ids(len(refs))

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        columns = (self._indices, self._kinds, self._lengths, self._offsets, self._inline, self._virtual)
        own = sum(column.nbytes for column in columns if column is not None)
        return own + (self._chunk_ids.nbytes if self._chunk_ids.strides[0] else 0)

    def of(self, node_id: NodeId, number: int) -> ArrayRefs:
        """Returns the references of array `number`."""
        start, end = int(self._bounds[number]), int(self._bounds[number + 1])
        return ArrayRefs(
            node_id,
            self._indices.of(number),
            self._kinds[start:end],
            self._lengths[start:end],
            self._offsets[start:end],
            self._chunk_ids[start:end],
            None if self._inline is None else self._inline.slice(start, end),
            None if self._virtual is None else self._virtual.slice(start, end),
        )


def _read_virtual(refs: TableArray, rows: Int64Array, root: Table) -> VirtualColumn:
    buffer = refs.buffer
    compressed, plain = refs.vectors(8, 1), refs.vectors(5, 1)
    is_compressed = compressed.present
    dictionary = _dictionary(root) if is_compressed.any() else None
    if dictionary is None:
        is_compressed = np.zeros(len(refs), np.bool_)
        if compressed.counts.max(initial=0) > MAX_COMPRESSIBLE_BYTES:
            raise buffer.error(f"a compressed location is longer than {MAX_COMPRESSIBLE_BYTES} bytes")
    stored = _copy(buffer, compressed.otherwise(plain))
    locations = Locations(stored, is_compressed, dictionary)
    etags = refs.vectors(6, 1)
    column = VirtualColumn(
        rows, locations, etags.present, _copy(buffer, etags), refs.column(7, "<u4").astype(np.uint32, copy=False)
    )
    if not locations.is_utf8() or not column.etags.is_utf8():
        raise buffer.error("a location or ETag is not UTF-8")
    return column


def _dictionary(root: Table) -> LocationDictionary | None:
    """Returns what locations are compressed with, or None where they are as they stand."""
    buffer = root.buffer
    algorithm = root.u8(3, default=_ZSTD_DICTIONARY)
    if algorithm == _PLAIN:
        return None
    if algorithm != _ZSTD_DICTIONARY:
        raise buffer.error(f"its locations are compressed with algorithm {algorithm}, which is not known")
    raw = bytes(buffer.require(root.byte_vector(2), "location_dictionary"))
    return LocationDictionary(raw, file=buffer.name)


def _copy(buffer: FlatBuffer, vectors: Vectors) -> ByteColumn:
    """Copies byte strings. Writers may share them, so that they are charged at an eighth, within an absolute bound."""
    size_bytes = int(vectors.counts.sum())
    if size_bytes > _MAX_COPIED_BYTES:
        raise buffer.error(f"it describes {size_bytes} bytes of locations, ETags or inline data")
    buffer.charge(size_bytes // 8)
    return ByteColumn.gather(buffer.data, vectors.starts, vectors.counts)

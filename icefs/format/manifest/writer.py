"""Writing manifests; the layout of their tables is in `manifest`.

All references of one shape (kind, and which optional fields they have) share a vtable. A reference's table is
followed by its chunk index, then by its inline data, or its location and ETag, so that a manifest is written in the
order in which it is read.

Spec 1 knows no compressed locations; beyond that, the two versions differ in the header's byte alone.

Source: spec 2.1 and 1 "Manifest files"; format notes §7.3 and §7.9.
"""

from collections.abc import Sequence

import numpy as np

from icefs.errors import InvalidInputError
from icefs.format.chunk_indices import Int64Array
from icefs.format.flat.bulk import BodyPlan, TableShape, align_all, padded_sizes, put_offsets, put_vectors
from icefs.format.flat.columns import place_rows
from icefs.format.header import FileType, encode_file
from icefs.format.ids import ChunkId, ManifestId, NodeId
from icefs.format.manifest.locations import (
    LocationCompression,
    LocationDictionary,
    Locations,
    compress_locations,
    train_dictionary,
)
from icefs.format.manifest.refs import ArrayRefs, ByteArray

# The shape of a reference: inline, or native (and whether an offset is not zero), or virtual and what it has.
_INLINE, _NATIVE, _NATIVE_OFFSET, _VIRTUAL = 0, 1, 2, 8
_COMPRESSED, _ETAG, _MODIFIED = 1, 2, 4
_INDEX, _DATA, _OFFSET, _LENGTH, _CHUNK_ID = (0, "<u4"), (1, "<u4"), (2, "<u8"), (3, "<u8"), (4, f"V{ChunkId.SIZE}")
_LOCATION_SLOT, _ETAG_SLOT, _MODIFIED_SLOT, _COMPRESSED_SLOT = 5, 6, 7, 8


def _shapes() -> dict[int, TableShape]:
    shapes = {
        _INLINE: TableShape([_INDEX, _DATA]),
        _NATIVE: TableShape([_INDEX, _LENGTH, _CHUNK_ID]),
        _NATIVE_OFFSET: TableShape([_INDEX, _OFFSET, _LENGTH, _CHUNK_ID]),
    }
    for parts in range((_COMPRESSED | _ETAG | _MODIFIED) + 1):
        fields = [_INDEX, _OFFSET, _LENGTH]
        fields.append((_COMPRESSED_SLOT if parts & _COMPRESSED else _LOCATION_SLOT, "<u4"))
        if parts & _ETAG:
            fields.append((_ETAG_SLOT, "<u4"))
        if parts & _MODIFIED:
            fields.append((_MODIFIED_SLOT, "<u4"))
        shapes[_VIRTUAL | parts] = TableShape(fields)
    return shapes


_SHAPES = _shapes()
_ARRAY_SHAPE = TableShape([(0, f"V{NodeId.SIZE}"), (1, "<u4")])
_ROOT_SHAPE = TableShape([(0, f"V{ManifestId.SIZE}"), (1, "<u4"), (3, "u1")])
_ROOT_SHAPE_DICTIONARY = TableShape([(0, f"V{ManifestId.SIZE}"), (1, "<u4"), (2, "<u4"), (3, "u1")])


def encode_manifest(
    manifest_id: ManifestId,
    arrays: Sequence[ArrayRefs],
    *,
    spec_version: int,
    level: int = 3,
    location_compression: LocationCompression | None = None,
) -> bytes:
    """Writes a manifest file.

    Args:
        manifest_id: Its id.
        arrays: Each array's references, in any order; those without references are left out.
        spec_version: 1 or 2.
        level: zstd's.
        location_compression: When to compress the locations of virtual references, in spec 2; None for never.

    Raises:
        InvalidInputError: no references at all (a manifest is never empty), an array twice, or more than fits.
    """
    filled = sorted((refs for refs in arrays if len(refs)), key=lambda refs: refs.node_id)
    if not filled:
        raise InvalidInputError("a manifest without chunk references cannot be written", kind="invalid-input")
    if len({refs.node_id for refs in filled}) < len(filled):
        raise InvalidInputError("an array is twice in one manifest", kind="invalid-input")
    dictionary, locations = _locations(filled, location_compression if spec_version > 1 else None)
    layouts = [_ArrayLayout(refs, found) for refs, found in zip(filled, locations, strict=True)]

    plan = BodyPlan()
    used = sorted({shape for layout in layouts for shape in layout.shapes_used})
    vtables = {shape: plan.put(_SHAPES[shape].vtable, 2) for shape in used}
    root_shape = _ROOT_SHAPE if dictionary is None else _ROOT_SHAPE_DICTIONARY
    root_vtable, array_vtable = plan.put(root_shape.vtable, 2), plan.put(_ARRAY_SHAPE.vtable, 2)
    root = plan.reserve(root_shape.size_bytes, 4)
    array_vector = plan.reserve(4 + 4 * len(layouts), 4)
    dictionary_vector = 0
    if dictionary is not None:
        dictionary_vector = plan.put(len(dictionary).to_bytes(4, "little") + dictionary, 4)
    for layout in layouts:
        layout.reserve(plan)

    out = plan.build(root)
    head = root_shape.records(np.array([root]), root_vtable)
    head["0"] = np.void(bytes(manifest_id))
    head["1"] = array_vector - (root + root_shape.offsets[1])
    if dictionary is not None:
        head["2"] = dictionary_vector - (root + root_shape.offsets[2])
    head["3"] = int(dictionary is not None)
    place_rows(out, np.array([root]), head)
    put_offsets(out, array_vector, np.array([layout.table for layout in layouts]))
    for layout in layouts:
        layout.write(out, array_vtable, vtables)
    return encode_file(out.data, file_type=FileType.MANIFEST, spec_version=spec_version, level=level)


def _locations(
    arrays: Sequence[ArrayRefs], settings: LocationCompression | None
) -> tuple[bytes | None, list[Locations | None]]:
    """Returns the dictionary, if there is one, and the encoded locations of each array."""
    plain = [None if refs.virtual is None else refs.virtual.locations.plain() for refs in arrays]
    columns = [column for column in plain if column is not None]
    dictionary = train_dictionary(columns, settings) if settings is not None else None
    if dictionary is None or settings is None:
        return None, [None if column is None else Locations(column) for column in plain]
    trained, level = LocationDictionary(dictionary, file="a manifest being written"), settings.compression_level
    return dictionary, [None if column is None else compress_locations(column, trained, level) for column in plain]


class _ArrayLayout:
    """Where one array's references go, and how they are written there."""

    __slots__ = ("_extra", "_locations", "_refs", "_shape", "_starts", "_vector", "shapes_used", "table")

    def __init__(self, refs: ArrayRefs, locations: Locations | None) -> None:
        self._refs = refs
        self._locations = locations
        self.table = self._vector = 0
        self._starts: Int64Array = np.zeros(0, np.int64)
        native = _NATIVE_OFFSET if refs.offsets.any() else _NATIVE
        self._shape: ByteArray = np.full(len(refs), native, np.uint8)
        # The bytes of data, locations and ETags behind each reference, each with its count and padded.
        self._extra: Int64Array = np.zeros(len(refs), np.int64)
        if refs.inline is not None:
            self._shape[refs.inline.rows] = _INLINE
            self._extra[refs.inline.rows] = padded_sizes(refs.inline.data)
        if refs.virtual is not None and locations is not None:
            rows = refs.virtual.rows
            parts = np.full(len(rows), _VIRTUAL, np.uint8)
            if locations.compressed is not None:
                parts[locations.compressed] |= _COMPRESSED
            parts[refs.virtual.has_etag] |= _ETAG
            parts[refs.virtual.last_modified > 0] |= _MODIFIED
            self._shape[rows] = parts
            self._extra[rows] = padded_sizes(locations.stored, nul=1) + padded_sizes(refs.virtual.etags, nul=1) * (
                refs.virtual.has_etag
            )
        self.shapes_used = np.flatnonzero(np.bincount(self._shape)).tolist()

    def reserve(self, plan: BodyPlan) -> None:
        """Takes places for the array's table, its vector, and the references."""
        refs = self._refs
        self.table = plan.reserve(_ARRAY_SHAPE.size_bytes, 4)
        self._vector = plan.reserve(4 + 4 * len(refs), 4)
        fixed = np.zeros(max(self.shapes_used) + 1, np.int64)
        for shape in self.shapes_used:
            fixed[shape] = _SHAPES[shape].size_bytes + 4 + 4 * refs.ndim
        sizes = align_all(fixed[self._shape] + self._extra, 8)
        ends = np.cumsum(sizes)
        self._starts = plan.reserve(int(ends[-1]), 8) + ends - sizes

    def write(self, out: ByteArray, array_vtable: int, vtables: dict[int, int]) -> None:
        """Writes the array's table, its vector, and the references."""
        refs, table = self._refs, np.array([self.table])
        head = _ARRAY_SHAPE.records(table, array_vtable)
        head["0"] = np.void(bytes(refs.node_id))
        head["1"] = self._vector - (self.table + _ARRAY_SHAPE.offsets[1])
        place_rows(out, table, head)
        put_offsets(out, self._vector, self._starts)
        for number in self.shapes_used:
            everything = len(self.shapes_used) == 1
            rows = np.arange(len(refs)) if everything else np.flatnonzero(self._shape == number)
            self._write_rows(out, number, rows, vtables[number])

    def _write_rows(self, out: ByteArray, number: int, rows: Int64Array, vtable: int) -> None:
        refs, shape, starts = self._refs, _SHAPES[number], self._starts[rows]
        records = shape.records(starts, vtable, refs.ndim)
        records["0"] = shape.size_bytes - shape.offsets[0]
        for axis, column in enumerate(refs.coords):
            records["index"][:, axis] = column[rows]
        extra = shape.size_bytes + 4 + 4 * refs.ndim
        if number == _INLINE and refs.inline is not None:
            records["1"] = extra - shape.offsets[1]
            put_vectors(out, starts + extra, refs.inline.data)
        else:
            records["3"] = refs.lengths[rows]
            if _OFFSET[0] in shape.offsets:
                records["2"] = refs.offsets[rows]
        if number in (_NATIVE, _NATIVE_OFFSET):
            records["4"] = np.ascontiguousarray(refs.chunk_ids[rows]).view(f"V{ChunkId.SIZE}").reshape(len(rows))
        if number & _VIRTUAL:
            self._write_virtual(out, number, rows, records, starts + extra)
        place_rows(out, starts, records)

    def _write_virtual(
        self, out: ByteArray, number: int, rows: Int64Array, records: np.ndarray, extra: Int64Array
    ) -> None:
        virtual, locations = self._refs.virtual, self._locations
        if virtual is None or locations is None:
            return
        shape, starts = _SHAPES[number], self._starts[rows]
        entries = virtual.rows.searchsorted(rows)
        stored = locations.stored.take(entries)
        slot = _COMPRESSED_SLOT if number & _COMPRESSED else _LOCATION_SLOT
        records[str(slot)] = extra - (starts + shape.offsets[slot])
        put_vectors(out, extra, stored)
        if number & _ETAG:
            extra = extra + padded_sizes(stored, nul=1)
            records[str(_ETAG_SLOT)] = extra - (starts + shape.offsets[_ETAG_SLOT])
            put_vectors(out, extra, virtual.etags.take(entries))
        if number & _MODIFIED:
            records[str(_MODIFIED_SLOT)] = virtual.last_modified[entries]

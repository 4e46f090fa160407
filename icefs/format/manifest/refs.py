"""The chunk references of one array, as columns.

A reference says where a chunk's bytes are: in the manifest itself (inline), in a chunk object of the repository
(native), or in an object outside of the repository (virtual). A million of them are a handful of numpy arrays of
12 + 1 + 8 + 8 + 4 x ndim bytes a row; columns that only inline or only virtual references have cover those rows alone.
A Python object is made for a reference only when a caller asks for it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from icefs.errors import InvalidInputError
from icefs.format.chunk_indices import BoolArray, ChunkIndices, Int64Array, Uint32Array, is_increasing, pack_keys
from icefs.format.chunk_indices import check_coords as _check_coords
from icefs.format.flat.columns import ByteColumn
from icefs.format.ids import ChunkId, NodeId
from icefs.format.manifest.locations import Locations

type ByteArray = npt.NDArray[np.uint8]
type Uint64Array = npt.NDArray[np.uint64]


class ChunkKind(IntEnum):
    """Where a chunk's bytes are; the official `ChunkType`'s numbers."""

    UNINITIALIZED = 0
    NATIVE = 1
    VIRTUAL = 2
    INLINE = 3


@dataclass(frozen=True, slots=True)
class InlineRef:
    """A chunk whose bytes are in the manifest."""

    kind: ClassVar[ChunkKind] = ChunkKind.INLINE
    data: bytes

    @property
    def length_bytes(self) -> int:
        """The chunk's size."""
        return len(self.data)


@dataclass(frozen=True, slots=True)
class NativeRef:
    """A chunk in a chunk object of the repository."""

    kind: ClassVar[ChunkKind] = ChunkKind.NATIVE
    chunk_id: ChunkId
    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class VirtualRef:
    """A chunk in an object that is not the repository's.

    Attributes:
        location: The object's URL, or `vcc://<container name>/<path>`.
        offset_bytes: Where the chunk begins in it.
        length_bytes: The chunk's size.
        etag: The ETag that the object must have, or None.
        last_modified: The time (seconds since 1970) after which the object must not have changed, or 0.
    """

    kind: ClassVar[ChunkKind] = ChunkKind.VIRTUAL
    location: str
    offset_bytes: int
    length_bytes: int
    etag: str | None = None
    last_modified: int = 0


type ChunkRef = InlineRef | NativeRef | VirtualRef


@dataclass(frozen=True, slots=True, eq=False)
class InlineColumn:
    """The bytes of the inline references: `data[i]` belongs to row `rows[i]`; rows ascend."""

    rows: Int64Array
    data: ByteColumn

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        return self.rows.nbytes + self.data.nbytes

    def take(self, entries: Int64Array, rows: Int64Array) -> "InlineColumn":
        """Returns some entries, for new `rows`."""
        return InlineColumn(rows, self.data.take(entries))

    def slice(self, start_row: int, end_row: int) -> "InlineColumn | None":
        """Returns the entries of a range of rows, which become the rows from 0 on; None if there are none."""
        start, end = (int(at) for at in self.rows.searchsorted((start_row, end_row)))
        return InlineColumn(self.rows[start:end] - start_row, self.data.slice(start, end)) if end > start else None


@dataclass(frozen=True, slots=True, eq=False)
class VirtualColumn:
    """The parts of virtual references besides offset and length; entry i belongs to row `rows[i]`; rows ascend.

    Attributes:
        rows: The rows of the virtual references.
        locations: Where their objects are.
        has_etag: Which of them have an ETag.
        etags: The ETags in UTF-8; empty where there is none.
        last_modified: Seconds since 1970; 0 where unknown.
    """

    rows: Int64Array
    locations: Locations
    has_etag: BoolArray
    etags: ByteColumn
    last_modified: Uint32Array

    @classmethod
    def from_items(
        cls,
        rows: Int64Array,
        locations: Iterable[str],
        etags: Sequence[str | None] | None = None,
        last_modified: npt.ArrayLike | None = None,
    ) -> "VirtualColumn":
        """Packs the parts of virtual references."""
        count = len(rows)
        return cls(
            rows,
            Locations(ByteColumn.from_items(location.encode() for location in locations)),
            np.zeros(count, np.bool_) if etags is None else np.array([etag is not None for etag in etags], np.bool_),
            ByteColumn.empty(count) if etags is None else ByteColumn.from_items((e or "").encode() for e in etags),
            np.zeros(count, np.uint32) if last_modified is None else np.asarray(last_modified, np.uint32),
        )

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        own = self.rows.nbytes + self.has_etag.nbytes + self.last_modified.nbytes
        return own + self.locations.nbytes + self.etags.nbytes

    def take(self, entries: Int64Array, rows: Int64Array) -> "VirtualColumn":
        """Returns some entries, for new `rows`."""
        return VirtualColumn(
            rows,
            self.locations.take(entries),
            self.has_etag[entries],
            self.etags.take(entries),
            self.last_modified[entries],
        )

    def slice(self, start_row: int, end_row: int) -> "VirtualColumn | None":
        """Returns the entries of a range of rows, which become the rows from 0 on; None if there are none."""
        start, end = (int(at) for at in self.rows.searchsorted((start_row, end_row)))
        if start == end:
            return None
        return VirtualColumn(
            self.rows[start:end] - start_row,
            self.locations.slice(start, end),
            self.has_etag[start:end],
            self.etags.slice(start, end),
            self.last_modified[start:end],
        )


@dataclass(frozen=True, slots=True, eq=False)
class ArrayRefs:
    """All chunk references of one array in one manifest; distinct, sorted by chunk index, immutable.

    INVARIANT: all columns have `len(indices)` rows, and are read-only.
    INVARIANT: `inline.rows` and `virtual.rows` are the rows of that kind, and None stands for no rows.
    INVARIANT: inline rows have offset 0 and the length of their data; other rows than native have a zero chunk id.

    Attributes:
        node_id: The array.
        indices: The chunk indices.
        kinds: `uint8[n]`, of `ChunkKind`.
        lengths: `uint64[n]`, sizes of the chunks in bytes.
        offsets: `uint64[n]`, where they begin in their objects.
        chunk_ids: `uint8[n, 12]`.
        inline: The columns of inline references.
        virtual: The columns of virtual references.
    """

    node_id: NodeId
    indices: ChunkIndices
    kinds: ByteArray
    lengths: Uint64Array
    offsets: Uint64Array
    chunk_ids: ByteArray
    inline: InlineColumn | None = None
    virtual: VirtualColumn | None = None

    def __post_init__(self) -> None:
        for column in (self.kinds, self.lengths, self.offsets, self.chunk_ids):
            column.flags.writeable = False

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return self.indices.ndim

    @property
    def coords(self) -> tuple[Uint32Array, ...]:
        """The chunk indices, one `uint32[n]` for each dimension."""
        return self.indices.coords

    @property
    def nbytes(self) -> int:
        """Memory that the columns take."""
        own = 4 * self.ndim * len(self) + self.kinds.nbytes + self.lengths.nbytes + self.offsets.nbytes
        own += self.chunk_ids.nbytes if self.chunk_ids.strides[0] else 0
        return own + sum(column.nbytes for column in (self.inline, self.virtual) if column is not None)

    def __len__(self) -> int:
        return len(self.indices)

    def __eq__(self, other: object) -> bool:
        """Compares the references; how locations are compressed does not count."""
        if not isinstance(other, ArrayRefs):
            return NotImplemented
        return (
            self.node_id == other.node_id
            and self.indices == other.indices
            and all(
                np.array_equal(mine, theirs)
                for mine, theirs in (
                    (self.kinds, other.kinds),
                    (self.lengths, other.lengths),
                    (self.offsets, other.offsets),
                    (self.chunk_ids, other.chunk_ids),
                )
            )
            and (self.inline is None or other.inline is None or self.inline.data == other.inline.data)
            and _same_virtual(self.virtual, other.virtual)
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        columns = self.kinds, self.lengths, self.offsets, self.chunk_ids if self.chunk_ids.strides[0] else None
        return _unpickled, (self.node_id, self.indices, *columns, self.inline, self.virtual)

    def find(self, index: Sequence[int]) -> int:
        """Returns the row of a chunk index, or -1."""
        return self.indices.find(index)

    def range(self, prefix: Sequence[int]) -> tuple[int, int]:
        """Returns the half-open range of the rows whose index starts with `prefix`."""
        return self.indices.range(prefix)

    def children(self, prefix: Sequence[int]) -> tuple[Uint32Array, Int64Array]:
        """Returns the distinct coordinates that follow `prefix`, in order, and the bounds of their rows."""
        return self.indices.children(prefix)

    def index(self, row: int) -> tuple[int, ...]:
        """Returns the chunk index of a row."""
        return self.indices.index(row)

    def bounding_box(self) -> tuple[tuple[int, int], ...]:
        """Returns the tight half-open range of each dimension; there must be a reference."""
        return self.indices.bounding_box()

    def ref(self, row: int) -> ChunkRef:
        """Returns the reference in a row, from 0 on.

        Raises:
            FormatError: a virtual reference whose compressed location is damaged.
        """
        kind = self.kinds[row]
        if kind == ChunkKind.NATIVE:
            return NativeRef(ChunkId(self.chunk_ids[row].tobytes()), int(self.offsets[row]), int(self.lengths[row]))
        if kind == ChunkKind.INLINE and self.inline is not None:
            return InlineRef(self.inline.data[int(self.inline.rows.searchsorted(row))])
        virtual = self.virtual
        if kind != ChunkKind.VIRTUAL or virtual is None:
            raise IndexError(row)
        position = int(virtual.rows.searchsorted(row))
        return VirtualRef(
            virtual.locations.get(position),
            int(self.offsets[row]),
            int(self.lengths[row]),
            virtual.etags[position].decode() if virtual.has_etag[position] else None,
            int(virtual.last_modified[position]),
        )

    def virtual_locations(self) -> list[str]:
        """Returns the location of each virtual reference, in row order.

        Raises:
            FormatError: a compressed location is damaged.
        """
        return [] if self.virtual is None else [location.decode() for location in self.virtual.locations.plain()]

    def select(self, rows: BoolArray | npt.ArrayLike) -> "ArrayRefs":
        """Returns the references of a mask, or of ascending row numbers; raises InvalidInputError for others."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        if (np.diff(chosen) <= 0).any():
            raise InvalidInputError("the rows to select do not ascend", kind="invalid-chunk-index")
        return _take(self, chosen)

    def relocate(self, rows: Int64Array, coords: Sequence[npt.ArrayLike]) -> "ArrayRefs":
        """Returns the references of distinct rows under other indices; of several under one index, the last.

        Args:
            rows: The rows, in any order.
            coords: Their new indices, one column per dimension, at least one.

        Raises:
            InvalidInputError: columns of different lengths, or a value outside uint32.
        """
        columns = _check_coords(coords)
        if not len(rows):
            return ArrayRefs.empty(self.node_id, len(columns))
        keys = pack_keys(columns)[0]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        order = order[np.append(keys[1:] != keys[:-1], True)]
        found = _take(self, rows[order])
        return replace(found, indices=ChunkIndices([column[order] for column in columns], len(order)))

    @classmethod
    def empty(cls, node_id: NodeId, ndim: int) -> "ArrayRefs":
        """Makes the references of an array without chunks."""
        return cls.from_columns(node_id, [np.zeros(0, np.uint32)] * ndim, kinds=np.zeros(0, np.uint8), lengths=())

    @classmethod
    def from_refs(cls, node_id: NodeId, ndim: int, refs: Iterable[tuple[Sequence[int], ChunkRef]]) -> "ArrayRefs":
        """Collects single references, in any order.

        Raises:
            InvalidInputError: an index with other than `ndim` coordinates, one outside uint32, or one that is twice.
        """
        pairs = list(refs)
        if any(len(index) != ndim for index, _ in pairs):
            raise InvalidInputError(f"a chunk index does not have {ndim} dimensions", kind="invalid-chunk-index")
        chunks = [ref for _, ref in pairs]
        virtual = [ref for ref in chunks if isinstance(ref, VirtualRef)]
        nothing = bytes(ChunkId.SIZE)
        ids = b"".join([ref.chunk_id if isinstance(ref, NativeRef) else nothing for ref in chunks])
        return cls.from_columns(
            node_id,
            [np.array(column, np.int64) for column in zip(*(index for index, _ in pairs), strict=True)]
            or [np.zeros(0, np.int64)] * ndim,
            kinds=np.array([ref.kind for ref in chunks], np.uint8),
            lengths=np.array([ref.length_bytes for ref in chunks], np.uint64),
            offsets=np.array([0 if isinstance(ref, InlineRef) else ref.offset_bytes for ref in chunks], np.uint64),
            chunk_ids=np.frombuffer(ids, np.uint8).reshape(-1, ChunkId.SIZE),
            inline=[ref.data for ref in chunks if isinstance(ref, InlineRef)],
            locations=[ref.location for ref in virtual],
            etags=[ref.etag for ref in virtual],
            last_modified=[ref.last_modified for ref in virtual],
        )

    @classmethod
    def from_columns(
        cls,
        node_id: NodeId,
        coords: Sequence[npt.ArrayLike],
        *,
        kinds: npt.ArrayLike,
        lengths: npt.ArrayLike,
        offsets: npt.ArrayLike | None = None,
        chunk_ids: npt.ArrayLike | None = None,
        inline: Iterable[bytes] = (),
        locations: Iterable[str] = (),
        etags: Sequence[str | None] | None = None,
        last_modified: npt.ArrayLike | None = None,
    ) -> "ArrayRefs":
        """Collects columns, sorting the rows where they are not sorted.

        Args:
            node_id: The array.
            coords: One column for each dimension.
            kinds: Of `ChunkKind`, one for each row; or a single one for all rows.
            lengths: Sizes of the chunks; those of inline references are taken from `inline`.
            offsets: Where they begin in their objects; 0 if None.
            chunk_ids: `uint8[n, 12]`; needed where a row is native.
            inline: The data of the inline references alone, in the order of their rows.
            locations: The locations of the virtual references alone, in the order of their rows.
            etags: Like `locations`.
            last_modified: Like `locations`.

        Raises:
            InvalidInputError: columns that do not fit together, or a chunk index that occurs twice.
        """
        columns = _check_coords(coords)
        sizes = np.array(lengths, np.uint64)
        count = len(columns[0]) if columns else len(sizes)
        # Copies: the caller may go on writing to its columns.
        kind_column = np.broadcast_to(np.asarray(kinds, np.uint8), (count,)).copy()
        offset_column = np.zeros(count, np.uint64) if offsets is None else np.array(offsets, np.uint64)
        ids = no_chunk_ids(count) if chunk_ids is None else np.array(chunk_ids, np.uint8)
        inline_rows = np.flatnonzero(kind_column == ChunkKind.INLINE)
        virtual_rows = np.flatnonzero(kind_column == ChunkKind.VIRTUAL)
        data = ByteColumn.from_items(inline)
        virtual = VirtualColumn.from_items(virtual_rows, locations, etags, last_modified)
        has_right_lengths = (
            len(sizes) == len(offset_column) == count
            and ids.shape == (count, ChunkId.SIZE)
            and len(data) == len(inline_rows)
            and {len(virtual_rows)}
            == {len(virtual.locations), len(virtual.has_etag), len(virtual.etags), len(virtual.last_modified)}
        )
        if not has_right_lengths or (count > 1 and not columns):
            raise InvalidInputError("the columns of chunk references differ in length", kind="invalid-chunk-index")
        if count and not 1 <= int(kind_column.min()) <= int(kind_column.max()) <= ChunkKind.INLINE:
            raise InvalidInputError("a chunk reference is of no kind", kind="invalid-chunk-index")
        sizes[inline_rows] = data.lengths
        offset_column[inline_rows] = 0
        if chunk_ids is not None:
            ids[kind_column != ChunkKind.NATIVE] = 0
        unsorted = cls(
            node_id,
            ChunkIndices([column.copy() for column in columns], count),
            kind_column,
            sizes,
            offset_column,
            ids,
            InlineColumn(inline_rows, data) if len(data) else None,
            virtual if len(virtual_rows) else None,
        )
        if is_increasing(columns, count):
            return unsorted
        found = _take(unsorted, np.argsort(pack_keys(columns)[0], kind="stable"))
        if not is_increasing(found.coords, count):
            raise InvalidInputError("a chunk index occurs twice", kind="invalid-chunk-index")
        return found

    @classmethod
    def concat(cls, parts: Sequence["ArrayRefs"]) -> "ArrayRefs":
        """Joins the references that several manifests hold of one array (at least one part).

        Raises:
            InvalidInputError: different arrays or numbers of dimensions, or a chunk index that is in two parts.
        """
        filled = [part for part in parts if len(part)] or [parts[0]]
        if len({(part.node_id, part.ndim) for part in filled}) > 1:
            raise InvalidInputError("references of different arrays cannot be joined", kind="invalid-chunk-index")
        if len(filled) == 1:
            return filled[0]
        whole = _concat(filled)
        if is_increasing(whole.coords, len(whole)):
            return whole
        if not whole.ndim:
            raise InvalidInputError("a chunk index occurs twice", kind="invalid-chunk-index")
        found = _take(whole, np.argsort(pack_keys(whole.coords)[0], kind="stable"))
        if not is_increasing(found.coords, len(found)):
            raise InvalidInputError("a chunk index occurs twice", kind="invalid-chunk-index")
        return found

    @classmethod
    def merge(cls, base: "ArrayRefs | None", updates: "ArrayRefs", deleted: ChunkIndices | None = None) -> "ArrayRefs":
        """Applies changes: references of `updates` replace or join those of `base`, those of `deleted` go.

        An index that is both updated and deleted is updated. Time is linear in `base`, but for sorting `updates`.

        Raises:
            InvalidInputError: different arrays or numbers of dimensions.
        """
        if base is None or not len(base):
            return updates
        gone = deleted if deleted is not None and len(deleted) else None
        if not len(updates) and gone is None:
            return base
        others = [part for part in (updates if len(updates) else None, gone) if part is not None]
        if base.node_id != updates.node_id or any(part.ndim != base.ndim for part in others):
            raise InvalidInputError("changes to another array cannot be applied", kind="invalid-chunk-index")
        if not base.ndim:
            return updates
        keys, *changed = pack_keys(base.coords, *(part.coords for part in others))
        keep = np.ones(len(base), np.bool_)
        for some in changed:
            at = keys.searchsorted(some)
            at[at == len(keys)] = 0
            keep[at[keys[at] == some]] = False
        if not len(updates):
            return base.select(keep)
        # A stable sort merges the two runs, which are sorted already.
        order = np.argsort(np.concatenate((keys[keep], changed[0])), kind="stable")
        rows = np.concatenate((np.flatnonzero(keep), np.arange(len(base), len(base) + len(updates))))
        return _take(_concat([base, updates]), rows[order])


def _unpickled(
    node_id: NodeId,
    indices: ChunkIndices,
    kinds: ByteArray,
    lengths: Uint64Array,
    offsets: Uint64Array,
    chunk_ids: ByteArray | None,
    *rest: Any,
) -> ArrayRefs:
    ids = no_chunk_ids(len(indices)) if chunk_ids is None else chunk_ids
    return ArrayRefs(node_id, indices, kinds, lengths, offsets, ids, *rest)


def no_chunk_ids(count: int) -> ByteArray:
    """Makes the column of chunk ids of an array without native references."""
    # One row that serves for all: an array of virtual references has no use for 12 bytes of zeros each.
    return np.broadcast_to(np.zeros((1, ChunkId.SIZE), np.uint8), (count, ChunkId.SIZE))


def _same_virtual(mine: VirtualColumn | None, theirs: VirtualColumn | None) -> bool:
    if mine is None or theirs is None:
        return mine is theirs
    return (
        np.array_equal(mine.has_etag, theirs.has_etag)
        and mine.etags == theirs.etags
        and np.array_equal(mine.last_modified, theirs.last_modified)
        and mine.locations.plain() == theirs.locations.plain()
    )


def _positions(of_kind: Int64Array, count: int, rows: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Maps the rows of one kind, of `count` before, to what they are after taking `rows`.

    Returns:
        Which entries of the kind's column are taken, and the new rows that they belong to.
    """
    entry_of_row = np.full(count, -1, np.int64)
    entry_of_row[of_kind] = np.arange(len(of_kind))
    entries = entry_of_row[rows]
    new_rows = np.flatnonzero(entries >= 0)
    return entries[new_rows], new_rows


def _take(refs: ArrayRefs, rows: Int64Array) -> ArrayRefs:
    """Returns the references at `rows`, in that order, which must be the order of their indices."""
    inline, virtual = refs.inline, refs.virtual
    if inline is not None:
        entries, new_rows = _positions(inline.rows, len(refs), rows)
        inline = inline.take(entries, new_rows) if len(entries) else None
    if virtual is not None:
        entries, new_rows = _positions(virtual.rows, len(refs), rows)
        virtual = virtual.take(entries, new_rows) if len(entries) else None
    has_ids = refs.chunk_ids.strides[0] != 0
    return ArrayRefs(
        refs.node_id,
        refs.indices.select(rows),
        refs.kinds[rows],
        refs.lengths[rows],
        refs.offsets[rows],
        refs.chunk_ids[rows] if has_ids else no_chunk_ids(len(rows)),
        inline,
        virtual,
    )


def _concat(parts: Sequence[ArrayRefs]) -> ArrayRefs:
    """Joins references end to end, whatever their order; at least one part, all of one array."""
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])]).tolist()
    inline = [(part.inline, start) for part, start in zip(parts, starts, strict=True) if part.inline is not None]
    virtual = [(part.virtual, start) for part, start in zip(parts, starts, strict=True) if part.virtual is not None]
    count = sum(map(len, parts))
    has_ids = any(part.chunk_ids.strides[0] for part in parts)
    return ArrayRefs(
        parts[0].node_id,
        ChunkIndices([np.concatenate(columns) for columns in zip(*(p.coords for p in parts), strict=True)], count),
        np.concatenate([part.kinds for part in parts]),
        np.concatenate([part.lengths for part in parts]),
        np.concatenate([part.offsets for part in parts]),
        np.concatenate([part.chunk_ids for part in parts]) if has_ids else no_chunk_ids(count),
        InlineColumn(
            np.concatenate([column.rows + start for column, start in inline]),
            ByteColumn.concat([column.data for column, _ in inline]),
        )
        if inline
        else None,
        VirtualColumn(
            np.concatenate([column.rows + start for column, start in virtual]),
            Locations.concat([column.locations for column, _ in virtual]),
            np.concatenate([column.has_etag for column, _ in virtual]),
            ByteColumn.concat([column.etags for column, _ in virtual]),
            np.concatenate([column.last_modified for column, _ in virtual]),
        )
        if virtual
        else None,
    )

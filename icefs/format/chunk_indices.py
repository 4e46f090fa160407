"""Sorted chunk indices as columns, for manifests and transaction logs.

A chunk index is one uint32 per dimension of the array's chunk grid. Sorted lexicographically, the indices that share
a prefix are a slice, in which the next column is sorted itself: to find one is a binary search per dimension, and to
list what lies below a prefix is a slice with the places where a value changes.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt

from icefs.errors import InvalidInputError

type Int64Array = npt.NDArray[np.int64]
type Uint32Array = npt.NDArray[np.uint32]
type Uint64Array = npt.NDArray[np.uint64]
type BoolArray = npt.NDArray[np.bool_]

MAX_COORDINATE = 2**32 - 1
# One index is found in the time in which so many are compared with others in columns.
_FEW_OF: Final = 64


class ChunkIndices:
    """Chunk indices of one array: distinct, sorted lexicographically, immutable.

    Attributes:
        coords: One contiguous, read-only `uint32[n]` for each dimension.
    """

    __slots__ = ("_count", "_views", "coords")

    def __init__(self, coords: Sequence[Uint32Array], count: int | None = None) -> None:
        """Takes columns that are distinct and sorted already; callers that do not know use `from_coords`.

        Args:
            coords: One column per dimension; kept, and made read-only.
            count: Their length; needed where there are no dimensions (0, or 1: a scalar's only chunk).
        """
        self.coords = tuple(np.ascontiguousarray(column, np.uint32) for column in coords)
        self._count = len(self.coords[0]) if self.coords else (count or 0)
        for column in self.coords:
            column.flags.writeable = False
        # bisect over a memoryview takes 0.2 us where searchsorted on a slice takes 0.8.
        self._views = tuple(memoryview(column) for column in self.coords)

    @classmethod
    def from_coords(cls, coords: Sequence[npt.ArrayLike], count: int | None = None) -> Self:
        """Sorts columns of any integer type.

        Raises:
            InvalidInputError: columns of different lengths, a value outside uint32, or the same index twice.
        """
        columns = check_coords(coords)
        chosen = cls(columns, count)
        if is_increasing(columns, len(chosen)):
            return chosen
        order = np.argsort(pack_keys(columns)[0], kind="stable") if columns else np.zeros(0, np.int64)
        chosen = cls([column[order] for column in columns], count)
        if not is_increasing(chosen.coords, len(chosen)):
            raise InvalidInputError("a chunk index occurs twice", kind="invalid-chunk-index")
        return chosen

    @classmethod
    def from_indices(cls, ndim: int, indices: Iterable[Sequence[int]]) -> Self:
        """Sorts chunk indices that are sequences of `ndim` integers; the same one twice counts once.

        Raises:
            InvalidInputError: one has another number of integers, or an integer is no uint32 (kind
                `invalid-chunk-index`).
        """
        rows = sorted({tuple(index) for index in indices})
        if any(len(row) != ndim for row in rows):
            raise InvalidInputError(f"a chunk index does not have {ndim} dimensions", kind="invalid-chunk-index")
        return cls(check_coords(list(zip(*rows, strict=True)) or [()] * ndim), len(rows))

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.coords)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        if not self.coords:
            return iter([()] * self._count)
        return iter(zip(*(column.tolist() for column in self.coords), strict=True))

    def __contains__(self, index: object) -> bool:
        return isinstance(index, Sequence) and self.find(index) >= 0

    def __eq__(self, other: object) -> bool:
        """Compares the indices; in a file, an empty list has no number of dimensions either."""
        if not isinstance(other, ChunkIndices):
            return NotImplemented
        return (
            len(self) == len(other)
            and (self.ndim == other.ndim or not len(self))
            and all(np.array_equal(mine, theirs) for mine, theirs in zip(self.coords, other.coords, strict=False))
        )

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.coords, self._count)

    def __repr__(self) -> str:
        return f"ChunkIndices({self.ndim} dimensions, {len(self)} chunks)"

    def index(self, row: int) -> tuple[int, ...]:
        """Returns the chunk index in a row."""
        return tuple(view[row] for view in self._views)

    def find(self, index: Sequence[int]) -> int:
        """Returns the row of a chunk index, or -1; also where its number of dimensions is another."""
        if len(index) != len(self._views):
            return -1
        start, end = self.range(index)
        return start if end > start else -1

    def find_many(self, coords: Sequence[Uint32Array]) -> Int64Array:
        """Returns the row of each of many chunk indices, or -1.

        Args:
            coords: One column per dimension, at least one; in any order.
        """
        count = len(coords[0])
        if count * _FEW_OF < self._count:
            # Comparing with all there are would cost more than looking for the few.
            indices = zip(*(column.tolist() for column in coords), strict=True)
            return np.fromiter(map(self.find, indices), np.int64, count)
        if not self._count:
            return np.full(count, -1, np.int64)
        mine, theirs = pack_keys(self.coords, coords)
        rows = mine.searchsorted(theirs)
        rows[rows == self._count] = 0
        rows[mine[rows] != theirs] = -1
        return rows

    def range(self, prefix: Sequence[int]) -> tuple[int, int]:
        """Returns the half-open range of the rows whose index starts with `prefix`."""
        start, end = 0, self._count
        for view, value in zip(self._views, prefix, strict=False):
            start = bisect_left(view, value, start, end)
            end = bisect_right(view, value, start, end)
        return start, end

    def children(self, prefix: Sequence[int]) -> tuple[Uint32Array, Int64Array]:
        """Lists the coordinates that follow a prefix, which is shorter than an index.

        Returns:
            The k distinct next coordinates in order, and the k + 1 bounds of their rows.
        """
        start, end = self.range(prefix)
        column = self.coords[len(prefix)][start:end]
        if start == end:
            return column, np.array([start], np.int64)
        cuts = np.flatnonzero(column[1:] != column[:-1]) + 1
        bounds = np.concatenate(([0], cuts, [end - start]))
        return column[bounds[:-1]], bounds + start

    def bounding_box(self) -> tuple[tuple[int, int], ...]:
        """Returns the tight half-open range of each dimension; only for chunk indices there are."""
        return tuple((int(column.min()), int(column.max()) + 1) for column in self.coords)

    def rows(self) -> Uint32Array:
        """Returns the indices as a new `uint32[n, ndim]`."""
        rows = np.empty((len(self), self.ndim), np.uint32)
        for axis, column in enumerate(self.coords):
            rows[:, axis] = column
        return rows

    def select(self, rows: BoolArray | Int64Array) -> "ChunkIndices":
        """Returns the indices at the rows of a mask, or at ascending row numbers."""
        count = int(np.count_nonzero(rows)) if rows.dtype == np.bool_ else len(rows)
        return ChunkIndices([column[rows] for column in self.coords], count)

    def union(self, *others: "ChunkIndices") -> "ChunkIndices":
        """Returns the indices that are in any of the sets.

        Raises:
            InvalidInputError: their numbers of dimensions differ.
        """
        sets = [chosen for chosen in (self, *others) if len(chosen)]
        if len(sets) < 2:
            return sets[0] if sets else self
        if len({chosen.ndim for chosen in sets}) > 1:
            raise InvalidInputError(
                "chunk indices with different numbers of dimensions cannot be joined", kind="invalid-chunk-index"
            )
        if not sets[0].ndim:
            return sets[0]
        columns = [np.concatenate(parts) for parts in zip(*(chosen.coords for chosen in sets), strict=True)]
        _, first = np.unique(pack_keys(columns)[0], return_index=True)
        return ChunkIndices([column[first] for column in columns])


def check_coords(coords: Sequence[npt.ArrayLike]) -> list[Uint32Array]:
    """Turns integer columns into uint32.

    Raises:
        InvalidInputError: columns of different lengths, or a value that is no uint32.
    """
    columns = []
    for coordinates in coords:
        column = np.asarray(coordinates)
        if column.size and (
            column.dtype.kind not in "iu" or int(column.min()) < 0 or int(column.max()) > MAX_COORDINATE
        ):
            raise InvalidInputError("a chunk coordinate is not an unsigned 32-bit integer", kind="invalid-chunk-index")
        columns.append(column.astype(np.uint32, copy=False))
    if len({column.shape for column in columns}) > 1 or any(column.ndim != 1 for column in columns):
        raise InvalidInputError("the columns of coordinates differ in length", kind="invalid-chunk-index")
    return columns


def increases(coords: Sequence[Uint32Array], count: int) -> BoolArray:
    """Tells for each index but the first whether it is greater than the one before it; for two or more."""
    greater = np.zeros(count - 1, np.bool_)
    tied = np.ones(count - 1, np.bool_)
    for column in coords:
        before, after = column[:-1], column[1:]
        greater |= tied & (after > before)
        tied &= after == before
    return greater


def is_increasing(coords: Sequence[Uint32Array], count: int) -> bool:
    """Tells whether each index is greater than the one before it."""
    return count < 2 or bool(increases(coords, count).all())


def pack_keys(*sets: Sequence[Uint32Array]) -> list[Uint64Array]:
    """Packs chunk indices into one number each, which compare as the indices do, over all of the sets.

    Args:
        sets: For each set, one column per dimension; all with the same number of dimensions, at least one.
    """
    lengths = [len(columns[0]) for columns in sets]
    whole = [np.concatenate(parts) for parts in zip(*sets, strict=True)]
    total = sum(lengths)
    keys, extent = np.zeros(total, np.uint64), 1
    for column in whole:
        width = int(column.max()) + 1 if total else 1
        if extent * width > 1 << 64:
            # Ranks are fewer than the indices, of which fewer than 2^32 fit in memory: the product fits again.
            distinct, inverse = np.unique(keys, return_inverse=True)
            keys, extent = inverse.astype(np.uint64), len(distinct)
        keys = keys * np.uint64(width) + column
        extent *= width
    return np.split(keys, np.cumsum(lengths)[:-1])

"""The chunks of an array in Zarr v2: their indices, their names, and the order of these.

A chunk of the view is what is decoded at once: an inner chunk, where the array has shards. It exists where the chunk or
shard that holds it does. One that is larger than the array is cut to the array's shape, since netCDF-C reads no such.
"""

import itertools
import math
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.errors import NotShownError
from icefs.format.zarr_json import ChunkKeyEncoding
from icefs.zarr.keys import MAX_COORDINATE, ChunkIndex, ChunkKeyLayout

type Rows = npt.NDArray[np.uint32]

_ENCODING: Final = ChunkKeyEncoding("v2", ".")
_SORTED: Final = 1 << 16
_MAX_DIGITS: Final = len(str(MAX_COORDINATE))


class Grid:
    """The chunks of one array.

    Attributes:
        shape: The array's shape.
        chunks: The shape of a chunk of the view.
        size: How many chunks there would be if all of them existed.
    """

    def __init__(self, shape: Sequence[int], stored: Sequence[int], inner: Sequence[int], *, may_cut: bool) -> None:
        """Takes the shapes.

        Args:
            shape: That of the array.
            stored: That of what a key holds.
            inner: That of what is decoded at once.
            may_cut: Whether chunks that are larger than the array are cut.

        Raises:
            NotShownError: the chunks have no names in Zarr v2.
        """
        self.shape = tuple(shape)
        if any(outer % size and length > outer for length, outer, size in zip(shape, stored, inner, strict=True)):
            raise NotShownError("its inner chunks do not divide its shards")
        self._per_stored = [-(-outer // size) for outer, size in zip(stored, inner, strict=True)]
        self.chunks = tuple(map(min, inner, shape)) if may_cut else tuple(inner)
        self._count = [-(-length // size) if size else 0 for length, size in zip(shape, inner, strict=True)]
        self._stored_count = [-(-length // size) for length, size in zip(shape, stored, strict=True)]
        if any(count > MAX_COORDINATE for count in self._count):
            raise NotShownError("it has more chunks along an axis than 32 bits count")
        self._layout = ChunkKeyLayout.of(_ENCODING, len(self.shape))
        self.size = math.prod(self._count)

    @property
    def stored_size(self) -> int:
        """How many keys there would be if all of them existed."""
        return math.prod(self._stored_count)

    def parse(self, name: str) -> ChunkIndex | None:
        """Returns the index of the chunk of a name; None if the array has no such chunk."""
        index = self._layout.parse(name)
        is_inside = index is not None and all(map(int.__lt__, index, self._count))
        return index if is_inside else None

    def stored_index(self, index: ChunkIndex) -> ChunkIndex:
        """Returns the index of the key that holds a chunk."""
        return tuple(map(int.__floordiv__, index, self._per_stored))

    def is_stored(self, index: ChunkIndex) -> bool:
        """Tells whether a key's index is within the array; chunks outside stay when an array shrinks."""
        return all(map(int.__lt__, index, self._stored_count))

    def names(self, stored: Iterable[ChunkIndex]) -> Iterator[tuple[str, ChunkIndex]]:
        """Yields names and indices of the chunks that exist, ordered by name.

        Args:
            stored: The indices of the keys that exist, in C order.
        """
        if not self.shape:
            if next(iter(stored), None) is not None:
                yield self._layout.format(()), ()
            return
        inside = itertools.chain.from_iterable(index for index in stored if self.is_stored(index))
        rows = np.fromiter(inside, np.uint32).reshape(-1, len(self.shape))
        for index in self._walk(rows, 0, ()):
            yield self._layout.format(index), index

    def _walk(self, rows: Rows, axis: int, above: ChunkIndex) -> Iterator[ChunkIndex]:
        """Yields the chunks in keys whose indices are the same up to `axis`, in the order of their names."""
        if axis == len(self.shape):
            yield above
            return
        if len(rows) == 1 and all(number == 1 for number in self._per_stored[axis:]):
            yield above + tuple(rows[0, axis:].tolist())
            return
        values, starts = np.unique(rows[:, axis], return_index=True)
        stops = np.append(starts[1:], len(rows))
        number, count = self._per_stored[axis], self._count[axis]
        found = values.tolist()
        for coordinate in in_decimal_order([(value * number, min((value + 1) * number, count)) for value in found]):
            position = bisect_right(found, coordinate // number) - 1
            yield from self._walk(rows[starts[position] : stops[position]], axis + 1, (*above, coordinate))


def in_decimal_order(ranges: Sequence[tuple[int, int]]) -> Iterable[int]:
    """Returns the numbers in ranges, ordered as their decimals are as texts.

    Args:
        ranges: Half-open, ordered and apart from each other.
    """
    if sum(stop - start for start, stop in ranges) <= _SORTED:
        return sorted(itertools.chain.from_iterable(range(*each) for each in ranges), key=str)
    together = _Ranges(ranges)
    return itertools.chain.from_iterable(_beginning_with(digit, together) for digit in range(10))


class _Ranges:
    """Ranges, those that touch each other as one."""

    def __init__(self, ranges: Sequence[tuple[int, int]]) -> None:
        self.starts: list[int] = []
        self.stops: list[int] = []
        for start, stop in ranges:
            if self.stops and self.stops[-1] == start:
                self.stops[-1] = stop
            else:
                self.starts.append(start)
                self.stops.append(stop)

    def meet(self, start: int, stop: int) -> bool:
        """Tells whether one of them has a number of a range."""
        position = bisect_right(self.starts, stop - 1) - 1
        return position >= 0 and self.stops[position] > start


def _beginning_with(number: int, ranges: _Ranges) -> Iterator[int]:
    """Yields those numbers in ranges whose decimals begin with that of a number: itself, then all longer ones."""
    if ranges.meet(number, number + 1):
        yield number
    if not number:
        return
    powers = (10**digits for digits in range(1, _MAX_DIGITS))
    if any(ranges.meet(number * power, (number + 1) * power) for power in powers):
        for digit in range(10):
            yield from _beginning_with(10 * number + digit, ranges)

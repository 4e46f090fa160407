"""Files put together from parts: bytes that are known, elements that are decoded when they are read, and gaps.

| Literal |  gap: zeros  | ElementSource …… | gap | Literal |
0         a              b                  c     d         size
"""

import contextlib
from bisect import bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import override

import numpy as np

from icefs.errors import DecodeError
from icefs.views.interface import Elements, Extent, Layout, Source, Stretch
from icefs.views.ranges import Range, common, without

type Convert = Callable[[np.ndarray], np.ndarray]
"""Turns elements of an array into those of a file, one for one; equal ones do the same."""


class Literal(Source):
    """Bytes that are known."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    @override
    def read(self, start: int, stop: int) -> bytes | memoryview:
        return self._data[start:stop]

    @override
    def at_hand(self, start: int, stop: int) -> memoryview:
        return self._data[start:stop]

    @property
    def data(self) -> memoryview:
        """All of them."""
        return self._data


class ElementSource(Source):
    """A contiguous run of an array's elements, in the type and byte order of a file.

    Attributes:
        size: Its bytes.
    """

    def __init__(
        self,
        elements: Elements,
        dtype: np.dtype[np.generic] | None = None,
        convert: Convert | None = None,
        *,
        first: int = 0,
        count: int | None = None,
    ) -> None:
        """Takes the elements `[first, first + count)` in C order.

        Args:
            elements: The array.
            dtype: The type in the file; by default the array's own. Values are cast as numpy's `astype` does.
            convert: Makes the file's values of the array's, before they are cast; it gets and returns arrays of one
                dimension and equal length, and leaves its argument as it is.
            first: The first element.
            count: How many elements; by default all that follow.
        """
        self._elements = elements
        self._dtype = elements.dtype if dtype is None else dtype
        self._convert = convert
        self._first = first
        if count is None:
            count = _product(elements.shape) - first
        self.size = count * self._dtype.itemsize

    @override
    def read(self, start: int, stop: int) -> bytes | memoryview:
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        values = self._elements.read(*self._elements_of(start, stop))
        return self._bytes(values if self._convert is None else self._convert(values), start, stop)

    @override
    def at_hand(self, start: int, stop: int) -> bytes | memoryview | None:
        stop = min(stop, self.size)
        if start >= stop:
            return b""
        if self._convert is not None or self._elements.dtype.kind not in "biufcmM":
            return None
        values = self._elements.at_hand(*self._elements_of(start, stop))
        return None if values is None else self._bytes(values, start, stop)

    @override
    def subject(self) -> Hashable | None:
        subject = self._elements.subject()
        return None if subject is None else (subject, self._dtype, self._convert)

    @override
    def stretches(self, size: int, earlier: Source | None) -> Iterable[Stretch]:
        width, first = self._dtype.itemsize, self._first
        present: Sequence[Range] = [(first, first + size // width)]
        if self._fills_with_zeros():
            present = list(common(self._elements.present(), present))
        kept: Sequence[Range] = []
        begin = 0
        if isinstance(earlier, ElementSource):
            begin = earlier._first
            both = common(present, [(begin, begin + earlier.size // width)])
            kept = list(without(both, self._elements.changed(earlier._elements)))
        made = [Stretch((low - first) * width, (high - first) * width) for low, high in without(present, kept)]
        made += [Stretch((low - first) * width, (high - first) * width, (low - begin) * width) for low, high in kept]
        return sorted(made, key=lambda stretch: stretch.start)

    def _fills_with_zeros(self) -> bool:
        """Tells whether missing chunks are bytes of zeros in the file."""
        fill = self._elements.fill()
        if fill is None or fill.dtype.hasobject or fill.dtype.kind == "T":
            return False
        with contextlib.suppress(DecodeError):  # the file cannot show it, which readers of such a chunk meet
            values = fill if self._convert is None else self._convert(fill)
            return not np.ascontiguousarray(values, self._dtype).view(np.uint8).any()
        return False

    def _elements_of(self, start: int, stop: int) -> tuple[int, int]:
        """Returns the range of the array's elements that bytes are part of."""
        width = self._dtype.itemsize
        return self._first + start // width, self._first - (-stop // width)

    def _bytes(self, values: np.ndarray, start: int, stop: int) -> memoryview:
        """Returns the bytes `[start, stop)` of the elements that they are part of."""
        before = start % self._dtype.itemsize
        data = memoryview(np.ascontiguousarray(values, self._dtype).view(np.uint8))
        return data[before : before + stop - start]


class ExtentLayout(Layout):
    """A file whose parts are extents; between them, and behind the last one, are zeros."""

    def __init__(self, extents: Sequence[Extent], size: int | None = None) -> None:
        """Takes extents that do not overlap, ordered by offset.

        Args:
            extents: The parts.
            size: The bytes of the file; by default the end of the last extent.

        Raises:
            ValueError: they overlap, are not ordered, or reach beyond `size`.
        """
        self._extents = [extent for extent in extents if extent.size]
        end = 0
        for extent in self._extents:
            if extent.offset < end:
                raise ValueError(f"an extent at {extent.offset} begins before {end}, the end of the one before it")
            end = extent.offset + extent.size
        if size is not None and size < end:
            raise ValueError(f"extents up to {end} in a file of {size} bytes")
        self._offsets = [extent.offset for extent in self._extents]
        self.size = end if size is None else size

    @override
    def read(self, offset: int, size: int) -> bytes | memoryview:
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        first = self._first(offset)
        extent = self._around(first, offset, stop)
        if extent is not None:
            return extent.source.read(offset - extent.offset, stop - extent.offset)
        data = bytearray(stop - offset)
        for extent in self._extents[first:]:
            if extent.offset >= stop:
                break
            low, high = max(offset, extent.offset), min(stop, extent.offset + extent.size)
            if low < high:
                data[low - offset : high - offset] = extent.source.read(low - extent.offset, high - extent.offset)
        return memoryview(data)

    @override
    def at_hand(self, offset: int, size: int) -> bytes | memoryview | None:
        stop = min(offset + size, self.size)
        if offset >= stop:
            return b""
        extent = self._around(self._first(offset), offset, stop)
        return None if extent is None else extent.source.at_hand(offset - extent.offset, stop - extent.offset)

    @override
    def known(self) -> Iterator[tuple[int, memoryview]]:
        return ((one.offset, one.source.data) for one in self._extents if isinstance(one.source, Literal))

    @override
    def stretches(self, earlier: Layout | None = None) -> Iterator[Stretch]:
        others = {}
        if isinstance(earlier, ExtentLayout):
            others = {one.source.subject(): one for one in earlier._extents}
        for extent in self._extents:
            subject = extent.source.subject()
            other = None if subject is None else others.get(subject)
            for stretch in extent.source.stretches(extent.size, None if other is None else other.source):
                kept_at = None if other is None or stretch.kept_at is None else stretch.kept_at + other.offset
                yield replace(
                    stretch, start=stretch.start + extent.offset, stop=stretch.stop + extent.offset, kept_at=kept_at
                )

    def _first(self, offset: int) -> int:
        """Returns the number of the extent that a byte is in or behind, at least 0."""
        return max(0, bisect_right(self._offsets, offset) - 1)

    def _around(self, number: int, offset: int, stop: int) -> Extent | None:
        """Returns an extent if all of a range is in it."""
        if not self._offsets:
            return None
        extent = self._extents[number]
        return extent if extent.offset <= offset and stop <= extent.offset + extent.size else None


def _product(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product

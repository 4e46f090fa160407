"""Files put together from parts: bytes that are known, elements that are decoded when they are read, and gaps.

| Literal |  gap: zeros  | ElementSource …… | gap | Literal |
0         a              b                  c     d         size
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import override

import numpy as np

from icefs.views.interface import Elements, Extent, Layout, Source

type Convert = Callable[[np.ndarray], np.ndarray]
"""Turns elements of an array into those of a file, one for one."""


class Literal(Source):
    """Bytes that are known."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    @override
    def read(self, start: int, stop: int) -> bytes | memoryview:
        return self._data[start:stop]


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
        width = self._dtype.itemsize
        low, high = start // width, -(-stop // width)
        values = self._elements.read(self._first + low, self._first + high)
        if self._convert is not None:
            values = self._convert(values)
        data = memoryview(np.ascontiguousarray(values, self._dtype).view(np.uint8))
        return data[start - low * width : stop - low * width]


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
        first = max(0, bisect_right(self._offsets, offset) - 1)
        if self._offsets:
            extent = self._extents[first]
            if extent.offset <= offset and stop <= extent.offset + extent.size:
                return extent.source.read(offset - extent.offset, stop - extent.offset)
        data = bytearray(stop - offset)
        for extent in self._extents[first:]:
            if extent.offset >= stop:
                break
            low, high = max(offset, extent.offset), min(stop, extent.offset + extent.size)
            if low < high:
                data[low - offset : high - offset] = extent.source.read(low - extent.offset, high - extent.offset)
        return memoryview(data)


def _product(shape: Sequence[int]) -> int:
    product = 1
    for length in shape:
        product *= length
    return product

"""The files of a view: metadata, decoded chunks, and chunks whose bytes are kept."""

from collections.abc import Callable, Hashable, Iterable
from typing import override

import numpy as np

from icefs.errors import ChunkNotFoundError
from icefs.paths import NodePath
from icefs.views.extents import ExtentLayout, Literal
from icefs.views.interface import Elements, Extent, Hierarchy, Layout, Source, Stretch, ViewFile
from icefs.views.zarr2.types import Convert
from icefs.zarr.keys import ChunkIndex


class MetadataFile(ViewFile):
    """A file whose bytes are made at once."""

    def __init__(self, make: Callable[[], bytes], time_ns: int) -> None:
        self._make = make
        self.time_ns = time_ns

    @override
    def layout(self) -> Layout:
        data = self._make()
        return ExtentLayout([Extent(0, len(data), Literal(data))])


class ChunkFile(ViewFile):
    """A decoded chunk."""

    def __init__(self, source: "ChunkSource", time_ns: int) -> None:
        self._source = source
        self.time_ns = time_ns

    @override
    def layout(self) -> Layout:
        return ExtentLayout([Extent(0, self._source.size, self._source)])


class ChunkSource(Source):
    """The elements of one chunk in C order.

    Attributes:
        size: Its bytes.
    """

    def __init__(
        self, elements: Elements, index: ChunkIndex, shape: tuple[int, ...], dtype: np.dtype, convert: Convert
    ) -> None:
        """Takes what to show of a chunk.

        Args:
            elements: The array.
            index: The chunk.
            shape: How much of it is shown.
            dtype: The type of an element in the file.
            convert: Makes the file's values, in one dimension.
        """
        self._elements = elements
        self._index = index
        self._shape = shape
        self._slices = tuple(slice(size) for size in shape)
        self._dtype = dtype
        self._convert = convert
        self.size = dtype.itemsize
        for length in shape:
            self.size *= length

    @override
    def read(self, start: int, stop: int) -> bytes | memoryview:
        width = self._dtype.itemsize
        low, high = start // width, -(-min(stop, self.size) // width)
        chunk = self._elements.chunk(self._index)[self._slices]
        # Of a chunk that is cut, only the elements that are read are copied.
        values = chunk.reshape(-1)[low:high] if chunk.flags.c_contiguous else chunk.flat[low:high]
        made = np.ascontiguousarray(self._convert(values), self._dtype)
        return memoryview(made.tobytes())[start - low * width : stop - low * width]

    @override
    def subject(self) -> Hashable | None:
        subject = self._elements.subject()
        return None if subject is None else (subject, self._index, self._shape, self._dtype, self._convert)

    @override
    def stretches(self, size: int, earlier: Source | None) -> Iterable[Stretch]:
        is_kept = isinstance(earlier, ChunkSource) and not self._elements.is_changed(self._index, earlier._elements)
        yield Stretch(0, size, 0 if is_kept else None)


class KeptFile(ViewFile):
    """A chunk with the bytes that are stored."""

    def __init__(self, hierarchy: Hierarchy, array: NodePath, index: ChunkIndex, key: str, time_ns: int) -> None:
        self._hierarchy = hierarchy
        self._array = array
        self._index = index
        self._key = key
        self.time_ns = time_ns

    @override
    def layout(self) -> Layout:
        size = self._hierarchy.size(self._key)
        if size is None:
            raise ChunkNotFoundError(f"there is no chunk {self._key} any more", key=self._key)
        return ExtentLayout([Extent(0, size, _Key(self._hierarchy, self._array, self._index, self._key))])


class _Key(Source):
    def __init__(self, hierarchy: Hierarchy, array: NodePath, index: ChunkIndex, key: str) -> None:
        self._hierarchy = hierarchy
        self._array = array
        self._index = index
        self._key = key

    @override
    def read(self, start: int, stop: int) -> bytes | memoryview:
        data = self._hierarchy.read(self._key, start, stop)
        if data is None:
            raise ChunkNotFoundError(f"there is no chunk {self._key} any more", key=self._key)
        return data

    @override
    def subject(self) -> Hashable:
        return self._array, self._key

    @override
    def stretches(self, size: int, earlier: Source | None) -> Iterable[Stretch]:
        changed = None
        if isinstance(earlier, _Key):
            changed = self._hierarchy.changed_chunks(self._array, earlier._hierarchy)
        yield Stretch(0, size, 0 if changed is not None and self._index not in changed else None)

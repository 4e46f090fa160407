"""The elements of an array in C order, put together from its decoded chunks.

A reader that goes through the array needs the chunks of one block again and again (`geometry`), then those of the next.
If a block fits into the cache, each chunk is decoded once, and the next block in other threads meanwhile. If it does
not, each pass through the block would decode all of it: a *band* is decoded instead, as many elements in C order at
once as half of the cache takes.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import batched, islice
from math import prod
from typing import Final, override

import numpy as np

from icefs.engine.read.workers import Workers
from icefs.errors import IcefsError
from icefs.views.chunk_source import ChunkSource
from icefs.views.geometry import Geometry, boxes_of_range
from icefs.views.interface import Elements
from icefs.views.scans import Scan, Scans
from icefs.zarr.keys import ChunkIndex

# Decoding less than this in another thread costs more than it saves.
_MIN_TASK_BYTES: Final = 1 << 17
# How much is decoded ahead of a reader: one block of it at least, and no more chunks than this.
_AHEAD_BYTES: Final = 32 << 20
_MAX_AHEAD: Final = 1024
# How far apart two reads of one reader may be, and how much it has read when bands begin to pay (with a small cache: an
# eighth of that).
_SLACK_BYTES: Final = 2 << 20
_MIN_BAND_BYTES: Final = 4 << 20
_MAX_BANDS: Final = 2
# How many chunks other threads decode at once for one reader.
_WINDOW: Final = 8

type Chunks = Callable[[Sequence[ChunkIndex]], Iterator[np.ndarray]]
"""Yields the chunks of some indices, in their order."""


@dataclass(slots=True, eq=False)
class _Band:
    """A range of elements that is decoded as a whole.

    Attributes:
        start: The first element.
        stop: One past the last one.
        is_decoded: Whether it has been in the cache.
    """

    start: int
    stop: int
    is_decoded: bool = False


class ArrayElements(Elements):
    """The elements of one array.

    Safe to use from any thread; the lock of `_scans` guards `_bands`, too.
    """

    def __init__(self, source: ChunkSource, workers: Workers) -> None:
        """Takes the chunks, and the threads that decode some of them ahead."""
        codec = source.codec
        self.shape, self.dtype, self.chunk_shape = codec.shape, codec.dtype, codec.chunk_shape
        self._source = source
        self._cache = source.cache
        self._workers = workers
        self._geometry = Geometry(codec.shape, codec.chunk_shape)
        self._itemsize = max(1, codec.dtype.itemsize)
        self._chunk_bytes = codec.chunk_bytes
        self._block_bytes = codec.chunk_bytes * self._geometry.block_chunks
        # As many as half of the cache takes: those that a read needs are not to drive out each other.
        self._window = min(_WINDOW, self._cache.max_bytes // 2 // self._chunk_bytes)
        self._scans = Scans(_SLACK_BYTES // self._itemsize)
        self._bands: list[_Band] = []

    @override
    def read(self, start: int, stop: int) -> np.ndarray:
        if not 0 <= start <= stop <= self._geometry.size:
            raise ValueError(f"elements {start} to {stop} of {self._geometry.size}")
        if start == stop:
            return np.empty(0, self.dtype)
        with self._scans.lock:
            scan = self._scans.add(start, stop)
            ahead = self._next_ahead(scan)
            band = self._band_of(scan, start, stop)
        if band is None:
            return self._collect(start, stop, lambda indices: self._cached(indices, ahead))
        found = self._cache.get(self._band_key(band), lambda: self._collect(band.start, band.stop, self._passing))
        band.is_decoded = True
        head = found[start - band.start : stop - band.start]
        return head if stop <= band.stop else np.concatenate((head, self.read(band.stop, stop)))

    @override
    def chunk(self, index: ChunkIndex) -> np.ndarray:
        grid = self._geometry.grid
        if len(index) != len(grid) or any(not 0 <= at < count for at, count in zip(index, grid, strict=True)):
            raise ValueError(f"chunk {index} of a grid of {grid}")
        return self._source.get(index)

    # Ranges.

    def _collect(self, start: int, stop: int, chunks: Chunks) -> np.ndarray:
        """Puts a range of elements together."""
        if self._geometry.is_linear:
            return self._join(start, stop, chunks)
        found = np.empty(stop - start, self.dtype)
        boxes = list(boxes_of_range(self.shape, start, stop))
        views, at = [], 0
        for box in boxes:
            size = prod(box.shape)
            views.append(found[at : at + size].reshape(box.shape))
            at += size
        pieces = self._geometry.pieces(boxes)
        for of_chunk, chunk in zip(pieces.values(), chunks(list(pieces)), strict=True):
            for piece in of_chunk:
                views[piece.box][piece.in_box] = chunk[piece.in_chunk]
        return found

    def _join(self, start: int, stop: int, chunks: Chunks) -> np.ndarray:
        """Puts a range of elements together whose chunks follow each other."""
        indices: list[ChunkIndex] = []
        parts, position = [], start
        while position < stop:
            low, high = self._geometry.block_range(position)
            indices += self._geometry.block_indices(position)
            parts.append(slice(position - low, min(stop, high) - low))
            position = high
        found = [chunk.reshape(-1)[part] for part, chunk in zip(parts, chunks(indices), strict=True)]
        return found[0] if len(found) == 1 else np.concatenate(found)

    # Chunks.

    def _cached(self, indices: Sequence[ChunkIndex], ahead: Iterable[ChunkIndex]) -> Iterator[np.ndarray]:
        """Yields chunks by way of the cache; other threads decode those that come next, and then those of `ahead`."""
        rest = [index for index in indices[1:] if not self._source.has(index)] if self._window else []
        tasks = self._tasks(rest)
        started = {task[0]: self._start(task) for task in islice(tasks, self._window)}
        for index in indices:
            if index in started:
                started.pop(index).cancel()  # if no thread has come to it yet, this one decodes it
                started |= {task[0]: self._start(task) for task in islice(tasks, 1)}
            yield self._source.get(index)
        for task in self._tasks(ahead):
            self._start(task)

    def _tasks(self, indices: Iterable[ChunkIndex]) -> Iterator[tuple[ChunkIndex, ...]]:
        return batched(indices, max(1, _MIN_TASK_BYTES // self._chunk_bytes))

    def _start(self, indices: Sequence[ChunkIndex]) -> Future[None]:
        """Has another thread decode chunks, which nobody has to wait for."""
        return self._workers.submit(self._load, indices)

    def _load(self, indices: Sequence[ChunkIndex]) -> None:
        for index in indices:
            with contextlib.suppress(IcefsError):  # a reader that needs the chunk gets the error
                self._source.load(index)

    def _passing(self, indices: Sequence[ChunkIndex]) -> Iterator[np.ndarray]:
        """Yields chunks without keeping them."""
        if self._window < 2:
            return map(self._pass, indices)
        return self._workers.map_ahead(self._pass, indices, window=self._window)

    def _pass(self, index: ChunkIndex) -> np.ndarray:
        found = self._source.peek(index)
        return self._source.decode(index) if found is None else found

    # Readers in order; the lock of `_scans` is held.

    def _next_ahead(self, scan: Scan) -> list[ChunkIndex]:
        """Returns the chunks to decode ahead now."""
        geometry = self._geometry
        budget = self._cache.max_bytes // 3
        if scan.is_new or self._block_bytes > budget or geometry.block_chunks > _MAX_AHEAD:
            return []
        blocks = min(budget, _AHEAD_BYTES) // self._block_bytes
        blocks = max(1, min(blocks, _MAX_AHEAD // geometry.block_chunks))
        end = min(geometry.size, scan.stop + blocks * geometry.block_size)
        position = max(scan.ahead, geometry.block_range(scan.stop - 1)[1])
        found: list[ChunkIndex] = []
        while position < end:
            found += geometry.block_indices(position)
            position = geometry.block_range(position)[1]
        scan.ahead = position
        return [index for index in found if not self._source.has(index)]

    def _band_of(self, scan: Scan, start: int, stop: int) -> _Band | None:
        """Returns the band in which a read begins; None if it needs none."""
        if self._block_bytes <= self._cache.max_bytes or self._geometry.block_chunks == 1:
            return None
        self._bands = [band for band in self._bands if not band.is_decoded or self._cache.has(self._band_key(band))]
        for band in self._bands:
            if band.start <= start < band.stop:
                return band
        length = min(scan.length, self._cache.max_bytes // 2 // self._itemsize)
        end = self._geometry.block_range(start)[1]
        if scan.length * self._itemsize < min(_MIN_BAND_BYTES, self._cache.max_bytes // 8) or start + length < min(
            stop, end
        ):
            return None
        band = _Band(start, min(start + length, end))
        self._bands = [band, *self._bands][:_MAX_BANDS]
        return band

    def _band_key(self, band: _Band) -> object:
        return self._source.key("band", band.start, band.stop)

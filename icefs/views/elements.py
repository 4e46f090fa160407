"""The elements of an array in C order, put together from its decoded chunks.

A reader that goes through the array needs the chunks of one block again and again (`geometry`), then those of the next.
If a block fits into the cache, each chunk is decoded once, and the next block in other threads meanwhile. If it does
not, each pass through the block would decode all of it: a *band* is decoded instead, as many elements in C order at
once as half of the cache takes.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import batched, islice
from math import prod
from typing import Final, override

import numpy as np

from icefs.engine.read.workers import Workers
from icefs.views.chunk_source import ChunkSource
from icefs.views.geometry import Box, Geometry, Piece, boxes_of_range
from icefs.views.interface import Elements
from icefs.views.ranges import Range, joined
from icefs.views.scans import Scan, Scans
from icefs.zarr.keys import ChunkIndex

# Decoding less than this in another thread costs more than it saves.
_MIN_TASK_BYTES: Final = 1 << 17
_SHARD_TASK_BYTES: Final = 1 << 20
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
# How much may be copied while a caller must not wait: what the kernel asks for at once, and the rest of two elements
# that begin before it and end behind it.
_AT_HAND_BYTES: Final = (1 << 20) + 4096
_AT_HAND_PIECES: Final = 128

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
    def at_hand(self, start: int, stop: int) -> np.ndarray | None:
        found = self._decoded(start, stop) if (stop - start) * self._itemsize <= _AT_HAND_BYTES else None
        if found is None:
            return None
        # `read` records the read if this does not: two records would make a reader in order of a single read.
        with self._scans.lock:
            ahead = self._next_ahead(self._scans.add(start, stop))
        self._start_ahead(ahead)
        return found

    def _decoded(self, start: int, stop: int) -> np.ndarray | None:
        """Returns a range of elements if all of its chunks, or a band of it, are in the cache."""
        if not 0 <= start < stop <= self._geometry.size:
            return None
        for band in tuple(self._bands):
            if band.start <= start and stop <= band.stop:
                found = self._cache.peek(self._band_key(band))
                return None if found is None else found[start - band.start : stop - band.start]
        if self._geometry.is_linear:
            low, high = self._geometry.block_range(start)
            chunk = self._source.peek(next(iter(self._geometry.block_indices(start)))) if stop <= high else None
            return None if chunk is None else _flat(chunk)[start - low : stop - low]
        boxes = list(boxes_of_range(self.shape, start, stop))
        if self._geometry.count_pieces(boxes) > _AT_HAND_PIECES:
            return None
        pieces = self._geometry.pieces(boxes)
        chunks = [self._source.peek(index) for index in pieces]
        present = [chunk for chunk in chunks if chunk is not None]
        return None if len(present) < len(chunks) else self._assemble(stop - start, boxes, pieces, present)

    @override
    def chunk(self, index: ChunkIndex) -> np.ndarray:
        grid = self._geometry.grid
        if len(index) != len(grid) or any(not 0 <= at < count for at, count in zip(index, grid, strict=True)):
            raise ValueError(f"chunk {index} of a grid of {grid}")
        return self._source.get(index)

    # Versions.

    @override
    def subject(self) -> Hashable:
        return self._source.subject(), self.shape[1:]

    @override
    def fill(self) -> np.ndarray:
        return self._source.codec.fill_value.reshape(1)

    @override
    def present(self) -> Iterable[Range]:
        return self._blocks_of(self._source.stored())

    @override
    def changed(self, earlier: Elements) -> Iterable[Range]:
        found = self._source.changed(earlier._source) if isinstance(earlier, ArrayElements) else None
        return [(0, self._geometry.size)] if found is None else self._blocks_of(found)

    @override
    def is_changed(self, index: ChunkIndex, earlier: Elements) -> bool:
        return not isinstance(earlier, ArrayElements) or self._source.is_changed(index, earlier._source)

    def _blocks_of(self, indices: Iterable[ChunkIndex]) -> Iterator[Range]:
        """Yields the ranges of elements of the blocks that chunks, or shards, are in."""
        stored = Geometry(self.shape, self._source.stored_shape())
        return joined(found for found in map(stored.block_of, indices) if found is not None)

    # Ranges.

    def _collect(self, start: int, stop: int, chunks: Chunks) -> np.ndarray:
        """Puts a range of elements together."""
        if self._geometry.is_linear:
            return self._join(start, stop, chunks)
        boxes = list(boxes_of_range(self.shape, start, stop))
        pieces = self._geometry.pieces(boxes)
        return self._assemble(stop - start, boxes, pieces, chunks(list(pieces)))

    def _assemble(
        self, size: int, boxes: Sequence[Box], pieces: Mapping[ChunkIndex, list[Piece]], chunks: Iterable[np.ndarray]
    ) -> np.ndarray:
        """Copies the pieces of chunks to their places in a range of so many elements."""
        found = np.empty(size, self.dtype)
        views, at = [], 0
        for box in boxes:
            count = prod(box.shape)
            views.append(found[at : at + count].reshape(box.shape))
            at += count
        for of_chunk, chunk in zip(pieces.values(), chunks, strict=True):
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
        found = [_flat(chunk)[part] for part, chunk in zip(parts, chunks(indices), strict=True)]
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
        self._start_ahead(ahead)

    def _tasks(
        self, indices: Iterable[ChunkIndex], task_bytes: int = _MIN_TASK_BYTES
    ) -> Iterator[Sequence[ChunkIndex]]:
        return batched(indices, max(1, task_bytes // self._chunk_bytes))

    def _start_ahead(self, indices: Iterable[ChunkIndex]) -> None:
        # Neighbours in a shard are read at once.
        task_bytes = _MIN_TASK_BYTES if self._source.codec.chunks_per_shard is None else _SHARD_TASK_BYTES
        for task in self._tasks(indices, task_bytes):
            self._start(task)

    def _start(self, indices: Sequence[ChunkIndex]) -> Future[None]:
        """Has another thread decode chunks, which nobody has to wait for."""
        return self._workers.submit(self._source.load, indices)

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


def _flat(chunk: np.ndarray) -> np.ndarray:
    """Returns the elements of a chunk in C order, without copying them; those of a missing one are one element."""
    if chunk.flags.c_contiguous:
        return chunk.reshape(-1)
    return np.broadcast_to(chunk[tuple(slice(1) for _ in chunk.shape)].reshape(()), chunk.size)

"""The chunks of one array, fetched and decoded."""

import contextlib
import logging
import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import mul
from typing import Final

import numpy as np

from icefs.errors import DecodeError, IcefsError
from icefs.paths import NodePath
from icefs.views.chunk_cache import ChunkCache, Gate
from icefs.views.codecs import ArrayCodec
from icefs.views.interface import Hierarchy, LastingValue
from icefs.views.raw_pieces import RawPieces
from icefs.zarr.keys import ChunkIndex, ChunkKeyLayout, node_prefix

logger = logging.getLogger(__name__)

type Read = Callable[[int, int | None], bytes | None]
"""Reads a range of bytes of a chunk, or of a shard; None if there is none."""

_NO_CHUNK: Final = (1 << 64) - 1
# How much of a shard is read at once, and how much that is not wanted between two chunks. Shards often have their
# chunks in Morton order: each second one of a row follows the one before it.
_MAX_RUN: Final = 4 << 20
_MAX_GAP: Final = 1 << 16
# A damaged array is not to fill the log.
_MAX_REPORTS: Final = 100


class ChunkSource:
    """Decodes chunks, or inner chunks of shards, by their index.

    Safe to use from any thread; `_lock` guards `_reported`.

    Attributes:
        codec: Decodes the bytes.
        cache: Keeps decoded chunks and shards' indices.
    """

    def __init__(
        self, hierarchy: Hierarchy, path: NodePath, document: bytes, codec: ArrayCodec, cache: ChunkCache, gate: Gate
    ) -> None:
        self.codec = codec
        self.cache = cache
        self._hierarchy = hierarchy
        self._path = path
        self._version = hierarchy.version
        self._prefix = node_prefix(path)
        self._layout = ChunkKeyLayout.of_metadata(document, len(codec.shape))
        self._gate = gate
        self._lock = threading.Lock()
        self._reported: set[tuple[str, ChunkIndex]] = set()

    def key(self, *what: Hashable) -> Hashable:
        """Returns the key in the cache of something of this array."""
        return (self._version, self._path, *what)

    def get(self, index: ChunkIndex) -> np.ndarray:
        """Returns a chunk from the cache, or decodes it.

        Raises:
            DecodeError: it does not decode.
            StorageError, FormatError, StaleError: it cannot be read.
        """
        return self.cache.get(self.key(index), lambda: self.decode(index))

    def load(self, indices: Sequence[ChunkIndex]) -> None:
        """Decodes chunks into the cache that are neither there nor on their way; one read for neighbours in a shard.

        A chunk that cannot be read or does not decode is left out: a reader that needs it gets the error.
        """
        missing = [index for index in indices if not self.has(index)]
        for outer, group in groupby(missing, lambda index: self._place(index)[0]):
            found = list(group)
            shard = None
            if len(found) > 1 and self.codec.chunks_per_shard is not None and self.codec.raw_pieces is None:
                with contextlib.suppress(IcefsError):
                    shard = self._read_together(outer, found)
            for index in found:
                with contextlib.suppress(IcefsError):
                    self.cache.load(self.key(index), partial(self.decode, index, shard))

    def _read_together(self, outer: ChunkIndex, indices: Sequence[ChunkIndex]) -> LastingValue | None:
        """Reads chunks of one shard that lie near each other; returns the shard, which has them in memory."""
        shard = self._hierarchy.lasting(self._prefix + self._layout.format(outer))
        if shard is None:
            return None
        places = [self._place(index)[1] for index in indices]
        wanted = [inner for inner in places if self.cache.of_content(self._content(shard, inner)) is None]
        if len(wanted) < 2:
            return shard
        table = self._shard_index(outer, shard.read)
        entries = [table[inner].tolist() for inner in wanted]
        ranges = sorted((offset, offset + length) for offset, length in entries if offset != _NO_CHUNK)
        runs = [(start, shard.read(start, stop) or b"") for start, stop in _runs(ranges)]

        def read(low: int, high: int | None) -> bytes | None:
            for start, data in runs:
                if high is not None and start <= low <= high <= start + len(data):
                    return data[low - start : high - start]
            return shard.read(low, high)

        return replace(shard, read=read)

    def _content(self, value: LastingValue, inner: ChunkIndex) -> Hashable:
        """Returns what tells a chunk from all that are decoded from other bytes, or otherwise."""
        return value.identity, self.codec.means, inner

    def has(self, index: ChunkIndex) -> bool:
        """Tells whether a chunk is in the cache, or on its way there."""
        return self.cache.has(self.key(index))

    def peek(self, index: ChunkIndex) -> np.ndarray | None:
        """Returns a chunk if it is in the cache."""
        return self.cache.peek(self.key(index))

    def stored(self) -> Iterator[ChunkIndex]:
        """Yields the indices of the chunks that exist, or of the shards, in C order; raises as the hierarchy does."""
        return self._hierarchy.chunk_indices(self._path)

    def stored_shape(self) -> tuple[int, ...]:
        """Returns the shape of these: of what one key of the hierarchy has."""
        per_shard = self.codec.chunks_per_shard or (1,) * len(self.codec.shape)
        return tuple(map(mul, self.codec.chunk_shape, per_shard))

    def changed(self, earlier: "ChunkSource") -> Collection[ChunkIndex] | None:
        """Returns the indices of those that may differ from another version's; None where any may."""
        return self._hierarchy.changed_chunks(self._path, earlier._hierarchy)

    def is_changed(self, index: ChunkIndex, earlier: "ChunkSource") -> bool:
        """Tells whether a chunk, or an inner chunk of a shard, may differ from another version's."""
        changed = self.changed(earlier)
        return changed is None or self._place(index)[0] in changed

    def subject(self) -> Hashable:
        """Returns what versions of the array have in common whose chunks mean the same."""
        return self._path, self.codec.means

    def _place(self, index: ChunkIndex) -> tuple[ChunkIndex, ChunkIndex]:
        """Returns the index of the shard, or of the chunk that is cut, and that in it; of others that, and none."""
        per_shard = self.codec.chunks_per_shard
        if per_shard is None:
            return index, index[:0]
        outer = tuple(coordinate // count for coordinate, count in zip(index, per_shard, strict=True))
        return outer, tuple(coordinate % count for coordinate, count in zip(index, per_shard, strict=True))

    def decode(self, index: ChunkIndex, value: LastingValue | None = None) -> np.ndarray:
        """Fetches and decodes a chunk, but where another version's equal one is in the cache; raises as `get`.

        Args:
            index: The chunk.
            value: The chunk's or its shard's value, if the caller has it.
        """
        outer, inner = self._place(index)
        key = self._prefix + self._layout.format(outer)
        lasting = self._hierarchy.lasting(key) if value is None else value
        if lasting is None:
            return self._decode(index, outer, inner, partial(self._hierarchy.read, key))
        content = self._content(lasting, inner)
        known = self.cache.of_content(content)
        if known is None:
            known = self._decode(index, outer, inner, lasting.read)
            if known is not self.codec.missing():  # a weak reference to it would never end
                self.cache.note_content(content, known)
        return known

    def _decode(self, index: ChunkIndex, outer: ChunkIndex, inner: ChunkIndex, read: Read) -> np.ndarray:
        with self._gate.passing(self.codec.chunk_bytes):
            data = self._fetch(index, outer, inner, read)
            if data is None:
                return self.codec.missing()
            try:
                return self.codec.decode(data)
            except Exception as error:  # codecs are anybody's, and chunks are not trusted
                raise self._failure("chunk", index, error) from error

    def _fetch(self, index: ChunkIndex, outer: ChunkIndex, inner: ChunkIndex, read: Read) -> bytes | None:
        """Reads the bytes of a chunk; of one in a shard, or of a piece, with its index `inner` in the chunk `outer`."""
        limit = self.codec.max_encoded_bytes
        if self.codec.chunks_per_shard is None:
            data = read(0, limit + 1)
            if data is not None and len(data) > limit:
                raise self._failure("chunk", index, ValueError(f"it is larger than the {limit} bytes that it can need"))
            return data
        if self.codec.raw_pieces is not None:
            return self._fetch_piece(self.codec.raw_pieces, index, outer, inner, read)
        offset, length = self._shard_index(outer, read)[inner].tolist()
        if offset == _NO_CHUNK and length == _NO_CHUNK:
            return None
        if length > limit:
            raise self._failure(
                "chunk", index, ValueError(f"{length} bytes, and {limit} are the most that it can need")
            )
        data = read(offset, offset + length)
        if data is None or len(data) != length:
            raise self._failure("chunk", index, ValueError(f"{length} bytes at {offset} are not in its shard"))
        return data

    def _fetch_piece(
        self, pieces: RawPieces, index: ChunkIndex, outer: ChunkIndex, inner: ChunkIndex, read: Read
    ) -> bytes | None:
        """Reads a piece of a large chunk; one that is shorter, at the chunk's end, is filled up with zeros."""
        start, stop = pieces.range_of(inner)
        data = read(start, stop)
        if data is not None and len(data) != stop - start:
            raise self._failure("chunk", index, ValueError(f"bytes {start} to {stop} are not in chunk {outer}"))
        return None if data is None else data.ljust(pieces.piece_bytes, b"\0")

    def _shard_index(self, shard: ChunkIndex, read: Read) -> np.ndarray:
        return self.cache.get(self.key("shard", shard), lambda: self._read_shard_index(shard, read))

    def _read_shard_index(self, shard: ChunkIndex, read: Read) -> np.ndarray:
        data = read(*self.codec.index_range)
        if data is None:
            assert self.codec.chunks_per_shard is not None
            return np.broadcast_to(np.uint64(_NO_CHUNK), (*self.codec.chunks_per_shard, 2))
        try:
            return self.codec.decode_index(data)
        except Exception as error:  # as above
            raise self._failure("the index of shard", shard, error) from error

    def _failure(self, what: str, index: ChunkIndex, error: Exception) -> IcefsError:
        """Makes the error of something that does not decode, and logs it once."""
        reason = getattr(error, "own_message", None) or str(error) or type(error).__name__
        name = ", ".join(map(str, index))
        message = f"{what} ({name}) of {self._path} does not decode: {reason}"
        with self._lock:
            is_new = (what, index) not in self._reported and len(self._reported) < _MAX_REPORTS
            if is_new:
                self._reported.add((what, index))
        if is_new:
            logger.warning("%s", message)
        return DecodeError(message, array=self._path, chunk=index, file=self._path, reason=reason)


def _runs(ranges: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields ranges of bytes that have two or more of some sorted ones in them, near each other."""
    run: list[tuple[int, int]] = []
    for low, high in (*ranges, (1 << 64, 1 << 64)):
        if run and (low - run[-1][1] > _MAX_GAP or high - run[0][0] > _MAX_RUN):
            if len(run) > 1:
                yield run[0][0], max(stop for _, stop in run)
            run = []
        run.append((low, high))

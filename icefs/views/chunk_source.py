"""The chunks of one array, fetched and decoded."""

import logging
import threading
from collections.abc import Hashable
from typing import Final

import numpy as np

from icefs.errors import DecodeError, IcefsError
from icefs.paths import NodePath
from icefs.views.chunk_cache import ChunkCache, Gate
from icefs.views.codecs import ArrayCodec
from icefs.views.interface import Hierarchy
from icefs.views.raw_pieces import RawPieces
from icefs.zarr.keys import ChunkIndex, ChunkKeyLayout, node_prefix

logger = logging.getLogger(__name__)

_NO_CHUNK: Final = (1 << 64) - 1
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

    def load(self, index: ChunkIndex) -> None:
        """Decodes a chunk into the cache, unless it is there or another thread does that; raises as `get`."""
        self.cache.load(self.key(index), lambda: self.decode(index))

    def has(self, index: ChunkIndex) -> bool:
        """Tells whether a chunk is in the cache, or on its way there."""
        return self.cache.has(self.key(index))

    def peek(self, index: ChunkIndex) -> np.ndarray | None:
        """Returns a chunk if it is in the cache."""
        return self.cache.peek(self.key(index))

    def decode(self, index: ChunkIndex) -> np.ndarray:
        """Fetches and decodes a chunk; raises as `get`."""
        with self._gate.passing(self.codec.chunk_bytes):
            data = self._fetch(index)
            if data is None:
                return self.codec.missing()
            try:
                return self.codec.decode(data)
            except Exception as error:  # codecs are anybody's, and chunks are not trusted
                raise self._failure("chunk", index, error) from error

    def _fetch(self, index: ChunkIndex) -> bytes | None:
        per_shard, limit = self.codec.chunks_per_shard, self.codec.max_encoded_bytes
        if per_shard is None:
            data = self._hierarchy.read(self._prefix + self._layout.format(index), 0, limit + 1)
            if data is not None and len(data) > limit:
                raise self._failure("chunk", index, ValueError(f"it is larger than the {limit} bytes that it can need"))
            return data
        shard = tuple(coordinate // count for coordinate, count in zip(index, per_shard, strict=True))
        inner = tuple(coordinate % count for coordinate, count in zip(index, per_shard, strict=True))
        if self.codec.raw_pieces is not None:
            return self._fetch_piece(self.codec.raw_pieces, index, shard, inner)
        offset, length = self._shard_index(shard)[inner].tolist()
        if offset == _NO_CHUNK and length == _NO_CHUNK:
            return None
        if length > limit:
            raise self._failure(
                "chunk", index, ValueError(f"{length} bytes, and {limit} are the most that it can need")
            )
        data = self._hierarchy.read(self._prefix + self._layout.format(shard), offset, offset + length)
        if data is None or len(data) != length:
            raise self._failure("chunk", index, ValueError(f"{length} bytes at {offset} are not in its shard"))
        return data

    def _fetch_piece(self, pieces: RawPieces, index: ChunkIndex, chunk: ChunkIndex, inner: ChunkIndex) -> bytes | None:
        """Reads a piece of a large chunk; one that is shorter, at the chunk's end, is filled up with zeros."""
        start, stop = pieces.range_of(inner)
        data = self._hierarchy.read(self._prefix + self._layout.format(chunk), start, stop)
        if data is not None and len(data) != stop - start:
            raise self._failure("chunk", index, ValueError(f"bytes {start} to {stop} are not in chunk {chunk}"))
        return None if data is None else data.ljust(pieces.piece_bytes, b"\0")

    def _shard_index(self, shard: ChunkIndex) -> np.ndarray:
        return self.cache.get(self.key("shard", shard), lambda: self._read_shard_index(shard))

    def _read_shard_index(self, shard: ChunkIndex) -> np.ndarray:
        data = self._hierarchy.read(self._prefix + self._layout.format(shard), *self.codec.index_range)
        if data is None:
            assert self.codec.chunks_per_shard is not None
            return np.broadcast_to(np.uint64(_NO_CHUNK), (*self.codec.chunks_per_shard, 2))
        try:
            return self.codec.decode_index(data)
        except Exception as error:  # as above
            raise self._failure("the index of shard", shard, error) from error

    def _failure(self, what: str, index: ChunkIndex, error: Exception) -> IcefsError:
        """Makes the error of something that does not decode, and logs it once."""
        reason = str(error) or type(error).__name__
        name = ", ".join(map(str, index))
        message = f"{what} ({name}) of {self._path} does not decode: {reason}"
        with self._lock:
            is_new = (what, index) not in self._reported and len(self._reported) < _MAX_REPORTS
            if is_new:
                self._reported.add((what, index))
        if is_new:
            logger.warning("%s", message)
        return DecodeError(message, array=self._path, chunk=index, file=self._path, reason=reason)

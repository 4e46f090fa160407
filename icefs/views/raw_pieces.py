"""Large chunks without compression, read in pieces: a file of another format that is one chunk, most of all.

A piece is a rectangle whose elements follow each other in the chunk, so that it is one range of bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Final, Self

from icefs.zarr.keys import ChunkIndex

PIECE_BYTES: Final = 4 << 20
"""About what a piece has."""

# How many lengths are tried of which the chunk's is to be a multiple.
_MAX_TRIES: Final = 1000


@dataclass(frozen=True, slots=True)
class RawPieces:
    """How a chunk is cut.

    Attributes:
        chunk_shape: The shape of the chunk.
        shape: The shape of a piece; the last one along an axis may have less.
        itemsize: The bytes of an element.
    """

    chunk_shape: tuple[int, ...]
    shape: tuple[int, ...]
    itemsize: int

    @classmethod
    def of(cls, array_shape: Sequence[int], chunk_shape: tuple[int, ...], itemsize: int) -> Self | None:
        """Returns how chunks are cut; None if they are small, or cannot be cut so that all pieces have one grid."""
        piece, size = [1] * len(chunk_shape), itemsize
        for axis in reversed(range(len(chunk_shape))):
            length = chunk_shape[axis]
            if size * length <= PIECE_BYTES:
                piece[axis] = length
                size *= length
                continue
            most = max(1, PIECE_BYTES // size)
            if array_shape[axis] <= length:
                piece[axis] = most  # one chunk along this axis: no other one begins where its last piece ends
            else:
                counts = range(-(-length // most), min(length, -(-length // most) + _MAX_TRIES) + 1)
                found = next((length // count for count in counts if length % count == 0), None)
                if found is None:
                    return None
                piece[axis] = found
            return cls(chunk_shape, tuple(piece), itemsize)
        return None

    @property
    def per_chunk(self) -> tuple[int, ...]:
        """How many pieces a chunk has along each axis."""
        return tuple(-(-length // piece) for length, piece in zip(self.chunk_shape, self.shape, strict=True))

    def range_of(self, index: ChunkIndex) -> tuple[int, int]:
        """Returns the bytes `[start, stop)` of a piece of a chunk."""
        start, count, stride = 0, 1, self.itemsize
        for axis in reversed(range(len(index))):
            first = index[axis] * self.shape[axis]
            start += first * stride
            count *= min(self.shape[axis], self.chunk_shape[axis] - first)
            stride *= self.chunk_shape[axis]
        return start, start + count * self.itemsize

    @property
    def piece_bytes(self) -> int:
        """The bytes of a whole piece."""
        return prod(self.shape) * self.itemsize

"""Where the elements of an array lie in its chunks: ranges in C order, rectangles, and blocks.

A *block* is the set of chunks that a reader from front to back needs until it needs none of them again. With chunks of
(1, 10, 10) in an array of (5, 100, 100) that is one row of ten chunks; with chunks of (1, 10, 100) one chunk.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from math import prod
from typing import NamedTuple

from icefs.zarr.keys import ChunkIndex

type Slices = tuple[slice, ...]


class Box(NamedTuple):
    """A rectangle of elements that follow each other in C order.

    Attributes:
        low: Its first element.
        high: One past the last element, along each axis.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(high - low for low, high in zip(self.low, self.high, strict=True))


class Piece(NamedTuple):
    """The elements that a box and a chunk have in common.

    Attributes:
        box: The number of the box.
        in_box: Where they are in the box.
        in_chunk: Where they are in the chunk.
    """

    box: int
    in_box: Slices
    in_chunk: Slices


def boxes_of_range(shape: Sequence[int], start: int, stop: int) -> Iterator[Box]:
    """Yields the boxes that make up a range of elements in C order, in this order.

    There are at most 2n - 1 for n dimensions: a tail of the first row, whole rows, and a head of the last one, in which
    "row" means one index of an axis.
    """
    if start >= stop:
        return
    if not shape:
        yield Box((), ())
        return
    row, below = prod(shape[1:]), shape[1:]
    (first, head), (last, tail) = divmod(start, row), divmod(stop, row)
    if first == last:
        yield from _in_row(below, first, head, tail)
        return
    if head:
        yield from _in_row(below, first, head, row)
        first += 1
    if first < last:
        yield Box((first, *(0 for _ in below)), (last, *below))
    yield from _in_row(below, last, 0, tail)


def _in_row(below: Sequence[int], row: int, start: int, stop: int) -> Iterator[Box]:
    for box in boxes_of_range(below, start, stop):
        yield Box((row, *box.low), (row + 1, *box.high))


class Geometry:
    """The shape of an array and of its chunks.

    Immutable.

    Attributes:
        shape: The array's shape.
        chunk_shape: The chunks' shape.
        size: The number of elements.
        grid: How many chunks the array has along each axis.
        chunk_size: The elements of a chunk.
        block_chunks: The most chunks in a block.
        block_size: The elements of a block that the array's edge does not shorten.
        is_linear: Whether the elements of each chunk follow each other in C order: a block is one chunk.
    """

    def __init__(self, shape: tuple[int, ...], chunk_shape: tuple[int, ...]) -> None:
        self.shape = shape
        self.chunk_shape = chunk_shape
        self.size = prod(shape)
        self.grid = tuple(-(-length // chunk) for length, chunk in zip(shape, chunk_shape, strict=True))
        self.chunk_size = prod(chunk_shape)
        # The first axis along which a chunk has more than one index; a block is a row of chunks across it.
        axes = range(len(shape))
        self._axis = next((axis for axis in axes if chunk_shape[axis] > 1), max(0, len(shape) - 1))
        self.block_chunks = prod(self.grid[self._axis + 1 :])
        self._row_size = prod(shape[self._axis + 1 :])
        self.block_size = (chunk_shape[self._axis] if shape else 1) * self._row_size
        self.is_linear = shape[self._axis + 1 :] == chunk_shape[self._axis + 1 :]

    def block_range(self, position: int) -> tuple[int, int]:
        """Returns the range of elements of the block that an element is in."""
        if not self.shape:
            return 0, 1
        length = self.shape[self._axis] * self._row_size
        before = position - position % length
        start = before + (position - before) // self.block_size * self.block_size
        return start, min(start + self.block_size, before + length)

    def block_of(self, index: ChunkIndex) -> tuple[int, int] | None:
        """Returns the range of elements of the block that a chunk is in; None for a chunk beyond the array's edge."""
        if not self.size:
            return None
        position = 0
        for coordinate, chunk, length in list(zip(index, self.chunk_shape, self.shape, strict=True))[: self._axis + 1]:
            if coordinate * chunk >= length:
                return None
            position = position * length + coordinate * chunk
        return self.block_range(position * self._row_size)

    def block_indices(self, position: int) -> Iterator[ChunkIndex]:
        """Yields the indices of the chunks of the block that an element is in, in C order."""
        if not self.shape:
            yield ()
            return
        index: list[int] = []
        rest = position // self._row_size
        for axis in range(self._axis, -1, -1):
            rest, coordinate = divmod(rest, self.shape[axis])
            index.insert(0, coordinate // self.chunk_shape[axis])
        for below in product(*map(range, self.grid[self._axis + 1 :])):
            yield (*index, *below)

    def count_pieces(self, boxes: Iterable[Box]) -> int:
        """Returns how many pieces `pieces` makes of boxes."""
        size = self.chunk_shape
        return sum(prod((b - 1) // n - a // n + 1 for a, b, n in zip(*box, size, strict=True)) for box in boxes)

    def pieces(self, boxes: Sequence[Box]) -> dict[ChunkIndex, list[Piece]]:
        """Returns the chunks that boxes meet, and what each has of them."""
        found: dict[ChunkIndex, list[Piece]] = {}
        for number, box in enumerate(boxes):
            axes = [list(_cuts(*sides)) for sides in zip(box.low, box.high, self.chunk_shape, strict=True)]
            for cuts in product(*axes):
                piece = Piece(number, tuple(cut[1] for cut in cuts), tuple(cut[2] for cut in cuts))
                found.setdefault(tuple(cut[0] for cut in cuts), []).append(piece)
        return found


def _cuts(low: int, high: int, chunk: int) -> Iterator[tuple[int, slice, slice]]:
    """Yields, for each chunk along an axis that a range meets, its coordinate and the common part in both."""
    for coordinate in range(low // chunk, (high - 1) // chunk + 1):
        begin = coordinate * chunk
        start, stop = max(low, begin), min(high, begin + chunk)
        yield coordinate, slice(start - low, stop - low), slice(start - begin, stop - begin)

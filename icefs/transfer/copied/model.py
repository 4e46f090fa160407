"""Arrays of files whose values can be read, a box at a time."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.transfer.files.model import FileArray, FileTree
from icefs.transfer.files.times import Coding

type Box = tuple[slice, ...]
"""A part of an array: a half-open range along each axis, with both ends."""
type Values = npt.NDArray[Any]
type Read = Callable[[Box], Values]
"""Returns the values of a box, in its shape; safe for threads.

Raises:
    InvalidInputError: the values cannot be decoded, or an array's cannot be held (the message names the file).
    ObjectModifiedError: the file changed since it was found.
    StorageError: it cannot be read.
"""


class Part(NamedTuple):
    """The values of one file.

    Attributes:
        file: The file, as the user named it.
        length: How many values there are along the axis that files are joined along; 0 where they are not.
        read: Reads them.
    """

    file: str
    length: int
    read: Read


@dataclass(slots=True)
class CopiedArray(FileArray):
    """An array of a file, or of several that were joined.

    Attributes:
        itemsize: The bytes of an element in memory; of text, about.
        parts: Where its values are, in their order along `axis`.
        axis: The axis that the parts are joined along; None if there is one part.
        coding: What its numbers mean as times, if they do.
    """

    itemsize: int
    parts: tuple[Part, ...]
    axis: int | None = None
    coding: Coding | None = None

    def read(self, box: Box) -> Values:
        """Returns the values of a box; see `Read`."""
        if self.axis is None or len(self.parts) == 1:
            return self.parts[0].read(box)
        axis, wanted = self.axis, box[self.axis]
        found, start = [], 0
        for part in self.parts:
            low, high = max(wanted.start, start), min(wanted.stop, start + part.length)
            if low < high:
                found.append(part.read((*box[:axis], slice(low - start, high - start), *box[axis + 1 :])))
            start += part.length
        return np.concatenate(found, axis=axis) if len(found) != 1 else found[0]


type CopiedTree = FileTree[CopiedArray]


def boxes(shape: Sequence[int], chunk_shape: Sequence[int], axis: int | None = None, start: int = 0) -> Iterator[Box]:
    """Yields the chunks of an array as boxes, cut at its edge, and at a position of an axis that they begin at.

    Args:
        shape: The array's.
        chunk_shape: That of its chunks.
        axis: The axis that only a part of is wanted of; None for all.
        start: Where the part begins.
    """
    ranges = []
    for at, (size, chunk) in enumerate(zip(shape, chunk_shape, strict=True)):
        low = start if at == axis else 0
        ranges.append(
            [
                slice(max(number * chunk, low), min((number + 1) * chunk, size))
                for number in range(low // chunk, math.ceil(size / chunk))
            ]
        )
    yield from itertools.product(*ranges)


def shifted(box: Box, axis: int | None, by: int) -> Box:
    """Returns a box with `by` taken from its place along one axis."""
    return tuple(slice(part.start - by, part.stop - by) if at == axis else part for at, part in enumerate(box))

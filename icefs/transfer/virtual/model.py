"""Arrays as references to files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from icefs.transfer.files.model import FileArray, FileTree
from icefs.transfer.files.sources import SourceFile

type Int64Array = npt.NDArray[np.int64]
type Uint64Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class References:
    """The references of one array, as columns.

    Attributes:
        coords: The chunks' indices, one column for each dimension.
        files: The files that they lead into.
        rows: For each reference the position of its file in `files`.
        offsets: Where the chunks begin in their files.
        lengths: Their sizes in bytes; never 0.
    """

    coords: Sequence[Int64Array]
    files: Sequence[SourceFile]
    rows: Int64Array
    offsets: Uint64Array
    lengths: Uint64Array

    def __len__(self) -> int:
        return len(self.rows)

    @classmethod
    def none(cls, ndim: int) -> "References":
        """Returns the references of an array of `ndim` dimensions that has no chunks."""
        nothing = np.zeros(0, np.int64)
        return cls([nothing] * ndim, (), nothing, np.zeros(0, np.uint64), np.zeros(0, np.uint64))

    def shifted(self, axis: int, by: int) -> "References":
        """Returns them with `by` added to the index along one axis."""
        coords = [column + by if at == axis else column for at, column in enumerate(self.coords)]
        return References(coords, self.files, self.rows, self.offsets, self.lengths)

    @classmethod
    def joined(cls, parts: Sequence["References"]) -> "References":
        """Returns the references of one part or more."""
        starts = np.cumsum([0, *(len(part.files) for part in parts)])
        return cls(
            [np.concatenate(columns) for columns in zip(*(part.coords for part in parts), strict=True)],
            [file for part in parts for file in part.files],
            np.concatenate([part.rows + start for part, start in zip(parts, starts, strict=False)]),
            np.concatenate([part.offsets for part in parts]),
            np.concatenate([part.lengths for part in parts]),
        )


@dataclass(slots=True)
class VirtualArray(FileArray):
    """An array of a file, as references.

    Attributes:
        refs: Its references.
        chunks: Chunks whose bytes the parser has made, by their index.
        values: All values, of an array that becomes real chunks; it has neither references nor `chunks` then.
    """

    refs: References
    chunks: dict[tuple[int, ...], bytes] = field(default_factory=dict)
    values: npt.NDArray[Any] | None = None


type VirtualTree = FileTree[VirtualArray]

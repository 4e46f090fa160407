"""What histories say of nodes: values of `lineage`."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from icefs.format.chunk_indices import ChunkIndices, pack_keys
from icefs.format.ids import SnapshotId

type OwnerArray = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Touch:
    """What a commit did to a node.

    Attributes:
        words: `new`, `metadata`, `deleted`, `moved`: whichever apply.
        num_chunks: How many chunks it set or deleted.
    """

    words: tuple[str, ...] = ()
    num_chunks: int = 0

    def with_word(self, word: str) -> "Touch":
        """Returns the same with another word."""
        return self if word in self.words else Touch((*self.words, word), self.num_chunks)


@dataclass(frozen=True, slots=True)
class Lineage:
    """Which commits changed a node.

    Attributes:
        commits: The snapshots that changed it, newest first; each with the time it was written, in microseconds.
        metadata: The commit (a position in `commits`) that changed its `zarr.json` last.
        chunks: The chunks that a known commit changed, deleted ones too.
        owners: `uint32[n]`, the commit that changed each of them last.
        rest: The commit that counts for all other chunks.
        is_complete: Whether all logs were there.
    """

    commits: tuple[tuple[SnapshotId, int], ...]
    metadata: int
    chunks: ChunkIndices
    owners: OwnerArray
    rest: int
    is_complete: bool

    def owner(self, index: Sequence[int]) -> int:
        """Returns the commit that changed a chunk last, as a position in `commits`."""
        row = self.chunks.find(index)
        return self.rest if row < 0 else int(self.owners[row])

    def owners_of(self, chunks: ChunkIndices) -> OwnerArray:
        """Returns the commits that changed chunks last: `uint32[n]`."""
        owners = np.full(len(chunks), self.rest, np.uint32)
        if not len(self.chunks) or not len(chunks) or self.chunks.ndim != chunks.ndim:
            return owners
        if not chunks.ndim:
            owners[:] = self.owners[0]
            return owners
        mine, wanted = pack_keys(self.chunks.coords, chunks.coords)
        rows = np.minimum(mine.searchsorted(wanted), len(mine) - 1)
        found = mine[rows] == wanted
        owners[found] = self.owners[rows[found]]
        return owners

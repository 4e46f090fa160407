"""Which array a file in a directory is a chunk of: the directories of a hierarchy, with what their names mean.

The array with the longest path of whose chunk keys a path is one has it (`zarr.keys.split_candidates`). Here that is
worked out once for a directory, so that each name in it costs the reading of that name.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.engine.read.chunks import ALL_ROWS
from icefs.engine.read.session import Session
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath, TreePath, node_path, split
from icefs.worktree.stage.staged import no_indices
from icefs.zarr.keys import ChunkIndex, ChunkKeyLayout

_FEW = 256


class GridArray(NamedTuple):
    """An array, as far as its chunk keys are concerned."""

    path: NodePath
    layout: ChunkKeyLayout
    grid_shape: tuple[int, ...]


class ChunkDir(NamedTuple):
    """What a directory is to one array.

    Attributes:
        array: The array.
        level: Which component of the chunk keys the names in the directory are.
        prefix: The coordinates that all chunks below share.
    """

    array: GridArray
    level: int
    prefix: ChunkIndex

    @property
    def is_leaf(self) -> bool:
        """Whether the names are those of chunks."""
        return self.level == len(self.array.layout.widths) - 1

    def read(self, name: str) -> ChunkIndex | None:
        """Returns the coordinates that all chunks at or below a name share; None if no chunk has it in its key."""
        part = self.array.layout.parse_component(self.level, name)
        return None if part is None else self.prefix + part

    def fits(self, other: "ChunkDir") -> bool:
        """Tells whether what lies below has the same names for the same further coordinates."""
        mine, theirs = self.array.layout, other.array.layout
        prefixes = (mine.prefix if self.level == 0 else "", theirs.prefix if other.level == 0 else "")
        return mine.widths[self.level :] == theirs.widths[other.level :] and prefixes[0] == prefixes[1]


class ChunkDirs:
    """What the directories of one hierarchy are to its arrays."""

    def __init__(self, array: Callable[[NodePath], GridArray | None]) -> None:
        """Takes what returns the array at a node path, None if there is none."""
        self._array = array
        self._known: dict[TreePath, list[ChunkDir]] = {}

    def of(self, path: TreePath) -> list[ChunkDir]:
        """Returns what a directory is to each array whose chunks may lie in it; the longest path first."""
        known = self._known.get(path)
        if known is not None:
            return known
        own = self._array(node_path(path))
        found = [] if own is None else [ChunkDir(own, 0, ())]
        if path:
            above, name = split(path)
            for chunk_dir in self.of(above):
                index = None if chunk_dir.is_leaf else chunk_dir.read(name)
                if index is not None:
                    found.append(ChunkDir(chunk_dir.array, chunk_dir.level + 1, index))
        self._known[path] = found
        return found


class BaseChunks:
    """The chunks that the arrays of the base have, as columns, each array's put together once."""

    def __init__(self, base: Session) -> None:
        self._base = base
        self._refs: dict[NodePath, ArrayRefs] = {}

    def refs(self, node: NodeSnapshot) -> ArrayRefs:
        """Returns all references of an array.

        Raises:
            FormatError, StorageError: a manifest cannot be read.
        """
        refs = self._refs.get(node.path)
        if refs is None:
            parts = [batch.refs for batch in self._base.array_chunks(node).iter_batches(ALL_ROWS)]
            assert node.array is not None  # only arrays have chunks
            refs = ArrayRefs.concat(parts) if parts else ArrayRefs.empty(node.id, len(node.array.shape))
            self._refs[node.path] = refs
        return refs

    def below(self, node: NodeSnapshot, prefixes: list[ChunkIndex]) -> ChunkIndices:
        """Returns the indices of the chunks that start with any of some prefixes."""
        assert node.array is not None  # only arrays have chunks
        ndim = len(node.array.shape)
        if len(prefixes) <= _FEW and all(len(prefix) == ndim for prefix in prefixes):
            chunks = self._base.array_chunks(node)
            return ChunkIndices.from_indices(ndim, [one for one in prefixes if chunks.find(one) is not None])
        indices = self.refs(node).indices
        rows = covered_rows(indices, prefixes)
        return indices.select(rows) if rows.any() else no_indices(ndim)


def covered_rows(indices: ChunkIndices, prefixes: list[ChunkIndex]) -> npt.NDArray[np.bool_]:
    """Returns which of some chunk indices start with any of some prefixes."""
    rows = np.zeros(len(indices), np.bool_)
    for prefix in prefixes:
        start, end = indices.range(prefix)
        rows[start:end] = True
    return rows

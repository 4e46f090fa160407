"""Chunks of the base for which a rewritten `zarr.json` has no place.

Nobody removed their files, which are there to the last: they vanish with the commit, as they do from any repository
when the metadata say otherwise. So a commit reports them before.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.engine.read.session import Session
from icefs.format.chunk_indices import ChunkIndices, pack_keys
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType
from icefs.format.zarr_json import ZarrMetadata
from icefs.paths import NodePath
from icefs.worktree.stage.chunk_dirs import BaseChunks, GridArray
from icefs.worktree.stage.staged import Dropped, StagedArray

_NONE: Final = ChunkIndices([], 0)

type BoolArray = npt.NDArray[np.bool_]


class DroppedChunks:
    """Works out which chunks of the base arrays lose that their new metadata do not have.

    Attributes:
        removed: The chunks whose files were removed or renamed, by array: deleted, not dropped.
    """

    def __init__(self, base: Session, chunks: BaseChunks) -> None:
        self._base = base
        self._chunks = chunks
        self.removed: dict[NodePath, ChunkIndices] = {}

    def find(
        self, node: NodeSnapshot, before: GridArray, metadata: ZarrMetadata, now: GridArray | None, staged: StagedArray
    ) -> Dropped | None:
        """Returns what an array of the base loses; None for nothing.

        Args:
            node: The array.
            before: The same, with its chunk keys.
            metadata: What its `zarr.json` says now.
            now: The array that this makes; None if it makes none.
            staged: What changes in its chunks.

        Raises:
            FormatError, StorageError: a manifest cannot be read.
        """
        removed = self.removed.get(node.path, _NONE)
        if metadata.node_type is NodeType.GROUP:
            return self._all(node, "a group has no chunks", removed)
        ndim = len(before.grid_shape)
        if len(metadata.grid_shape) != ndim:
            reason = f"the array's number of dimensions is {len(metadata.grid_shape)} now, and was {ndim}"
            return self._all(node, reason, removed)
        if now is not None and now.layout != before.layout:
            names = [array.layout.format((0,) * ndim) for array in (now, before)]
            reason = f"the array's chunks have other names now, such as {names[0]} for {names[1]}"
            # Chunks whose files were renamed to their new names are not deleted.
            refs = self._chunks.refs(node)
            return _dropped(refs, contained(refs.indices, staged.deletes), reason, removed)
        if all(new >= old for new, old in zip(metadata.grid_shape, before.grid_shape, strict=True)):
            return None
        if not self._base.array_chunks(node).reaches_beyond(metadata.grid_shape):
            return None
        refs = self._chunks.refs(node)
        return _dropped(refs, outside(refs, metadata.grid_shape), outside_reason(metadata.grid_shape), removed)

    def _all(self, node: NodeSnapshot, reason: str, removed: ChunkIndices) -> Dropped | None:
        refs = self._chunks.refs(node)
        return _dropped(refs, np.ones(len(refs), np.bool_), reason, removed)


def outside_reason(grid_shape: tuple[int, ...]) -> str:
    """Says why the chunks outside of a grid are dropped."""
    return f"the array's grid of chunks is {list(grid_shape)} now"


def outside(refs: ArrayRefs, grid_shape: tuple[int, ...]) -> BoolArray:
    """Returns which references lie outside of a grid."""
    rows = np.zeros(len(refs), np.bool_)
    for column, size in zip(refs.coords, grid_shape, strict=True):
        rows |= column >= size
    return rows


def _dropped(refs: ArrayRefs, rows: BoolArray, reason: str, removed: ChunkIndices) -> Dropped | None:
    rows &= ~contained(refs.indices, removed)
    return Dropped(refs.indices.select(rows), refs.lengths[rows], reason) if rows.any() else None


def contained(indices: ChunkIndices, others: ChunkIndices) -> BoolArray:
    """Returns which of some chunk indices are in another set."""
    if not len(indices) or not len(others):
        return np.zeros(len(indices), np.bool_)
    if not indices.ndim:
        return np.ones(len(indices), np.bool_)
    mine, theirs = pack_keys(indices.coords, others.coords)
    return np.isin(mine, theirs, assume_unique=True)

"""Chunks of a size that their array's codecs rule out, which no reader could decode: no commit or import takes them.

A file that was written is looked at alone, the base's chunks as columns. These are looked at where a rename or an
edited `zarr.json` makes other chunks of them. An unchanged chunk is as its committer left it, and `fsck` names it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from icefs.format.chunk_sizes import ANY_SIZE, ChunkSizes, chunk_sizes, encodes_alike
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath
from icefs.words import plural
from icefs.zarr.invalid import unfit_reason


class UnfitChunks:
    """Compares the sizes of chunks with what the arrays of one hierarchy allow."""

    def __init__(self, zarr_json: Callable[[NodePath], bytes]) -> None:
        """Takes what returns the `zarr.json` of an array by its path."""
        self._zarr_json = zarr_json
        self._sizes: dict[NodePath, ChunkSizes] = {}

    def reason(self, path: NodePath, index: Sequence[int], size_bytes: int) -> str | None:
        """Says why a file cannot be a chunk because of its size; None if it can."""
        return unfit_reason(self._of(path), path, index, size_bytes)

    def taken_over(
        self, source: NodeSnapshot, path: NodePath, refs: ArrayRefs, *, is_same: bool
    ) -> npt.NDArray[np.bool_]:
        """Returns which of the base's chunks have sizes that the array does not allow of which they become chunks.

        Args:
            source: The array of the base whose chunks they are.
            path: The array that has them now.
            refs: The chunks, with their new indices, inside the new grid.
            is_same: Whether these are their old ones.
        """
        if is_same and encodes_alike(source.user_data, self._zarr_json(path)):
            return np.zeros(len(refs), np.bool_)
        return self._of(path).impossible(refs.coords, refs.lengths)

    def is_stricter(self, before: NodeSnapshot, path: NodePath) -> bool:
        """Tells whether an edited `zarr.json` may rule out sizes that the array's chunks could have."""
        return self._of(path).uniform != ANY_SIZE and not encodes_alike(before.user_data, self._zarr_json(path))

    def edit_reason(self, path: NodePath, refs: ArrayRefs) -> str:
        """Says why a `zarr.json` cannot be committed that rules out the sizes of chunks that the array keeps."""
        index = refs.index(0)
        first = f"the chunk {list(index)} {self._of(path).reason(index, int(refs.lengths[0]))}"
        them = "it" if len(refs) == 1 else "them"
        return (
            f"rules out the size of {plural(len(refs), 'chunk')} that {path} has: {first}; write {them} again, or"
            f" remove {them}"
        )

    def _of(self, path: NodePath) -> ChunkSizes:
        found = self._sizes.get(path)
        if found is None:
            found = self._sizes[path] = chunk_sizes(self._zarr_json(path))
        return found

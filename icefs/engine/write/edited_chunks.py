"""The chunks of arrays as a writable session sees them: the base's, with the session's changes on top."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.chunks import ALL_ROWS, U32, U64, ArrayChunks, Bools, ChunkBatch
from icefs.engine.write.changeset import Change, ChunkChanges
from icefs.engine.write.draft import Draft
from icefs.engine.write.manifest_split import inside_grid
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot

_MAX_ARRAYS: Final = 256


class EditedChunks:
    """The chunks of one array in a writable session; what `ArrayChunks` answers, answered with the changes.

    Single chunks are looked up in the changes first. Listing joins the columns of the base with the changes, and
    keeps the result until the next change.

    Concurrency: safe for use from several threads; each answer is that of one moment.

    Attributes:
        node: The array.
        ndim: How many dimensions the array has.
        grid_shape: How many chunks the array has along each dimension.
    """

    def __init__(self, base: ArrayChunks, changes: ChunkChanges) -> None:
        self._base = base
        self._changes = changes
        self._merged: tuple[int, ArrayRefs] | None = None
        self.node = base.node
        self.ndim = base.ndim
        self.grid_shape = base.grid_shape

    def shows(self, changes: ChunkChanges) -> bool:
        """Tells whether these are the changes that it shows."""
        return self._changes is changes

    def find(self, chunk_index: Sequence[int]) -> ChunkRef | None:
        """Returns the reference at an index, or None where the array has no chunk; raises as `ArrayChunks.find`."""
        if len(chunk_index) != self.ndim or any(
            not 0 <= position < size for position, size in zip(chunk_index, self.grid_shape, strict=True)
        ):
            return None
        changed = self._changes.find(chunk_index)
        if changed is Change.UNCHANGED:
            return self._base.find(chunk_index)
        return None if isinstance(changed, Change) else changed

    def length(self, chunk_index: Sequence[int]) -> int | None:
        """Returns the length in bytes of the chunk at an index, or None where there is none."""
        ref = self.find(chunk_index)
        return None if ref is None else ref.length_bytes

    def lengths(self, indices: U32) -> tuple[Bools, U64]:
        """Looks many chunks up at once; as `ArrayChunks.lengths`."""
        refs = self.merged()
        if not self.ndim:
            rows = np.zeros(len(indices), np.int64) + refs.find(())
        else:
            rows = refs.indices.find_many([np.ascontiguousarray(column) for column in indices.T])
        lengths = np.zeros(len(indices), np.uint64)
        lengths[rows >= 0] = refs.lengths[rows[rows >= 0]]
        return rows >= 0, lengths

    def kind(self, chunk_index: Sequence[int]) -> ChunkKind:
        """Returns what kind of reference stands at an index; UNINITIALIZED where there is none."""
        ref = self.find(chunk_index)
        return ChunkKind.UNINITIALIZED if ref is None else ref.kind

    def merged(self) -> ArrayRefs:
        """Returns all references, in the grid, as columns."""
        known = self._merged
        if known is not None and known[0] == self._changes.revision:
            return known[1]
        parts = [batch.refs for batch in self._base.iter_batches(ALL_ROWS)]
        base = ArrayRefs.concat(parts) if parts else None
        revision, sets, deletes = self._changes.state()
        refs = inside_grid(ArrayRefs.merge(base, sets, deletes), self.grid_shape)
        # Threads that come here at once may keep an older state than they could; the revision tells.
        self._merged = revision, refs
        return refs

    def has_prefix(self, prefix: Sequence[int]) -> bool:
        """Tells whether any chunk's index starts with `prefix`."""
        start, end = self.merged().range(prefix)
        return start < end

    def children(self, prefix: Sequence[int]) -> U32:
        """Returns the distinct positions that follow `prefix` in the chunks' indices, sorted."""
        return self.merged().children(prefix)[0] if len(prefix) < self.ndim else np.empty(0, np.uint32)

    def leaves(self, prefix: Sequence[int]) -> tuple[U32, U64]:
        """Returns the last positions, sorted, and the lengths in bytes of the chunks whose index starts so."""
        refs = self.merged()
        if self.ndim == 0 or len(prefix) != self.ndim - 1:
            return np.empty(0, np.uint32), np.empty(0, np.uint64)
        start, end = refs.range(prefix)
        return refs.coords[-1][start:end], refs.lengths[start:end]

    def indices_below(self, prefix: Sequence[int]) -> ChunkIndices:
        """Returns the indices of all chunks that start with `prefix`."""
        refs = self.merged()
        start, end = refs.range(prefix)
        return refs.indices.select(np.arange(start, end))

    def iter_batches(self, max_rows: int = 100_000) -> Iterator[ChunkBatch]:
        """Yields all references, each once, in batches of at most `max_rows`."""
        refs = self.merged()
        for start in range(0, len(refs), max_rows):
            yield ChunkBatch(refs, start, min(start + max_rows, len(refs)))

    @property
    def num_chunks(self) -> int:
        """How many chunks exist."""
        return len(self.merged())


class EditedArrays:
    """The arrays of a draft, each with the changes to its chunks.

    Keeps what was put together of the last few arrays: as long as nothing but chunks changes, an array's chunks need
    not be put together again.

    Concurrency: safe for use from several threads; the draft's lock guards it.
    """

    def __init__(self, draft: Draft, assets: AssetManager) -> None:
        """Takes the draft, and where the manifests of its base come from."""
        self._draft = draft
        self._assets = assets
        self._known: dict[NodeId, tuple[NodeSnapshot, ArrayChunks, EditedChunks | None]] = {}

    def chunks(self, node: NodeSnapshot) -> ArrayChunks | EditedChunks:
        """Returns the chunk references of an array.

        Changes made later show in the result only if there were some before; ask again.

        Raises:
            InvalidInputError: the node is a group (kind `not-an-array`).
        """
        with self._draft.lock:
            changes = self._draft.changes.chunks.get(node.id)
            if changes is not None and changes.ndim != len(node.array.shape if node.array is not None else ()):
                changes = None  # the caller's node is not what stands there now
            known = self._known.get(node.id)
            if known is None or (known[0] is not node and known[0] != node):
                known = node, ArrayChunks(self._assets, node), None
            _, base, edited = known
            if changes and (edited is None or not edited.shows(changes)):
                edited = EditedChunks(base, changes)
            while len(self._known) >= _MAX_ARRAYS:
                del self._known[next(iter(self._known))]
            self._known[node.id] = node, base, edited
            return edited if changes and edited is not None else base

    def forget(self) -> None:
        """Drops what is kept, when the changes are part of a snapshot."""
        with self._draft.lock:
            self._known.clear()

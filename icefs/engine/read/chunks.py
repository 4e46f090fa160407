"""An array's chunk references over all of its manifests, as one sorted, columnar view.

A manifest reference states the box of chunk indices (its extents) that the manifest answers for. A chunk is looked
up in the first manifest whose extents hold its index, and nowhere else; references outside of their manifest's
extents, or outside of the array's present grid, do not exist. Listing sees exactly what looking up finds.

Nothing here makes an object per chunk, except the one reference that `find` returns, and nothing loops over the
grid, whose size is whatever the snapshot says.
Source: spec 2.1 "Manifest files"; format notes §7.8 and §7.9.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.engine.read.assets import AssetManager
from icefs.engine.read.boxes import Box, Boxes, inside
from icefs.errors import FormatError, InvalidInputError
from icefs.format.ids import ManifestId
from icefs.format.layout import manifest_key
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.words import plural

type U32 = npt.NDArray[np.uint32]
type U64 = npt.NDArray[np.uint64]
type Bools = npt.NDArray[np.bool_]
ALL_ROWS: Final = 1 << 62
"""The size of a batch that holds all rows, as many as there may be."""

_EMPTY_U32: Final = np.empty(0, np.uint32)
_EMPTY_U64: Final = np.empty(0, np.uint64)


@dataclass(frozen=True, slots=True)
class ChunkBatch:
    """Consecutive references `[start, end)` of one manifest's columns.

    Attributes:
        refs: The columns that the batch is cut from.
        start: The first row.
        end: One past the last row.
    """

    refs: ArrayRefs
    start: int
    end: int

    def __len__(self) -> int:
        return self.end - self.start

    @property
    def coords(self) -> tuple[U32, ...]:
        """The chunk indices, one column per dimension."""
        return tuple(column[self.start : self.end] for column in self.refs.coords)

    @property
    def kinds(self) -> npt.NDArray[np.uint8]:
        """The references' `ChunkKind`s."""
        return self.refs.kinds[self.start : self.end]

    @property
    def lengths(self) -> U64:
        """The chunks' lengths in bytes."""
        return self.refs.lengths[self.start : self.end]

    @property
    def offsets(self) -> U64:
        """Where the chunks start in their objects; 0 for inline ones."""
        return self.refs.offsets[self.start : self.end]

    def indices(self) -> U32:
        """Returns the chunk indices as rows of a new array of shape `(len(self), ndim)`."""
        if not self.refs.coords:
            return np.empty((len(self), 0), np.uint32)
        return np.stack(self.coords, axis=1)

    def ref(self, position: int) -> ChunkRef:
        """Returns the reference at `position` of the batch."""
        return self.refs.ref(self.start + position)


class ArrayChunks:
    """The chunk references of one array in one snapshot.

    Immutable as far as callers can see, and safe to use from any thread: manifests are loaded when they are first
    needed, through the asset manager's bounded cache, which alone keeps them in memory. A manifest that is missing
    or malformed raises from every call that needs it, and from no other.

    Attributes:
        node: The array.
        ndim: How many dimensions it has; 0 for a scalar, whose one chunk has the index `()`.
        grid_shape: How many chunks the array has along each dimension.
    """

    def __init__(self, assets: AssetManager, node: NodeSnapshot) -> None:
        if node.array is None:
            raise InvalidInputError(f"{node.path} is a group, not an array", kind="not-an-array", path=node.path)
        self.node = node
        self.grid_shape: tuple[int, ...] = tuple(dimension.num_chunks for dimension in node.array.shape)
        self.ndim = len(self.grid_shape)
        self._assets = assets
        self._ids: tuple[ManifestId, ...] = tuple(ref.manifest_id for ref in node.array.manifests)
        # Wrong extents are an error of the chunks, not of the node.
        self._box_error: FormatError | None = None
        try:
            self._all_boxes = Boxes(self.grid_shape, [ref.extents for ref in node.array.manifests], name=node.path)
        except FormatError as error:
            self._box_error = error
            self._all_boxes = Boxes(self.grid_shape, (), name=node.path)
        # Whether a manifest's columns need clipping; None until they were seen.
        self._clips: list[bool | None] = [None] * len(self._ids)

    @property
    def _boxes(self) -> Boxes:
        if self._box_error is not None:
            raise self._box_error.with_traceback(None)  # which would grow with each raising
        return self._all_boxes

    @property
    def manifest_ids(self) -> tuple[ManifestId, ...]:
        """The manifests that the array refers to, in the snapshot's order."""
        return self._ids

    def reaches_beyond(self, grid_shape: Sequence[int]) -> bool:
        """Tells whether a manifest claims, in its uncut extents, chunks outside of a grid."""
        array = self.node.array
        assert array is not None  # the constructor looked
        return any(
            high > size for ref in array.manifests for (_, high), size in zip(ref.extents, grid_shape, strict=False)
        )

    def refs_besides(self, other: "ArrayChunks") -> ArrayRefs | None:
        """Returns all references but those of manifests that show the same in another state of this array.

        None stands for no references.

        Raises:
            FormatError, StorageError: a manifest cannot be read.
        """
        shared: set[tuple[ManifestId, Box]] = set()
        if not self._boxes.overlaps and not other._boxes.overlaps:
            shared = set(zip(other._ids, other._boxes.boxes, strict=True))
        mine = zip(self._ids, self._boxes.boxes, strict=True)
        which = [number for number, key in enumerate(mine) if key not in shared]
        parts = [refs for refs in self._load(which) if refs is not None]
        return ArrayRefs.concat(parts) if parts else None

    @property
    def has_overlaps(self) -> bool:
        """Whether extents overlap, which no known writer makes: then the order of the manifests matters."""
        return bool(self._boxes.overlaps)

    def manifest_refs(self, which: Sequence[int]) -> Iterator[ArrayRefs | None]:
        """Yields what is visible of some manifests, given by their positions in `manifest_ids`; None for nothing.

        Raises:
            FormatError, StorageError: a manifest cannot be read.
        """
        return self._load(which)

    # Looking up one chunk.

    def find(self, chunk_index: Sequence[int]) -> ChunkRef | None:
        """Returns the reference at an index, or None where the array has no chunk.

        An index with the wrong number of dimensions, or outside of the grid, has none.

        Raises:
            FormatError, StorageError: the manifest that answers for the index cannot be read.
        """
        found = self._locate(chunk_index)
        return None if found is None else found[0].ref(found[1])

    def length(self, chunk_index: Sequence[int]) -> int | None:
        """Returns the length in bytes of the chunk at an index, or None where there is none; raises as `find`."""
        found = self._locate(chunk_index)
        return None if found is None else int(found[0].lengths[found[1]])

    def lengths(self, indices: U32) -> tuple[Bools, U64]:
        """Looks many chunks up at once.

        Args:
            indices: One index in each row, of `ndim` positions; in any order.

        Returns:
            Which of them the array has, and the lengths in bytes of those.

        Raises:
            FormatError, StorageError: a manifest that answers for one of them cannot be read.
        """
        if not self.ndim:
            length = self.length(())
            return np.full(len(indices), length is not None), np.full(len(indices), length or 0, np.uint64)
        is_there, lengths = np.zeros(len(indices), np.bool_), np.zeros(len(indices), np.uint64)
        columns = [np.ascontiguousarray(column) for column in indices.T]
        boxes = self._boxes.find_many(columns)
        order = np.argsort(boxes, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(boxes[order])) + 1)
        asked = {int(boxes[rows[0]]): rows for rows in groups if len(rows) and boxes[rows[0]] >= 0}
        for rows, refs in zip(asked.values(), self._load(list(asked)), strict=True):
            if refs is not None:
                found = refs.indices.find_many([column[rows] for column in columns])
                rows = rows[found >= 0]
                is_there[rows], lengths[rows] = True, refs.lengths[found[found >= 0]]
        return is_there, lengths

    def kind(self, chunk_index: Sequence[int]) -> ChunkKind:
        """Returns what kind of reference stands at an index; UNINITIALIZED where there is none; raises as `find`."""
        found = self._locate(chunk_index)
        return ChunkKind.UNINITIALIZED if found is None else ChunkKind(int(found[0].kinds[found[1]]))

    def is_loaded(self, chunk_index: Sequence[int]) -> bool:
        """Tells whether looking the index up needs no request: its manifest is in memory, or no manifest has it."""
        which = self._manifest_of(chunk_index)
        return which is None or self._assets.manifests.peek(self._ids[which]) is not None

    def locate(self, chunk_index: Sequence[int]) -> tuple[ArrayRefs, int] | None:
        """Returns the columns and the row that hold an index, or None; raises as `find`."""
        return self._locate(chunk_index)

    def _locate(self, chunk_index: Sequence[int]) -> tuple[ArrayRefs, int] | None:
        which = self._manifest_of(chunk_index)
        if which is None:
            return None
        refs = self._refs(which)
        if refs is None:
            return None
        row = refs.find(chunk_index)
        return None if row < 0 else (refs, row)

    def _manifest_of(self, chunk_index: Sequence[int]) -> int | None:
        boxes = self._boxes
        return boxes.find(chunk_index) if len(chunk_index) == self.ndim else None

    # Loading manifests.

    def _refs(self, which: int) -> ArrayRefs | None:
        """Returns the visible references of a manifest of the array, or None if it has none."""
        clips = self._clips[which]
        if clips:
            key = (self._ids[which], self.node.id, self._boxes.boxes[which], self._boxes.overlaps.get(which, ()))
            return self._assets.clipped.get(key, lambda: self._clip(which))
        refs = self._assets.fetch_manifest(self._ids[which]).arrays.get(self.node.id)
        if clips is None:
            if refs is None or not len(refs):
                return None
            if refs.ndim != self.ndim:
                reason = f"references of {plural(refs.ndim, 'dimension')} to an array of {self.ndim}"
                name = manifest_key(self._ids[which])
                raise FormatError(f"{name}: {reason} ({self.node.path})", file=name, reason=reason)
            self._clips[which] = clips = self._must_clip(which, refs)
            if clips:
                return self._refs(which)
        return refs

    def _must_clip(self, which: int, refs: ArrayRefs) -> bool:
        is_inside = all(
            low <= first and end <= high
            for (low, high), (first, end) in zip(self._boxes.boxes[which], refs.bounding_box(), strict=True)
        )
        return which in self._boxes.overlaps or not is_inside

    def _clip(self, which: int) -> tuple[ArrayRefs, int]:
        refs = self._assets.fetch_manifest(self._ids[which]).arrays[self.node.id]
        visible = inside(refs.coords, self._boxes.boxes[which], len(refs))
        for other in self._boxes.overlaps.get(which, ()):
            visible &= ~inside(refs.coords, other, len(refs))
        clipped = refs.select(visible)
        return clipped, len(clipped) + 1

    def _matching(self, prefix: Sequence[int]) -> Iterator[ArrayRefs]:
        """Yields the columns of the manifests that may hold indices starting with `prefix`."""
        for refs in self._load(self._boxes.below(prefix)):
            if refs is not None:
                yield refs

    def _load(self, which: Sequence[int]) -> Iterator[ArrayRefs | None]:
        """Loads manifests in order: in this thread what is in memory, side by side what must be fetched."""
        if len(which) > 1:
            absent = sum(self._assets.manifests.peek(self._ids[number]) is None for number in which)
            if absent > 1:
                return self._assets.workers.map_ahead(self._refs, which)
        return map(self._refs, which)

    # Listing.

    def is_prefix_loaded(self, prefix: Sequence[int]) -> bool:
        """Tells whether listing what starts with `prefix` needs no request: all its manifests are in memory."""
        peek = self._assets.manifests.peek
        return all(peek(self._ids[which]) is not None for which in self._boxes.below(prefix))

    def has_prefix(self, prefix: Sequence[int]) -> bool:
        """Tells whether any chunk's index starts with `prefix`.

        Raises:
            FormatError, StorageError: a manifest that may hold such an index cannot be read.
        """
        if len(prefix) == self.ndim:
            return self._locate(prefix) is not None
        for refs in self._matching(prefix):
            start, end = refs.range(prefix)
            if start < end:
                return True
        return False

    def children(self, prefix: Sequence[int]) -> U32:
        """Returns the distinct positions that follow `prefix` in the chunks' indices, sorted.

        Args:
            prefix: Positions along the first dimensions, fewer than `ndim`.

        Raises:
            FormatError, StorageError: a manifest that may hold such an index cannot be read.
        """
        if len(prefix) >= self.ndim:
            return _EMPTY_U32
        parts = [refs.children(prefix)[0] for refs in self._matching(prefix)]
        if len(parts) == 1:
            return parts[0]
        return np.unique(np.concatenate(parts)) if parts else _EMPTY_U32

    def leaves(self, prefix: Sequence[int]) -> tuple[U32, U64]:
        """Returns the last positions, sorted, and the lengths in bytes of the chunks whose index starts so.

        Args:
            prefix: Positions along all dimensions but the last.

        Raises:
            FormatError, StorageError: a manifest that may hold such an index cannot be read.
        """
        if self.ndim == 0 or len(prefix) != self.ndim - 1:
            return _EMPTY_U32, _EMPTY_U64
        positions, lengths = [], []
        for refs in self._matching(prefix):
            start, end = refs.range(prefix)
            if start < end:
                positions.append(refs.coords[-1][start:end])
                lengths.append(refs.lengths[start:end])
        if not positions:
            return _EMPTY_U32, _EMPTY_U64
        if len(positions) == 1:
            return positions[0], lengths[0]
        distinct, first = np.unique(np.concatenate(positions), return_index=True)
        return distinct, np.concatenate(lengths)[first]

    def iter_batches(self, max_rows: int = 100_000) -> Iterator[ChunkBatch]:
        """Yields all references, each once, in batches of at most `max_rows`; sorted within each manifest.

        Raises:
            FormatError, StorageError: a manifest cannot be read.
        """
        for refs in self._load(range(len(self._boxes))):
            if refs is not None:
                for start in range(0, len(refs), max_rows):
                    yield ChunkBatch(refs, start, min(start + max_rows, len(refs)))

    @property
    def num_chunks(self) -> int:
        """How many chunks exist; loads all manifests, and raises as `iter_batches`."""
        return sum(len(batch) for batch in self.iter_batches(ALL_ROWS))

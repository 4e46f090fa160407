"""An array of one snapshot as directories and files: which names exist, and what stands behind them.

A chunk key has `depth` components below the array's directory (see `zarr.keys`). A place in the key space is a
level, the count of components before it, and a prefix, the coordinates in them. A view answers from memory, or
raises `NotInMemoryError` with what to fetch: a manifest is never decoded on the event loop's thread.
"""

from collections import deque
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from icefs.engine.read.chunks import ALL_ROWS, ArrayChunks, ChunkBatch
from icefs.engine.read.session import Session
from icefs.errors import FormatError, InvalidInputError
from icefs.format.manifest.refs import ArrayRefs, ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.zarr_json import chunk_key_encoding_of
from icefs.vfs.inodes.numbers import ArrayNumbers, Prefix
from icefs.vfs.interface import NotInMemoryError
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout, is_zarr_key, parse_coordinate

type U32 = npt.NDArray[np.uint32]
type U64 = npt.NDArray[np.uint64]

_MEMO_SIZE: Final = 256
_WARM: Final = 4
_MISSING: Final = object()


@dataclass(frozen=True, slots=True)
class ChunkColumns:
    """Chunks of one array to list, as columns.

    Attributes:
        columns: Their coordinates at this level of the key space, one column for each; none for a constant name.
        lengths: Their lengths in bytes, or None if the entries are directories.
        count: How many there are.
    """

    columns: tuple[U32, ...]
    lengths: U64 | None
    count: int


class ArrayView:
    """The chunk keys of one array in one snapshot.

    Belongs to the event loop's thread, apart from `chunks`, which any thread may use.

    Attributes:
        session: The snapshot.
        node: The array.
        chunks: Its references.
        layout: How its keys are written, or None if its metadata does not say so in a way that is understood.
        numbers: Its inode numbers.
    """

    _warm: ClassVar[deque["ArrayView"]] = deque()

    def __init__(self, session: Session, node: NodeSnapshot, numbers: ArrayNumbers) -> None:
        self.session = session
        self.node = node
        self.chunks: ArrayChunks = session.array_chunks(node)
        self.numbers = numbers
        numbers.fit(self.chunks.grid_shape)
        self.layout: ChunkKeyLayout | None = None
        self._bad_metadata: InvalidInputError | None = None
        try:
            self.layout = key_layout(node)
        except InvalidInputError as error:
            self._bad_metadata = error
        widths = self.layout.widths if self.layout is not None else ()
        # In nested keys that begin with "c", a directory's level is one more than its count of coordinates.
        self._lead = 1 if len(widths) > 1 and widths[0] == 0 else 0
        self._is_nested = len(widths) > 1
        self._columns: ArrayRefs | None = None
        # What was fetched, and will be asked for again. References are kept, never the columns they came from.
        self._found: dict[Prefix, ChunkRef | None] = {}
        self._exists: dict[Prefix, bool] = {}
        self._listings: dict[tuple[int, Prefix], list[ChunkColumns]] = {}

    @property
    def depth(self) -> int:
        """How many components a chunk key has."""
        return len(self.layout.widths) if self.layout is not None else 0

    def level_below(self, prefix: Prefix) -> int:
        """Returns the level of what lies in the directory that stands for a prefix."""
        return len(prefix) + self._lead

    def path_of(self, prefix: Prefix) -> str:
        """Returns the path of a chunk, or of a directory above chunks, below the array's directory."""
        layout = self.layout
        if layout is None:
            return ""
        if len(prefix) == layout.ndim:
            return layout.format(prefix)
        return "/".join(["c"] * self._lead + [str(position) for position in prefix])

    # Single names.

    def parse(self, level: int, prefix: Prefix, name: str) -> Prefix | None:
        """Reads a name at a place of the key space; None if no key of the array goes through it.

        Raises:
            FormatError: the name looks like a chunk's, and the metadata does not say which names are.
        """
        layout = self.layout
        if layout is None:
            if name != METADATA_NAME and is_zarr_key(name):
                raise self._unknown_keys()
            return None
        if level >= len(layout.widths):
            return None
        if self._is_nested and level >= self._lead:
            position = parse_coordinate(name)  # what `parse_component` comes to, where most lookups are
            return None if position is None else (*prefix, position)
        part = layout.parse_component(level, name)
        return None if part is None else prefix + part

    def is_file(self, level: int) -> bool:
        """Tells whether the names at a level are files."""
        return level + 1 == self.depth

    def find(self, chunk_index: Prefix) -> ChunkRef | None:
        """Returns the reference to a chunk, or None where there is none.

        Raises:
            NotInMemoryError: its manifest is not in memory.
            FormatError, StorageError: its manifest cannot be read.
        """
        columns = self._columns
        if columns is not None:
            row = columns.find(chunk_index)
            return None if row < 0 else columns.ref(row)
        found = self._found.get(chunk_index, _MISSING)
        if found is not _MISSING:
            return found  # type: ignore[return-value]
        if not self.chunks.is_loaded(chunk_index):
            raise self._miss("find", chunk_index, self.chunks.find, self._remember_ref)
        located = self.chunks.locate(chunk_index)
        if located is None:
            return None
        if len(self.chunks.manifest_ids) == 1:
            self._keep_columns(located[0])
        return located[0].ref(located[1])

    def _keep_columns(self, columns: ArrayRefs) -> None:
        """Keeps the columns of an array that has one manifest, which halves the cost of finding a chunk.

        A few arrays' only: beyond them it is the engine's cache that bounds what is in memory.
        """
        self._columns = columns
        warm = ArrayView._warm
        warm.append(self)
        if len(warm) > _WARM:
            warm.popleft()._columns = None

    def following(self, chunk_index: Prefix, count: int) -> list[tuple[Prefix, ChunkRef]]:
        """Returns the chunks that follow one in the order of their indices, as far as its manifest is in memory."""
        if not self.chunks.is_loaded(chunk_index):
            return []
        found = self.chunks.locate(chunk_index)
        if found is None:
            return []
        refs, row = found
        rows = range(row + 1, min(row + 1 + count, len(refs)))
        return [(refs.index(at), refs.ref(at)) for at in rows]

    def has_dir(self, prefix: Prefix) -> bool:
        """Tells whether any chunk lies below the directory of a prefix; raises as `find`."""
        known = self._exists.get(prefix)
        if known is not None:
            return known
        if not prefix and self._surely_has_chunks():
            return True
        if not self.chunks.is_prefix_loaded(prefix):
            raise self._miss("has_prefix", prefix, self.chunks.has_prefix, self._remember_dir)
        return self.chunks.has_prefix(prefix)

    def _surely_has_chunks(self) -> bool:
        """Tells whether the snapshot alone says that there are chunks: that spares a directory of arrays its manifests.

        Extents are tight and manifests never empty, so one that lies wholly in the grid has a chunk to show.
        """
        array = self.node.array
        grid = self.chunks.grid_shape
        return array is not None and any(
            len(ref.extents) == len(grid)
            and all(low < high <= size for (low, high), size in zip(ref.extents, grid, strict=True))
            for ref in array.manifests
        )

    def _remember_ref(self, chunk_index: Prefix, ref: ChunkRef | None) -> None:
        if len(self._found) >= _MEMO_SIZE:
            self._found.clear()
        self._found[chunk_index] = ref

    def _remember_dir(self, prefix: Prefix, exists: bool) -> None:
        if len(self._exists) >= _MEMO_SIZE:
            self._exists.clear()
        self._exists[prefix] = exists

    def _miss[T](
        self, what: str, prefix: Prefix, ask: Callable[[Prefix], T], remember: Callable[[Prefix, T], None]
    ) -> NotInMemoryError:
        key: Hashable = (id(self), what, prefix)
        return NotInMemoryError(key, lambda: ask(prefix), lambda answer: remember(prefix, answer))

    def _unknown_keys(self) -> FormatError:
        reason = f"its chunk keys are unknown: {self._bad_metadata}"
        return FormatError(f"array {self.node.path}: {reason}", file=self.node.path, reason=reason)

    # Listing.

    def listing(self, level: int, prefix: Prefix) -> list[ChunkColumns]:
        """Returns the chunk entries of a directory, in one part or several; raises as `find`.

        An answer that had to be fetched is given out once; the caller keeps it.
        """
        known = self._listings.pop((level, prefix), None)
        if known is not None:
            return known
        layout = self.layout
        if layout is None:
            raise self._unknown_keys()
        if level >= len(layout.widths):
            return []
        if layout.widths[level] == 0 and level + 1 < len(layout.widths):
            # The constant "c" of nested keys; that it exists is known more cheaply than what is in it.
            return [ChunkColumns((), None, 1)] if self.has_dir(()) else []
        if self.chunks.is_prefix_loaded(prefix):
            return self._list(level, prefix)

        def keep(columns: list[ChunkColumns]) -> None:
            self._listings[level, prefix] = columns

        key = (id(self), "list", level, prefix)
        raise NotInMemoryError(key, lambda: self._list(level, prefix), keep, is_for_asker=True)

    def _list(self, level: int, prefix: Prefix) -> list[ChunkColumns]:
        """Lists a level that carries coordinates, or a scalar's only chunk; in any thread."""
        layout, chunks = self.layout, self.chunks
        assert layout is not None  # `listing` says so otherwise
        if level + 1 < len(layout.widths):
            positions = chunks.children(prefix)
            return [ChunkColumns((positions,), None, len(positions))]
        if layout.widths[level] == 1 and layout.ndim > 0:
            positions, lengths = chunks.leaves(prefix)
            return [ChunkColumns((positions,), lengths, len(positions))]
        return [_flat(batch) for batch in chunks.iter_batches(ALL_ROWS)]

    def names(self, level: int, part: ChunkColumns, first: int, end: int) -> list[bytes]:
        """Writes the names of the entries `[first, end)` of a part of a listing."""
        assert self.layout is not None  # there is no listing without
        return self.layout.format_names(level, [column[first:end] for column in part.columns])


def _flat(batch: ChunkBatch) -> ChunkColumns:
    return ChunkColumns(batch.coords, batch.lengths, len(batch))


def key_layout(node: NodeSnapshot) -> ChunkKeyLayout:
    """Reads from an array's metadata how its chunk keys are written.

    Raises:
        InvalidInputError: it names an encoding that is unknown.
    """
    ndim = 0 if node.array is None else len(node.array.shape)
    return ChunkKeyLayout.of(chunk_key_encoding_of(node.user_data), ndim)

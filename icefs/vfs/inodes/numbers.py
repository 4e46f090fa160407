"""The inode numbers of one tree: a table for its directories and metadata files, arithmetic for its chunks."""

from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.format.ids import NodeId
from icefs.inode import Ino
from icefs.vfs.inodes.table import BitLayout, InodeSpace, Range
from icefs.vfs.interface import Tree

type U32 = npt.NDArray[np.uint32]
type Prefix = tuple[int, ...]

ROOT_SLOT: Final = 0
CONTROL_SLOT: Final = 1
_FIXED_SIZE: Final = 256
_TABLE_SIZE: Final = 1 << 32
_CHUNK_TABLE_SIZE: Final = 1 << 32


class NodeKey(NamedTuple):
    """What a number of a node table stands for: a directory, or a metadata file since an epoch.

    Attributes:
        path: The directory's path, or the node's whose metadata it is.
        epoch: When the file's content came to be; None for a directory.
    """

    path: str
    epoch: int | None


class FixedNumbers:
    """The few numbers that every tree has: its root and its control directory with what is in it."""

    __slots__ = ("root_ino", "start")

    def __init__(self, start: int) -> None:
        self.start = start
        self.root_ino = Ino(start + ROOT_SLOT)

    def ino(self, slot: int) -> Ino:
        """Returns the number of a slot, below 256."""
        return Ino(self.start + slot)

    @property
    def control_inos(self) -> range:
        """The numbers of the control directory and of what is in it."""
        return range(self.start + CONTROL_SLOT, self.start + _FIXED_SIZE)

    def control_slot(self, ino: Ino) -> int:
        """Returns the slot of the control directory, or of a file in it; 0 for any other number."""
        slot = ino - self.start
        return slot if CONTROL_SLOT <= slot < _FIXED_SIZE else 0


class NodeNumbers:
    """The numbers of a tree's directories and metadata files, given when they are first asked for.

    INVARIANT: `_slots[_keys[slot]] == slot` for every slot.
    INVARIANT: no slot is given twice, also not after its key was forgotten.
    """

    def __init__(self, space: InodeSpace, tree: Tree) -> None:
        self._range = space.reserve(_TABLE_SIZE, tree, self)
        self._slots: dict[NodeKey, int] = {}
        self._keys: dict[int, NodeKey] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._keys)

    def number(self, key: NodeKey) -> Ino:
        """Returns the number of a directory or file."""
        slot = self._slots.get(key)
        if slot is None:
            slot = self._next
            self._next += 1
            self._keys[slot] = key
            self._slots[key] = slot
        return self._range.start + slot  # type: ignore[return-value]  # `Ino` would be one more call for each request

    def known(self, key: NodeKey) -> Ino | None:
        """Returns the number of a directory or file if it was ever asked for."""
        slot = self._slots.get(key)
        return None if slot is None else Ino(self._range.start + slot)

    def key(self, ino: Ino) -> NodeKey | None:
        """Returns what a number of the range stands for, or None if it was not given yet."""
        return self._keys.get(ino - self._range.start)

    def known_keys(self) -> list[NodeKey]:
        """Returns all that have numbers."""
        return list(self._slots)

    def rename(self, moves: Mapping[NodeKey, NodeKey | None]) -> None:
        """Has numbers stand for something else, all at once; None for what nothing is any more.

        Whatever had the new key loses its number, which is stale from then on.
        """
        slots = [(self._slots.pop(old), new) for old, new in moves.items()]
        for slot, new in slots:
            del self._keys[slot]
            if new is not None:
                self._keys.pop(self._slots.pop(new, -1), None)
        for slot, new in slots:
            if new is not None:
                self._keys[slot] = new
                self._slots[new] = slot

    def forget(self, is_over: Callable[[NodeKey], bool], used: Container[int]) -> None:
        """Forgets the metadata files of which `is_over` says that they are no more, unless their number is used."""
        start = self._range.start
        for slot, key in list(self._keys.items()):
            if key.epoch is not None and start + slot not in used and is_over(key):
                del self._keys[slot], self._slots[key]

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        assert len(self._slots) == len(self._keys)
        assert all(self._slots[key] == slot < self._next for slot, key in self._keys.items())


class ChunkRange(NamedTuple):
    """What a range of chunk numbers stands for: those chunks of an array whose content is of one epoch.

    Attributes:
        numbers: The array's numbers.
        layout: How indices are packed; None in an array that has a `ChunkTable`.
        epoch: The epoch; that of directories above chunks is not the chunks' (see `ArrayNumbers.dir_epoch`).
    """

    numbers: "ArrayNumbers"
    layout: BitLayout | None
    epoch: int


class ChunkTable:
    """The numbers of an array whose indices do not pack, given when they are first asked for."""

    def __init__(self, space: InodeSpace, tree: Tree, numbers: "ArrayNumbers") -> None:
        self.numbers = numbers
        self.start = space.reserve(_CHUNK_TABLE_SIZE, tree, self).start
        self._slots: dict[tuple[Prefix, int], int] = {}
        self._keys: list[tuple[Prefix, int]] = []

    def number(self, prefix: Prefix, epoch: int) -> Ino:
        """Returns the number of a chunk, or of a directory above chunks."""
        key = prefix, epoch
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = len(self._keys)
            self._keys.append(key)
        return Ino(self.start + slot)

    def key(self, ino: Ino) -> tuple[Prefix, int] | None:
        """Returns the prefix and the epoch that a number stands for, or None if it was not given yet."""
        slot = ino - self.start
        return self._keys[slot] if slot < len(self._keys) else None


class ArrayNumbers:
    """The numbers of one array's chunks and of the directories above them.

    An array that outgrows its layout gets a further one; an index has the number of the first layout it fits, so
    that it never changes. Numbers go with an array that is renamed, whatever path and id it has then.

    Attributes:
        path: The array's path.
        node_id: The array.
        dir_epochs: When directories that stood at prefixes were renamed away: what is there now has other numbers.
    """

    def __init__(self, space: InodeSpace, tree: Tree, path: str, node_id: NodeId, *, may_grow: bool) -> None:
        self.path = path
        self.node_id = node_id
        self._space = space
        self._tree = tree
        self._may_grow = may_grow
        self._layouts: list[BitLayout] = []
        self._starts: dict[tuple[int, int], int] = {}  # by position of the layout and epoch
        self._table: ChunkTable | None = None
        self.dir_epochs: dict[Prefix, int] = {}

    def fit(self, grid_shape: Sequence[int]) -> None:
        """Makes sure that all indices of a grid have numbers."""
        if any(layout.fits_grid(grid_shape) for layout in self._layouts) or self._table is not None:
            return
        layout = BitLayout.for_grid(grid_shape, may_grow=self._may_grow)
        if layout is None:
            self._table = ChunkTable(self._space, self._tree, self)
        else:
            self._layouts.append(layout)

    def number(self, prefix: Prefix, epoch: int) -> Ino:
        """Returns the number of a chunk of an epoch."""
        for which, layout in enumerate(self._layouts):
            if layout.fits(prefix):
                start = self._starts.get((which, epoch))
                if start is None:
                    start = self._start(which, epoch)
                return start + layout.pack(prefix)  # type: ignore[return-value]  # as in `NodeNumbers.number`
        if self._table is None:
            raise ValueError(f"the chunk index {prefix} lies outside the grid of {self.path}")
        return self._table.number(prefix, epoch)

    def dir_epoch(self, prefix: Prefix) -> int:
        """Returns since when the directory above chunks has been another one than before; 0 if it always was this."""
        return newest_epoch(self.dir_epochs, prefix)

    def dir_number(self, prefix: Prefix) -> Ino:
        """Returns the number of a directory above chunks."""
        return self.number(prefix, self.dir_epoch(prefix) if self.dir_epochs else 0)

    def dir_numbers(self, columns: Sequence[U32]) -> list[Ino]:
        """Returns the numbers of many directories above chunks, given by one column for each coordinate."""
        if not self.dir_epochs or not columns:
            return self.numbers(columns, None, self.dir_epoch(()))
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return self.numbers(columns, np.array([self.dir_epoch(row) for row in rows], np.uint32), 0)

    def renew_dirs(self, prefix: Prefix, epoch: int) -> None:
        """Records that the directory of a prefix, with everything below it, went elsewhere with its numbers."""
        for known in [known for known in self.dir_epochs if known[: len(prefix)] == prefix]:
            del self.dir_epochs[known]
        self.dir_epochs[prefix] = epoch

    def starts(self) -> Iterator[Ino]:
        """Yields one number of each range that was taken."""
        yield from map(Ino, self._starts.values())
        if self._table is not None:
            yield Ino(self._table.start)

    def numbers(self, columns: Sequence[U32], epochs: npt.NDArray[np.uint32] | None, epoch: int) -> list[Ino]:
        """Returns the numbers of many chunks.

        Args:
            columns: The coordinates of their indices, one column for each.
            epochs: Their epochs, or None.
            epoch: The epoch of all of them where `epochs` is None.
        """
        first = self._layouts[0] if self._layouts else None
        if first is None or not columns or not _all_fit(first, columns):
            rows = list(zip(*(column.tolist() for column in columns), strict=True)) if columns else [()]
            each = [epoch] * len(rows) if epochs is None else epochs.tolist()
            return [self.number(row, of) for row, of in zip(rows, each, strict=True)]
        packed = first.pack_columns(columns)
        if epochs is None:
            packed += self._start(0, epoch)
        else:
            distinct, inverse = np.unique(epochs, return_inverse=True)
            starts = np.array([self._start(0, int(of)) for of in distinct], np.int64)
            packed += starts[inverse]
        numbers: list[Ino] = packed.tolist()
        return numbers

    @property
    def is_unused(self) -> bool:
        """Whether no number was given, or none is remembered."""
        return not self._starts and self._table is None

    def forget(self, epoch: int) -> None:
        """Forgets the range of an epoch, which is dropped; should there be need of one again, it is another."""
        for key in [key for key in self._starts if key[1] == epoch]:
            del self._starts[key]

    def _start(self, which: int, epoch: int) -> int:
        start = self._starts.get((which, epoch))
        if start is None:
            layout = self._layouts[which]
            content = ChunkRange(self, layout, epoch)
            start = self._starts[which, epoch] = self._space.reserve(layout.size, self._tree, content).start
        return start


def newest_epoch(epochs: Mapping[Prefix, int], prefix: Prefix) -> int:
    """Returns the newest epoch that is known of a prefix or one above it; 0 for none."""
    return max((epochs.get(prefix[:length], 0) for length in range(len(prefix) + 1)), default=0) if epochs else 0


def _all_fit(layout: BitLayout, columns: Sequence[U32]) -> bool:
    return all(
        width == 32 or not len(column) or int(column.max()) < 1 << width
        for width, column in zip(layout.bits, columns, strict=False)
    )


def reserve_fixed(space: InodeSpace, tree: Tree, *, is_root: bool) -> FixedNumbers:
    """Hands out a tree's fixed numbers; those of the tree at the mount's root begin with 1."""
    content = FixedNumbers(0)
    found: Range = space.reserve_root(tree, content) if is_root else space.reserve(_FIXED_SIZE, tree, content)
    content.start = content.root_ino = Ino(found.start)
    return content

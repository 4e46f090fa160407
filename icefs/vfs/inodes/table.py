"""Inode numbers: the tree that each belongs to, and those of a million chunks, numbered without remembering any.

All numbers of a mount come from one `InodeSpace`, which hands out consecutive ranges and finds the range that a
number lies in. A tree takes a small range for its directories and metadata files (a table), and one for each
array that was looked at. Within an array's range the number of a chunk is computed from its index and the index
from the number, so that nothing is kept:

    number = range start + (depth << coordinate bits) + the coordinates, packed, the first one highest

`depth` is the count of coordinates, so that the directories above the chunks have numbers too. Each coordinate
gets a fixed count of bits with room for the array to double, and an array that grows further gets a second range
for what does not fit into the first: numbers that were given stay as they are.

The number of a chunk also says in which epoch of its tree its content came to be (see `history`): a chunk whose
content changes gets a number from another range. So what a number stands for never changes, whatever the kernel
still remembers of it. An array that was renamed takes its ranges along (see `renaming`).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from icefs.errors import InternalError, StaleError
from icefs.inode import ROOT_INO, Ino
from icefs.locks import Rank, new_lock
from icefs.vfs.interface import Tree

type I64 = npt.NDArray[np.int64]
type U32 = npt.NDArray[np.uint32]

_FIRST: Final = 1 << 16
_END: Final = (1 << 63) - 1
_SLACK_UP_TO_BITS: Final = 40
"""Arrays whose chunk indices need no more bits than this get room to double along each dimension."""

MAX_PACKED_BITS: Final = 52
"""Arrays that need more are numbered by a table; a few thousand ranges of this size fit next to each other."""


@dataclass(slots=True)
class Range:
    """Consecutive inode numbers `[start, end)` with one owner.

    Attributes:
        start: The first number.
        end: One past the last.
        tree: The tree that they belong to.
        content: What the tree needs to know which of its ranges this is.
    """

    start: int
    end: int
    tree: Tree
    content: Any


class InodeSpace:
    """Hands out ranges of inode numbers, and finds the owner of a number.

    INVARIANT: the ranges are disjoint and sorted by `start`.
    INVARIANT: no number is ever handed out twice, also not after its range was dropped.

    Concurrency: `find` may be called at any time; a lock serialises everything that changes something, since
    commits number things in worker threads.
    """

    def __init__(self) -> None:
        self._table: tuple[list[int], list[Range]] = ([], [])  # the starts, and the ranges
        self._of_tree: dict[int, list[Range]] = {}
        self._dropped = 0
        self._next = _FIRST
        self._lock = new_lock(Rank.LEAF, "inode ranges")

    def __len__(self) -> int:
        return len(self._table[1]) - self._dropped

    def reserve(self, size: int, tree: Tree, content: Any) -> Range:
        """Hands out `size` numbers that were never used before.

        Raises:
            InternalError: there are none left; that takes thousands of the largest arrays.
        """
        with self._lock:
            if size > _END - self._next:
                raise InternalError("no inode numbers are left in this mount")
            found = Range(self._next, self._next + size, tree, content)
            self._next += size
            starts, ranges = self._table
            ranges.append(found)
            starts.append(found.start)  # last: from now on it is found
            self._of_tree.setdefault(id(tree), []).append(found)
        return found

    def reserve_root(self, tree: Tree, content: Any) -> Range:
        """Hands out the numbers below all others, the root's among them; once."""
        found = Range(ROOT_INO, _FIRST, tree, content)
        with self._lock:
            starts, ranges = self._table
            self._table = [found.start, *starts], [found, *ranges]
        return found

    def put_in_front(self, ino: Ino, tree: Tree) -> None:
        """Has another tree answer for the range that a number lies in; the range stays its owner's."""
        found = self.find(ino)
        assert found is not None
        found.tree = tree

    def find(self, ino: Ino) -> Range | None:
        """Returns the range that a number lies in, or None if it was dropped or never handed out."""
        starts, ranges = self._table
        index = bisect_right(starts, ino) - 1
        if index < 0:
            return None
        found = ranges[index]
        return found if ino < found.end else None

    def tree_of(self, ino: Ino) -> Tree:
        """Returns the tree that a number belongs to.

        Raises:
            StaleError: its range was dropped, or never handed out.
        """
        # As `find`, of which it saves the call: every request begins with this.
        starts, ranges = self._table
        index = bisect_right(starts, ino) - 1
        if index >= 0 and ino < (found := ranges[index]).end:
            return found.tree
        raise StaleError(f"inode {ino} is gone", ino=ino)

    def ranges_of(self, tree: Tree) -> list[Range]:
        """Returns the ranges of a tree, but for the root's."""
        with self._lock:
            return list(self._of_tree.get(id(tree), ()))

    def drop(self, tree: Tree) -> None:
        """Forgets all ranges of a tree that the kernel knows nothing of any more; the root's are kept."""
        with self._lock:
            self._drop(self._of_tree.pop(id(tree), []))

    def drop_ranges(self, tree: Tree, which: Iterable[Range]) -> None:
        """Forgets some ranges of a tree: their numbers are gone (ESTALE) from then on."""
        with self._lock:
            gone = {one.start for one in which}
            own = self._of_tree.get(id(tree), [])
            self._of_tree[id(tree)] = [one for one in own if one.start not in gone]
            self._drop([one for one in own if one.start in gone])

    def _drop(self, which: Iterable[Range]) -> None:
        for one in which:
            one.end = one.start
            one.content = None
            self._dropped += 1
        ranges = self._table[1]
        # Dropped ranges hold their places until they are half of all: taking each out at once would be quadratic.
        if self._dropped * 2 > len(ranges):
            kept = [one for one in ranges if one.start < one.end]
            self._table = [one.start for one in kept], kept
            self._dropped = 0

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        starts, ranges = self._table
        assert starts == [one.start for one in ranges]
        for before, after in pairwise(ranges):
            assert before.start <= before.end <= after.start <= after.end <= self._next


def is_any_in(ordered: Sequence[int], one: Range) -> bool:
    """Tells whether any of some ordered numbers lies in a range."""
    at = bisect_left(ordered, one.start)
    return at < len(ordered) and ordered[at] < one.end


@dataclass(frozen=True, slots=True)
class BitLayout:
    """How chunk indices of one array are packed into an integer.

    Attributes:
        bits: How many bits each coordinate has.
        shifts: By how much each coordinate is shifted.
        total_bits: The sum of `bits`.
    """

    bits: tuple[int, ...]
    shifts: tuple[int, ...] = field(init=False)
    total_bits: int = field(init=False)

    def __post_init__(self) -> None:
        shifts, total = [], 0
        for width in reversed(self.bits):
            shifts.append(total)
            total += width
        object.__setattr__(self, "shifts", tuple(reversed(shifts)))
        object.__setattr__(self, "total_bits", total)

    @classmethod
    def for_grid(cls, grid_shape: Sequence[int], *, may_grow: bool) -> "BitLayout | None":
        """Returns a layout that every index of the grid fits into, or None if that takes too many bits."""
        tight = tuple(max(1, (size - 1).bit_length()) for size in grid_shape)
        if sum(tight) > MAX_PACKED_BITS:
            return None
        if may_grow and sum(tight) <= _SLACK_UP_TO_BITS:
            return cls(tuple(min(32, width + 1) for width in tight))
        return cls(tight)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.bits)

    @property
    def size(self) -> int:
        """How many numbers a range with this layout takes: one per depth and index."""
        return (len(self.bits) + 1) << self.total_bits

    def fits(self, prefix: Sequence[int]) -> bool:
        """Tells whether the leading coordinates of an index fit."""
        for position, width in zip(prefix, self.bits, strict=False):  # noqa: SIM110  (twice as fast, at every lookup)
            if position >> width:
                return False
        return True

    def fits_grid(self, grid_shape: Sequence[int]) -> bool:
        """Tells whether every index of a grid fits."""
        return len(grid_shape) == len(self.bits) and all(
            size <= 1 << width for size, width in zip(grid_shape, self.bits, strict=True)
        )

    def pack(self, prefix: Sequence[int]) -> int:
        """Packs the leading coordinates of an index, which must fit; the depth is in the result."""
        number = len(prefix) << self.total_bits
        for position, shift in zip(prefix, self.shifts, strict=False):
            number |= position << shift
        return number

    def unpack(self, number: int) -> tuple[int, ...]:
        """Returns the coordinates that `pack` was given."""
        depth = number >> self.total_bits
        return tuple(
            number >> shift & (1 << width) - 1
            for shift, width in zip(self.shifts[:depth], self.bits[:depth], strict=True)
        )

    def pack_columns(self, columns: Sequence[U32]) -> I64:
        """Packs the leading coordinates of many indices, one column for each; the depth is in the results."""
        rows = len(columns[0]) if columns else 1
        packed = np.full(rows, len(columns) << self.total_bits, np.int64)
        for column, shift in zip(columns, self.shifts, strict=False):
            packed |= column.astype(np.int64) << shift
        return packed

    def unpack_columns(self, numbers: I64) -> list[U32]:
        """Returns the columns of whole indices that `pack_columns` was given."""
        return [
            (numbers >> shift & (1 << width) - 1).astype(np.uint32)
            for shift, width in zip(self.shifts, self.bits, strict=True)
        ]

"""Finds out in which order the chunks of an array are opened, and which come next.

Programs go through an array along any axis, in steps of any size, several of them at once, and slightly out of
order where threads share the work. Each walk is a `Walk`: what it opened last, and which chunks it is thought to
open next. An open that was foreseen carries its walk on; another one begins a walk if it lies one step along one
axis from a recent one.

Nothing here reads anything: `Walks` says how to go on, `reading` fetches.
"""

from collections import OrderedDict, deque
from typing import Final

from icefs.vfs.inodes.numbers import Prefix

_RECENT: Final = 8
_MAX_WALKS: Final = 8
_MAX_STEP: Final = 4
_MAX_PASSED: Final = 256


class Walk:
    """A program that goes through the chunks of an array.

    Attributes:
        step: What each index is more than the one before; None for the order of the indices, whatever exists.
        front: The last index that is foreseen, or that was opened if none is.
        streak: How many opens in a row were as foreseen.
        foreseen: The indices that will be opened next, in order.
    """

    __slots__ = ("_outer", "_start", "foreseen", "front", "step", "streak")

    def __init__(self, step: Prefix | None, start: Prefix, index: Prefix, outer: Prefix | None) -> None:
        self.step = step
        self.front = index
        self.streak = 1
        self.foreseen: deque[Prefix] = deque()
        self._start = start
        self._outer = outer

    @property
    def start(self) -> Prefix:
        """Where the present line began."""
        return self._start

    def next_indices(self, count: int, grid_shape: Prefix) -> list[Prefix]:
        """Returns the indices that follow the foreseen ones, for a walk with a step.

        At the end of a line it goes on at the beginning of the next, if it is known from the lines before where that
        is.
        """
        assert self.step is not None  # the order of the indices is the array's to tell
        found: list[Prefix] = []
        index = self.front
        while len(found) < count:
            index = _add(index, self.step)
            if not _is_inside(index, grid_shape):
                if self._outer is None:
                    break
                index = self._start = _add(self._start, self._outer)
                if not _is_inside(index, grid_shape):
                    break
            found.append(index)
        return found


class Walks:
    """The walks through one array.

    Belongs to the event loop's thread.
    """

    def __init__(self) -> None:
        self._recent: deque[Prefix] = deque(maxlen=_RECENT)
        self._foreseen: dict[Prefix, Walk] = {}
        self._walks: OrderedDict[int, Walk] = OrderedDict()
        # Skipped, and opened a little later, or what a walk that goes the same way has just opened.
        self._passed: OrderedDict[Prefix, None] = OrderedDict()
        self._lines: dict[Prefix, Prefix] = {}
        self.next_in_order: Prefix | None = None

    def __len__(self) -> int:
        return len(self._walks)

    def note(self, index: Prefix) -> Walk | None:
        """Records an open; returns the walk that it carries on or begins."""
        walk = self._foreseen.pop(index, None)
        if walk is not None:
            while walk.foreseen and (passed := walk.foreseen.popleft()) != index:
                self._foreseen.pop(passed, None)
                self._pass(passed)
            walk.streak += 1
            self._walks.move_to_end(id(walk))
            return walk
        if index in self._passed:
            return None
        walk = self._begin(index)
        self._recent.append(index)
        return walk

    def foresee(self, walk: Walk, indices: list[Prefix]) -> None:
        """Records the chunks that a walk is thought to open next, after those foreseen already."""
        for index in indices:
            if index not in self._foreseen:
                self._foreseen[index] = walk
                walk.foreseen.append(index)
            walk.front = index

    def _pass(self, index: Prefix) -> None:
        self._passed[index] = None
        if len(self._passed) > _MAX_PASSED:
            self._passed.popitem(last=False)

    def _begin(self, index: Prefix) -> Walk | None:
        if index == self.next_in_order:
            return self._add(Walk(None, index, index, None))
        for other in reversed(self._recent):
            step = _single_step(other, index)
            if step is None:
                continue
            # The lines of an array that is walked through line by line begin in a row themselves.
            before = self._lines.get(step)
            outer = None if before is None or before == other else _subtract(other, before)
            self._lines[step] = other
            return self._add(Walk(step, other, index, outer))
        return None

    def _add(self, walk: Walk) -> Walk:
        self._walks[id(walk)] = walk
        if len(self._walks) > _MAX_WALKS:
            _, ended = self._walks.popitem(last=False)
            for index in ended.foreseen:
                self._foreseen.pop(index, None)
        return walk


def _single_step(before: Prefix, after: Prefix) -> Prefix | None:
    """Returns the difference of two indices if it is a small step along one axis."""
    step = _subtract(after, before)
    moved = [length for length in step if length]
    return step if len(moved) == 1 and abs(moved[0]) <= _MAX_STEP else None


def _add(index: Prefix, step: Prefix) -> Prefix:
    return tuple(a + b for a, b in zip(index, step, strict=True))


def _subtract(index: Prefix, other: Prefix) -> Prefix:
    return tuple(a - b for a, b in zip(index, other, strict=True))


def _is_inside(index: Prefix, grid_shape: Prefix) -> bool:
    return all(0 <= at < size for at, size in zip(index, grid_shape, strict=True))

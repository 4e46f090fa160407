"""Which of an array's manifests answers for a chunk index: the geometry of their extents."""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import combinations
from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.errors import FormatError
from icefs.words import plural

type Box = tuple[tuple[int, int], ...]
"""One half-open range of chunk indices per dimension."""

# Up to this many boxes a loop in Python finds the one that holds an index faster than numpy does.
_FEW: Final = 6
# Extents must not overlap. Some overlaps are borne with; beyond so many, sorting them out costs a reader too much.
_MAX_OVERLAPS: Final = 1000
# A tenth of a second's work. Where sound splits would need more (some 50 000 manifests), overlaps are not looked for:
# the listing of a malformed array may then show a chunk that the lookup does not find.
_MAX_COMPARED: Final = 200_000_000


class Boxes:
    """The extents of an array's manifests, cut to its grid, in the snapshot's order: the first that fits counts.

    Immutable. Costs are those of one pass of numpy over the boxes for a lookup, and the number of boxes to the power
    of 3/2 or so, once, for finding overlaps.

    Attributes:
        grid_shape: How many chunks the array has along each dimension.
        boxes: The boxes.
    """

    def __init__(self, grid_shape: tuple[int, ...], extents: Sequence[Box], *, name: str) -> None:
        """Takes extents as they are in a snapshot.

        Args:
            grid_shape: The array's grid.
            extents: Those of each manifest.
            name: The array's path, for errors.

        Raises:
            FormatError: extents have another number of dimensions than the array.
        """
        self.grid_shape = grid_shape
        self.ndim = len(grid_shape)
        self._name = name
        for box in extents:
            if len(box) != self.ndim:
                raise self._error(
                    f"a manifest's extents have {plural(len(box), 'dimension')} where the array has {self.ndim}"
                )
        self.boxes: tuple[Box, ...] = tuple(
            tuple([(low, min(high, size)) for (low, high), size in zip(box, grid_shape, strict=True)])
            for box in extents
        )
        self._lows: npt.NDArray[np.int64] | None = None
        self._highs: npt.NDArray[np.int64] | None = None
        if len(self.boxes) > _FEW and self.ndim:
            bounds = np.array(self.boxes, np.int64)
            self._lows, self._highs = bounds[:, :, 0].copy(), bounds[:, :, 1].copy()

    def __len__(self) -> int:
        return len(self.boxes)

    def _error(self, reason: str) -> FormatError:
        return FormatError(f"array {self._name}: {reason}", file=self._name, reason=reason)

    def find(self, chunk_index: Sequence[int]) -> int | None:
        """Returns the number of the first box that holds an index of `ndim` positions, or None."""
        if self._lows is None or self._highs is None:
            for number, box in enumerate(self.boxes):
                for position, (low, high) in zip(chunk_index, box, strict=True):
                    if not low <= position < high:
                        break
                else:
                    return number
            return None
        # Positions that int64 does not hold are outside of every grid.
        if not self._in_grid(chunk_index):
            return None
        where = np.array(chunk_index, np.int64)
        inside = ((self._lows <= where) & (where < self._highs)).all(axis=1)
        number = int(inside.argmax())
        return number if inside[number] else None

    def find_many(self, coords: Sequence[npt.NDArray[np.uint32]]) -> npt.NDArray[np.int64]:
        """Returns the number of the first box that holds each of many indices, or -1.

        Args:
            coords: One column for each dimension, at least one; in any order.
        """
        found = np.full(len(coords[0]), -1, np.int64)
        order = np.argsort(coords[0], kind="stable")
        first = memoryview(coords[0][order])
        for number in self._near(coords):
            (low, high), *others = self.boxes[number]
            rows = order[bisect_left(first, low) : bisect_left(first, high)]
            rows = rows[found[rows] < 0]
            if len(rows):
                found[rows[inside([column[rows] for column in coords[1:]], tuple(others), len(rows))]] = number
        return found

    def _near(self, coords: Sequence[npt.NDArray[np.uint32]]) -> Iterable[int]:
        """Returns the numbers of the boxes that may hold some of the indices, in order."""
        if self._lows is None or self._highs is None or not len(coords[0]):
            return range(len(self.boxes))
        least, most = (np.array([limit(column) for column in coords], np.int64) for limit in (np.min, np.max))
        numbers: list[int] = np.flatnonzero(((self._lows <= most) & (least < self._highs)).all(axis=1)).tolist()
        return numbers

    def below(self, prefix: Sequence[int]) -> list[int]:
        """Returns the numbers of the boxes that may hold indices starting with `prefix`."""
        if len(prefix) > self.ndim or not self._in_grid(prefix):
            return []
        if self._lows is None or self._highs is None:
            return [
                number
                for number, box in enumerate(self.boxes)
                if all(low <= position < high for position, (low, high) in zip(prefix, box, strict=False))
            ]
        where = np.array(prefix, np.int64)
        lows, highs = self._lows[:, : len(prefix)], self._highs[:, : len(prefix)]
        numbers: list[int] = np.flatnonzero(((lows <= where) & (where < highs)).all(axis=1)).tolist()
        return numbers

    def _in_grid(self, positions: Sequence[int]) -> bool:
        return all(0 <= position < size for position, size in zip(positions, self.grid_shape, strict=False))

    @cached_property
    def overlaps(self) -> dict[int, tuple[Box, ...]]:
        """For each box that overlaps earlier ones, those that take precedence over it; a sound array has none.

        Raises:
            FormatError: there are too many.
        """
        found: dict[int, list[int]] = {}
        pairs = self._overlapping_pairs()
        if len(pairs) > _MAX_OVERLAPS:
            raise self._error("the extents of its manifests overlap")
        for one, other in pairs:
            found.setdefault(max(one, other), []).append(min(one, other))
        return {number: tuple(self.boxes[other] for other in sorted(earlier)) for number, earlier in found.items()}

    def _overlapping_pairs(self) -> list[tuple[int, int]]:
        """Returns the pairs of boxes that overlap, each once; at least one more than are allowed if there are."""
        if self._lows is None or self._highs is None:
            return [pair for pair in combinations(range(len(self)), 2) if _intersects(*(self.boxes[n] for n in pair))]
        # Sweep along the dimension in which the boxes differ most: a box can overlap those only that start, in
        # sorted order, after it does and before it ends.
        axis = int(np.argmax([len(np.unique(column)) for column in self._lows.T]))
        order = np.argsort(self._lows[:, axis], kind="stable")
        order = order[(self._lows < self._highs).all(axis=1)[order]]
        lows, highs = self._lows[order], self._highs[order]
        ends = np.searchsorted(lows[:, axis], highs[:, axis], side="left")
        counts = ends - np.arange(1, len(order) + 1)
        if int(counts.sum()) * self.ndim > _MAX_COMPARED:
            return []
        found: list[tuple[int, int]] = []
        for at in np.flatnonzero(counts).tolist():
            rows = slice(at + 1, int(ends[at]))
            meets = ((lows[rows] < highs[at]) & (lows[at] < highs[rows])).all(axis=1)
            found.extend((int(order[at]), other) for other in order[rows][meets].tolist())
            if len(found) > _MAX_OVERLAPS:
                break
        return found


def _intersects(one: Box, other: Box) -> bool:
    return all(max(low, low2) < min(high, high2) for (low, high), (low2, high2) in zip(one, other, strict=True))


def inside(coords: Sequence[npt.NDArray[np.uint32]], box: Box, rows: int) -> npt.NDArray[np.bool_]:
    """Tells for each of `rows` chunk indices whether a box holds it."""
    chosen = np.ones(rows, np.bool_)
    for column, (low, high) in zip(coords, box, strict=True):
        chosen &= (column >= low) & (column < high)
    return chosen

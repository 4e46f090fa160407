"""A small picture of an array's chunk grid: one cell for a chunk, or for a block of chunks of a larger grid.

The two axes with most chunks are drawn, the later one across; through the others one looks: a cell shows the newest of
all chunks behind it.
"""

import shutil
from collections.abc import Callable, Sequence

import click
import numpy as np
import numpy.typing as npt

NOTHING = int(np.iinfo(np.int64).max)
"""The rank of a cell without chunks."""

_MAX_ROWS = 20
_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red", "bright_cyan", "bright_green", "bright_yellow")
_MARKS = "123456789abcdefghijklmnopqrstuvwxyz"
_REST, _EMPTY = "+", "·"


def draw(
    columns: Sequence[npt.NDArray[np.uint32]],
    ranks: npt.NDArray[np.int64],
    grid: Sequence[int],
    *,
    width: int = 0,
    mark: Callable[[int], str] | None = None,
) -> list[str]:
    """Draws chunks with their ranks, of which 1 is drawn as 1 and wins over greater ones.

    Args:
        columns: The chunks' indices, one `uint32[n]` for each dimension.
        ranks: `int64[n]`, from 1 on.
        grid: How many chunks the array has along each dimension.
        width: How many characters a line has; 0 for the terminal's width.
        mark: Returns the character of a rank; by default `cell`.
    """
    width = width or shutil.get_terminal_size().columns - 4
    mark = mark or cell
    down, across = axes(grid)
    count = len(columns[0]) if columns else 1
    tall, wide = min(_MAX_ROWS, _size(grid, down)), min(width, _size(grid, across))
    cells = np.full((tall, wide), NOTHING, np.int64)
    row = _along(columns, down, count) * tall // _size(grid, down)
    column = _along(columns, across, count) * wide // _size(grid, across)
    np.minimum.at(cells, (row, column), ranks)
    return ["".join(mark(int(rank)) if rank != NOTHING else cell(NOTHING) for rank in line) for line in cells]


def axes(grid: Sequence[int]) -> tuple[int | None, int | None]:
    """Returns which axis is drawn downwards and which across: of all axes the two with most chunks, in their order."""
    if len(grid) < 2:
        return None, 0 if grid else None
    down, across = sorted(sorted(range(len(grid)), key=lambda axis: (grid[axis], axis))[-2:])
    return down, across


def _size(grid: Sequence[int], axis: int | None) -> int:
    return 1 if axis is None else max(1, grid[axis])


def _along(columns: Sequence[npt.NDArray[np.uint32]], axis: int | None, count: int) -> npt.NDArray[np.int64]:
    return np.zeros(count, np.int64) if axis is None else columns[axis].astype(np.int64)


def cell(rank: int) -> str:
    """Returns the character of a rank, coloured."""
    if rank == NOTHING:
        return click.style(_EMPTY, dim=True)
    if rank > len(_MARKS):
        return click.style(_REST, dim=True)
    return click.style(_MARKS[rank - 1], fg=_COLOURS[(rank - 1) % len(_COLOURS)])


def scale(grid: Sequence[int], *, width: int = 0) -> str:
    """Says what a cell stands for, where that is more than one chunk; else nothing."""
    width = width or shutil.get_terminal_size().columns - 4
    down, across = axes(grid)
    notes = []
    if down is not None and (down, across) != (len(grid) - 2, len(grid) - 1):
        notes.append(f"axis {down} is drawn downwards, axis {across} across")
    hidden = [size for axis, size in enumerate(grid) if axis not in (down, across) and size > 1]
    if hidden:
        notes.append(f"looking through {' x '.join(map(str, hidden))} planes")
    if _size(grid, down) > _MAX_ROWS or _size(grid, across) > width:
        notes.append("a cell is a block of chunks")
    return "; ".join(notes)

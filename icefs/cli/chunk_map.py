"""A small picture of an array's chunk grid: one cell for a chunk, or for a block of chunks of a larger grid.

The last two axes are drawn, the last one across; the axes before them are looked through: a cell shows the greatest
number behind it, so that what is newest is never hidden. Numbers are 0 for nothing, and up.
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
    rows_of, across_of = _axis(columns, grid, -2), _axis(columns, grid, -1)
    tall = min(_MAX_ROWS, max(1, grid[-2])) if len(grid) > 1 else 1
    wide = min(width, max(1, grid[-1])) if grid else 1
    cells = np.full((tall, wide), NOTHING, np.int64)
    row = rows_of * tall // max(1, grid[-2] if len(grid) > 1 else 1)
    column = across_of * wide // max(1, grid[-1] if grid else 1)
    np.minimum.at(cells, (row, column), ranks)
    return ["".join(mark(int(rank)) if rank != NOTHING else cell(NOTHING) for rank in line) for line in cells]


def _axis(columns: Sequence[npt.NDArray[np.uint32]], grid: Sequence[int], axis: int) -> npt.NDArray[np.int64]:
    count = len(columns[0]) if columns else 1
    return columns[axis].astype(np.int64) if len(grid) >= -axis else np.zeros(count, np.int64)


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
    notes = []
    if len(grid) > 2:
        notes.append(f"looking through {' x '.join(map(str, grid[:-2]))} planes")
    if (len(grid) > 1 and grid[-2] > _MAX_ROWS) or (grid and grid[-1] > width):
        notes.append("a cell is a block of chunks")
    return "; ".join(notes)

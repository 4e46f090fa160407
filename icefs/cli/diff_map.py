"""Where the chunks of arrays changed between two versions, drawn on their grids."""

from collections.abc import Iterator

import click
import numpy as np

from icefs.cli.chunk_map import draw, scale
from icefs.engine.chunks import ArrayChunks
from icefs.engine.diff import Diff
from icefs.engine.session import Session
from icefs.format.chunk_indices import ChunkIndices
from icefs.words import quoted

_NEW, _REWRITTEN, _DELETED = 1, 2, 3
_MARKS = {
    _NEW: click.style("+", fg="green"),
    _REWRITTEN: click.style("~", fg="yellow"),
    _DELETED: click.style("-", fg="red"),
}


def map_lines(old: Session, new: Session, changes: Diff) -> Iterator[str]:
    """Yields a picture for each array whose chunks changed: + new, ~ rewritten, - deleted."""
    for path, indices in changes.updated_chunks.items():
        node = new.get_node(path)
        if node is None or node.array is None or not len(indices):
            continue
        grid = [dimension.num_chunks for dimension in node.array.shape]
        if len(grid) != indices.ndim:
            continue
        is_inside = np.ones(len(indices), np.bool_)
        for column, size in zip(indices.coords, grid, strict=True):
            is_inside &= column < size
        inside = indices.select(is_inside)
        note = scale(grid)
        yield ""
        yield f"{quoted(path)}{f' ({note})' if note else ''}"
        for line in draw(inside.coords, _ranks(old, new, path, inside), grid, mark=_MARKS.__getitem__):
            yield f"  {line}"


def _ranks(old: Session, new: Session, path: str, indices: ChunkIndices) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    before, after = _chunks(old, path, indices.ndim), _chunks(new, path, indices.ndim)
    ranks = [
        _DELETED
        if after is None or after.find(index) is None
        else _NEW
        if before is None or before.find(index) is None
        else _REWRITTEN
        for index in indices
    ]
    return np.array(ranks, np.int64)


def _chunks(session: Session, path: str, ndim: int) -> ArrayChunks | None:
    node = session.get_node(path)
    if node is None or node.array is None or len(node.array.shape) != ndim:
        return None
    return session.array_chunks(node)

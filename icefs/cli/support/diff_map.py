"""Where the chunks of arrays changed between two versions, drawn on their grids."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from icefs.cli.support.chunk_map import draw, scale
from icefs.engine.history.diff import Diff
from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.read.session import Session
from icefs.errors import IcefsError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.zarr_json import parse_zarr_json
from icefs.paths import NodePath
from icefs.words import node_key, node_name, quoted

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
        yield from _picture(node_name(path), inside.coords, _ranks(old, new, path, inside), grid)


def staged_map_lines(tree: Path, facts: Mapping[str, Any]) -> Iterator[str]:
    """Yields a picture for each array with uncommitted chunks, from a working tree's `diff.json`."""
    for path, changes in facts["chunks"].items():
        rows = [*changes["written"], *changes["deleted"]]
        grid = _grid_of(tree / node_key(path) / "zarr.json")
        if grid is None:
            continue
        inside = [row for row in rows if _is_inside(row["index"], grid)]
        if not inside:
            continue
        columns = [np.array([row["index"][axis] for row in inside], np.uint32) for axis in range(len(grid))]
        ranks = [_DELETED if row["new_bytes"] is None else _rank(row["old_bytes"] is None) for row in inside]
        yield from _picture(node_name(path), columns, np.array(ranks, np.int64), grid)


def _is_inside(index: Sequence[int], grid: Sequence[int]) -> bool:
    return len(index) == len(grid) and all(at < size for at, size in zip(index, grid, strict=True))


def _rank(is_new: bool) -> int:
    return _NEW if is_new else _REWRITTEN


def _grid_of(document: Path) -> list[int] | None:
    """Returns the chunk grid of an array as its file says now; None where the file does not say it."""
    try:
        return list(parse_zarr_json(document.read_bytes(), name=document.name).grid_shape)
    except (OSError, IcefsError):
        return None


def _picture(
    path: str, columns: Sequence[npt.NDArray[np.uint32]], ranks: npt.NDArray[np.int64], grid: Sequence[int]
) -> Iterator[str]:
    note = scale(grid)
    yield ""
    yield f"{quoted(path)}{f' ({note})' if note else ''}"
    for line in draw(columns, ranks, grid, mark=_MARKS.__getitem__):
        yield f"  {line}"


def _ranks(
    old: Session, new: Session, path: NodePath, indices: ChunkIndices
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
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


def _chunks(session: Session, path: NodePath, ndim: int) -> ArrayChunks | None:
    node = session.get_node(path)
    if node is None or node.array is None or len(node.array.shape) != ndim:
        return None
    return session.array_chunks(node)

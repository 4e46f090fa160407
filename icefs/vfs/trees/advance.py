"""What changes when a branch's tip moves: a plan, worked out in a thread from the sessions before and after."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.engine.history.changes import Changes, compare
from icefs.engine.read.chunks import ALL_ROWS, ArrayChunks
from icefs.engine.read.session import Session
from icefs.errors import FormatError, InvalidInputError, StorageError
from icefs.format.chunk_indices import pack_keys
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import Invalidations
from icefs.paths import NodePath
from icefs.vfs.chunks.array_view import key_layout
from icefs.zarr.keys import ChunkKeyLayout

type U32 = npt.NDArray[np.uint32]
type Columns = tuple[U32, ...]

MANY: Final = 100_000
"""Beyond this many changed chunks of an array the array's directory is invalidated instead of each of them."""


@dataclass(slots=True)
class ArrayAdvance:
    """What an advance of the tip means to one array's keys.

    Attributes:
        before: The array before the advance; None if it is new.
        after: The array after the advance; None if it is gone.
        layout: How the keys were written before, or None if that is unknown.
        changed: The chunks that changed, one column per dimension; None if any may have.
        top_names: The names in the array's directory that may lead elsewhere, where no more is known.
        gone_dirs: The directories above chunks that are gone, by the count of their coordinates, as columns.
        among_nodes: Where nodes lie below the array: the chunks whose names may be in directories of those nodes.
        cut_names: The names in the array's directory below which chunks may lie that the grid no longer reaches.
    """

    before: NodeSnapshot | None
    after: NodeSnapshot | None
    layout: ChunkKeyLayout | None
    changed: Columns | None = None
    top_names: list[bytes] = field(default_factory=list)
    gone_dirs: dict[int, Columns] = field(default_factory=dict)
    among_nodes: list[Columns] = field(default_factory=list)
    cut_names: list[bytes] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Advance:
    """What changes when a branch tree goes from one session to another.

    Attributes:
        session: The new one.
        changes: How the keys differ.
        arrays: The arrays whose chunks are concerned, by path.
    """

    session: Session
    changes: Changes
    arrays: Mapping[str, ArrayAdvance]


class Advanced(NamedTuple):
    """What an advance did.

    Attributes:
        changed: The names that lead elsewhere now, and the directories with new attributes.
        keeps_renamed: Whether everything that the commit renamed has the number that it had.
    """

    changed: Invalidations
    keeps_renamed: bool = True


def plan_advance(old: Session, new: Session) -> Advance:
    """Works out what changes; in a worker thread. Nodes and manifests that cannot be read concern their array only."""
    changes = compare(old, new)
    arrays: dict[str, ArrayAdvance] = {}
    for path in changes.new | changes.deleted | changes.updated | changes.chunks.keys():
        before, after = _array(old, path), _array(new, path)
        if before is None:
            if after is not None:
                arrays[path] = ArrayAdvance(None, after, None)
        elif after is None or _layout(before) != _layout(after):
            arrays[path] = _whole(old, before, after)
        elif path in changes.chunks:
            indices = changes.chunks[path]
            arrays[path] = (
                _whole(old, before, after) if indices is None else _detailed(old, new, before, after, indices.coords)
            )
        elif _is_cut(before, after):
            nothing = tuple(np.empty(0, np.uint32) for _ in chunk_counts(before))
            arrays[path] = _detailed(old, new, before, after, nothing)
    return Advance(new, changes, arrays)


def _array(session: Session, path: str) -> NodeSnapshot | None:
    """Returns the array at a path; None where there is none, or none that can be read."""
    with suppress(FormatError):
        node = session.get_node(NodePath(path))
        return node if node is not None and node.array is not None else None
    return None


def chunk_counts(node: NodeSnapshot) -> list[int]:
    """Returns how many chunks an array has room for in each dimension."""
    return [] if node.array is None else [dimension.num_chunks for dimension in node.array.shape]


def _is_cut(before: NodeSnapshot, after: NodeSnapshot) -> bool:
    """Tells whether chunks that were within the grid may be outside of it now; no transaction log tells of them."""
    return any(now < then for then, now in zip(chunk_counts(before), chunk_counts(after), strict=False))


def _layout(node: NodeSnapshot) -> ChunkKeyLayout | None:
    with suppress(InvalidInputError):
        return key_layout(node)
    return None


def _whole(old: Session, before: NodeSnapshot, after: NodeSnapshot | None) -> ArrayAdvance:
    """Plans for an array of which nothing need be the same."""
    advance = ArrayAdvance(before, after, _layout(before))
    layout = advance.layout
    if layout is None:
        return advance
    if old.has_children(before.path):
        with suppress(FormatError, StorageError):
            advance.among_nodes = [batch.coords for batch in old.array_chunks(before).iter_batches(ALL_ROWS)]
    if len(layout.widths) > 1 and layout.widths[0] == 0:
        advance.top_names = [b"c"]
        return advance
    # The kernel never learnt names that are unknown because a manifest cannot be read.
    with suppress(FormatError, StorageError):
        chunks = old.array_chunks(before)
        if len(layout.widths) > 1:
            advance.top_names = layout.format_names(0, [chunks.children(())])
        else:
            advance.top_names = [
                name for batch in chunks.iter_batches(ALL_ROWS) for name in layout.format_names(0, batch.coords)
            ]
    return advance


def _detailed(old: Session, new: Session, before: NodeSnapshot, after: NodeSnapshot, coords: Columns) -> ArrayAdvance:
    """Plans for an array some of whose chunks changed."""
    advance = ArrayAdvance(before, after, _layout(before))
    then, now = old.array_chunks(before), new.array_chunks(after)
    # A transaction log may name chunks outside of both grids, which nobody ever saw.
    inside = _inside(coords, then.grid_shape) | _inside(coords, now.grid_shape)
    advance.changed = tuple(column[inside] for column in coords)
    if old.has_children(before.path):
        advance.among_nodes = [advance.changed]
    if advance.layout is not None:
        if len(coords) and len(advance.changed[0]) > MANY:
            advance.top_names = _whole(old, before, after).top_names
        elif len(advance.layout.widths) > 1:
            try:
                advance.gone_dirs = _gone_dirs(now, advance.changed)
            except (FormatError, StorageError):  # whatever may be gone, the array's directory is looked at again
                advance.top_names = _whole(old, before, after).top_names
    if _is_cut(before, after):
        whole = _whole(old, before, after)
        advance.cut_names, advance.among_nodes = whole.top_names, whole.among_nodes
    return advance


def _inside(coords: Columns, grid_shape: Sequence[int]) -> npt.NDArray[np.bool_]:
    inside = np.ones(len(coords[0]) if coords else 1, np.bool_)
    for column, size in zip(coords, grid_shape, strict=True):
        inside &= column < size
    return inside


def _gone_dirs(chunks: ArrayChunks, changed: Columns) -> dict[int, Columns]:
    """Returns the prefixes of changed chunks below which there is nothing any more."""
    gone: dict[int, Columns] = {}
    for depth in range(len(changed)):
        prefixes = distinct(changed[:depth])
        rows = zip(*(column.tolist() for column in prefixes), strict=True) if depth else [()]
        missing = np.array([not chunks.has_prefix(row) for row in rows], np.bool_)
        if missing.any():
            gone[depth] = tuple(column[missing] for column in prefixes)
    return gone


def distinct(columns: Columns) -> Columns:
    """Returns each row of columns once, sorted."""
    if not columns:
        return ()
    _, first = np.unique(pack_keys(columns)[0], return_index=True)
    return tuple(column[first] for column in columns)


def has_dir(session: Session, path: str) -> bool:
    """Tells whether a path is a directory of nodes; a node that cannot be read is there all the same."""
    if path == "/" or session.has_children(NodePath(path)):
        return True
    try:
        return session.get_node(NodePath(path)) is not None
    except FormatError:
        return True

"""Moving the chunks of an array to other places of its grid, by their references: no chunk is read or written.

Both operations read the references of one moment, work out what becomes of them, and change the session at once or,
where anything is wrong, not at all. A move sets the chunk at its new place and deletes nothing; the chunk at
the old place is deleted where it is known that nothing takes its place.

Source: upstream icechunk/src/session.rs (`reindex_array`, `shift_array`); format notes §2.
"""

from collections.abc import Callable, Iterable, Sequence
from operator import index as to_integer
from typing import Final, NamedTuple

import numpy as np

from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.write.changeset import ChunkChanges, difference
from icefs.engine.write.edited_chunks import EditedChunks
from icefs.engine.write.session import WritableSession
from icefs.errors import InvalidInputError, UnsupportedError
from icefs.format.chunk_indices import MAX_COORDINATE, ChunkIndices
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.zarr_json import parse_zarr_json
from icefs.paths import NodePath
from icefs.words import plural

type IndexMap = Callable[[list[int]], Iterable[int] | None]
"""Maps a chunk index to another one, or to None."""

# Beyond this every grid ends, and int64 holds the sum of it and any position.
_FARTHEST: Final = MAX_COORDINATE + 1


class _Chunks(NamedTuple):
    """The chunks of an array, all of one moment."""

    node: NodeSnapshot
    grid_shape: tuple[int, ...]
    refs: ArrayRefs


def shift_array(session: WritableSession, path: NodePath, offset: Sequence[int]) -> None:
    """Moves all chunks of an array by as many chunks along each axis.

    Chunks that would leave the grid are gone, and the places that nothing moves to become empty.

    Args:
        session: The session.
        path: The array's.
        offset: How far, in chunks, along each axis.

    Raises:
        NodeNotFoundError, InvalidInputError: no array is at the path, or `offset` has not its number of dimensions
            (Divergence 67).
        UnsupportedError: its chunks are not all of one shape (Divergence 74).
        ReadOnlyError, SessionStateError: the session does not write.
        FormatError, StorageError: the chunks that there are cannot be read.
    """
    with session.draft.frozen():
        chunks = _chunks(session, path)
        if len(offset) != len(chunks.grid_shape):
            raise InvalidInputError(
                f"the offset {list(offset)} has {plural(len(offset), 'dimension')}, "
                f"and {path} has {len(chunks.grid_shape)}",
                kind="invalid-chunk-index",
                path=path,
            )
        _apply(session, chunks, *_shifted(chunks, offset))


def _shifted(chunks: _Chunks, offset: Sequence[int]) -> tuple[ArrayRefs, ChunkIndices]:
    """Returns the references as they are after a shift, and the places that they leave empty."""
    refs = chunks.refs
    if not refs.ndim:
        return refs, ChunkIndices([], 0)
    stays = np.ones(len(refs), np.bool_)
    steps = [max(-_FARTHEST, min(_FARTHEST, step)) for step in offset]
    for column, size, step in zip(refs.coords, chunks.grid_shape, steps, strict=True):
        stays &= (column >= max(0, -step)) & (column < max(0, min(size, size - step)))
    rows = np.flatnonzero(stays)
    moved = [column[rows].astype(np.int64) + step for column, step in zip(refs.coords, steps, strict=True)]
    sets = refs.relocate(rows, moved)
    return sets, difference(refs.indices, sets.indices)


def reindex_array(
    session: WritableSession, path: NodePath, forward: IndexMap, backward: IndexMap | None = None
) -> None:
    """Moves each chunk of an array to where a function says.

    Only chunks that exist are asked about. A chunk for which `forward` returns None stays where it is; one that moves
    stays there too, unless `backward` says that it should go. Where several move to one place, the one with the
    greatest index stays.

    Args:
        session: The session.
        path: The array's.
        forward: Says where a chunk moves to.
        backward: Says where from a place gets its chunk. A place that nothing moves to becomes empty if this returns
            None, or a place without a chunk.

    Raises:
        NodeNotFoundError, UnsupportedError, ReadOnlyError, SessionStateError, FormatError, StorageError: as
            `shift_array`.
        InvalidInputError: no array is at the path, or a function returned what is no chunk index of the array
            (Divergence 68). Errors that the functions raise come out as they are.
    """
    with session.draft.frozen():
        chunks = _chunks(session, path)
        refs = chunks.refs
        rows: list[int] = []
        targets: list[tuple[int, ...]] = []
        for row, position in enumerate(refs.indices):
            target = _mapped(forward, position, chunks)
            if target is None:
                continue
            if any(place >= size for place, size in zip(target, chunks.grid_shape, strict=True)):
                raise _no_index(target, chunks, "outside of the grid")
            rows.append(row)
            targets.append(target)
        if refs.ndim:
            coords = [np.array(column, np.int64) for column in zip(*targets, strict=True)]
            sets = refs.relocate(np.array(rows, np.int64), coords or [np.empty(0, np.int64)] * refs.ndim)
        else:
            sets = refs if rows else ArrayRefs.empty(refs.node_id, 0)
        _apply(session, chunks, sets, _vacated(chunks, sets, backward))


def _vacated(chunks: _Chunks, sets: ArrayRefs, backward: IndexMap | None) -> ChunkIndices:
    """Returns the places of chunks that nothing takes, by what `backward` says."""
    refs = chunks.refs
    if backward is None:
        return ChunkIndices([np.empty(0, np.uint32)] * refs.ndim, 0)
    gone: list[tuple[int, ...]] = []
    for position in refs.indices:
        if sets.find(position) < 0:
            source = _mapped(backward, position, chunks)
            if source is None or refs.find(source) < 0:
                gone.append(position)
    return ChunkIndices.from_indices(refs.ndim, gone)


def _mapped(function: IndexMap, position: tuple[int, ...], chunks: _Chunks) -> tuple[int, ...] | None:
    """Asks a function about a chunk.

    Raises:
        InvalidInputError: it returned what is no chunk index.
    """
    found = function(list(position))
    if found is None:
        return None
    try:
        target = tuple(map(to_integer, found))
    except TypeError:
        raise _no_index(found, chunks, "no sequence of integers") from None
    if len(target) != len(position) or not all(0 <= place <= MAX_COORDINATE for place in target):
        raise _no_index(target, chunks, f"not {len(position)} positions in a grid")
    return target


def _no_index(found: object, chunks: _Chunks, reason: str) -> InvalidInputError:
    return InvalidInputError(
        f"{found!r}, which the function returned for a chunk of {chunks.node.path}, is {reason}",
        kind="invalid-chunk-index",
        hint=f"return an index within {list(chunks.grid_shape)}, or None",
        path=chunks.node.path,
    )


def _chunks(session: WritableSession, path: NodePath) -> _Chunks:
    """Returns the chunks of an array that can be moved."""
    with session.draft.lock:
        session.draft.check_edits()
        node = session.node(path)
        chunks = session.array_chunks(node)
    grid = parse_zarr_json(node.user_data, name=f"{path}/zarr.json").chunk_grid
    if grid != "regular":
        raise UnsupportedError(
            f"the chunks of {path} cannot be moved: its chunk grid is {grid}, so that they differ in shape",
            path=path,
        )
    if isinstance(chunks, ArrayChunks):
        chunks = EditedChunks(chunks, ChunkChanges(node.id, chunks.ndim))
    return _Chunks(node, chunks.grid_shape, chunks.merged())


def _apply(session: WritableSession, chunks: _Chunks, sets: ArrayRefs, deletes: ChunkIndices) -> None:
    if not len(sets) and not len(deletes):
        return
    with session.draft.lock:
        changes = session.draft.changes.chunk_changes(chunks.node)
        session.draft.revision += 1
        if len(deletes):
            changes.delete_many(deletes)
        if len(sets):
            changes.set_many(sets)

"""The chunk references of arrays, picked and compared as columns; no chunk is read."""

from icefs.engine.history.changes import compare_refs
from icefs.engine.read.chunks import ALL_ROWS
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChunkChanges, difference
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot


def all_refs(session: Session, node: NodeSnapshot) -> ArrayRefs:
    """Returns all references of an array that its grid shows.

    Raises:
        FormatError, StorageError: a manifest cannot be read.
    """
    chunks = session.array_chunks(node)
    parts = [batch.refs for batch in chunks.iter_batches(ALL_ROWS)]
    return ArrayRefs.concat(parts) if parts else ArrayRefs.empty(node.id, chunks.ndim)


def picked(refs: ArrayRefs, indices: ChunkIndices) -> ArrayRefs:
    """Returns those references that stand at some indices."""
    if not len(refs) or not len(indices):
        return ArrayRefs.empty(refs.node_id, refs.ndim)
    if not refs.ndim:
        return refs
    rows = refs.indices.find_many(indices.coords)
    return refs.select(rows[rows >= 0])


def equal_chunks(one: ArrayRefs, other: ArrayRefs, indices: ChunkIndices) -> ChunkIndices:
    """Returns at which of some indices both have the same reference, or none."""
    mine, theirs = picked(one, indices), picked(other, indices)
    if not indices.ndim:
        same = [refs.ref(0) if len(refs) else None for refs in (mine, theirs)]
        return indices if same[0] == same[1] else ChunkIndices([], 0)
    return difference(indices, compare_refs(mine, theirs))


def chunk_changes(node_id: NodeId, ndim: int, refs: ArrayRefs, touched: ChunkIndices) -> ChunkChanges:
    """Makes the changes that leave, at the touched indices, what `refs` has there."""
    changes = ChunkChanges(node_id, ndim)
    sets = picked(refs, touched)
    if len(sets):
        changes.set_many(sets)
    gone = difference(touched, sets.indices)
    if len(gone):
        changes.delete_many(gone)
    return changes


def without(changes: ChunkChanges, indices: ChunkIndices) -> ChunkChanges:
    """Returns changes that leave some chunks alone; given-up ones leave no trace."""
    kept = difference(changes.touched(), indices)
    sets = changes.sets()
    return chunk_changes(changes.node_id, changes.ndim, sets, kept)

"""Whose change counts where two sides of a merge conflict."""

from typing import Final

from icefs.engine.merge.references import without
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.conflicts import Conflict, ConflictType, VersionSelection
from icefs.format.ids import NodeId
from icefs.paths import NodePath, node_and_ancestors

_DELETES: Final = (ConflictType.DeleteOfUpdatedArray, ConflictType.DeleteOfUpdatedGroup)
_SIMPLE: Final = frozenset(
    {
        ConflictType.ChunkDoubleUpdate,
        ConflictType.ZarrMetadataDoubleUpdate,
        *_DELETES,
    }
)
_FOR_TARGET: Final = _SIMPLE | {
    ConflictType.ZarrMetadataUpdateOfDeletedArray,
    ConflictType.ZarrMetadataUpdateOfDeletedGroup,
    ConflictType.ChunksUpdatedInDeletedArray,
    ConflictType.ChunksUpdatedInUpdatedArray,
    ConflictType.NewNodeConflictsWithExistingNode,
}


def settle(conflict: Conflict, side: VersionSelection, patch: ChangeSet, target: Session) -> bool:
    """Settles one conflict by a side, in the patch; False where that side cannot.

    The target's side can whatever leaves its nodes and chunks as they are. The incoming side can where its own change
    is whole: it cannot bring back the rest of an array that the target deleted, nor take the place of another node.
    """
    if side is VersionSelection.UseTheirs:
        return conflict.conflict_type in _SIMPLE
    if side is not VersionSelection.UseOurs or conflict.conflict_type not in _FOR_TARGET:
        return False
    _leave_alone(conflict, patch, target)
    return True


def _leave_alone(conflict: Conflict, patch: ChangeSet, target: Session) -> None:
    """Takes out of the patch what conflicts."""
    node_id, path, kind = conflict.node_id, conflict.path, conflict.conflict_type
    if conflict.chunks is not None and node_id is not None:
        _keep(patch, node_id, conflict)
        return
    if kind is ConflictType.ZarrMetadataDoubleUpdate and node_id is not None:
        patch.updated.pop(node_id, None)
        there, changes = target.snapshot.node_by_id(node_id), patch.chunks.get(node_id)
        if changes is not None and (there is None or there.array is None or len(there.array.shape) != changes.ndim):
            del patch.chunks[node_id]
        return
    if kind in (ConflictType.NewNodeConflictsWithExistingNode, *_DELETES):
        _drop_new(path, patch, target)
        for above in node_and_ancestors(path):
            # With the node its groups stay.
            patch.deleted.pop(above, None)
        return
    if node_id is not None:
        if kind is not ConflictType.ChunksUpdatedInUpdatedArray:
            patch.updated.pop(node_id, None)
        patch.chunks.pop(node_id, None)


def _keep(patch: ChangeSet, node_id: NodeId, conflict: Conflict) -> None:
    changes = patch.chunks.get(node_id)
    if changes is None or conflict.chunks is None:
        return
    kept = without(changes, conflict.chunks)
    if kept:
        patch.chunks[node_id] = kept
    else:
        del patch.chunks[node_id]


def _drop_new(path: NodePath, patch: ChangeSet, target: Session) -> None:
    """Takes a node out of the patch where the target keeps its own; what lies below an array goes as well."""
    there, below = target.get_node(path), path.removesuffix("/") + "/"
    is_array = there is not None and there.array is not None
    for made, node in list(patch.new.items()):
        if made == path or (is_array and made.startswith(below)):
            del patch.new[made]
            patch.chunks.pop(node.id, None)

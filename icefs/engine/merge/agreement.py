"""Whether two merges of the same versions, from different bases, come to the same."""

from collections.abc import Iterable, Mapping

from icefs.engine.merge.combine import Combined
from icefs.engine.merge.references import equal_chunks
from icefs.engine.write.changeset import ChangeSet, ChunkChanges
from icefs.engine.write.conflicts import Conflict
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot


def agree(one: Combined, other: Combined) -> bool:
    """Tells whether the changes to the target are the same, and the conflicts, whether a side settled them or not."""
    if _names(one.conflicts) != _names(other.conflicts) or _names(one.settled) != _names(other.settled):
        return False
    return _same_nodes(one.changes, other.changes) and _same_chunks(one.changes.chunks, other.changes.chunks)


def _names(conflicts: list[Conflict]) -> set[tuple[object, ...]]:
    return {
        (one.conflict_type, one.path, None if one.chunks is None else frozenset(map(tuple, one.chunks)))
        for one in conflicts
    }


def _same_nodes(one: ChangeSet, other: ChangeSet) -> bool:
    return (
        _facts(one.new.values()) == _facts(other.new.values())
        and _facts(one.updated.values()) == _facts(other.updated.values())
        and _facts(one.deleted.values()) == _facts(other.deleted.values())
        and {move.node.id: move.to_path for move in one.moves.values()}
        == {move.node.id: move.to_path for move in other.moves.values()}
    )


def _facts(nodes: Iterable[NodeSnapshot]) -> set[tuple[object, ...]]:
    """Returns what makes nodes the same; the manifests, which say where they begin, are not asked for."""
    return {(node.path, node.id, node.user_data) for node in nodes}


def _same_chunks(one: Mapping[NodeId, ChunkChanges], other: Mapping[NodeId, ChunkChanges]) -> bool:
    mine = {node_id: changes for node_id, changes in one.items() if changes}
    theirs = {node_id: changes for node_id, changes in other.items() if changes}
    return mine.keys() == theirs.keys() and all(_same(mine[node_id], theirs[node_id]) for node_id in mine)


def _same(one: ChunkChanges, other: ChunkChanges) -> bool:
    if one.ndim != other.ndim:
        return False
    touched = one.touched()
    if len(touched) != len(other.touched()) or len(touched.union(other.touched())) != len(touched):
        return False
    return len(equal_chunks(one.sets(), other.sets(), touched)) == len(touched)

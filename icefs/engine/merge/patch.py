"""What changed from one snapshot to another, as changes that can be put on top of a third one.

The chunks are those of the manifests that differ. Their references are taken over; no chunk is read or copied.
Nodes keep their ids, so that later merges recognise them.
"""

import json

from icefs.engine.history.compared_log import compared_log
from icefs.engine.merge.references import all_refs, chunk_changes
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet, NodeMove, with_manifests_of
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot


def patch_between(old: Session, new: Session) -> ChangeSet:
    """Returns the changes that make one snapshot of another.

    Where nodes moved, and something else changed, the set holds both; no session can commit that.

    Raises:
        SessionStateError: it is unknown which chunks differ, because manifests are gone (kind
            `rebase-tx-log-pruned`).
        FormatError, StorageError: a manifest cannot be read.
    """
    log = compared_log(old, new)
    changes = ChangeSet(is_rearrange=bool(log.moved_nodes))
    for node_id in (*log.new_groups, *log.new_arrays):
        node = _node(new, node_id)
        changes.put_node(with_manifests_of(node, None), None)
        _take_all(changes, new, node)
    for node_id in (*log.updated_groups, *log.updated_arrays):
        node, before = _node(new, node_id), _node(old, node_id)
        changes.put_node(with_manifests_of(node, before), before)
        if rank(node) != rank(before):
            _take_all(changes, new, node)
    for node_id in (*log.deleted_groups, *log.deleted_arrays):
        node = _node(old, node_id)
        changes.delete_node(node, node)
    for node_id, touched in log.updated_chunks.items():
        node = _node(new, node_id)
        assert node.array is not None
        refs, inside = all_refs(new, node), touched
        for axis, dimension in enumerate(node.array.shape):
            # A chunk that the grid has lost needs no deletion.
            inside = inside.select(inside.coords[axis] < dimension.num_chunks)
        made = chunk_changes(node_id, refs.ndim, refs, inside)
        if made:
            changes.chunks[node_id] = made
    changes.move_nodes([NodeMove(_node(old, move.node_id), move.to_path) for move in log.moved_nodes])
    return changes


def rank(node: NodeSnapshot) -> int | None:
    """Returns how many dimensions an array has; None for a group."""
    return None if node.array is None else len(node.array.shape)


def layout(node: NodeSnapshot) -> object:
    """Returns what an array's chunks need of its metadata; the bytes where they are no JSON object."""
    try:
        document = json.loads(node.user_data, parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        return node.user_data
    if not isinstance(document, dict):
        return node.user_data
    return {name: value for name, value in document.items() if name not in ("attributes", "dimension_names")}


def _node(session: Session, node_id: NodeId) -> NodeSnapshot:
    node = session.snapshot.node_by_id(node_id)
    assert node is not None  # the log was made of the snapshot
    return node


def _take_all(changes: ChangeSet, session: Session, node: NodeSnapshot) -> None:
    if node.array is None:
        return
    refs = all_refs(session, node)
    if len(refs):
        changes.chunk_changes(node).set_many(refs)

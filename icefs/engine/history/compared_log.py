"""The transaction log that one commit from a snapshot to another would have written.

For what no transaction logs lead between: a branch that was reset, a history that expired, and versions that came
together by a merge. It says at least all that differs.
"""

from types import MappingProxyType

from icefs.engine.history.changes import compare
from icefs.engine.history.diff import Diff, build_diff
from icefs.engine.read.session import Session
from icefs.errors import FormatError, IcefsError, SessionStateError, StorageError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType
from icefs.format.transaction_log import Move, TransactionLog


def compared_log(old: Session, new: Session) -> TransactionLog:
    """Compares two snapshots of a repository, node by node and chunk by chunk.

    Raises:
        SessionStateError: a manifest cannot be read, so that nobody knows which chunks differ (kind
            `rebase-tx-log-pruned`).
    """
    before = {node.id: node for node in old.snapshot.nodes()}
    after = {node.id: node for node in new.snapshot.nodes()}
    updated = [
        node for node_id, node in after.items() if node_id in before and node.user_data != before[node_id].user_data
    ]
    moves = [
        Move(before[node_id].path, node.path, node_id, node.node_type)
        for node_id, node in after.items()
        if node_id in before and node.path != before[node_id].path
    ]
    chunks: dict[NodeId, ChunkIndices] = {}
    for path, indices in compare(old, new).chunks.items():
        one, other = old.get_node(path), new.get_node(path)
        if one is None or other is None or one.id != other.id or one.array is None or other.array is None:
            continue  # another node, which counts as deleted and new
        if len(one.array.shape) != len(other.array.shape):
            continue  # its metadata were updated, which is a conflict with any change of chunks
        if indices is None:
            cause = _unreadable(old, one) or _unreadable(new, other)
            raise SessionStateError(
                f"nobody can tell which chunks of {path} differ between the snapshots {old.snapshot_id} and "
                f"{new.snapshot_id}: {'transaction logs are gone' if cause is None else cause.own_message}",
                kind="rebase-tx-log-pruned",
                hint="restore the object from a copy, or make the changes again in a new session",
            ) from cause
        chunks[other.id] = indices
    new_nodes = [node for node_id, node in after.items() if node_id not in before]
    deleted = [node for node_id, node in before.items() if node_id not in after]
    return TransactionLog(
        id=new.snapshot_id,
        new_groups=_ids(new_nodes, NodeType.GROUP),
        new_arrays=_ids(new_nodes, NodeType.ARRAY),
        deleted_groups=_ids(deleted, NodeType.GROUP),
        deleted_arrays=_ids(deleted, NodeType.ARRAY),
        updated_groups=_ids(updated, NodeType.GROUP),
        updated_arrays=_ids(updated, NodeType.ARRAY),
        updated_chunks=MappingProxyType(dict(sorted(chunks.items()))),
        moved_nodes=tuple(sorted(moves, key=lambda move: move.to_path.split("/"))),
    )


def compared_diff(old: Session, new: Session) -> Diff:
    """Returns what differs between any two snapshots, by path; raises as `compared_log`."""
    return build_diff([compared_log(old, new)], old.snapshot, new.snapshot)


def _unreadable(session: Session, node: NodeSnapshot) -> IcefsError | None:
    """Returns why an array's manifests cannot be read; None where they can."""
    try:
        for _ in session.array_chunks(node).iter_batches():
            pass
    except (FormatError, StorageError) as error:
        return error
    return None


def _ids(nodes: list[NodeSnapshot], node_type: NodeType) -> tuple[NodeId, ...]:
    return tuple(sorted(node.id for node in nodes if node.node_type == node_type))

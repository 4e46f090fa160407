"""What changed from one snapshot to a descendant, as the transaction logs between them say.

These are the official library's semantics: the union of the logs of all snapshots after `from` up to `to`, each
preceded by the logs of the ancestors that expiration pruned from under it; node ids turned into paths by the two
end snapshots. A node that is in neither of them (made and deleted in between) is left out, and so is what a log of
an expired ancestor said that an old garbage collection deleted.

`changes` compares snapshots instead; that is what caches need.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from icefs.engine.history.ancestry import ancestry
from icefs.engine.read.assets import AssetManager
from icefs.engine.read.context import ReadContext
from icefs.errors import InvalidInputError, ObjectNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import INITIAL_SNAPSHOT_ID, NodeId, SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.snapshot.reader import Snapshot
from icefs.format.transaction_log import Move, TransactionLog
from icefs.paths import NodePath

_log = logging.getLogger(__name__)
_NOTHING: Final[frozenset[NodePath]] = frozenset()


@dataclass(frozen=True, slots=True)
class Diff:
    """What changed, by path.

    Attributes:
        new_groups: Groups that were made.
        new_arrays: Arrays that were made.
        deleted_groups: Groups that were deleted.
        deleted_arrays: Arrays that were deleted.
        updated_groups: Groups whose zarr.json was written.
        updated_arrays: Arrays whose zarr.json was written.
        updated_chunks: Chunks that were set or deleted, by the array's path.
        moved_nodes: Nodes that were moved, the newest snapshot's first.
    """

    new_groups: frozenset[NodePath] = _NOTHING
    new_arrays: frozenset[NodePath] = _NOTHING
    deleted_groups: frozenset[NodePath] = _NOTHING
    deleted_arrays: frozenset[NodePath] = _NOTHING
    updated_groups: frozenset[NodePath] = _NOTHING
    updated_arrays: frozenset[NodePath] = _NOTHING
    updated_chunks: Mapping[NodePath, ChunkIndices] = field(default_factory=lambda: MappingProxyType({}))
    moved_nodes: tuple[Move, ...] = ()

    @classmethod
    def empty(cls) -> "Diff":
        """Returns the diff of nothing."""
        return cls()

    def is_empty(self) -> bool:
        """Tells whether nothing changed."""
        return self == Diff()


def chain_between(history: Iterable[SnapshotInfo], from_id: SnapshotId) -> list[SnapshotInfo] | None:
    """Returns the snapshots of a history that come after `from_id`, newest first; None if it is not among them."""
    chain: list[SnapshotInfo] = []
    for info in history:
        if info.id == from_id:
            return chain
        chain.append(info)
    return None


def bad_chain(from_id: SnapshotId, to_id: SnapshotId, common: SnapshotId | None = None) -> InvalidInputError:
    """Makes the error for a diff whose `from` is not an ancestor of its `to`.

    Args:
        from_id: The one snapshot.
        to_id: The other one.
        common: The newest snapshot that both descend from or are, where that is known.
    """
    hint = "a diff goes from an older snapshot to a later one of the same history"
    if common is not None and from_id != to_id:
        hint += (
            f"; {to_id} is the older of these two"
            if common == to_id
            else f"; both descend from {common}, from which a diff to either can be made"
        )
    return InvalidInputError(
        f"snapshot {from_id} is not an ancestor of {to_id}", kind="bad-snapshot-chain-for-diff", hint=hint
    )


def fetch_logs(assets: AssetManager, chain: Sequence[SnapshotInfo]) -> tuple[list[TransactionLog], bool]:
    """Fetches the transaction logs that a chain of snapshots stands for, side by side.

    Args:
        assets: Where to fetch from.
        chain: Snapshots, newest first.

    Returns:
        The logs, newest snapshot first and each one's pruned ancestors before its own; and whether none is missing.

    Raises:
        ObjectNotFoundError: a log is missing that no garbage collection deletes.
    """
    wanted: list[tuple[SnapshotId, bool]] = []
    for info in chain:
        wanted.extend((pruned, True) for pruned in info.pruned_ancestor_tx_logs)
        wanted.append((info.id, info.id == INITIAL_SNAPSHOT_ID))  # in spec 1 the first snapshot has no log

    def fetch(item: tuple[SnapshotId, bool]) -> TransactionLog | None:
        snapshot_id, may_be_missing = item
        try:
            return assets.fetch_transaction_log(snapshot_id)
        except ObjectNotFoundError:
            if not may_be_missing:
                raise
            if snapshot_id != INITIAL_SNAPSHOT_ID:
                _log.warning("the transaction log of expired snapshot %s is gone: its changes are unknown", snapshot_id)
            return None

    logs = assets.workers.map(fetch, wanted)
    missing = [item for item, log in zip(wanted, logs, strict=True) if log is None and item[0] != INITIAL_SNAPSHOT_ID]
    return [log for log in logs if log is not None], not missing


def diff_snapshots(context: ReadContext, from_id: SnapshotId, to_id: SnapshotId) -> Diff:
    """Returns what changed after one snapshot up to a later one of the same history.

    Raises:
        SnapshotNotFoundError: one of them does not exist.
        InvalidInputError: the first is not a proper ancestor of the second (kind `bad-snapshot-chain-for-diff`).
    """
    chain = chain_between(ancestry(context, to_id), from_id)
    if not chain:
        older = {info.id for info in ancestry(context, from_id)}
        both = (info.id for info in ancestry(context, to_id) if info.id in older)
        raise bad_chain(from_id, to_id, next(both, None))
    logs, _ = fetch_logs(context.assets, chain)
    return build_diff(logs, context.assets.fetch_snapshot(from_id), context.assets.fetch_snapshot(to_id))


def updated_chunks(logs: Iterable[TransactionLog]) -> dict[NodeId, ChunkIndices]:
    """Joins the chunk changes of logs, the newest first.

    Where the number of an array's dimensions changed in between, the newest log's counts: indices of another shape
    are no chunks of the array any more.
    """
    parts: dict[NodeId, list[ChunkIndices]] = {}
    for log in logs:
        for node_id, indices in log.updated_chunks.items():
            sets = parts.setdefault(node_id, [])
            if not len(indices) or not sets or not len(sets[0]) or indices.ndim == sets[0].ndim:
                sets.append(indices)
    return {node_id: sets[0].union(*sets[1:]) for node_id, sets in parts.items()}


def build_diff(logs: Sequence[TransactionLog], old: Snapshot, new: Snapshot) -> Diff:
    """Joins transaction logs, the newest first, and names their nodes by the two end snapshots."""
    paths: dict[NodeId, NodePath] = {}
    for snapshot in (old, new):  # where a node was moved, its new path counts
        for node in snapshot.nodes():
            paths[node.id] = node.path
    return build_named_diff(logs, paths, ranks(new.nodes()))


def ranks(nodes: Iterable[NodeSnapshot]) -> dict[NodePath, int]:
    """Returns how many dimensions arrays have, by path."""
    return {node.path: len(node.array.shape) for node in nodes if node.array is not None}


def build_named_diff(
    logs: Sequence[TransactionLog], paths: Mapping[NodeId, NodePath], ranks_after: Mapping[NodePath, int]
) -> Diff:
    """Joins transaction logs, the newest first.

    Args:
        logs: The logs.
        paths: The paths of their nodes; other nodes are left out. Several nodes may have had one path.
        ranks_after: How many dimensions the arrays have that there are after the changes, by path: indices of another
            shape are no chunks of them.
    """

    def named(ids: Iterable[NodeId]) -> frozenset[NodePath]:
        return frozenset(paths[node_id] for node_id in ids if node_id in paths)

    def joined(name: str) -> frozenset[NodePath]:
        return named({node_id for log in logs for node_id in getattr(log, name)})

    chunks: dict[NodePath, ChunkIndices] = {}
    for node_id, indices in updated_chunks(logs).items():
        path = paths.get(node_id)
        if path is None or (len(indices) and indices.ndim != ranks_after.get(path, indices.ndim)):
            continue
        known = chunks.get(path)
        # Of two arrays that are both gone, the newer one counts.
        chunks[path] = indices if known is None else known.union(indices) if known.ndim == indices.ndim else known
    return Diff(
        new_groups=joined("new_groups"),
        new_arrays=joined("new_arrays"),
        deleted_groups=joined("deleted_groups"),
        deleted_arrays=joined("deleted_arrays"),
        updated_groups=joined("updated_groups"),
        updated_arrays=joined("updated_arrays"),
        updated_chunks=MappingProxyType(dict(sorted(chunks.items()))),
        moved_nodes=tuple(move for log in logs for move in log.moved_nodes),
    )

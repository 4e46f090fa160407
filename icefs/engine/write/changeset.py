"""What a writable session has changed and not yet committed.

A change set says what to do to the base snapshot, not what the result is: after a rebase the same changes stand on
another base. Chunk changes are kept as columns, with the latest few in a dictionary in front of them, so that a
million of them take what their references take.

Source: spec 2.1 "Transaction log"; format notes §7.10.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

import numpy as np

from icefs.format.chunk_indices import ChunkIndices, pack_keys
from icefs.format.ids import ChunkId, NodeId, SnapshotId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType
from icefs.format.snapshot.reader import Snapshot
from icefs.format.transaction_log import Move, TransactionLog
from icefs.paths import NodePath

# Changes wait in a dictionary until they are this many (or a quarter of the columns), then become columns at once.
_CONSOLIDATE_AT: Final = 65_536


class Change(Enum):
    """What a change set says of a chunk, where it gives no reference."""

    UNCHANGED = "unchanged"
    DELETED = "deleted"


class ChunkChanges:
    """The chunks of one array that a session has set or deleted; the last change of a chunk counts.

    Concurrency: safe for use from several threads; `_lock` is held for the moment of each call, and longest (some
    tenths of a second) where the latest changes join the columns.

    INVARIANT: an index in `_recent` overrides `_sets` and `_deletes`; one in `_sets` overrides `_deletes`.

    Attributes:
        node_id: The array.
        ndim: How many dimensions its chunk indices have.
        revision: Counts the changes.
        is_given_up: Whether changes were dropped. If all were, a commit goes through all the same, without them.
    """

    def __init__(self, node_id: NodeId, ndim: int) -> None:
        self.node_id = node_id
        self.ndim = ndim
        self.revision = 0
        self.is_given_up = False
        self._lock = threading.RLock()
        self._recent: dict[tuple[int, ...], ChunkRef | None] = {}
        self._sets = ArrayRefs.empty(node_id, ndim)
        self._deletes = ChunkIndices([np.zeros(0, np.uint32)] * ndim, 0)

    def __bool__(self) -> bool:
        return bool(self._recent or len(self._sets) or len(self._deletes))

    def set(self, chunk_index: Sequence[int], ref: ChunkRef | None) -> None:
        """Sets a chunk's reference, or with None deletes the chunk."""
        with self._lock:
            self.revision += 1
            self._recent[tuple(chunk_index)] = ref
            if len(self._recent) >= max(_CONSOLIDATE_AT, len(self._sets) // 4):
                self._consolidate()

    def set_many(self, refs: ArrayRefs) -> None:
        """Sets many references at once."""
        with self._lock:
            self.revision += 1
            self._consolidate()
            self._sets = ArrayRefs.merge(self._sets, replace(refs, node_id=self.node_id))

    def delete_many(self, indices: ChunkIndices) -> None:
        """Deletes many chunks at once."""
        with self._lock:
            self.revision += 1
            self._consolidate()
            self._sets = ArrayRefs.merge(self._sets, ArrayRefs.empty(self.node_id, self.ndim), indices)
            self._deletes = self._deletes.union(indices)

    def rename_chunks(self, copies: Mapping[bytes, bytes]) -> None:
        """Refers to copies of chunk objects, by the ids of the objects and of their copies."""
        with self._lock:
            self._consolidate()
            refs = self._sets
            rows = np.flatnonzero(refs.kinds == ChunkKind.NATIVE)
            if not len(rows):
                return
            self.revision += 1
            chunk_ids = refs.chunk_ids.copy()
            named = [copies.get(each.tobytes(), each.tobytes()) for each in chunk_ids[rows]]
            chunk_ids[rows] = np.frombuffer(b"".join(named), np.uint8).reshape(len(rows), ChunkId.SIZE)
            self._sets = replace(refs, chunk_ids=chunk_ids)

    def drop(self, indices: ChunkIndices) -> None:
        """Forgets the changes of some chunks, as if they had not been made."""
        with self._lock:
            self.revision += 1
            self.is_given_up = True
            self._consolidate()
            self._sets = ArrayRefs.merge(self._sets, ArrayRefs.empty(self.node_id, self.ndim), indices)
            self._deletes = difference(self._deletes, indices)

    def find(self, chunk_index: Sequence[int]) -> ChunkRef | Change:
        """Returns the reference that a chunk was given, or that it was deleted or left unchanged."""
        index = tuple(chunk_index)
        with self._lock:
            recent = self._recent.get(index, Change.UNCHANGED)
            sets, deletes = self._sets, self._deletes
        if recent is not Change.UNCHANGED:
            return Change.DELETED if recent is None else recent
        row = sets.find(index)
        if row >= 0:
            return sets.ref(row)
        return Change.DELETED if deletes.find(index) >= 0 else Change.UNCHANGED

    def state(self) -> tuple[int, ArrayRefs, ChunkIndices]:
        """Returns the revision, the references that were set, and the chunks that were deleted, all of one moment."""
        with self._lock:
            return self.revision, self.sets(), self.deletes()

    def sets(self) -> ArrayRefs:
        """Returns the references that were set."""
        with self._lock:
            self._consolidate()
            return self._sets

    def deletes(self) -> ChunkIndices:
        """Returns the chunks that were deleted and not set again."""
        with self._lock:
            self._consolidate()
            return difference(self._deletes, self._sets.indices)

    def touched(self) -> ChunkIndices:
        """Returns all chunks that were set or deleted."""
        with self._lock:
            self._consolidate()
            return self._sets.indices.union(self._deletes)

    def copy(self) -> "ChunkChanges":
        """Returns changes of their own; the columns, which never change, are shared."""
        twin = ChunkChanges(self.node_id, self.ndim)
        with self._lock:
            # So that the two share everything: what is recent would have to be copied.
            self._consolidate()
            twin.is_given_up = self.is_given_up
            twin._sets, twin._deletes = self._sets, self._deletes
        return twin

    def followed_by(self, later: "ChunkChanges") -> "ChunkChanges":
        """Returns changes of their own: these, and then others of the same array."""
        twin = self.copy()
        _, sets, deletes = later.state()
        twin._sets = ArrayRefs.merge(twin._sets, sets, deletes)
        twin._deletes = twin._deletes.union(deletes)
        twin.is_given_up |= later.is_given_up
        return twin

    def __getstate__(self) -> tuple[Any, ...]:
        """Returns what is pickled: the columns."""
        _, sets, deletes = self.state()
        return self.node_id, self.ndim, self.is_given_up, sets, deletes

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        node_id, ndim, is_given_up, sets, deletes = state
        ChunkChanges.__init__(self, node_id, ndim)
        self.is_given_up, self._sets, self._deletes = is_given_up, sets, deletes

    def _consolidate(self) -> None:
        """Turns the latest changes into columns; the lock is held."""
        if not self._recent:
            return
        recent, self._recent = self._recent, {}
        sets = [(index, ref) for index, ref in recent.items() if ref is not None]
        deletes = ChunkIndices.from_indices(self.ndim, [index for index, ref in recent.items() if ref is None])
        self._sets = ArrayRefs.merge(self._sets, ArrayRefs.from_refs(self.node_id, self.ndim, sets), deletes)
        self._deletes = self._deletes.union(deletes)


def difference(indices: ChunkIndices, without: ChunkIndices) -> ChunkIndices:
    """Returns the chunk indices that are in the first set alone."""
    if not len(indices) or not len(without):
        return indices
    if not indices.ndim:
        return ChunkIndices([], 0)
    mine, theirs = pack_keys(indices.coords, without.coords)
    return indices.select(~np.isin(mine, theirs, assume_unique=True))


def intersection(indices: ChunkIndices, other: ChunkIndices) -> ChunkIndices:
    """Returns the chunk indices that are in both sets; none where their numbers of dimensions differ."""
    if not len(indices) or not len(other) or indices.ndim != other.ndim:
        return ChunkIndices([np.zeros(0, np.uint32)] * indices.ndim, 0)
    if not indices.ndim:
        return indices
    mine, theirs = pack_keys(indices.coords, other.coords)
    return indices.select(np.isin(mine, theirs, assume_unique=True))


def with_manifests_of(node: NodeSnapshot, base: NodeSnapshot | None) -> NodeSnapshot:
    """Returns an array with the manifests that it has in a snapshot.

    None are left where it has another number of dimensions there: no chunk of that one is a chunk of this.
    """
    if node.array is None:
        return node
    there = None if base is None else base.array
    manifests = there.manifests if there is not None and len(there.shape) == len(node.array.shape) else ()
    return replace(node, array=replace(node.array, manifests=manifests))


@dataclass(frozen=True, slots=True)
class NodeMove:
    """A node of the base that stands elsewhere now."""

    node: NodeSnapshot
    to_path: NodePath


class ChangeSet:
    """The changes of one session, of nodes and of chunks.

    Concurrency: the session's gate guards it, but for what `chunks` holds, which guards itself.

    INVARIANT: there are either moves or other changes.

    Attributes:
        is_rearrange: Whether the session moves nodes; it can do nothing else then.
        new: Nodes that were made, by path.
        updated: Nodes of the base with another zarr.json, by id.
        deleted: Nodes of the base that are gone, by path.
        chunks: Chunk changes, by the array's id.
        moves: Nodes of the base that were moved, by id.
    """

    def __init__(self, *, is_rearrange: bool = False) -> None:
        self.is_rearrange = is_rearrange
        self.new: dict[NodePath, NodeSnapshot] = {}
        self.updated: dict[NodeId, NodeSnapshot] = {}
        self.deleted: dict[NodePath, NodeSnapshot] = {}
        self.chunks: dict[NodeId, ChunkChanges] = {}
        self.moves: dict[NodeId, NodeMove] = {}
        self._moved_to: dict[str, NodeId] = {}

    def is_empty(self) -> bool:
        """Tells whether there is nothing to commit."""
        return not (self.new or self.updated or self.deleted or self.moves or self._changed_arrays())

    def _changed_arrays(self) -> dict[NodeId, ChunkChanges]:
        return {key: changes for key, changes in sorted(self.chunks.items()) if changes or changes.is_given_up}

    def copy(self) -> "ChangeSet":
        """Returns a change set of its own with the same changes."""
        twin = ChangeSet(is_rearrange=self.is_rearrange)
        twin.new, twin.updated, twin.deleted = dict(self.new), dict(self.updated), dict(self.deleted)
        twin.moves, twin._moved_to = dict(self.moves), dict(self._moved_to)
        twin.chunks = {node_id: changes.copy() for node_id, changes in self.chunks.items()}
        return twin

    def rename_chunks(self, copies: Mapping[bytes, bytes]) -> None:
        """Refers to copies of chunk objects, by the ids of the objects and of their copies."""
        for changes in self.chunks.values():
            changes.rename_chunks(copies)

    def chunk_changes(self, node: NodeSnapshot) -> ChunkChanges:
        """Returns the chunk changes of an array, made if there are none yet."""
        assert node.array is not None
        changes = self.chunks.get(node.id)
        if changes is None or (changes.ndim != len(node.array.shape) and not changes):
            changes = self.chunks[node.id] = ChunkChanges(node.id, len(node.array.shape))
        return changes

    def put_node(self, node: NodeSnapshot, base: NodeSnapshot | None) -> None:
        """Records that a node was made or its zarr.json rewritten.

        Args:
            node: The node as it is to be.
            base: The base's node of the same id, or None where the node is new.
        """
        if base is None:
            self.new[node.path] = node
        else:
            self.updated[node.id] = node
        if node.id in self.chunks and node.array is not None:
            kept = self.chunks[node.id]
            if kept.ndim != len(node.array.shape):
                # Indices of another rank are no chunks of the array any more.
                del self.chunks[node.id]

    def delete_node(self, node: NodeSnapshot, base: NodeSnapshot | None) -> None:
        """Records that a node is gone; one made in this session leaves no trace."""
        self.chunks.pop(node.id, None)
        self.updated.pop(node.id, None)
        if self.new.get(node.path) is not None and self.new[node.path].id == node.id:
            del self.new[node.path]
        elif base is not None:
            self.deleted[node.path] = base

    def move_nodes(self, moves: Sequence[NodeMove]) -> None:
        """Records where nodes of the base stand now; one that is back where it was has not moved."""
        for move in moves:
            earlier = self.moves.pop(move.node.id, None)
            if earlier is not None:
                del self._moved_to[earlier.to_path]
        for move in moves:
            if move.node.path != move.to_path:
                self.moves[move.node.id] = move
                self._moved_to[move.to_path] = move.node.id

    def rebased(self, base: Snapshot) -> "ChangeSet":
        """Returns the same changes for another base, whose nodes have other manifests, and may have other metadata."""
        twin = self.copy()
        for node_id, node in self.updated.items():
            twin.updated[node_id] = with_manifests_of(node, base.node_by_id(node_id))
        for node_id, move in self.moves.items():
            twin.moves[node_id] = NodeMove(base.node_by_id(node_id) or move.node, move.to_path)
        return twin

    def current(self, base: NodeSnapshot | None, path: NodePath) -> NodeSnapshot | None:
        """Returns the node at a path, given the base's node there."""
        if self.moves:
            here = self._moved_to.get(path)
            if here is not None:
                return replace(self.moves[here].node, path=path)
            return None if base is None or base.id in self.moves else base
        new = self.new.get(path)
        if new is not None:
            return new
        if base is None:
            return None
        gone = self.deleted.get(path)
        if gone is not None and gone.id == base.id:
            return None
        return self.updated.get(base.id, base)

    def nodes(self, base: Iterator[NodeSnapshot]) -> Iterator[NodeSnapshot]:
        """Yields all nodes that result from applying the changes to the base's nodes, in no promised order."""
        for node in base:
            move = self.moves.get(node.id)
            if move is not None:
                yield replace(node, path=move.to_path)
                continue
            gone = self.deleted.get(node.path)
            if (gone is None or gone.id != node.id) and node.path not in self.new:
                yield self.updated.get(node.id, node)
        yield from self.new.values()

    def transaction_log(self, snapshot_id: SnapshotId) -> TransactionLog:
        """Returns the log that a commit of these changes as `snapshot_id` writes."""

        def ids(nodes: Iterator[NodeSnapshot], node_type: NodeType) -> tuple[NodeId, ...]:
            return tuple(sorted(node.id for node in nodes if node.node_type == node_type))

        moves = [
            Move(move.node.path, move.to_path, node_id, move.node.node_type) for node_id, move in self.moves.items()
        ]
        moves.sort(key=lambda move: move.to_path.split("/"))
        touched = {node_id: changes.touched() for node_id, changes in self._changed_arrays().items()}
        return TransactionLog(
            id=snapshot_id,
            new_groups=ids(iter(self.new.values()), NodeType.GROUP),
            new_arrays=ids(iter(self.new.values()), NodeType.ARRAY),
            deleted_groups=ids(iter(self.deleted.values()), NodeType.GROUP),
            deleted_arrays=ids(iter(self.deleted.values()), NodeType.ARRAY),
            updated_arrays=ids(iter(self.updated.values()), NodeType.ARRAY),
            updated_groups=ids(iter(self.updated.values()), NodeType.GROUP),
            updated_chunks=touched,
            moved_nodes=tuple(moves),
        )

"""Conflicts between a session's changes and a commit that came in between, and the solvers that settle them.

The kinds of conflict, their order and what is *not* a conflict are the official library's (format notes §5). One is
known to be missed there and so here: a group may be deleted while somebody makes a node below it.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import islice
from typing import Final, Protocol

from icefs.arguments import check_instance
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet, intersection
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType
from icefs.format.transaction_log import TransactionLog
from icefs.paths import NodePath, node_and_ancestors, parent_node
from icefs.words import plural, some

_MAX_LISTED: Final = 5
_NO_NODE: Final = NodePath("")
_CAPITAL: Final = re.compile("[A-Z]")


class ConflictType(Enum):
    """What kind of conflict it is; the official library's names and numbers."""

    NewNodeConflictsWithExistingNode = 1
    NewNodeInInvalidGroup = 2
    ZarrMetadataDoubleUpdate = 3
    ZarrMetadataUpdateOfDeletedArray = 4
    ZarrMetadataUpdateOfDeletedGroup = 5
    ChunkDoubleUpdate = 6
    ChunksUpdatedInDeletedArray = 7
    ChunksUpdatedInUpdatedArray = 8
    DeleteOfUpdatedArray = 9
    DeleteOfUpdatedGroup = 10
    MoveOperationCannotBeRebased = 11

    def __int__(self) -> int:
        return int(self.value)

    def __str__(self) -> str:
        words = _CAPITAL.sub(lambda found: f" {found[0].lower()}", self.name).strip()
        return words[0].upper() + words[1:]

    def __repr__(self) -> str:
        return self.name


class VersionSelection(Enum):
    """Whose chunk counts where both sides wrote it."""

    Fail = 0
    UseOurs = 1
    UseTheirs = 2

    def __int__(self) -> int:
        return int(self.value)


@dataclass(frozen=True, slots=True)
class Conflict:
    """One conflict.

    Attributes:
        conflict_type: What kind it is.
        path: The node's; empty for a move, which names none.
        chunks: The chunks that both sides wrote, for a double update.
        node_id: The node's id, where the kind has one.
    """

    conflict_type: ConflictType
    path: NodePath = _NO_NODE
    chunks: ChunkIndices | None = None
    node_id: NodeId | None = None

    @property
    def conflicted_chunks(self) -> list[list[int]] | None:
        """The chunks that both sides wrote, as lists."""
        return None if self.chunks is None else [list(index) for index in self.chunks]

    def __str__(self) -> str:
        text = f"{self.conflict_type.name} at {self.path}" if self.path else self.conflict_type.name
        return text if self.chunks is None else f"{text} ({plural(len(self.chunks), 'chunk')})"


class ConflictSolver(Protocol):
    """Decides what becomes of a session's changes that conflict with a commit."""

    def solve(
        self, theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session
    ) -> tuple[ChangeSet, list[Conflict]]:
        """Replays changes over one transaction log.

        Args:
            theirs: What the commit changed.
            their_session: The repository as of that commit.
            ours: Our changes; not modified.
            our_base: The repository as of the base of our changes.

        Returns:
            The changes that hold on top of that commit, and the conflicts that forbid it; if there are any, the
            changes are ours as they were.
        """


@dataclass(frozen=True, slots=True)
class ConflictDetector:
    """Fails on any conflict."""

    def solve(
        self, theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session
    ) -> tuple[ChangeSet, list[Conflict]]:
        """Returns our changes as they are, and all conflicts."""
        return ours, list(detect(theirs, their_session, ours, our_base))


@dataclass(frozen=True, slots=True)
class BasicConflictSolver:
    """Settles chunks that both sides wrote, and deletes of what they updated; fails on everything else.

    Attributes:
        on_chunk_conflict: Whose chunk counts.
        fail_on_delete_of_updated_array: Do not delete an array that they updated.
        fail_on_delete_of_updated_group: Do not delete a group that they updated.
    """

    on_chunk_conflict: VersionSelection = VersionSelection.UseOurs
    fail_on_delete_of_updated_array: bool = False
    fail_on_delete_of_updated_group: bool = False

    def __post_init__(self) -> None:
        check_instance(self.on_chunk_conflict, VersionSelection)

    def solve(
        self, theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session
    ) -> tuple[ChangeSet, list[Conflict]]:
        """Returns the settled changes and no conflicts, or our changes as they were and all conflicts."""
        conflicts = list(detect(theirs, their_session, ours, our_base))
        if not all(self._is_solvable(conflict.conflict_type) for conflict in conflicts):
            return ours, conflicts
        solved = ours
        if self.on_chunk_conflict is VersionSelection.UseTheirs:
            double = [conflict for conflict in conflicts if conflict.chunks is not None]
            if double:
                solved = ours.copy()
            for conflict in double:
                assert conflict.node_id is not None
                assert conflict.chunks is not None
                solved.chunks[conflict.node_id].drop(conflict.chunks)
        return solved, []

    def _is_solvable(self, kind: ConflictType) -> bool:
        if kind is ConflictType.ChunkDoubleUpdate:
            return self.on_chunk_conflict is not VersionSelection.Fail
        if kind is ConflictType.DeleteOfUpdatedArray:
            return not self.fail_on_delete_of_updated_array
        return kind is ConflictType.DeleteOfUpdatedGroup and not self.fail_on_delete_of_updated_group


def detect(theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session) -> Iterator[Conflict]:
    """Yields the conflicts between our changes and one transaction log."""
    if theirs.moved_nodes:
        yield Conflict(ConflictType.MoveOperationCannotBeRebased)
        return
    if ours.moves:
        yield from _moves(their_session, ours, our_base)
        return
    yield from _new_nodes(their_session, ours)
    yield from _updated_nodes(theirs, ours)
    yield from _changed_chunks(theirs, ours, our_base)
    yield from _deleted_nodes(theirs, their_session, ours)


def _moves(their_session: Session, ours: ChangeSet, our_base: Session) -> Iterator[Conflict]:
    """Yields our moves that do not fit what is there now.

    Divergence 61: the official library looks at none of this, and may write a snapshot that has a path twice, or a
    node whose parent is gone.
    """
    there = their_session.snapshot
    after = {node.path: node for node in there.nodes() if node.id not in ours.moves}
    targets = {move.to_path for move in ours.moves.values()}
    sources = {move.node.path for move in ours.moves.values()}
    for move in sorted(ours.moves.values(), key=lambda move: move.to_path):
        now = there.node_by_id(move.node.id)
        parent_path = parent_node(move.to_path)
        parent = after.get(parent_path)
        is_kept = now is not None and now.path == move.node.path
        if not is_kept or move.to_path in after or (parent_path not in targets and (not parent or parent.array)):
            yield Conflict(ConflictType.MoveOperationCannotBeRebased, move.node.path, node_id=move.node.id)
    for path, node in sorted(after.items()):
        if our_base.snapshot.node_by_id(node.id) is None and not sources.isdisjoint(_above(path)):
            # Made below what we moved away: it would stay behind, without a parent.
            yield Conflict(ConflictType.MoveOperationCannotBeRebased, path, node_id=node.id)


def _new_nodes(their_session: Session, ours: ChangeSet) -> Iterator[Conflict]:
    for path in sorted(ours.new):
        there, replaced = their_session.get_node(path), ours.deleted.get(path)
        # A node that we deleted and made again replaces the old one; what they changed in that conflicts further
        # down. Divergence 60: the node that they made in its place is not ours to replace.
        if there is not None and (replaced is None or replaced.id != there.id):
            yield Conflict(ConflictType.NewNodeConflictsWithExistingNode, path)
    for path in sorted(ours.new):
        for ancestor in _above(path):
            node = their_session.get_node(ancestor)
            if node is not None and node.array is not None:
                yield Conflict(ConflictType.NewNodeInInvalidGroup, ancestor)
                break


def _updated_nodes(theirs: TransactionLog, ours: ChangeSet) -> Iterator[Conflict]:
    arrays = [node for node in _by_path(ours.updated.values()) if node.node_type == NodeType.ARRAY]
    groups = [node for node in _by_path(ours.updated.values()) if node.node_type == NodeType.GROUP]
    rows = (
        (arrays, theirs.updated_arrays, ConflictType.ZarrMetadataDoubleUpdate),
        (groups, theirs.updated_groups, ConflictType.ZarrMetadataDoubleUpdate),
        (arrays, theirs.deleted_arrays, ConflictType.ZarrMetadataUpdateOfDeletedArray),
        (groups, theirs.deleted_groups, ConflictType.ZarrMetadataUpdateOfDeletedGroup),
    )
    for nodes, their_ids, kind in rows:
        changed = frozenset(their_ids)
        for node in nodes:
            if node.id in changed:
                yield Conflict(kind, node.path, node_id=node.id)


def _changed_chunks(theirs: TransactionLog, ours: ChangeSet, our_base: Session) -> Iterator[Conflict]:
    changed = {node_id: changes for node_id, changes in sorted(ours.chunks.items()) if changes}
    rows = (
        (theirs.deleted_arrays, ConflictType.ChunksUpdatedInDeletedArray),
        (theirs.updated_arrays, ConflictType.ChunksUpdatedInUpdatedArray),
    )
    for their_ids, kind in rows:
        their_set = frozenset(their_ids)
        for node_id in changed:
            if node_id in their_set:
                yield Conflict(kind, _path_of(node_id, ours, our_base), node_id=node_id)
    for node_id, changes in changed.items():
        their_chunks = theirs.updated_chunks.get(node_id)
        if their_chunks is not None:
            both = intersection(changes.touched(), their_chunks)
            if len(both):
                yield Conflict(ConflictType.ChunkDoubleUpdate, _path_of(node_id, ours, our_base), both, node_id)


def _deleted_nodes(theirs: TransactionLog, their_session: Session, ours: ChangeSet) -> Iterator[Conflict]:
    updated_arrays = frozenset(theirs.updated_arrays) | frozenset(theirs.updated_chunks)
    updated_groups = frozenset(theirs.updated_groups)
    rows = (
        (NodeType.ARRAY, updated_arrays, ConflictType.DeleteOfUpdatedArray),
        (NodeType.GROUP, updated_groups, ConflictType.DeleteOfUpdatedGroup),
    )
    for node_type, their_ids, kind in rows:
        for node in _by_path(ours.deleted.values()):
            if node.node_type != node_type:
                continue
            # By path: a node that they made in its place counts as the node that we delete.
            there = their_session.get_node(node.path)
            if there is not None and there.id in their_ids:
                yield Conflict(kind, node.path, node_id=there.id)


def listed(conflicts: Sequence[Conflict]) -> str:
    """Names the first few conflicts, for an error."""
    more = f" and {len(conflicts) - _MAX_LISTED} more" if len(conflicts) > _MAX_LISTED else ""
    return "; ".join(str(conflict) for conflict in conflicts[:_MAX_LISTED]) + more


_DELETES: Final = frozenset({ConflictType.DeleteOfUpdatedArray, ConflictType.DeleteOfUpdatedGroup})


def way_out(conflicts: Sequence[Conflict]) -> str:
    """Says what the program that holds the session can do about conflicts."""
    kinds = {conflict.conflict_type for conflict in conflicts}
    if not kinds <= _DELETES | {ConflictType.ChunkDoubleUpdate}:
        paths = dict.fromkeys(
            conflict.path
            for conflict in conflicts
            if conflict.conflict_type not in _DELETES | {ConflictType.ChunkDoubleUpdate}
        )
        about = "" if _NO_NODE in paths else f" over {some(list(paths), _MAX_LISTED)}"
        return f"no solver settles the conflict{about}: open a new session on the branch, and make the changes again"
    ways = []
    if ConflictType.ChunkDoubleUpdate in kinds:
        ways.append("on_chunk_conflict=VersionSelection.UseOurs or UseTheirs")
    if ConflictType.DeleteOfUpdatedArray in kinds:
        ways.append("fail_on_delete_of_updated_array=False to delete their array all the same")
    if ConflictType.DeleteOfUpdatedGroup in kinds:
        ways.append("fail_on_delete_of_updated_group=False to delete their group all the same")
    return f"choose a side: rebase with BasicConflictSolver and {', '.join(ways)}; or make the changes in a new session"


def _by_path(nodes: Iterable[NodeSnapshot]) -> list[NodeSnapshot]:
    return sorted(nodes, key=lambda node: node.path)


def _path_of(node_id: NodeId, ours: ChangeSet, our_base: Session) -> NodePath:
    updated = ours.updated.get(node_id) or our_base.snapshot.node_by_id(node_id)
    if updated is not None:
        return updated.path
    return next((node.path for node in ours.new.values() if node.id == node_id), _NO_NODE)


def _above(path: NodePath) -> Iterator[NodePath]:
    """Returns the paths above a path, the nearest first, up to the root."""
    return islice(node_and_ancestors(path), 1, None)

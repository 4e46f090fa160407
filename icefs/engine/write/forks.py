"""Sessions that write for another one, elsewhere, and taking over what they changed.

A fork is a writable session on no branch: it starts from what its origin shows, can be sent to another process, and is
never committed itself. The origin takes its changes over, and commits them. Where the origin has changes at the
moment of the fork, they are written as a snapshot that nothing refers to; garbage collection removes it, once it is
old enough, with the forks that have not come back by then.

Changes are merged by what they are to: nodes by path and id, chunks by index. Two sides that made or rewrote one node
differently, or of which one deleted what the other changed, cannot be merged. A chunk that both wrote is as the later
one wrote it, with a warning in the log; one that both *appended*, beyond the grid that the array had when they were
forked, is refused (Divergence 77).

A fork knows the repository as it was when it was made. Where the session has another base by then, because it was
rebased or is another one, the commits in between are compared with the fork's changes as in a rebase, and a conflict
refuses the merge (Divergence 76): else the fork would undo what they did.

Source: format notes §2; upstream icechunk/src/change_set.rs (`merge`), session.rs (`fork`, `merge`).
"""

import logging
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, NamedTuple

from icefs.engine.read.context import ReadContext
from icefs.engine.read.session import Session, session_at
from icefs.engine.write.changeset import ChangeSet, ChunkChanges, intersection, with_manifests_of
from icefs.engine.write.chunk_guard import CollectionRanError
from icefs.engine.write.conflicts import detect, listed
from icefs.engine.write.rebase import logs_between
from icefs.engine.write.session import WritableSession
from icefs.engine.write.snapshot_writer import write_snapshot
from icefs.errors import ConflictError, ReadOnlyError, SessionStateError
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType
from icefs.format.snapshot.reader import Snapshot

_log = logging.getLogger(__name__)
_HINT: Final = "create, delete and resize nodes before forking, or each in one session only"
_APPEND_HINT: Final = "let one session append, or enlarge the array before forking and give each session its own chunks"


def fork(session: Session) -> WritableSession:
    """Starts a session that writes for another one.

    Raises:
        SessionStateError: the session is read-only (`cannot-fork-read-only-session`).
        ConflictError: a garbage collection took the first of the session's changes before the last was written.
        StorageError: the session's changes cannot be written.
    """
    if not isinstance(session, WritableSession) or session.read_only:
        raise SessionStateError(
            "a read-only session cannot be forked",
            kind="cannot-fork-read-only-session",
            hint="send the session itself: those that only read can be pickled",
        )
    draft = session.draft
    with draft.frozen():
        with draft.lock:
            snapshot, changes, origin_id = draft.snapshot, draft.changes.copy(), draft.published_base
        if not changes.is_empty():
            # Not published: only the forks know of it.
            try:
                new = write_snapshot(session.context, snapshot, changes, message="fork", metadata={})
            except CollectionRanError as error:
                raise ConflictError(error.own_message, kind="repo-info-updated", hint=error.hint) from error
            snapshot = new.parse()
        return WritableSession(session.context, snapshot, None, origin_id=origin_id)


class Added(NamedTuple):
    """What a session has changed, and on top of what.

    Attributes:
        base: What the changes are to.
        changes: The changes.
        origin_id: The newest published snapshot that the changes know of.
    """

    base: Snapshot
    changes: ChangeSet
    origin_id: SnapshotId


def merge(session: Session, others: Iterable[Session]) -> None:
    """Adds the changes of other sessions to those of a session: of all of them, or of none (Divergence 72).

    Args:
        session: What takes them over.
        others: Forks of it, or forks of its forks; also any other session of the repository. They stay as they are.

    Raises:
        ReadOnlyError: the session is read-only.
        SessionStateError: the changes exclude each other, are to what the session does not have, or conflict with
            commits that their origin did not know of (`merge-failed`); a session with a branch is to be merged into
            a fork, or one of another repository (`merge-not-allowed`, Divergence 71); or one of them moves nodes
            (`rearrange-session-only`).
    """
    if not isinstance(session, WritableSession) or session.read_only:
        raise ReadOnlyError("the session is read-only", kind="read-only-session", hint="open a new writable session")
    added: list[Added] = []
    oldest = session.draft.opened_at
    for other in others:
        if other is session or not isinstance(other, WritableSession):
            continue  # nothing to add
        _check_pair(session, other)
        with other.draft.lock:
            added.append(Added(other.snapshot, other.draft.changes.copy(), other.draft.published_base))
            oldest = min(oldest, other.draft.opened_at)
    if not added:
        return
    draft = session.draft
    with draft.frozen():
        with draft.lock:
            draft.check_edits()
            base, own = draft.snapshot, draft.changes.copy()
            known = draft.published_base
        for part in added:
            _check_commits_between(session.context, part, known)
        merged = merged_changes(base, own, added)
        with draft.lock:
            draft.replace_changes(merged)
            # The chunks that came with the changes were stored since then.
            draft.opened_at = oldest


def _check_pair(session: WritableSession, other: WritableSession) -> None:
    if session.draft.is_fork and other.branch is not None:
        raise SessionStateError(
            "a session with a branch cannot be merged into a fork",
            kind="merge-not-allowed",
            hint="merge the fork into the session",
        )
    mine, theirs = session.context.storage.url, other.context.storage.url
    if mine != theirs:
        raise SessionStateError(f"a session of {theirs} cannot be merged into one of {mine}", kind="merge-not-allowed")
    if other.draft.is_rearrange:
        raise SessionStateError(
            "the changes of a session that moves nodes cannot be merged",
            kind="rearrange-session-only",
            hint="commit the moves by themselves",
        )


def _check_commits_between(context: ReadContext, added: Added, known: SnapshotId) -> None:
    """Refuses changes that would undo what was committed between what they know of and what their new session does."""
    ours_base = Session(context, added.base)
    theirs = session_at(context, known)
    for log in logs_between(context, added.origin_id, known):
        conflicts = list(detect(log, theirs, added.changes, ours_base))
        if conflicts:
            raise SessionStateError(
                f"the sessions cannot be merged: commit {log.id}, of which the fork does not know, conflicts with its "
                f"changes: {listed(conflicts)}",
                kind="merge-failed",
                hint="merge forks before a rebase, or make the changes again in a new fork of this session",
                snapshot=str(log.id),
                conflicts=conflicts,
            )


def merged_changes(base: Snapshot, own: ChangeSet, added: Sequence[Added]) -> ChangeSet:
    """Joins change sets, in their order.

    Args:
        base: What they are to be changes of.
        own: The first of them; taken over.
        added: The others; not modified.

    Raises:
        SessionStateError: they exclude each other, or are to nodes that are not there (`merge-failed`).
    """
    chunks = {node_id: [changes] for node_id, changes in own.chunks.items()}
    for other in added:
        _check_made(own, other.changes)
        _check_deleted(own, other.changes, {key for key, changes in other.changes.chunks.items() if changes})
        _check_deleted(other.changes, own, {key for key, parts in chunks.items() if any(parts)})
        _add_nodes(base, own, other)
        for node_id, changes in other.changes.chunks.items():
            chunks.setdefault(node_id, []).append(changes)
    made = {node.id: node for node in own.new.values()}
    own.chunks = {}
    for node_id, parts in chunks.items():
        node = made.get(node_id) or own.updated.get(node_id) or base.node_by_id(node_id)
        if node is None or node.array is None:
            bases = (other.base.node_by_id(node_id) for other in added)
            path = next((there.path for there in bases if there is not None), str(node_id))
            raise _failed(f"chunks were written to the array {path}, which this session does not have")
        # Those of another number of dimensions are no chunks of the array that is there now.
        fitting = [part for part in parts if part.ndim == len(node.array.shape)]
        if fitting:
            joined = own.chunks[node_id] = _joined(fitting)
            if sum(len(part.touched()) for part in fitting) > len(joined.touched()):
                _check_written_twice(node, fitting, [other.base.node_by_id(node_id) for other in added])
    return own


def _check_written_twice(
    node: NodeSnapshot, parts: Sequence[ChunkChanges], before: Sequence[NodeSnapshot | None]
) -> None:
    """Refuses chunks that several sessions appended; warns of others that several wrote, of which the last count.

    Args:
        node: The array as it will be.
        parts: The changes of its chunks, of one session each.
        before: The array as each of the sessions began with it.
    """
    shapes = [each.array.shape for each in before if each is not None and each.array is not None]
    grid = None
    if shapes and all(len(shape) == parts[0].ndim for shape in shapes):
        grid = [max(size.num_chunks for size in sizes) for sizes in zip(*shapes, strict=True)]
    seen, twice = parts[0], 0
    for part in parts[1:]:
        both = intersection(part.touched(), seen.touched())
        for index in both:
            if part.find(index) == seen.find(index):
                continue
            if grid is not None and any(at >= size for at, size in zip(index, grid, strict=True)):
                raise _failed(f"chunk {list(index)} of {node.path} was appended by several sessions", _APPEND_HINT)
            twice += 1
        seen = seen.followed_by(part)
    if twice:
        _log.warning(
            "%s of %s %s written by several of the sessions that are merged; what the last of them wrote counts",
            "1 chunk" if twice == 1 else f"{twice} chunks",
            node.path,
            "was" if twice == 1 else "were",
        )


def _joined(parts: Sequence[ChunkChanges]) -> ChunkChanges:
    """Joins chunk changes pairwise, so that each is copied as often as there are levels, not as there are parts."""
    while len(parts) > 1:
        pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
        parts = [pair[0].followed_by(pair[1]) if len(pair) > 1 else pair[0] for pair in pairs]
    return parts[0]


def _add_nodes(base: Snapshot, own: ChangeSet, other: Added) -> None:
    made = {node.id: node for node in own.new.values()}
    own.new.update(other.changes.new)
    for node_id, node in other.changes.updated.items():
        present = made.get(node_id) or own.updated.get(node_id) or base.node_by_id(node_id)
        if present is None:
            raise _failed(f"{node.path} was changed, which this session does not have")
        before = other.base.node_by_id(node_id)
        is_ours = node_id in own.updated or before is None or before.user_data != present.user_data
        if is_ours and present.user_data != node.user_data:
            raise _failed(f"{node.path} was changed by several sessions, to different metadata")
        if node_id in made:
            # New here, though not to the fork, which started from a snapshot that has it (Divergence 69).
            own.new[present.path] = with_manifests_of(node, None)
        else:
            own.updated[node_id] = with_manifests_of(node, base.node_by_id(node_id))
    own.deleted.update(other.changes.deleted)


# What excludes each other.


def _check_made(own: ChangeSet, other: ChangeSet) -> None:
    """Refuses what both made, alike or not (Divergence 70), unless it is one and the same."""
    for path, node in other.new.items():
        present = own.new.get(path)
        if present is not None and _essence(present) != _essence(node):
            raise _failed(f"{path} was created by several sessions")


def _essence(node: NodeSnapshot) -> tuple[NodeId, bytes]:
    return node.id, node.user_data


def _check_deleted(one: ChangeSet, other: ChangeSet, other_chunks: AbstractSet[NodeId]) -> None:
    """Refuses what one deleted and the other made, rewrote, or wrote chunks of."""
    for path, node in one.deleted.items():
        if path in other.new or node.id in other.updated or node.id in other_chunks:
            kind = "array" if node.node_type is NodeType.ARRAY else "group"
            raise _failed(f"the {kind} {path} was deleted by one session and changed by another")


def _failed(reason: str, hint: str = _HINT) -> SessionStateError:
    return SessionStateError(f"the sessions cannot be merged: {reason}", kind="merge-failed", hint=hint)

"""The changes of a writable session: the base snapshot, the changes to it, and the commits of them that were tried."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.collection_log import Mark
from icefs.engine.write.gate import Gate
from icefs.errors import NodeNotFoundError, ReadOnlyError, SessionStateError
from icefs.format.ids import SnapshotId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.snapshot.reader import Snapshot
from icefs.paths import NodePath


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A commit that was tried, and may or may not have gone through: the store's answer was lost.

    It may still go through when the session is used again, since the store may carry out a request whose sender has
    given up.

    Attributes:
        snapshot_id: The snapshot that it would have become.
        revision: The session's changes that it had.
    """

    snapshot_id: SnapshotId
    revision: int


class Draft:
    """One base snapshot and the changes to it.

    Concurrency: safe to use from several threads. `gate` guards the base and the changes together. It is held for
    moments only; while the draft is committed or rebased, callers that change it wait, and readers do not.

    Attributes:
        gate: See the class `Gate`.
        snapshot: The base snapshot.
        branch: The branch to commit to; None for a fork, and after a commit.
        changes: The uncommitted changes; readers of them hold `lock`.
        is_rearrange: Whether the changes are moves of nodes, and can be nothing else.
        origin_id: The snapshot on which the origin of a fork stood when the fork was made: the last published one that
            its changes know of. None but for forks.
        revision: Counts the changes made.
        node_revision: Counts those of nodes.
        in_doubt: The commits whose answers were lost, so that trying again does not commit twice.
        opened_at: The position in the repository's log before which none of the draft's chunks was stored.
        read_only: Whether it was committed, and changes no more.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        branch: str | None,
        opened_at: Mark,
        *,
        is_rearrange: bool = False,
        origin_id: SnapshotId | None = None,
    ) -> None:
        self.gate = Gate()
        self.snapshot = snapshot
        self.branch = branch
        self.changes = ChangeSet(is_rearrange=is_rearrange)
        self.is_rearrange = is_rearrange
        self.origin_id = origin_id
        self.revision = self.node_revision = 0
        self.in_doubt: list[InDoubt] = []
        self.opened_at = opened_at
        self.read_only = False

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """Keeps other threads from changing the draft, for a moment."""
        return self.gate.lock

    def frozen(self) -> AbstractContextManager[None]:
        """Keeps other threads from changing the draft for longer, while they can read it."""
        return self.gate.frozen()

    @property
    def is_fork(self) -> bool:
        """Whether the changes are for another session, which commits them."""
        return self.branch is None and not self.read_only

    @property
    def published_base(self) -> SnapshotId:
        """The newest published snapshot that the changes know of."""
        return self.origin_id or self.snapshot.id

    # Nodes, with the changes.

    def get_node(self, path: NodePath) -> NodeSnapshot | None:
        """Returns the group or array at an absolute path, or None."""
        with self.lock:
            return self.changes.current(self.snapshot.node(path), path)

    def node(self, path: NodePath) -> NodeSnapshot:
        """Returns the group or array at an absolute path.

        Raises:
            NodeNotFoundError: there is none.
        """
        node = self.get_node(path)
        if node is None:
            raise NodeNotFoundError(f"no node at {path} in the session on snapshot {self.snapshot.id}", path=path)
        return node

    def nodes(self) -> list[NodeSnapshot]:
        """Returns all nodes, in no promised order."""
        with self.lock:
            return list(self.changes.nodes(self.snapshot.nodes()))

    def nodes_below(self, path: NodePath) -> list[NodeSnapshot]:
        """Returns the node at a path, if there is one, and all nodes below it, sorted by path."""
        stem = path.removesuffix("/") + "/"
        found = [node for node in self.nodes() if node.path == path or node.path.startswith(stem)]
        return sorted(found, key=lambda node: node.path)

    # What may be changed.

    def check_writable(self) -> None:
        """Refuses to change what was committed; raises ReadOnlyError."""
        if self.read_only:
            raise ReadOnlyError(
                "the session is read-only", kind="read-only-session", hint="open a new writable session"
            )

    def check_edits(self) -> None:
        """Refuses to change anything but the places of nodes; the caller holds the lock.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write, or moves nodes only.
        """
        self.check_writable()
        if self.is_rearrange:
            raise SessionStateError(
                "a rearrange session moves nodes and does nothing else",
                kind="rearrange-session-only",
                hint="make other changes in a writable session",
            )

    def check_rearranges(self) -> None:
        """Refuses to move nodes where other changes are made; the caller holds the lock.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write, or does not move nodes.
        """
        self.check_writable()
        if not self.is_rearrange:
            raise SessionStateError(
                "nodes can be moved in a rearrange session only",
                kind="non-rearrange-session",
                hint="open one with `rearrange_session`",
            )

    # Changing it as a whole.

    def discard(self) -> None:
        """Forgets all changes.

        Raises:
            ReadOnlyError: it was committed.
        """
        with self.gate:
            self.check_writable()
            self.replace_changes(ChangeSet(is_rearrange=self.is_rearrange))

    def replace_changes(self, changes: ChangeSet) -> None:
        """Puts other changes, to the same base, in the place of the present ones; the caller holds the lock."""
        self.changes = changes
        self.nodes_changed()

    def nodes_changed(self) -> None:
        """Counts a change of nodes; the caller holds the lock."""
        self.revision += 1
        self.node_revision += 1

    def holds_chunks_since(self, marks: Iterable[Mark]) -> None:
        """Records that chunks of the changes were stored before the session was opened.

        Args:
            marks: Positions in the repository's log before which none of these chunks was stored.
        """
        with self.lock:
            self.opened_at = min([self.opened_at, *marks])

    def rename_chunks(self, copies: Mapping[bytes, bytes]) -> None:
        """Refers to copies of chunk objects, by the ids of the objects and of their copies; changes nothing else."""
        with self.lock:
            self.changes.rename_chunks(copies)

    def rebased(self, snapshot: Snapshot, changes: ChangeSet) -> None:
        """Puts changes on another base, in the place of the present ones."""
        with self.lock:
            self.snapshot = snapshot
            self.replace_changes(changes.rebased(snapshot))

    def committed(self, snapshot: Snapshot) -> None:
        """Ends the draft: from now on it is the snapshot that it has become."""
        with self.lock:
            self.rebased(snapshot, ChangeSet())
            self.read_only = True
            self.branch = None
            self.in_doubt.clear()

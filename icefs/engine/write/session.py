"""A session that writes: changes to nodes and chunks over a base snapshot, until a commit makes them a snapshot.

Nobody else sees any of it before the commit's last write.

After a successful commit, amend or flush the session is read-only, on no branch, and stands on the new snapshot
(official behaviour, format notes §2).
"""

from collections.abc import Iterator
from typing import Any

from icefs.engine.history.diff import Diff, build_named_diff, ranks
from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.read.session import Session
from icefs.engine.write import transactions
from icefs.engine.write.chunk_editor import ChunkEditor
from icefs.engine.write.collection_log import Collections
from icefs.engine.write.conflicts import ConflictSolver
from icefs.engine.write.context import WriteContext
from icefs.engine.write.draft import Draft
from icefs.engine.write.edited_chunks import EditedArrays, EditedChunks
from icefs.engine.write.node_editor import NodeEditor
from icefs.format.ids import SnapshotId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.snapshot.reader import Snapshot
from icefs.paths import ROOT_NODE, NodePath


class WritableSession(Session):
    """One snapshot and changes to it: read here, made by the editors.

    Concurrency: safe to use from several threads. The draft's gate guards the base and the changes together.

    Attributes:
        draft: The base, the changes, and the commits of them that were tried.
        nodes: Makes, rewrites, deletes and moves groups and arrays.
        chunks: Stores chunks, and sets and deletes their references.
    """

    def __init__(
        self,
        context: WriteContext,
        snapshot: Snapshot,
        branch: str | None,
        *,
        is_rearrange: bool = False,
        origin_id: SnapshotId | None = None,
    ) -> None:
        super().__init__(context, snapshot, branch)
        self._write_context = context
        mark = Collections(context).mark()
        self.draft = Draft(snapshot, branch, mark, is_rearrange=is_rearrange, origin_id=origin_id)
        # The sorted paths of one revision of the nodes.
        self._sorted: tuple[int, list[NodePath]] | None = None
        self._edited = EditedArrays(self.draft, context.assets)
        self.nodes = NodeEditor(self.draft, context.spec_version)
        self.chunks = ChunkEditor(self.draft, self._edited, context.storage, context.inline_threshold_bytes)

    @property
    def context(self) -> WriteContext:
        """The repository that the snapshot is in."""
        return self._write_context

    @property
    def snapshot(self) -> Snapshot:
        """The base snapshot; after a commit, the one that it made."""
        return self.draft.snapshot

    @property
    def branch(self) -> str | None:
        """The branch to commit to; None for a fork, and after a commit."""
        return self.draft.branch

    @property
    def read_only(self) -> bool:
        """Whether the session cannot write, since it was committed."""
        return self.draft.read_only

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        with self.draft.lock:
            return not self.draft.changes.is_empty()

    # Reading, with the changes.

    def get_node(self, path: NodePath) -> NodeSnapshot | None:
        """Returns the group or array at an absolute path, or None."""
        return self.draft.get_node(path)

    def node(self, path: NodePath) -> NodeSnapshot:
        """Returns the group or array at an absolute path.

        Raises:
            NodeNotFoundError: there is none.
        """
        return self.draft.node(path)

    def _paths(self) -> list[NodePath]:
        draft = self.draft
        with draft.lock:
            known = self._sorted
            if known is None or known[0] != draft.node_revision:
                known = self._sorted = draft.node_revision, sorted(node.path for node in draft.nodes())
            return known[1]

    def list_nodes(self, path: NodePath = ROOT_NODE) -> Iterator[NodeSnapshot]:
        """Yields the node at `path`, if there is one, and all nodes below it, sorted by path, all of one moment."""
        with self.draft.lock:
            return iter(list(super().list_nodes(path)))

    def array_chunks(self, array: NodePath | NodeSnapshot) -> ArrayChunks | EditedChunks:  # type: ignore[override]
        """Returns the chunk references of an array, with the session's changes.

        Changes made later show in the result only if there were some before; ask again.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the node is a group (kind `not-an-array`).
        """
        with self.draft.lock:
            return self._edited.chunks(self.node(array) if isinstance(array, str) else array)

    # Commits; see `transactions` for arguments and errors.

    def commit(self, message: str, metadata: dict[str, Any] | None = None, **options: Any) -> SnapshotId:
        """Commits the changes to the branch."""
        return self._ended(transactions.commit(self.context, self.draft, message, metadata, **options))

    def amend(self, message: str, metadata: dict[str, Any] | None = None, **options: Any) -> SnapshotId:
        """Replaces the branch's newest commit by one that also has the changes (spec 2)."""
        return self._ended(transactions.amend(self.context, self.draft, message, metadata, **options))

    def flush(self, message: str, *, metadata: dict[str, Any] | None = None) -> SnapshotId:
        """Writes the changes as a snapshot that no branch leads to."""
        return self._ended(transactions.flush(self.context, self.draft, message, metadata=metadata))

    def rebase(self, solver: ConflictSolver) -> None:
        """Puts the changes on top of the branch's present tip."""
        transactions.rebase(self.context, self.draft, solver)

    def _ended(self, snapshot_id: SnapshotId) -> SnapshotId:
        self._edited.forget()
        return snapshot_id

    def status(self) -> Diff:
        """Returns the uncommitted changes."""
        with self.draft.lock:
            log = self.draft.changes.transaction_log(self.snapshot_id)
            names = {node.id: node.path for node in self.snapshot.nodes()}
            current = self.draft.nodes()
        return build_named_diff([log], names | {node.id: node.path for node in current}, ranks(current))

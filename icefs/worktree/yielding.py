"""Where a working tree gives way to what others have committed.

A rebase decides by node and chunk; a working tree has files and whiteouts. Two kinds of paths come of it, at which the
new base is to be seen instead of the tree's own change:

- chunks that both sides wrote, where the rebase lets theirs count (`theirs`);
- what others put below a directory that was removed here: only what was there at that time was removed.
"""

from collections.abc import Container, Iterable, Iterator
from typing import TYPE_CHECKING

from icefs.engine.changeset import ChangeSet, difference
from icefs.engine.conflicts import BasicConflictSolver, Conflict, ConflictDetector, ConflictSolver, VersionSelection
from icefs.engine.session import Session
from icefs.engine.writable import WritableSession
from icefs.errors import BranchMovedError, InvalidInputError
from icefs.format.transaction_log import TransactionLog
from icefs.worktree.frozen import FrozenDir, FrozenTree
from icefs.worktree.lower import join
from icefs.worktree.nodes import WHITEOUT
from icefs.zarr.keys import ChunkKeyLayout, node_prefix
from icefs.zarr.reader import KeyReader

if TYPE_CHECKING:
    from icefs.format.chunk_indices import ChunkIndices
    from icefs.format.ids import NodeId


class TreeSolver:
    """Solves conflicts in the way of a name, and remembers which chunks it gave up for that.

    Attributes:
        given_up: Chunks that we set or deleted and others set; theirs count.
        was_needed: Whether there was anything to compare with.
    """

    def __init__(self, how: str, own: Iterable[str] = ()) -> None:
        """Takes `ours`, `theirs` or `fail`, and the snapshots that are no others' commits.

        Raises:
            InvalidInputError: it is none of these.
        """
        solvers: dict[str, ConflictSolver] = {
            "fail": ConflictDetector(),
            "ours": BasicConflictSolver(VersionSelection.UseOurs),
            "theirs": BasicConflictSolver(
                VersionSelection.UseTheirs, fail_on_delete_of_updated_array=True, fail_on_delete_of_updated_group=True
            ),
        }
        if how not in solvers:
            raise InvalidInputError(f"no way to rebase is called {how!r}", hint="one of ours, theirs, fail")
        self._solver = solvers[how]
        self._own = frozenset(own)
        self.given_up: dict[NodeId, ChunkIndices] = {}
        self.was_needed = False

    def solve(
        self, theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session
    ) -> tuple[ChangeSet, list[Conflict]]:
        """Replays changes over one transaction log, as `ConflictSolver` says.

        Raises:
            BranchMovedError: it is one of the tree's own, which was given up and appears late.
        """
        if str(their_session.snapshot_id) in self._own:
            raise BranchMovedError(f"the branch has the tree's own commit {their_session.snapshot_id}")
        self.was_needed = True
        solved, conflicts = self._solver.solve(theirs, their_session, ours, our_base)
        if not conflicts and solved is not ours:
            for node_id, changes in ours.chunks.items():
                lost = difference(changes.touched(), solved.chunks[node_id].touched())
                if len(lost):
                    known = self.given_up.get(node_id)
                    self.given_up[node_id] = lost if known is None else known.union(lost)
        return solved, conflicts

    def paths(self, session: Session) -> Iterator[str]:
        """Yields the paths of the chunks that were given up, in a session that has their arrays."""
        for node_id, indices in self.given_up.items():
            base = session.snapshot.node_by_id(node_id)
            node = None if base is None else session.get_node(base.path)
            if node is not None and node.array is not None:
                layout = ChunkKeyLayout.of_metadata(node.user_data, indices.ndim)
                prefix = node_prefix(node.path)
                yield from (prefix + layout.format(index) for index in indices)


def revealed(view: FrozenTree, session: WritableSession, left: Container[str] = ()) -> Iterator[str]:
    """Yields the paths that the tree's whiteouts hide, and that its changes, after a rebase, do not delete.

    Args:
        view: The tree that the changes are those of.
        session: The changes, on their new base.
        left: Paths of the tree that are no part of the changes, and stay as they are.
    """
    reader = KeyReader(session)
    for path in _whiteouts(view.root):
        if path in left:
            continue
        attr = view.lower.stat(path)
        if attr is None or not attr.is_dir:
            if reader.find(path) is not None:
                yield path
            continue
        for batch in reader.list_batches(path):
            yield from batch


def _whiteouts(root: FrozenDir) -> Iterator[str]:
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        for name, entry in directory.entries.items():
            if entry is WHITEOUT:
                yield join(directory.path, name)
            elif isinstance(entry, FrozenDir) and entry.is_natural:
                waiting.append(entry)

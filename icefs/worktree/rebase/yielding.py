"""Where a working tree gives way to what others have committed.

A rebase decides by node and chunk; a working tree has files and whiteouts. Two kinds of paths come of it, at which the
new base is to be seen instead of the tree's own change:

- chunks that both sides wrote, where the rebase lets theirs count (`theirs`);
- what others put below a directory that was removed here: only the files of that time were removed.
"""

from collections.abc import Container, Iterable, Iterator
from itertools import chain
from typing import Final

from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet, difference
from icefs.engine.write.conflicts import (
    BasicConflictSolver,
    Conflict,
    ConflictDetector,
    ConflictSolver,
    VersionSelection,
)
from icefs.engine.write.consolidated import ConsolidatedMetadataSolver
from icefs.engine.write.session import WritableSession
from icefs.errors import BranchMovedError, InvalidInputError, RebaseFailedError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.transaction_log import TransactionLog
from icefs.paths import TreePath, child
from icefs.worktree.freeze.frozen import FrozenDir, FrozenFile, FrozenTree
from icefs.worktree.model.nodes import WHITEOUT
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout, is_zarr_key, node_prefix
from icefs.zarr.reader import KeyReader

_AT_ONCE: Final = "commit with a rebase, which puts both together"
_FINISH: Final = "close or correct it and try again, or discard it"


class TreeSolver:
    """Solves conflicts in the way of a name, and remembers which chunks it gave up for that.

    Attributes:
        given_up: Chunks that we set or deleted and others set; theirs count.
        was_needed: Whether there was anything to compare with.
    """

    def __init__(self, how: str, view: FrozenTree, left_out: Iterable[TreePath], own: Iterable[str] = ()) -> None:
        """Takes `ours`, `theirs` or `fail`, a tree, the paths that are no part of its changes, and its own snapshots.

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
        self._solver = ConsolidatedMetadataSolver(solvers[how])
        self._view = view
        self._left_out, self._changed = _left_out_files(view, left_out)
        self._ours_counts = how == "ours"
        self._own = frozenset(own)
        self.given_up: dict[NodeId, ChunkIndices] = {}
        self.was_needed = False

    def solve(
        self, theirs: TransactionLog, their_session: Session, ours: ChangeSet, our_base: Session
    ) -> tuple[ChangeSet, list[Conflict]]:
        """Replays changes over one transaction log, as `ConflictSolver` says.

        Raises:
            BranchMovedError: it is one of the tree's own, which was given up and appears late.
            RebaseFailedError: others have written where the tree has a file that is no part of its changes.
        """
        if str(theirs.id) in self._own:
            raise BranchMovedError(f"the branch has the tree's own commit {theirs.id}")
        self.was_needed = True
        self._check_left(their_session)
        if ours.is_empty():
            return ours, []  # others' moves conflict with any change, and here is none
        solved, conflicts = self._solver.solve(theirs, their_session, ours, our_base)
        if not conflicts and solved is not ours:
            for node_id, changes in ours.chunks.items():
                lost = difference(changes.touched(), solved.chunks[node_id].touched())
                if len(lost):
                    known = self.given_up.get(node_id)
                    self.given_up[node_id] = lost if known is None else known.union(lost)
        return solved, conflicts

    def _check_left(self, theirs: Session) -> None:
        """Refuses what others have put in the place of files that a commit does not take: those would hide it.

        A commit of what the tree shows then would delete it, or write over it. Where ours counts, it may.
        """
        if not self._left_out and not self._changed:
            return
        reader = KeyReader(theirs)
        for path in self._changed:
            is_ours = self._ours_counts and not path.endswith(METADATA_NAME)
            if not is_ours and _content(reader, path) != self._view.base_tree.content(path):
                told = f"{path!r} is changed here and no part of the changes yet, and others have changed it"
                raise _refused(told, _FINISH, path, theirs)
        for path in self._left_out:
            is_key = is_zarr_key(path) and reader.find(path) is not None
            if not is_key and reader.is_empty(path):
                continue
            told = f"{path!r} is a file here that no commit takes, and others have committed something of that name"
            raise _refused(told, f"rename or remove {path}, and try again", path, theirs)

    def paths(self, session: Session) -> Iterator[TreePath]:
        """Yields the paths of the chunks that were given up, in a session that has their arrays."""
        for node_id, indices in self.given_up.items():
            base = session.snapshot.node_by_id(node_id)
            node = None if base is None else session.get_node(base.path)
            if node is not None and node.array is not None:
                layout = ChunkKeyLayout.of_metadata(node.user_data, indices.ndim)
                prefix = node_prefix(node.path)
                yield from (TreePath(prefix + layout.format(index)) for index in indices)


def revealed(view: FrozenTree, session: WritableSession, left_out: Container[TreePath] = ()) -> Iterator[TreePath]:
    """Yields the paths that the tree hides, and that its changes, after a rebase, do not delete.

    Args:
        view: The tree that the changes are those of.
        session: The changes, on their new base.
        left_out: Paths of the tree that are no part of the changes, and stay as they are.
    """
    reader = KeyReader(session)
    for path in _hidden(view):
        if path in left_out:
            continue
        attr = view.base_tree.stat(path)
        if attr is None or not attr.is_dir:
            if reader.find(path) is not None:
                yield path
            continue
        for batch in reader.list_batches(path):
            yield from map(TreePath, batch)


def _hidden(view: FrozenTree) -> Iterator[TreePath]:
    """Yields the hidden paths of the base: under whiteouts, and under directories made in the place of others."""
    waiting = [view.root]
    while waiting:
        directory = waiting.pop()
        for name, entry in directory.entries.items():
            if entry is WHITEOUT:
                yield child(directory.path, name)
            elif isinstance(entry, FrozenDir) and not entry.is_redirect:
                waiting.append(entry)
        if directory.base_path is None and _is_directory(view, directory.path):
            for name, _ in view.base_tree.list(directory.path):
                if name not in directory.entries:
                    yield child(directory.path, name)


def check_shown(view: FrozenTree, base: Session, tip: Session, yielded: Container[TreePath]) -> None:
    """Refuses to put a tree on a snapshot that it could not show; a commit is based on it all the same.

    A renamed directory shows what the base has at its former place, and nothing else. A file of the base that was
    given a further name has the same bytes under both.

    Raises:
        RebaseFailedError: others have written where there is, or was, a renamed directory of chunks, or to a file with
            several names.
    """
    before, after = KeyReader(base), KeyReader(tip)
    linked = {entry.node for _, entry in view.walk() if isinstance(entry, FrozenFile) and entry.is_alias}
    for path, entry in view.walk():
        if isinstance(entry, FrozenFile):
            if entry.is_natural and entry.node in linked and _content(before, path) != _content(after, path):
                raise _refused(f"{path!r} has several names here, and others have changed it", _AT_ONCE, path, tip)
        elif isinstance(entry, FrozenDir) and entry.base_path is not None and not entry.is_natural:
            at_target = (
                key
                for key in _keys(after, path)
                if key in yielded or (view.base_tree.stat(key) is None and view.find(key) is None)
            )
            key = next(at_target, None) or _changed_below(before, after, entry.base_path)
            if key is not None:
                told = f"{path!r} is a renamed directory here, and others have changed {key!r}"
                raise _refused(told, _AT_ONCE, path, tip)


def _changed_below(before: KeyReader, after: KeyReader, path: TreePath) -> str | None:
    """Returns a chunk that differs below a directory of chunks; of nodes, others' changes move along with them."""
    found = before.directory_of_chunks(TreePath(path))
    if found is None or found[2] == 0:
        return None
    keys = dict.fromkeys(chain(_keys(before, path), _keys(after, path)))
    return next((key for key in keys if _content(before, key) != _content(after, key)), None)


def _keys(reader: KeyReader, path: TreePath) -> Iterator[TreePath]:
    batches = () if reader.is_empty(path) else reader.list_batches(path)
    return map(TreePath, chain.from_iterable(batches))


def _content(reader: KeyReader, path: TreePath) -> object:
    found = reader.find(path) if is_zarr_key(path) else None
    return found.user_data if isinstance(found, NodeSnapshot) else found


def _refused(message: str, hint: str, path: TreePath, theirs: Session) -> RebaseFailedError:
    return RebaseFailedError(message, hint=hint, path=path, snapshot=str(theirs.snapshot_id), conflicts=[], commits=[])


def _is_directory(view: FrozenTree, path: TreePath) -> bool:
    attr = view.base_tree.stat(path)
    return attr is not None and attr.is_dir


def _left_out_files(view: FrozenTree, left_out: Iterable[TreePath]) -> tuple[list[TreePath], list[TreePath]]:
    """Finds what the tree has, or hides, at and below paths that are no part of a commit.

    Returns:
        The files for which the base has nothing, and the keys of the base that are others here, or gone.
    """
    new: list[TreePath] = []
    changed: dict[TreePath, None] = {}
    for path in (TreePath(path.rstrip("/")) for path in left_out):
        found = view.find(path)
        waiting: list[tuple[TreePath, FrozenDir]] = [(path, found)] if isinstance(found, FrozenDir) else []
        if isinstance(found, FrozenFile):
            _note_file(view, path, new, changed)
        elif found is None:
            changed.update(dict.fromkeys(_base_keys(view, path)))
        for above, directory in waiting:
            for name, entry in directory.entries.items():
                below = child(above, name)
                if isinstance(entry, FrozenDir):
                    waiting.append((below, entry))
                elif entry is WHITEOUT:
                    changed.update(dict.fromkeys(_base_keys(view, below)))
                elif not entry.is_natural:
                    _note_file(view, below, new, changed)
    return new, list(changed)


def _note_file(view: FrozenTree, path: TreePath, new: list[TreePath], changed: dict[TreePath, None]) -> None:
    if view.base_tree.stat(path) is None:
        new.append(path)
    elif view.base_tree.content(path) is not None:
        changed[path] = None


def _base_keys(view: FrozenTree, path: TreePath) -> Iterator[TreePath]:
    """Yields the keys that the base has at and below a path."""
    waiting = [path]
    for one in waiting:
        attr = view.base_tree.stat(one)
        if attr is not None and attr.is_dir:
            waiting.extend(child(one, name) for name, _ in view.base_tree.list(one))
        elif attr is not None:
            yield one

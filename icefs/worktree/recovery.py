"""Opening a tree: from rows and spool files back to nodes.

The rows are consistent whatever happened, since each operation was one transaction. The bytes may be newer than the
rows: a file that was being written when the process died has a spool file that nobody told the database about. A
row carries the spool file's own mtime and size as of the last flush; where they differ now, the file was written
since, so the row takes the spool file's size and gets a new mtime.

- A row whose spool file is missing stays in the tree, is LOST, and is reported: reading it fails, writing it again
  heals it.
- A spool file that is shorter than a row that was written when the file was closed has lost bytes: it is CUT, and no
  commit takes it. After an orderly end one that is longer is, too. One with another mtime is CHANGED: a program was
  writing it when the process died, or it is damaged; nobody can tell these apart.
- A spool file with a second name was made an object by a commit that did not come to its end. Nobody writes to it
  any more, and its mtime is the object's.
- A spool file without a row belongs to a file that was never flushed, or was removed. It is deleted if it is empty, or
  if the rows are known to be complete and either once named it, or were written by an orderly close. Any other is
  moved to `spool.lost`: its name is not known, and its bytes may be the only ones.
- A directory is as new as its newest entry, if that changed after the directory's row was written.
"""

import os
from dataclasses import dataclass, field

from icefs.errors import DamagedStateError
from icefs.paths import TreePath
from icefs.worktree.core.content import MAX_SIZE_BYTES
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.commits import Commits
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.model.lost import from_text, remove
from icefs.worktree.model.node_tree import ROOT_ID
from icefs.worktree.model.nodes import (
    CHANGED,
    CUT,
    DOUBTFUL,
    FROM_BASE,
    LOST,
    PERSISTENT,
    STORED,
    WHITEOUT,
    DirNode,
    DirState,
    Entry,
    FileNode,
    FileState,
    Node,
)
from icefs.worktree.model.views import SavedDir, View
from icefs.worktree.spool.files import is_marked
from icefs.worktree.spool.journal import Loaded, NodeRow
from icefs.worktree.spool.opening import Opened


@dataclass(slots=True)
class Recovery:
    """What opening a tree found.

    Attributes:
        is_new: There was no tree before.
        entries: The files, directories and whiteouts that the tree has.
        rewritten: Paths that were being written when their rows were.
        lost: Paths whose bytes are gone.
        cut: Paths whose bytes are not all there, or too many.
        changed: Paths whose bytes were changed after they were closed: by a program that the end of the process
            surprised, or by damage.
        swept: The number of spool files that nothing referred to, and that were removed.
        set_aside: The number of those that were moved to `spool.lost`.
    """

    is_new: bool = False
    entries: int = 0
    rewritten: list[TreePath] = field(default_factory=list)
    lost: list[TreePath] = field(default_factory=list)
    cut: list[TreePath] = field(default_factory=list)
    changed: list[TreePath] = field(default_factory=list)
    swept: int = 0
    set_aside: int = 0


class Loader:
    """Builds the nodes of a tree from its rows."""

    def __init__(self, core: TreeCore) -> None:
        self._core = core
        self._nodes: dict[int, Node] = {}
        self.recovery = Recovery()

    def load(self, *, was_closed: bool) -> Recovery:
        """Fills the core; the lock is not needed, as nobody else has the tree yet.

        Args:
            was_closed: The tree was closed in order, so the rows of directories have their last times, and no spool
                file may have changed since.
        """
        core = self._core
        loaded = core.journal.load()
        self._build(loaded.nodes, is_live=True)
        self._place(loaded)
        for node in self._nodes.values():
            core.by_ino[node.ino] = node
            if isinstance(node, DirNode):
                node.hidden = None if node.base_path is not None else set()
                if node.base_path is not None:
                    core.base_dirs[node.base_path] = node
            elif node.origin is not None:
                core.base_files[node.origin] = node
        self._reconcile(was_closed=was_closed)
        if not was_closed:
            self._renew_times()
        self.recovery.entries = sum(len(node.entries) for node in self._nodes.values() if isinstance(node, DirNode))
        return self.recovery

    def _build(self, rows: list[NodeRow], *, is_live: bool) -> None:
        core = self._core
        for row in rows:
            core.next_id = max(core.next_id, row.id + 1, row.spool + 1)
            if row.id in self._nodes:
                continue
            if row.id == ROOT_ID:
                node: Node = core.root
            elif row.kind:
                node = DirNode(
                    row.id,
                    core.new_ino(),
                    core.perm(row.mode, row.uid, row.gid),
                    row.mtime_ns,
                    row.base_path,
                )
            else:
                node = FileNode(row.id, core.new_ino(), core.perm(row.mode, row.uid, row.gid), row.size, row.mtime_ns)
            # Nodes of a frozen tree that were removed since live in its view alone.
            node.restore(self._state(row))  # type: ignore[arg-type]
            node.flags = row.flags & PERSISTENT | (FROM_BASE if not row.kind and row.base_path is not None else 0)
            if is_live:
                node.flags |= STORED
            self._nodes[row.id] = node
            if node.ino not in core.by_ino and is_live:
                core.by_ino[node.ino] = node

    def _state(self, row: NodeRow) -> FileState | DirState:
        """Returns a row as the state of a node, its parent still missing."""
        perm = self._core.perm(row.mode, row.uid, row.gid)
        times = row.mtime_ns, row.ctime_ns, row.atime_ns
        if row.kind:
            return DirState(perm, *times, None, row.name, row.base_path, row.flags & PERSISTENT)
        flags = row.flags & PERSISTENT | (FROM_BASE if row.base_path is not None else 0)
        lost = from_text(row.lost)
        return FileState(perm, row.size, *times, row.spool, row.stamp, row.base_path, None, row.name, None, flags, lost)

    def _directory(self, node_id: int, child: int) -> DirNode:
        parent = self._nodes.get(node_id)
        if not isinstance(parent, DirNode):
            raise DamagedStateError(
                f"the working tree's database is damaged: row {child} is in {node_id}, which is no directory",
                hint="keep a copy of the state directory, and report this",
            )
        return parent

    def _place(self, loaded: Loaded) -> None:
        """Puts every node where its rows say."""
        for parent_id, name, node_id in loaded.links:
            parent = self._directory(parent_id, node_id)
            if not node_id:
                parent.entries[name] = WHITEOUT
        for row in loaded.nodes:
            if row.id != ROOT_ID:
                node = self._nodes[row.id]
                node.parent = self._directory(row.parent, row.id)
                node.name = row.name
                node.parent.entries[row.name] = node
        for parent_id, name, node_id in loaded.links:
            linked = self._nodes.get(node_id)
            if isinstance(linked, FileNode):
                parent = self._directory(parent_id, node_id)
                parent.entries[name] = linked
                linked.extra = {**(linked.extra or {}), (parent, name): None}

    def _reconcile(self, *, was_closed: bool) -> None:
        """Compares rows with spool files."""
        core = self._core
        for node in self._nodes.values():
            if not isinstance(node, FileNode) or not node.spool_id:
                continue
            found = core.spool.stat(node.spool_id) or core.spool.bring_back(node.spool_id)
            if found is None:
                node.flags |= LOST
                node.lost = ()
                self.recovery.lost.append(core.path_of(node))
            else:
                self._compare(node, found, was_closed=was_closed)
            if node.flags & DOUBTFUL:
                core.doubtful[node] = None

    def _compare(self, node: FileNode, found: os.stat_result, *, was_closed: bool) -> None:
        core, recovery = self._core, self.recovery
        if is_marked(found):
            node.flags |= LOST
            node.lost = node.lost or ((0, found.st_size),)
        elif node.flags & LOST and not node.lost:
            node.flags &= ~LOST  # it was gone, and somebody has brought it back
            core.mark_behind(node)
        is_linked = found.st_nlink > 1
        if is_linked:
            # A commit that failed had made it an object; an object is not written to, and has its own mtime.
            core.final.add(node.spool_id)
        if (found.st_mtime_ns == node.stamp or is_linked) and found.st_size == node.size:
            return
        if node.stamp and (found.st_size < node.size or (was_closed and found.st_size != node.size)):
            node.flags |= CUT
            recovery.cut.append(core.path_of(node))
        elif node.stamp:
            node.flags |= CHANGED
            recovery.changed.append(core.path_of(node))
        elif found.st_size != node.size:
            recovery.rewritten.append(core.path_of(node))
        node.size = found.st_size
        node.lost = remove(node.lost, node.size, MAX_SIZE_BYTES)
        node.mtime_ns = node.ctime_ns = max(node.ctime_ns + 1, found.st_mtime_ns)
        core.mark_behind(node)

    def _renew_times(self) -> None:
        """Gives directories the times that were not written before the process died."""
        for node in self._nodes.values():
            parent = node.parent
            if parent is not None and node.ctime_ns > parent.ctime_ns:
                parent.mtime_ns = parent.ctime_ns = node.ctime_ns

    def load_frozen(self, commits: Commits) -> None:
        """Rebuilds the view of a commit whose outcome is not known, or forgets one that was never published."""
        core = self._core
        journal = core.journal
        core.next_id = max(core.next_id, journal.frozen_limit + 1)
        if not journal.is_frozen:
            return
        intent = journal.intent()
        if intent is None:
            journal.thaw_unpublished()
            return
        loaded = journal.load_frozen()
        self._build(loaded.nodes, is_live=False)
        view = View(journal.frozen_limit, is_durable=True)
        entries: dict[int, dict[str, Entry]] = {row.id: {} for row in loaded.nodes if row.kind}
        for parent_id, name, node_id in loaded.links:
            if not node_id:
                entries[parent_id][name] = WHITEOUT
        extras: dict[int, dict[tuple[DirNode, str], None]] = {}
        for row in loaded.nodes:
            if row.id != ROOT_ID:
                entries[row.parent][row.name] = self._nodes[row.id]
        for parent_id, name, node_id in loaded.links:
            if node_id:
                entries[parent_id][name] = self._nodes[node_id]
                extras.setdefault(node_id, {})[self._directory(parent_id, node_id), name] = None
        for row in loaded.nodes:
            node, state = self._nodes[row.id], self._state(row)
            parent = None if row.id == ROOT_ID else self._directory(row.parent, row.id)
            if isinstance(node, DirNode):
                assert isinstance(state, DirState)
                view.dirs[node] = SavedDir(state._replace(parent=parent), entries[row.id])
            else:
                assert isinstance(state, FileState)
                view.files[node] = state._replace(parent=parent, extra=extras.get(row.id))
        core.views.append(view)
        core.spool_limit = view.limit
        commits.add_recovered(FrozenTree(core, view), intent)

    def sweep(self, opened: Opened, *, was_closed: bool) -> None:
        """Clears away the spool files that neither the tree nor a view refers to; see the module."""
        core = self._core
        live = {node.spool_id for node in core.by_ino.values() if isinstance(node, FileNode)}
        held: set[int] = set()
        for view in core.views:
            held |= {state.spool_id for state in view.files.values()}
        dead: list[int] = []
        for spool_id in core.spool.scan():
            core.next_id = max(core.next_id, spool_id + 1)
            if spool_id in live:
                continue
            found = core.spool.stat(spool_id)
            if spool_id in held:
                core.deferred.append(spool_id)
            elif found is None or not found.st_size or (opened.is_proven and (was_closed or spool_id in opened.named)):
                dead.append(spool_id)
            else:
                core.spool.set_aside(spool_id)
                self.recovery.set_aside += 1
        self.recovery.swept = len(dead)
        core.removals.remove(dead)

"""The state of a working tree, and the frame in which everything changes it.

Memory is the truth for reading, the database for what survives. Each operation runs inside a `Change`:

1. it takes the tree's lock;
2. it checks everything that can refuse it, then changes nodes, noting how to undo that;
3. its rows are written in one transaction; if that fails (a full disk), the nodes go back to what they were, and
   the operation raises as if it had never begun;
4. it releases the lock, and removes spool files that nothing refers to any more.

Two kinds of changes need no row at once. A file that was created and not yet closed has none before its first
`flush`, `rename`, `link` or `fsync`: no program knows yet that it is there. The times of directories are written
with the directory's next row, at a freeze or at the end; after a crash they are restored from the entries.

Concurrency: `lock` protects everything here and in `NodeTree`. Reading and writing bytes, and copying a base file up,
happen without it. `worktree/CONCURRENCY.md` has the order of locks.
"""

import threading
from collections.abc import Callable
from typing import Any, Self

from icefs.errors import StaleError
from icefs.inode import Ino
from icefs.locks import Rank, new_lock
from icefs.paths import TreePath, split
from icefs.worktree.base import BaseFactory, BaseTree
from icefs.worktree.model import lost
from icefs.worktree.model.materialise import Materialiser
from icefs.worktree.model.node_tree import Defaults, NodeTree
from icefs.worktree.model.nodes import DIRTY, FROM_BASE, PERSISTENT, STORED, DirNode, FileNode, Node
from icefs.worktree.model.open_state import OpenState
from icefs.worktree.spool.files import Spool
from icefs.worktree.spool.journal import Batch, Journal, NodeRow
from icefs.worktree.spool.removal import SpoolRemovals


class TreeCore(NodeTree):
    """The nodes of a working tree with their rows and spool files.

    INVARIANT: every linked DIRTY file is in `behind`; so is every file that was created and has no row yet.
    INVARIANT: a node with a row in the database has a parent with a row.
    INVARIANT: every spool file with an id up to `spool_limit`, or in `final`, keeps its bytes; a writer makes a new
        one first.

    Attributes:
        lock: Protects all of this.
        changed: Is notified when a writer ends, a copy is done or a freeze is over.
        journal: The database of rows.
        spool: The spool files.
        removals: Removes the spool files that nothing refers to.
        base_for: Returns the files and directories of a snapshot.
        materialise: Makes nodes of untouched files and directories.
        soft: Directories whose times changed after their rows were written.
        behind: Files whose rows are missing, or older than their content.
        spool_limit: The largest spool id that a view may refer to, 0 if there is no view.
        final: Spool files whose bytes are, or may be, part of the object store: by a second name, or under a chunk id
            that is remembered.
        deferred: Spool files that nothing but a view may refer to.
        superseded: Spool files that a file no longer has its bytes in, but that its row still names.
        writers: Writes under way outside the lock.
        is_freezing: New writers wait.
        is_closed: No operation begins any more.
        keeps_removed: Files that lose their last name stay until `removed.forget`.
        removed: Those files, by inode number; each counts as open once.
        doubtful: Files whose bytes were lost, cut or changed when the tree was opened; some may be healed since.
        on_closed: Called, with the lock held, for each file with bytes of its own whose last handle is released.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        spool: Spool,
        base_tree: BaseTree,
        base_for: BaseFactory,
        allocate: Callable[[], Ino],
        now_ns: Callable[[], int],
        defaults: Defaults,
    ) -> None:
        super().__init__(base_tree, allocate, now_ns, defaults)
        self.journal = journal
        self.spool = spool
        self.removals = SpoolRemovals(spool)
        self.base_for = base_for
        self.materialise = Materialiser(self)
        self.lock = new_lock(Rank.TREE, "a working tree")
        self.changed = threading.Condition(self.lock)
        self.soft: dict[DirNode, None] = {}
        self.behind: dict[FileNode, None] = {}
        self.spool_limit = 0
        self.final: set[int] = set()
        self.deferred: list[int] = []
        self.superseded: dict[FileNode, list[int]] = {}
        self.writers = 0
        self.is_freezing = False
        self.is_closed = False
        self.keeps_removed = False
        self.removed: dict[Ino, FileNode] = {}
        self.doubtful: dict[FileNode, None] = {}
        self.on_closed: Callable[[FileNode], None] | None = None

    def change(self) -> "Change":
        """Begins an operation; use it in a `with` statement."""
        return Change(self)

    def take_spool_id(self) -> int:
        """Returns an id for a new spool file."""
        self.next_id = self.spool.first_id(self.next_id)
        return self.take_id()

    def mark_behind(self, node: FileNode) -> None:
        """Notes that a file's content is newer than its row."""
        self.revision += 1
        if not node.flags & DIRTY:
            node.flags |= DIRTY
            self.behind[node] = None

    def release_spool(self, op: "Change", spool_id: int) -> None:
        """Lets a spool file go once the operation has succeeded and no view refers to it."""
        if spool_id:
            op.spools.append(spool_id)

    def renew_dir(self, path: TreePath, time_ns: int) -> Ino | None:
        """Gives a base directory whose time is the tree's a later one; returns its number, None if it is not."""
        node = self.base_dirs.get(path)
        if node is not None:
            self.keep_for_views(node)
            node.mtime_ns = node.ctime_ns = max(time_ns, self.tick(node), node.mtime_ns + 1)
            self.soft[node] = None
            return node.ino
        retained = self.retained.get(path)
        if retained is None:
            return None
        above, name = split(path)
        self.retained.add(above, [(name, retained.ino, max(time_ns, retained.mtime_ns + 1))])
        return retained.ino

    # Persisting

    def row(self, node: Node) -> NodeRow:
        """Returns the database row of a node that an entry refers to."""
        parent = node.parent
        perm = node.perm
        above = 0 if parent is None else parent.id
        flags = node.flags & PERSISTENT
        times = node.mtime_ns, node.ctime_ns, node.atime_ns
        if isinstance(node, DirNode):
            return NodeRow(node.id, above, node.name, 1, *perm, 0, *times, 0, 0, node.base_path, flags)
        base_path = node.origin if node.flags & FROM_BASE else None
        stamp = 0 if node.flags & DIRTY else node.stamp
        spool_id, ranges = node.spool_id, lost.to_text(node.lost)
        return NodeRow(
            node.id, above, node.name, 0, *perm, node.size, *times, spool_id, stamp, base_path, flags, ranges
        )

    def with_ancestors(self, nodes: "dict[Node, None]") -> list[Node]:
        """Returns nodes to write, with the directories above them that have no row yet."""
        ordered: dict[Node, None] = {}
        for node in nodes:
            chain: list[Node] = [node]
            above = node.parent
            while above is not None and not above.flags & STORED and above not in ordered:
                chain.append(above)
                above = above.parent
            for link in reversed(chain):
                ordered[link] = None
        return list(ordered)

    def persist(self, op: "Change") -> None:
        """Writes the rows of an operation, in one transaction."""
        if op.links:
            for directory, _, link in op.links:
                if link is not None and not directory.flags & STORED:
                    op.store[directory] = None
        if not op.store:
            if not (op.dead or op.links or op.purged or op.write):
                return
            nodes: list[Node] = []
        else:
            nodes = self.with_ancestors(op.store)
        links = [(directory.id, name, node) for directory, name, node in op.links]
        batch = Batch([self.row(node) for node in nodes], op.dead, links, op.purged)
        (op.write or self.journal.apply)(batch)
        for node in nodes:
            node.flags |= STORED
            if isinstance(node, FileNode) and not node.flags & DIRTY:
                self.behind.pop(node, None)

    def check_open(self) -> None:
        """Refuses to work on a closed tree."""
        if self.is_closed:
            raise StaleError("the working tree was closed")


class Change:
    """One operation: takes the lock, and succeeds as a whole or leaves everything as it was.

    Attributes:
        store: Nodes whose rows are to be written.
        dead: Ids of rows to be deleted.
        links: (directory, name, node id or 0 or None): links and whiteouts to be set, or removed.
        purged: Ids of directories whose links and whiteouts go.
        spools: Spool files to be let go afterwards.
        kept: Files that lost their last name, and stay while the kernel knows them.
        write: How the rows are written, if not by `Journal.apply`; then also if there are none.
    """

    __slots__ = ("_undo", "core", "dead", "kept", "links", "purged", "spools", "store", "write")

    def __init__(self, core: TreeCore) -> None:
        self.core = core
        self.store: dict[Node, None] = {}
        self.dead: list[int] = []
        self.links: list[tuple[DirNode, str, int | None]] = []
        self.purged: list[int] = []
        self.spools: list[int] = []
        self.kept: list[FileNode] = []
        self.write: Callable[[Batch], None] | None = None
        self._undo: list[tuple[Any, Any, Any]] = []

    def __enter__(self) -> Self:
        self.core.lock.acquire()
        if self.core.is_closed:
            self.core.lock.release()
            self.core.check_open()
        return self

    def __exit__(self, exc_type: object, exc: BaseException | None, traceback: object) -> None:
        core = self.core
        garbage: list[int] = []
        try:
            if exc_type is not None:
                self._roll_back()
                return
            try:
                core.persist(self)
            except BaseException:
                self._roll_back()
                raise
            for node in self.kept:
                node.io = node.io or OpenState()
                node.io.handles += 1
                core.removed[node.ino] = node
            for spool_id in self.spools:
                (core.deferred if spool_id <= core.spool_limit else garbage).append(spool_id)
            core.final.difference_update(garbage)
        finally:
            core.lock.release()
        if garbage:
            core.removals.remove(garbage)

    def touch(self, node: Node) -> None:
        """Must be called before a node changes in this operation."""
        self.core.revision += 1
        self._undo.append((node, None, node.state()))
        if self.core.views:
            self.core.keep_for_views(node)

    def put(self, mapping: dict[Any, Any], key: Any, value: Any) -> None:
        """Sets, or with None removes, an item of one of the tree's dictionaries."""
        self._undo.append((mapping, key, mapping.get(key)))
        if value is None:
            mapping.pop(key, None)
        else:
            mapping[key] = value

    @property
    def may_wait(self) -> bool:
        """Whether nothing would have to be undone, so that the lock may be let go for a while."""
        return not self._undo

    def dir_changed(self, directory: DirNode) -> None:
        """Gives a directory new times because its entries change; must be called before they do."""
        self.touch(directory)
        core = self.core
        directory.mtime_ns = directory.ctime_ns = core.tick(directory)
        core.soft[directory] = None

    def kill(self, node: Node) -> None:
        """Removes the row of a node that nothing refers to any more."""
        if node.flags & STORED:
            self.dead.append(node.id)
            node.flags &= ~STORED
        self.store.pop(node, None)

    def commit(self) -> None:
        """Writes what the operation has done so far; later steps are not undone."""
        self.core.persist(self)
        self._undo.clear()
        self.store.clear()
        self.dead.clear()
        self.links.clear()
        self.purged.clear()
        self.write = None

    def _roll_back(self) -> None:
        for target, key, old in reversed(self._undo):
            if type(target) is dict:
                if old is None:
                    target.pop(key, None)
                else:
                    target[key] = old
            else:
                target.restore(old)

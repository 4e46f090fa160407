"""The state of a working tree, and the frame in which everything changes it.

Memory is the truth for reading, the database for what survives. Each operation runs inside a `Change`:

1. it takes the tree's lock;
2. it checks everything that can refuse it, then changes nodes, noting how to undo that;
3. its rows are written in one transaction; if that fails (a full disk), the nodes go back to what they were, and
   the operation raises as if it had never begun;
4. it releases the lock, and removes spool files that nothing refers to any more.

Two kinds of changes need no row at once. A file that was created and not yet closed has none before its first
`flush`, `rename`, `link` or `fsync`: nobody was told yet that it is there. The times of directories are written
with the directory's next row, at a freeze or at the end; after a crash they are restored from the entries.

*Materialising* an untouched file or directory makes a node for it that says the same as before. It changes
nothing that anybody can see, so it is not undone, and not written until something refers to it.

Concurrency: `lock` protects everything here. Reading and writing bytes, and copying a base file up, happen
outside of it (`files`), as does reading from the base. While the lock is held the base is asked for
attributes and listings only, which it answers from memory. `CONCURRENCY.md` has the order of locks.
"""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from icefs.errors import EntryNotFoundError, NotADirectoryTreeError, StaleError
from icefs.locks import Rank, new_lock
from icefs.worktree.base import BaseAttr, BaseFactory, BaseTree, join
from icefs.worktree.freeze.unfinished import Unfinished
from icefs.worktree.model import lost
from icefs.worktree.model.kept import KeptAttrs
from icefs.worktree.model.nodes import (
    DIRTY,
    FROM_BASE,
    PERSISTENT,
    STORED,
    WHITEOUT,
    Attr,
    DirNode,
    FileNode,
    Node,
    OpenState,
    Perm,
    TreeEntry,
    Where,
)
from icefs.worktree.spool.files import Spool
from icefs.worktree.spool.journal import Batch, Journal, NodeRow
from icefs.worktree.spool.removal import SpoolRemovals

if TYPE_CHECKING:
    from icefs.worktree.freeze.frozen import View
    from icefs.worktree.ops.files import Handle

ROOT_ID = 1


class BaseEntry(NamedTuple):
    """A untouched node: its path and attributes."""

    path: str
    attr: BaseAttr


class Defaults(NamedTuple):
    """Mode and owner of what the base provides."""

    file: Perm
    directory: Perm


class TreeCore:
    """Everything that a working tree has in memory.

    INVARIANT: `by_ino` holds every node that an entry refers to, and every open file that none refers to.
    INVARIANT: `base_dirs` holds every live directory with a base path, `base_files` every linked file with an
        origin; besides, open files that were removed.
    INVARIANT: `base_handles` holds every open handle of a base file under the handle's own path, until the tree shows
        something else there.
    INVARIANT: every linked DIRTY file is in `behind`; so is every file that was created and has no row yet.
    INVARIANT: every file in `unfinished` has a handle that may write.
    INVARIANT: a node with a row in the database has a parent with a row.
    INVARIANT: ids of nodes and spool files are below `next_id` and never used twice.
    INVARIANT: every spool file with an id up to `spool_limit`, or in `final`, keeps its bytes; a writer makes a new
        one first.

    Attributes:
        lock: Protects all of this.
        changed: Is notified when a writer ends, a copy is done or a freeze is over.
        root: The root directory.
        by_ino: The nodes by inode number.
        base_dirs: The materialised directories by base path.
        base_files: The materialised files by base path.
        base_handles: Open handles of untouched files by base path.
        soft: Directories whose times changed after their rows were written.
        behind: Files whose rows are missing, or older than their content.
        unfinished: Files that somebody is in the middle of writing.
        views: The frozen views that somebody holds.
        spool_limit: The largest spool id that a view may refer to, 0 if there is no view.
        final: Spool files whose bytes are, or may be, part of the object store: by a second name, or under a chunk id
            that is remembered.
        deferred: Spool files that nothing but a view may refer to.
        superseded: Spool files that a file no longer has its bytes in, but that its row still names.
        writers: Writes under way outside the lock.
        is_freezing: New writers wait.
        keeps_removed: Files that lose their last name stay until `removed.forget`.
        removed: Those files, by inode number; each counts as open once.
        revision: Counts what may change what the tree shows; the same number means the same tree.
        removals: Removes the spool files that nothing refers to.
        doubtful: Files whose bytes were lost, cut or changed when the tree was opened; some may be healed since.
        on_closed: Is told of every file with bytes of its own that nobody has open any more; holds the lock.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        spool: Spool,
        base_tree: BaseTree,
        base_for: BaseFactory,
        allocate: Callable[[], int],
        now_ns: Callable[[], int],
        defaults: Defaults,
    ) -> None:
        self.journal = journal
        self.spool = spool
        self.removals = SpoolRemovals(spool)
        self.base_tree = base_tree
        self.base_for = base_for
        self.now_ns = now_ns
        self.defaults = defaults
        self.lock = new_lock(Rank.TREE, "a working tree")
        self.changed = threading.Condition(self.lock)
        self.base = ""
        self.next_id = ROOT_ID + 1
        self.by_ino: dict[int, Node] = {}
        self.base_dirs: dict[str, DirNode] = {}
        self.base_files: dict[str, FileNode] = {}
        self.base_handles: dict[str, list[Handle]] = {}
        self.soft: dict[DirNode, None] = {}
        self.behind: dict[FileNode, None] = {}
        self.unfinished = Unfinished()
        self.kept = KeptAttrs()
        self.views: list[View] = []
        self.spool_limit = 0
        self.final: set[int] = set()
        self.deferred: list[int] = []
        self.superseded: dict[FileNode, list[int]] = {}
        self.writers = 0
        self.is_freezing = False
        self.is_closed = False
        self.keeps_removed = False
        self.removed: dict[int, FileNode] = {}
        self.revision = 0
        self.doubtful: dict[FileNode, None] = {}
        self.on_closed: Callable[[FileNode], None] | None = None
        self._allocate = allocate
        self._perms: dict[Perm, Perm] = {}
        self.root = DirNode(ROOT_ID, 0, self.perm(*defaults.directory), 0, "")

    # Small things

    def change(self) -> "Change":
        """Begins an operation; use it in a `with` statement."""
        return Change(self)

    def take_id(self) -> int:
        """Returns an id that no node and no spool file ever had."""
        taken = self.next_id
        self.next_id = taken + 1
        return taken

    def take_spool_id(self) -> int:
        """Returns an id for a new spool file."""
        self.next_id = self.spool.first_id(self.next_id)
        return self.take_id()

    def new_ino(self) -> int:
        """Returns an inode number that no node of the tree has."""
        ino = self._allocate()
        while ino in self.by_ino:
            ino = self._allocate()
        return ino

    def perm(self, mode: int, uid: int, gid: int) -> Perm:
        """Returns the one object with these values."""
        perm = Perm(mode & 0o7777, uid, gid)
        return self._perms.setdefault(perm, perm)

    def tick(self, node: Node) -> int:
        """Returns a time later than every one that this node's content ever changed at."""
        now = self.now_ns()
        return now if now > node.ctime_ns else node.ctime_ns + 1

    def content_time(self, node: FileNode) -> None:
        """Gives a file new times because its content changes."""
        self.revision += 1
        now = self.tick(node)
        if now == node.mtime_ns:
            now += 1
        node.mtime_ns = node.ctime_ns = now

    def mark_behind(self, node: FileNode) -> None:
        """Notes that a file's content is newer than its row."""
        self.revision += 1
        if not node.flags & DIRTY:
            node.flags |= DIRTY
            self.behind[node] = None

    def keep_for_views(self, node: Node) -> None:
        """Tells the frozen views that a node is about to change."""
        for view in self.views:
            view.keep(node)

    def release_spool(self, op: "Change", spool_id: int) -> None:
        """Lets a spool file go once the operation has succeeded and no view refers to it."""
        if spool_id:
            op.spools.append(spool_id)

    # Finding nodes

    def base_stat(self, path: str) -> BaseAttr | None:
        """Asks the base; what was kept over a commit counts more."""
        attr = self.base_tree.stat(path)
        if attr is not None and self.kept:
            kept = self.kept.get(path)
            if kept is not None:
                return BaseAttr(kept.ino, attr.is_dir, attr.size, kept.mtime_ns)
        return attr

    def is_reachable(self, path: str) -> bool:
        """Tells whether a base path without a node of its own is part of the merged tree."""
        while path:
            path, _, name = path.rpartition("/")
            node = self.base_dirs.get(path)
            if node is not None:
                return name not in node.entries
        return True

    def resolve(self, where: Where) -> Node | BaseEntry:
        """Returns what a caller means.

        Raises:
            StaleError: it is no longer there.
        """
        if isinstance(where, int):
            node = self.by_ino.get(where)
            if node is not None:
                return node
            kept = self.kept.path_of(where)
            if kept is None:
                raise StaleError(f"inode {where} is gone", ino=where)
            where = kept
        upper = self.base_dirs.get(where) or self.base_files.get(where)
        if upper is not None:
            return upper
        attr = self.base_stat(where) if self.is_reachable(where) else None
        if attr is None:
            raise StaleError(f"{where!r} is gone", path=where)
        return BaseEntry(where, attr)

    def directory(self, where: Where) -> DirNode | str:
        """Returns the directory that a caller means: its node, or its base path.

        Raises:
            StaleError: it is no longer there.
            NotADirectoryTreeError: it is a file.
        """
        node = self.by_ino.get(where) if isinstance(where, int) else self.base_dirs.get(where)
        if node is None:
            found = self.resolve(where)
            if isinstance(found, BaseEntry):
                if not found.attr.is_dir:
                    raise NotADirectoryTreeError(f"{found.path!r} is a file", path=found.path)
                return found.path
            node = found
        if isinstance(node, FileNode):
            raise NotADirectoryTreeError(f"{node.name!r} is a file", ino=node.ino)
        return node

    def child(self, directory: DirNode | str, name: str) -> Node | BaseEntry | None:
        """Returns what stands under a name in a directory, None if nothing does."""
        if isinstance(directory, DirNode):
            entry = directory.entries.get(name)
            if entry is not None:
                return None if entry is WHITEOUT else entry
            if directory.base_path is None:
                return None
            directory = directory.base_path
        path = join(directory, name)
        attr = self.base_stat(path)
        return None if attr is None else BaseEntry(path, attr)

    def entry(self, found: Node | BaseEntry) -> TreeEntry:
        """Returns how a caller sees what was found."""
        if isinstance(found, BaseEntry):
            return TreeEntry(found.path, self.base_attr(found.attr))
        return TreeEntry(found.ino, found.attr())

    def base_attr(self, attr: BaseAttr) -> Attr:
        """Returns the attributes of an untouched node."""
        perm = self.defaults.directory if attr.is_dir else self.defaults.file
        kind = 0o040000 if attr.is_dir else 0o100000
        time_ns = attr.mtime_ns
        return Attr(attr.ino, kind | perm.mode, 1, perm.uid, perm.gid, attr.size, time_ns, time_ns, time_ns)

    def path_of(self, found: Node | BaseEntry) -> str:
        """Returns where something is in the merged tree; of a file's links the first one."""
        if isinstance(found, DirNode):
            return found.path()
        if isinstance(found, FileNode):
            if found.parent is None:
                raise EntryNotFoundError(f"{found.name!r} was removed", path=found.name)
            return join(found.parent.path(), found.name)
        parent = found.path
        while True:
            parent, _, _ = parent.rpartition("/")
            node = self.base_dirs.get(parent)
            if node is not None:
                return join(node.path(), found.path[len(parent) + 1 if parent else 0 :])

    # Materialising

    def materialise_dir(self, directory: DirNode | str) -> DirNode:
        """Returns the node of a directory, made with all above it where there is none."""
        if isinstance(directory, DirNode):
            return directory
        node = self.base_dirs.get(directory)
        if node is not None:
            return node
        missing = []
        path = directory
        while path not in self.base_dirs:
            missing.append(path)
            path = path.rpartition("/")[0]
        node = self.base_dirs[path]
        for path in reversed(missing):
            name = path.rpartition("/")[2]
            attr = None if name in node.entries else self.base_stat(path)
            if attr is None:
                raise StaleError(f"{directory!r} is gone", path=directory)
            if not attr.is_dir:
                raise NotADirectoryTreeError(f"{path!r} is a file", path=path)
            below = DirNode(self.take_id(), attr.ino, self.perm(*self.defaults.directory), attr.mtime_ns, path)
            self.base_dirs[path] = below
            self._insert(node, name, below)
            node = below
        return node

    def materialise_file(self, parent: DirNode, name: str, base_entry: BaseEntry) -> FileNode:
        """Makes the node of an untouched file, in its materialised directory."""
        attr = base_entry.attr
        # The number may be in use still, by the open file that stood here before a `discard`.
        ino = self.new_ino() if attr.ino in self.by_ino else attr.ino
        node = FileNode(self.take_id(), ino, self.perm(*self.defaults.file), attr.size, attr.mtime_ns)
        node.origin = base_entry.path
        node.flags = FROM_BASE
        self.base_files[base_entry.path] = node
        self._insert(parent, name, node)
        handles = self.base_handles.pop(base_entry.path, None)
        if handles:
            node.io = OpenState(handles=len(handles))
            for handle in handles:
                handle.node = node
        return node

    def _insert(self, parent: DirNode, name: str, node: Node) -> None:
        self.keep_for_views(parent)
        node.parent = parent
        node.name = name
        parent.entries[name] = node
        if parent.hidden is not None:
            parent.hidden.add(name)
        self.by_ino[node.ino] = node

    def materialise(self, directory: DirNode, name: str, found: Node | BaseEntry) -> Node:
        """Returns the node of what `child` found in a directory."""
        if not isinstance(found, BaseEntry):
            return found
        if found.attr.is_dir:
            return self.materialise_dir(found.path)
        return self.materialise_file(directory, name, found)

    def materialise_where(self, where: Where) -> Node:
        """Returns the node of what a caller means."""
        found = self.resolve(where)
        if not isinstance(found, BaseEntry):
            return found
        if found.attr.is_dir:
            return self.materialise_dir(found.path)
        above, _, name = found.path.rpartition("/")
        return self.materialise_file(self.materialise_dir(above), name, found)

    def forget_placeholder(self, node: FileNode) -> None:
        """Drops the node of a base file that says nothing which the base does not say itself."""
        parent, base_path = node.parent, node.origin
        if (
            node.flags == FROM_BASE
            and node.io is None
            and node.extra is None
            and parent is not None
            and parent.base_path is not None
            and base_path is not None
            and base_path == join(parent.base_path, node.name)
            and not self.views
        ):
            del parent.entries[node.name]
            if parent.hidden is not None:
                parent.hidden.discard(node.name)
            del self.by_ino[node.ino]
            del self.base_files[base_path]
            node.parent = None
            attr = self.base_stat(base_path)
            if attr is not None and (attr.ino, attr.mtime_ns) != (node.ino, node.mtime_ns):
                # It was committed while it was open.
                self.kept.add(parent.base_path, [(node.name, node.ino, node.mtime_ns)])

    def renew_dir(self, path: str, time_ns: int) -> int | None:
        """Gives a base directory whose time is the tree's a later one; returns its number, None if it is not."""
        node = self.base_dirs.get(path)
        if node is not None:
            self.keep_for_views(node)
            node.mtime_ns = node.ctime_ns = max(time_ns, self.tick(node), node.mtime_ns + 1)
            self.soft[node] = None
            return node.ino
        kept = self.kept.get(path)
        if kept is None:
            return None
        above, _, name = path.rpartition("/")
        self.kept.add(above, [(name, kept.ino, max(time_ns, kept.mtime_ns + 1))])
        return kept.ino

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
        """Writes what the operation has done so far; what it does from here on is not undone."""
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

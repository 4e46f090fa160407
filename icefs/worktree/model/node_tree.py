"""The nodes of a working tree over its base: what is where, in memory.

Concurrency: the caller holds the tree's lock (`core.tree_core`). While it is held the base is asked for attributes and
listings only.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

from icefs.errors import EntryNotFoundError, NotADirectoryTreeError, StaleError
from icefs.inode import Ino
from icefs.paths import ROOT_DIRECTORY, TreePath, child, relative, split
from icefs.worktree.base import BaseAttr, BaseEntry, BaseTree
from icefs.worktree.model.handles import Handle
from icefs.worktree.model.nodes import WHITEOUT, Attr, DirNode, FileNode, Node, NodeRef, Perm, TreeEntry
from icefs.worktree.model.retained import RetainedAttrs
from icefs.worktree.model.unfinished import Unfinished
from icefs.worktree.model.views import View

ROOT_ID: Final = 1


class Defaults(NamedTuple):
    """Mode and owner of what the base provides."""

    file: Perm
    directory: Perm


class NodeTree:
    """The nodes, and how to find them.

    INVARIANT: `by_ino` holds every node that an entry refers to, and every open file that none refers to.
    INVARIANT: `base_dirs` holds every live directory with a base path, `base_files` every linked file with an
        origin; besides, open files that were removed.
    INVARIANT: `base_handles` holds every open handle of a base file under the handle's own path, until the tree shows
        something else there.
    INVARIANT: every file in `unfinished` has a handle that may write.
    INVARIANT: ids of nodes and spool files are below `next_id` and never used twice.

    Attributes:
        base: The id of the base snapshot.
        base_tree: Its files and directories.
        now_ns: The clock.
        defaults: Mode and owner of what the base provides.
        root: The root directory.
        next_id: The id that is given next.
        by_ino: The nodes by inode number.
        base_dirs: The materialised directories by base path.
        base_files: The materialised files by base path.
        base_handles: Open handles of untouched files by base path.
        unfinished: Files that programs are in the middle of writing.
        retained: Inode numbers and times of committed files.
        views: The frozen trees that callers hold.
        revision: Counts what may change what the tree shows; the same number means the same tree.
    """

    def __init__(
        self, base_tree: BaseTree, allocate_ino: Callable[[], Ino], now_ns: Callable[[], int], defaults: Defaults
    ) -> None:
        self.base = ""
        self.base_tree = base_tree
        self.now_ns = now_ns
        self.defaults = defaults
        self.next_id = ROOT_ID + 1
        self.by_ino: dict[Ino, Node] = {}
        self.base_dirs: dict[TreePath, DirNode] = {}
        self.base_files: dict[TreePath, FileNode] = {}
        self.base_handles: dict[TreePath, list[Handle]] = {}
        self.unfinished = Unfinished()
        self.retained = RetainedAttrs()
        self.views: list[View] = []
        self.revision = 0
        self._allocate_ino = allocate_ino
        self._perms: dict[Perm, Perm] = {}
        self.root = DirNode(ROOT_ID, Ino(0), self.perm(*defaults.directory), 0, ROOT_DIRECTORY)

    def take_id(self) -> int:
        """Returns an id that no node and no spool file ever had."""
        taken = self.next_id
        self.next_id = taken + 1
        return taken

    def new_ino(self) -> Ino:
        """Returns an inode number that no node of the tree has."""
        ino = self._allocate_ino()
        while ino in self.by_ino:
            ino = self._allocate_ino()
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

    def keep_for_views(self, node: Node) -> None:
        """Tells the frozen trees that a node is about to change."""
        for view in self.views:
            view.keep(node)

    def base_stat(self, path: TreePath) -> BaseAttr | None:
        """Asks the base; what was retained over a commit counts more."""
        attr = self.base_tree.stat(path)
        if attr is not None and self.retained:
            retained = self.retained.get(path)
            if retained is not None:
                return BaseAttr(retained.ino, attr.is_dir, attr.size, retained.mtime_ns)
        return attr

    def is_reachable(self, path: TreePath) -> bool:
        """Tells whether a base path without a node of its own is part of the merged tree."""
        while path:
            path, name = split(path)
            node = self.base_dirs.get(path)
            if node is not None:
                return name not in node.entries
        return True

    def resolve(self, where: NodeRef) -> Node | BaseEntry:
        """Returns what a caller means.

        Raises:
            StaleError: it is no longer there.
        """
        if isinstance(where, int):
            node = self.by_ino.get(where)
            if node is not None:
                return node
            retained = self.retained.path_of(where)
            if retained is None:
                raise StaleError(f"inode {where} is gone", ino=where)
            path = retained
        else:
            path = where
        upper = self.base_dirs.get(path) or self.base_files.get(path)
        if upper is not None:
            return upper
        attr = self.base_stat(path) if self.is_reachable(path) else None
        if attr is None:
            raise StaleError(f"{path!r} is gone", path=path)
        return BaseEntry(path, attr)

    def directory(self, where: NodeRef) -> DirNode | TreePath:
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

    def child(self, directory: DirNode | TreePath, name: str) -> Node | BaseEntry | None:
        """Returns what stands under a name in a directory, None if nothing does."""
        if isinstance(directory, DirNode):
            entry = directory.entries.get(name)
            if entry is not None:
                return None if entry is WHITEOUT else entry
            if directory.base_path is None:
                return None
            directory = directory.base_path
        path = child(directory, name)
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

    def path_of(self, found: Node | BaseEntry) -> TreePath:
        """Returns where something is in the merged tree; of a file's links the first one."""
        if isinstance(found, DirNode):
            return found.path()
        if isinstance(found, FileNode):
            if found.parent is None:
                raise EntryNotFoundError(f"{found.name!r} was removed", path=found.name)
            return child(found.parent.path(), found.name)
        parent = found.path
        while True:
            parent, _ = split(parent)
            node = self.base_dirs.get(parent)
            if node is not None:
                return child(node.path(), relative(found.path, parent))

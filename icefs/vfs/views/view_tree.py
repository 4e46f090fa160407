"""The tree of all views of a mount: the directories `views` of its trees and of its root, and all below them."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Final, override

from icefs.engine.history.lineage import Lineages
from icefs.errors import IsADirectoryTreeError, ReadOnlyError
from icefs.inode import ROOT_INO, Ino
from icefs.paths import ROOT_DIRECTORY
from icefs.vfs.attrs import FOREVER_S, Attr, Ownership
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.fetches import Fetches
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import DirHandle, FileHandle, NotInMemoryError, Tree, TreeChanges, not_a_directory
from icefs.vfs.refs.mounted_trees import MountedTrees
from icefs.vfs.refs.root import DIRECTORY_NAMES, RootTree
from icefs.vfs.threads import Threads
from icefs.vfs.trees.control_dir import CONTROL_NAME
from icefs.vfs.trees.snapshot_tree import WRITING, SnapshotTree
from icefs.vfs.views.front import Front
from icefs.vfs.views.handles import ViewHandle, ViewListing
from icefs.vfs.views.nodes import DirNode, FormatsNode, Look, Node, NodeTable, RootHooks, ViewDirNode, ViewFileNode
from icefs.vfs.views.refs_nodes import KindsNode, RefsNode
from icefs.vfs.views.sources import source_of
from icefs.vfs.views.versions import Version, View, ViewTools, new_layouts

_MAX_LOADED: Final = 32
_MAX_VIEWS: Final = 256
_THREADS: Final = max(2, min(8, os.cpu_count() or 1))

type Shown = SnapshotTree | BranchTree


class ViewTree(Tree):
    """All views of a mount; made when the first is looked at.

    Concurrency: on the event loop's thread; layouts and bytes are made in threads of its own.
    """

    def __init__(self, space: InodeSpace, ownership: Ownership, lineages: Lineages, tools: ViewTools) -> None:
        """Takes what the mount has.

        Args:
            space: Where inode numbers come from.
            ownership: Whose the files are.
            lineages: Tells when nodes changed last.
            tools: What makes views.
        """
        self._space = space
        self._table = NodeTable(space, self)
        self._lineages = lineages
        self._tools = tools
        self._threads = Threads(_THREADS, "icefs-views")
        self._fetches = Fetches(self._threads)
        self._look = Look(ownership, time.time_ns(), self._table.number)
        self._layouts = new_layouts()
        self._views: dict[tuple[Shown, str], View] = {}
        self._loaded: dict[View, None] = {}

    def __len__(self) -> int:
        return len(self._table)

    @property
    def pending(self) -> int:
        """How many tasks run or wait in its threads."""
        return self._threads.pending

    def close(self) -> None:
        """Takes no more work."""
        self._threads.close()
        self._tools.close()

    @property
    @override
    def label(self) -> str:
        return ""

    @property
    @override
    def changes(self) -> TreeChanges:
        return TreeChanges(self.path_of)

    @override
    def path_of(self, ino: Ino) -> str:
        node = self._table.find(ino)
        return f"inode {ino}" if node is None else f"/{node.path}"

    # Views.

    def view(self, tree: Shown, choice: str) -> View:
        """Returns the view of a tree in a format, given by name with options."""
        view = self._views.get((tree, choice))
        if view is None:
            if len(self._views) >= _MAX_VIEWS:
                for one in [one for one in self._views.values() if not one.users]:
                    self._drop(one)
            source = source_of(tree, self._lineages)
            view = View(source, choice, self._tools, self._fetches, self._layouts, self)
            self._views[tree, choice] = view
        return view

    def note_loaded(self, view: View) -> None:
        """Drops the contents of the view that was loaded first, where there are too many."""
        self._loaded.pop(view, None)
        self._loaded[view] = None
        if len(self._loaded) > _MAX_LOADED:
            oldest = next(iter(self._loaded))
            del self._loaded[oldest]
            oldest.unload()

    def _drop(self, view: View) -> None:
        self._loaded.pop(view, None)
        for key, one in list(self._views.items()):
            if one is view:
                del self._views[key]

    # Where views begin.

    def views_of(self, tree: Shown, parent_ino: Ino) -> Attr:
        """Finds the directory `views` of a tree's control directory, and counts a reference to it."""
        path = f"{tree.label}/{CONTROL_NAME}/views" if tree.label else f"{CONTROL_NAME}/views"

        def enter(choice: str, above: DirNode) -> DirNode:
            return self._root_node(tree, choice, f"{path}/{choice}", above)

        return self._enter(FormatsNode(self._look, path, parent_ino, enter))

    def views_of_root(self, root: RootTree, parent_ino: Ino) -> Attr:
        """Finds the directory `views` of the mount's control directory, and counts a reference to it."""
        path = f"{CONTROL_NAME}/views"

        def kinds(choice: str, above: DirNode) -> DirNode:
            def refs(kind: str, above: DirNode) -> RefsNode:
                def enter(tree: Shown, above: DirNode) -> Node:
                    place = f"{path}/{choice}/{tree.label}"
                    # A branch or a tag may be deleted, and nothing invalidates this name then; a snapshot's leads to
                    # the same for ever, as that of its tree does.
                    hooks = None if kind == "snapshots" else RootHooks(entry_timeout_s=0.0)
                    return self._root_node(tree, choice, place, above, hooks)

                return RefsNode(self._look, f"{path}/{choice}/{kind}", above.ino, root, kind, enter)

            return KindsNode(self._look, f"{path}/{choice}", above.ino, refs)

        return self._enter(FormatsNode(self._look, path, parent_ino, kinds))

    def put_in_front(self, trees: MountedTrees, choice: str) -> None:
        """Has views answer for the trees of the mount, in their places."""
        if trees.root is not None:
            root = trees.root
            self._pin(
                root, [(root.directory_ino(kind), self._refs_in_front(root, kind, choice)) for kind in DIRECTORY_NAMES]
            )
        elif trees.single is not None:
            tree = trees.single
            below = tree if isinstance(tree, SnapshotTree) else tree.owner
            hooks = RootHooks(control=lambda: below.lookup(ROOT_INO, CONTROL_NAME))
            node = ViewDirNode(self._look, self.view(tree, choice), "", ROOT_DIRECTORY, ROOT_INO, hooks)
            self._pin(below, [(ROOT_INO, node)])

    def _refs_in_front(self, root: RootTree, kind: str, choice: str) -> RefsNode:
        def enter(tree: Shown, above: DirNode) -> Node:
            below = tree if isinstance(tree, SnapshotTree) else tree.owner
            root_ino = (tree if isinstance(tree, SnapshotTree) else tree.tree).inodes.root_ino
            # As for the trees themselves: the name is invalidated when the ref is deleted.
            hooks = RootHooks(FOREVER_S, lambda: below.lookup(root_ino, CONTROL_NAME))
            return self._root_node(tree, choice, tree.label, above, hooks)

        return RefsNode(self._look, kind, ROOT_INO, root, kind, enter)

    def _pin(self, below: Tree, nodes: Sequence[tuple[Ino, Node]]) -> None:
        for ino, node in nodes:
            self._table.pin(node, ino)
        self._space.put_in_front(ROOT_INO, Front(below, self, [ino for ino, _ in nodes]))

    def _root_node(
        self, tree: Shown, choice: str, place: str, above: DirNode, hooks: RootHooks | None = None
    ) -> ViewDirNode:
        return ViewDirNode(self._look, self.view(tree, choice), place, ROOT_DIRECTORY, above.ino, hooks)

    def _enter(self, node: Node) -> Attr:
        known = self._table.known(node)
        attr = known.attr(None)
        self._table.enter(known)
        return attr

    # The interface.

    def _asked[T](self, question: Callable[[], T]) -> T:
        """Asks, and has a question that waits for a view be asked again of the version that it began with."""
        try:
            return question()
        except NotInMemoryError as missing:
            if missing.by is self._fetches and missing.again is None:
                missing.again = lambda: self._asked(question)
            raise

    def _directory(self, ino: Ino) -> DirNode:
        node = self._table.get(ino)
        if not isinstance(node, DirNode):
            raise not_a_directory(self.path_of(ino))
        return node

    @override
    def lookup(self, parent: Ino, name: str) -> Attr:
        above = self._directory(parent)
        version = _present(above)
        return self._asked(lambda: self._lookup(above, name, version))

    def _lookup(self, above: DirNode, name: str, version: Version | None) -> Attr:
        found = above.find(name, version)
        if isinstance(found, Attr):
            return found
        node = self._table.known(found)
        # That of a tree's root is found outside of any version, and begins with the present one.
        own = version if node.view is above.view else _present(node)
        return self._asked(lambda: self._entered(node, own))

    def _entered(self, node: Node, version: Version | None) -> Attr:
        attr = node.attr(version)
        self._table.enter(node)
        return attr

    @override
    def getattr(self, ino: Ino) -> Attr:
        node = self._table.get(ino)
        version = _present(node)
        return self._asked(lambda: node.attr(version))

    @override
    def getattr_open(self, file: FileHandle) -> Attr:
        return file.attr if isinstance(file, ViewHandle) else self.getattr(file.ino)

    @override
    def forget(self, ino: Ino, count: int) -> None:
        unused = self._table.forget(ino, count)
        if unused is not None:
            self._drop(unused)

    @override
    def open(self, ino: Ino, flags: int) -> FileHandle:
        node = self._table.get(ino)
        if not isinstance(node, ViewFileNode):
            raise IsADirectoryTreeError(f"{self.path_of(ino)} is a directory", ino=ino)
        if flags & WRITING:
            raise ReadOnlyError(f"{self.path_of(ino)} cannot be written: it is a view", kind="read-only-store")
        version = _present(node)
        return self._asked(lambda: ViewHandle(node.attr(version), node.layout(version), self._threads))

    @override
    def opendir(self, ino: Ino) -> DirHandle:
        node = self._directory(ino)
        version = _present(node)
        file_mode = self._look.ownership.file_mode(writable=False)

        def opened() -> ViewListing:
            children = node.children(version)
            return ViewListing(node.attr(version), node.parent_ino, file_mode, children, self._fetches)

        return self._asked(opened)


def _present(node: Node) -> Version | None:
    return None if node.view is None else node.view.present()

"""The directories of refs in a view of a whole repository: `branches`, `tags`, `snapshots`, and what is above them."""

from collections.abc import Callable
from typing import override

from icefs.inode import Ino
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, Attr
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.refs.root import DIRECTORY_NAMES, RootTree
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.vfs.views.nodes import Child, Children, DirNode, Look, Node
from icefs.vfs.views.versions import Version

type EnterTree = Callable[[SnapshotTree | BranchTree, DirNode], Node]
"""Makes the node of the root of a tree's view."""


class KindsNode(DirNode):
    """The root of a view of a whole repository, which has `branches`, `tags` and `snapshots`."""

    __slots__ = ("_look", "_make", "_path")

    def __init__(self, look: Look, path: str, parent_ino: Ino, make: "Callable[[str, DirNode], RefsNode]") -> None:
        """Takes its path, and what makes the directory of a kind of ref."""
        super().__init__(("kinds", path), parent_ino)
        self._look = look
        self._path = path
        self._make = make

    @property
    @override
    def path(self) -> str:
        return self._path

    @override
    def attr(self, version: Version | None) -> Attr:
        return self._look.directory(self.ino, self._look.started_ns)

    @override
    def find(self, name: str, version: Version | None) -> Node | Attr:
        return self._make(name, self) if name in DIRECTORY_NAMES else ABSENT_FOREVER

    @override
    def children(self, version: Version | None) -> Children:
        keys = [(name, self._make(name, self).key) for name in DIRECTORY_NAMES]
        return lambda: (Child(name, self._look.number(key), is_dir=True) for name, key in keys)


class RefsNode(DirNode):
    """The directory of all branches, tags or snapshots."""

    __slots__ = ("_enter", "_kind", "_look", "_path", "_root")

    def __init__(self, look: Look, path: str, parent_ino: Ino, root: RootTree, kind: str, enter: EnterTree) -> None:
        """Takes what has the refs, which of them it shows, and what makes the view of one."""
        super().__init__(("refs", path), parent_ino)
        self._look = look
        self._path = path
        self._root = root
        self._kind = kind
        self._enter = enter

    @property
    @override
    def path(self) -> str:
        return self._path

    @override
    def attr(self, version: Version | None) -> Attr:
        shown = self._root.getattr(self._root.directory_ino(self._kind))
        # Refs come and go.
        return shown._replace(ino=self.ino, attr_timeout_s=0.0)

    @override
    def find(self, name: str, version: Version | None) -> Node | Attr:
        tree = self._root.find_tree(self._kind, name)
        return ABSENT if tree is None else self._enter(tree, self)

    @override
    def children(self, version: Version | None) -> Children:
        names = self._root.names(self._kind)
        # A tree, which has the number of its root, is made when it is looked at.
        return lambda: (Child(name, self._look.number((self.key, name)), is_dir=True) for name in names)

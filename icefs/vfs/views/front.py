"""A mount that shows views in place of Zarr keys: what stands in front of its trees."""

from collections.abc import Collection, Sequence
from typing import override

from icefs.inode import Ino
from icefs.vfs.attrs import Attr
from icefs.vfs.interface import DirHandle, FileHandle, Tree, TreeChanges


class Front(Tree):
    """Answers for some of the mount's first inode numbers with views, and for all others with the tree below.

    The tree below keeps its control directory, and may be all that is mounted, or the directories of refs.
    """

    def __init__(self, below: Tree, views: Tree, inos: Collection[Ino]) -> None:
        """Takes the numbers that the views answer for."""
        self._below = below
        self._views = views
        self._inos = frozenset(inos)

    def _tree(self, ino: Ino) -> Tree:
        return self._views if ino in self._inos else self._below

    @property
    @override
    def changes(self) -> TreeChanges:
        return TreeChanges(self.path_of)

    @property
    @override
    def label(self) -> str:
        return self._below.label

    @override
    def path_of(self, ino: Ino) -> str:
        return self._tree(ino).path_of(ino)

    @override
    def lookup(self, parent: Ino, name: str) -> Attr:
        return self._tree(parent).lookup(parent, name)

    @override
    def getattr(self, ino: Ino) -> Attr:
        return self._tree(ino).getattr(ino)

    @override
    def getattr_open(self, file: FileHandle) -> Attr:
        return self._tree(file.ino).getattr_open(file)

    @override
    def forget(self, ino: Ino, count: int) -> None:
        self._tree(ino).forget(ino, count)

    @override
    def readlink(self, ino: Ino) -> str:
        return self._tree(ino).readlink(ino)

    @override
    def open(self, ino: Ino, flags: int) -> FileHandle:
        return self._tree(ino).open(ino, flags)

    @override
    def opendir(self, ino: Ino) -> DirHandle:
        return self._tree(ino).opendir(ino)

    @override
    def listxattr(self, ino: Ino) -> Sequence[str]:
        return self._tree(ino).listxattr(ino)

    @override
    def getxattr(self, ino: Ino, name: str) -> bytes | None:
        return self._tree(ino).getxattr(ino, name)

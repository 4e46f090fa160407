"""Bounds how many trees of tags and snapshots are in memory."""

from collections.abc import Callable
from typing import Final

from icefs.inode import Ino, Invalidations
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import Notifier
from icefs.vfs.trees.snapshot_tree import SnapshotTree

MAX_LOADED: Final = 128
"""How many trees that never change are in memory, unless said otherwise."""


class LoadedTrees:
    """The trees whose snapshot is in memory, the one that was loaded first to go first; implements `Keeper`.

    The kernel, which remembers a tree until it needs the memory, is made to forget it, too, so that all of it goes. A
    branch's snapshot is never let go.
    """

    def __init__(
        self,
        space: InodeSpace,
        notifier: Notifier,
        is_open: Callable[[SnapshotTree], bool],
        directory_ino: Callable[[str], Ino],
        forget_tree: Callable[[SnapshotTree], None],
    ) -> None:
        """Takes what a tree is known to.

        Args:
            space: Has its inode numbers.
            notifier: Invalidates what the kernel caches.
            is_open: Tells whether any file or directory of it is open.
            directory_ino: Returns the inode of `tags` or `snapshots`.
            forget_tree: Drops it from its directory.
        """
        self._space = space
        self._notifier = notifier
        self._is_open = is_open
        self._directory_ino = directory_ino
        self._forget_tree = forget_tree
        self._trees: dict[SnapshotTree, None] = {}

    def __len__(self) -> int:
        return len(self._trees)

    def note_loaded(self, tree: SnapshotTree) -> None:
        """Lets the first tree go where there are too many."""
        self._trees.pop(tree, None)
        self._trees[tree] = None
        if len(self._trees) > MAX_LOADED:
            oldest = next(iter(self._trees))
            del self._trees[oldest]
            oldest.unload()
            directory, _, name = oldest.label.partition("/")
            if not self._is_open(oldest):
                self._notifier.invalidate(Invalidations([(self._directory_ino(directory), name.encode())]))

    def note_unused(self, tree: SnapshotTree) -> None:
        """Drops a tree with its numbers."""
        self._forget_tree(tree)
        self._space.drop(tree)
        self._trees.pop(tree, None)

"""Numbers for what is to be seen again while the kernel still has it as something that was removed.

A file that is open keeps its inode number when it is removed, and the kernel keeps the directories above it, in which
nothing can be made any more. Should the base's file and directories be seen again meanwhile, because the removal
is discarded or gives way to what others wrote, they are others, and need numbers of their own: they get *retained*
ones.

Concurrency: under the tree's lock.
"""

from collections.abc import Iterable, Iterator

from icefs.paths import ROOT_DIRECTORY, TreePath, ancestors, split
from icefs.worktree.base import BaseAttr
from icefs.worktree.model.node_tree import NodeTree
from icefs.worktree.model.nodes import FileNode


class Reappearing:
    """What is hidden before an operation, and may be seen after it."""

    def __init__(self, tree: NodeTree, opened: Iterable[TreePath] = ()) -> None:
        """Remembers the directories that were removed with open files in them; `opened` are further such files."""
        self._tree = tree
        self._directories = {
            above
            for path in (*opened, *(node.origin or ROOT_DIRECTORY for node in self._removed()))
            for above in ancestors(path)
            if above and above not in tree.base_dirs and not tree.is_reachable(above)
        }

    def _removed(self) -> Iterator[FileNode]:
        """Yields the files of the base that are open, and have no name any more."""
        for node in self._tree.by_ino.values():
            if isinstance(node, FileNode) and node.parent is None and node.origin is not None:
                yield node

    def renumber(self, twins: Iterable[TreePath] = ()) -> None:
        """Gives other numbers to what is to be seen again, and to base paths whose number another file has now."""
        tree = self._tree
        for twin in twins:
            attr = tree.base_stat(twin)
            if attr is not None:
                self._keep(twin, attr)
        for node in list(self._removed()):
            path = node.origin
            assert path is not None
            attr = self._seen(path)
            if attr is None:
                continue
            if tree.base_files.get(path) is node:
                del tree.base_files[path]
            if attr.ino == node.ino:
                self._keep(path, attr)
        for path in self._directories:
            attr = self._seen(path)
            if attr is not None:
                self._keep(path, attr)

    def _seen(self, path: TreePath) -> BaseAttr | None:
        """Returns the attributes of a base path that is to be seen, and has no node."""
        return self._tree.base_stat(path) if self._tree.is_reachable(path) else None

    def _keep(self, path: TreePath, attr: BaseAttr) -> None:
        above, name = split(path)
        self._tree.retained.add(above, [(name, self._tree.new_ino(), attr.mtime_ns)])

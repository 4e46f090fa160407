"""Where the directories of a working tree are in the tree that it is put on (`settle`).

Concurrency: under the tree's lock, but for what is set before anything is asked.
"""

from collections.abc import Sequence

from icefs.worktree.base import BaseAttr, BaseEntry, BaseTree, join
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.frozen import FrozenDir, FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import DirNode, FileNode


class NewPlaces:
    """The base directories that belong under the tree's directories, and what the new base says of paths.

    Attributes:
        stats: What the new base said of paths.
        moved_files: Where committed files are now, by the base paths of their content.
    """

    def __init__(
        self, core: TreeCore, index: FrozenIndex | None, frozen: FrozenTree | None, base_tree: BaseTree
    ) -> None:
        self._core = core
        self._index = index
        self._frozen = frozen
        self._base_tree = base_tree
        self._places: dict[DirNode, str | None] = {}
        self._joined: dict[DirNode, list[str]] = {}
        self.stats: dict[str, BaseAttr | None] = {}
        self.moved_files: dict[str, str] = {}

    def stat(self, path: str) -> BaseAttr | None:
        """Returns what the new base says of a path."""
        if path not in self.stats:
            self.stats[path] = self._base_tree.stat(path)
        return self.stats[path]

    def new_path(self, base_path: str) -> str | None:
        """Returns where the new base has what had a base path in the old one."""
        if self._index is None:
            return base_path
        return self.moved_files.get(base_path) or self._index.new_path(base_path)

    def of(self, node: DirNode) -> str | None:
        """Returns the new base directory that belongs under a directory; of one that was made here after `find`."""
        if node not in self._places:
            frozen = self._index.dirs.get(node) if self._index is not None else None
            if frozen is not None:
                path: str | None = None if self._is_apart(node) else frozen.path
            else:
                path = None if node.base_path is None else self.new_path(node.base_path)
            self._places[node] = path if not path or self._is_dir(path) else None
        return self._places[node]

    def _is_apart(self, node: DirNode) -> bool:
        """Tells whether a directory was made or renamed to where it is, and no commit took anything of it."""
        index = self._index
        frozen = None if index is None else index.dirs.get(node)
        return (
            index is not None and frozen is not None and frozen.base_path != frozen.path and index.is_held(frozen.path)
        )

    def below(self, directory: DirNode, name: str) -> str | None:
        """Returns the new base path of a name in a directory; None if the directory stands over nothing."""
        place = self.of(directory)
        return None if place is None else join(place, name)

    def is_same(self, old: str, new: str) -> bool:
        """Tells whether the new base has at a path what the old one has at another."""
        return self._core.base_tree.content(old) == self._base_tree.content(new)

    def find(self, order: Sequence[DirNode]) -> None:
        """Finds the places of all directories of the tree, given with those above before those below them.

        One that was made here, and is no part of a commit, stands over what others made at its path; unless that was
        renamed away: what others put into it went with it. It goes on hiding what the base has there.
        """
        taken = {self.of(directory) for directory in order}
        for directory in order:
            is_apart = self._is_apart(directory)
            is_committed = self._index is not None and directory in self._index.dirs
            if directory.parent is None or (not is_apart and (directory.base_path is not None or is_committed)):
                continue
            path = self.below(directory.parent, directory.name)
            if path is not None and path not in taken and self._is_dir(path):
                taken.add(path)
                self._places[directory] = path
                self._joined[directory] = self._base_names(path) if is_apart else self._names_before(path)

    def _is_dir(self, path: str) -> bool:
        attr = self.stat(path)
        return attr is not None and attr.is_dir

    def _names_before(self, path: str) -> list[str]:
        """Returns the names that a directory had before another one was made in its place."""
        if self._frozen is not None:
            found = self._frozen.find(path)
            if isinstance(found, FrozenDir) or (isinstance(found, BaseEntry) and found.attr.is_dir):
                return [name for name, _ in self._frozen.list(found)]
            return []
        return self._base_names(path)

    def _base_names(self, path: str) -> list[str]:
        """Returns the names in a directory of the old base."""
        attr = self._core.base_tree.stat(path)
        return [] if attr is None or not attr.is_dir else [name for name, _ in self._core.base_tree.list(path)]

    def hidden_names(self, directory: DirNode) -> list[str]:
        """Returns the names that a directory has hidden since it was made, and goes on hiding."""
        return [name for name in self._joined.get(directory, ()) if name not in directory.entries]

    def outdated_names(self, node: FileNode, path: str) -> list[tuple[DirNode, str]]:
        """Returns the name of a file that is its place in the old base, if it has others and the new one differs.

        Args:
            node: The file, with the old base's bytes.
            path: Where that has them.
        """
        found = []
        for directory, name in node.links() if node.extra is not None else ():
            if directory.base_path is not None and join(directory.base_path, name) == path:
                place = self.below(directory, name)
                if place is None or not self.is_same(path, place):
                    found.append((directory, name))
        return found

"""Where the directories and files of a working tree are on the base that the tree is put on.

After a commit the new snapshot provides what was frozen and committed. Which of its directories belongs under a
directory of the tree:

- One that was frozen at path P stands over the new base directory P, wherever it has been moved since; if the new
  snapshot has no directory P (an empty one, one of untracked names), over nothing.
- One that was untouched at the freeze stands over the base directory at the path it had then.
- One that was made here, of which nothing is committed, stands over the one that others made at its path: their files
  in
  it are shown, and the files of the old base that it hid stay hidden.
"""

from collections.abc import Iterable, Sequence

from icefs.paths import ROOT_DIRECTORY, TreePath, child, relative, split
from icefs.worktree.base import BaseAttr, BaseEntry, BaseTree
from icefs.worktree.freeze.frozen import FrozenDir, FrozenFile
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import DirNode, FileNode


class AskedOnce:
    """What a base says of paths; each path is asked for once.

    Attributes:
        tree: The base.
    """

    def __init__(self, tree: BaseTree) -> None:
        self.tree = tree
        self._stats: dict[TreePath, BaseAttr | None] = {}

    def ask(self, paths: Sequence[TreePath]) -> None:
        """Asks for many paths together; may wait for the network."""
        self._stats.update(zip(paths, self.tree.stat_many(paths), strict=True))

    def stat(self, path: TreePath) -> BaseAttr | None:
        """Returns the attributes of a path, None if nothing is there."""
        if path not in self._stats:
            self._stats[path] = self.tree.stat(path)
        return self._stats[path]

    def has_file(self, path: TreePath, size: int) -> bool:
        """Tells whether there is a file of that size."""
        attr = self.stat(path)
        return attr is not None and not attr.is_dir and attr.size == size

    def has_directory(self, path: TreePath) -> bool:
        """Tells whether there is a directory."""
        attr = self.stat(path)
        return attr is not None and attr.is_dir


def find_kept_back(asked: AskedOnce, committed: FrozenIndex, yielded: frozenset[TreePath]) -> list[TreePath]:
    """Returns the paths that a base, which was made of a frozen tree, does not have as they were frozen.

    Asks for all committed files together; may wait for the network.
    """
    sizes = {
        file.path: file.size
        for files in committed.files.values()
        for file in files
        if not (file.is_natural or committed.is_left_out(file.path) or file.path in yielded)
    }
    asked.ask(list(sizes))
    return sorted(path for path, size in sizes.items() if not asked.has_file(path, size))


class NewBase:
    """A new base, seen from a tree that stands on the old one.

    Concurrency: made without the tree's lock; `directory` and all that takes nodes is asked with it.

    Attributes:
        old: The old base.
        asked: What the new base says of paths.
        moved_files: Where committed files are now, by the base paths of their content.
    """

    def __init__(self, old: BaseTree, asked: AskedOnce, committed: FrozenIndex | None) -> None:
        """Takes both bases, and the frozen tree that the new one was made of."""
        self.old = old
        self.asked = asked
        self._committed = committed
        self.moved_files = {} if committed is None else _moved_files(committed)
        self._directories: dict[DirNode, TreePath | None] = {}
        self._joined: dict[DirNode, list[str]] = {}

    def new_path(self, base_path: TreePath) -> TreePath | None:
        """Returns where the new base has what had a path in the old one, None if that was not to be seen."""
        if self._committed is None:
            return base_path
        return self.moved_files.get(base_path) or self._committed.new_path(base_path)

    def is_same(self, old: TreePath, new: TreePath) -> bool:
        """Tells whether the new base has at a path the content that the old one has at another."""
        return self.old.content(old) == self.asked.tree.content(new)

    def source(self, node: FileNode) -> TreePath | None:
        """Returns where the new base has the content that a file takes from the old one; None if it has it nowhere."""
        assert node.origin is not None
        path = self.new_path(node.origin)
        if path is None or not self.asked.has_file(path, node.size) or not self.is_same(node.origin, path):
            return None
        return path

    def directory(self, node: DirNode) -> TreePath | None:
        """Returns the new base directory that belongs under a directory; of one made here after `join_made`."""
        if node not in self._directories:
            frozen = self._committed.dirs.get(node) if self._committed is not None else None
            if frozen is not None:
                path: TreePath | None = None if self._is_apart(node) else frozen.path
            else:
                path = None if node.base_path is None else self.new_path(node.base_path)
            self._directories[node] = path if not path or self.asked.has_directory(path) else None
        return self._directories[node]

    def below(self, directory: DirNode, name: str) -> TreePath | None:
        """Returns the new base path of a name in a directory; None if the directory stands over nothing."""
        path = self.directory(directory)
        return None if path is None else child(path, name)

    def _is_apart(self, node: DirNode) -> bool:
        """Tells whether a directory was made or renamed to where it is, and no commit took anything of it."""
        committed = self._committed
        frozen = None if committed is None else committed.dirs.get(node)
        if committed is None or frozen is None:
            return False
        return frozen.base_path != frozen.path and committed.is_held(frozen.path)

    def join_made(self, order: Sequence[DirNode]) -> None:
        """Puts the directories that were made here over those that others made at their paths.

        One that is no part of a commit stands over what others made at its path; unless that was renamed away: what
        others put into it went with it. It goes on hiding what the old base has there.

        Args:
            order: All directories of the tree, those above before those below them.
        """
        taken = {self.directory(node) for node in order}
        for node in order:
            is_apart = self._is_apart(node)
            is_committed = self._committed is not None and node in self._committed.dirs
            if node.parent is None or (not is_apart and (node.base_path is not None or is_committed)):
                continue
            path = self.below(node.parent, node.name)
            if path is not None and path not in taken and self.asked.has_directory(path):
                taken.add(path)
                self._directories[node] = path
                self._joined[node] = self._old_names(path) if is_apart else self._names_before(path)

    def _names_before(self, path: TreePath) -> list[str]:
        """Returns the names that a directory had before another one was made in its place.

        They are those of the frozen tree, and those that the old base has and the commit left out: the new base has
        these as well, and the frozen tree hid them.
        """
        committed = self._committed
        if committed is None:
            return self._old_names(path)
        frozen, names = committed.frozen, []
        found = frozen.find(path)
        if isinstance(found, FrozenDir) or (isinstance(found, BaseEntry) and found.attr.is_dir):
            names = [name for name, _ in frozen.list(found)]
        if committed.left_out:
            old = self._old_names(self._old_path(committed, path))
            names += [name for name in old if committed.is_left_out(child(path, name))]
        return list(dict.fromkeys(names))

    def _old_path(self, committed: FrozenIndex, path: TreePath) -> TreePath:
        """Returns where the old base has what the new one has at a path that was left out."""
        above, below = path, ROOT_DIRECTORY
        while above:
            found = committed.frozen.find(above)
            if isinstance(found, FrozenDir) and found.base_path is not None and not committed.is_left_out(above):
                return child(found.base_path, below) if below else found.base_path
            above, _ = split(above)
            below = relative(path, above)
        return path

    def _old_names(self, path: TreePath) -> list[str]:
        attr = self.old.stat(path)
        return [] if attr is None or not attr.is_dir else [name for name, _ in self.old.list(path)]

    def hidden_names(self, directory: DirNode) -> Iterable[str]:
        """Yields the names that a directory has hidden since it was made, and goes on hiding."""
        return (name for name in self._joined.get(directory, ()) if name not in directory.entries)

    def _was_put_back(self, node: FileNode, directory: DirNode, name: str) -> bool:
        """Tells whether a file got a name after the freeze, which did not have it there.

        The new base lacks that name because the frozen tree had taken it away, not because others did.
        """
        frozen = None if self._committed is None else self._committed.dirs.get(directory)
        if frozen is None or name not in frozen.entries:
            return False
        entry = frozen.entries[name]
        return not (isinstance(entry, FrozenFile) and entry.node is node)

    def outdated_names(self, node: FileNode, path: TreePath) -> list[tuple[DirNode, str]]:
        """Returns the name under which a file of several names shows the old base, if the new base differs there.

        Args:
            node: The file, with the old base's bytes.
            path: Where the old base has them.
        """
        found = []
        for directory, name in node.links() if node.extra is not None else ():
            is_natural = directory.base_path is not None and child(directory.base_path, name) == path
            if is_natural and not self._was_put_back(node, directory, name):
                place = self.below(directory, name)
                if place is None or not self.is_same(path, place):
                    found.append((directory, name))
        return found


def _moved_files(committed: FrozenIndex) -> dict[TreePath, TreePath]:
    moved: dict[TreePath, TreePath] = {}
    for files in committed.files.values():
        # A file that is also still at its own place has not moved.
        for file in files if len(files) == 1 else sorted(files, key=lambda file: not file.is_natural):
            if file.base_path is not None and not committed.is_left_out(file.path):
                moved.setdefault(file.base_path, file.path)
    return moved

"""Where everything of a frozen tree was, by node and by base path; for changes of base."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from icefs.paths import ROOT_DIRECTORY, TreePath, child, relative, split
from icefs.worktree.freeze.frozen import FrozenDir, FrozenFile, FrozenTree
from icefs.worktree.model.nodes import WHITEOUT, DirNode, FileNode

type Paths = frozenset[TreePath]


@dataclass(slots=True)
class FrozenIndex:
    """Where everything of a frozen tree was.

    Attributes:
        frozen: The tree.
        dirs: The frozen directories by node.
        files: The names of each file.
        by_base_path: The frozen directories by base path.
        left_out: Which paths were not committed; with a slash at the end, a directory of which nothing was.
    """

    frozen: FrozenTree
    dirs: dict[DirNode, FrozenDir] = field(default_factory=dict)
    files: dict[FileNode, list[FrozenFile]] = field(default_factory=dict)
    by_base_path: dict[TreePath, FrozenDir] = field(default_factory=dict)
    left_out: Paths = frozenset()
    _held: Paths = field(init=False)

    def __post_init__(self) -> None:
        self._held = frozenset(TreePath(path[:-1]) for path in self.left_out if path.endswith("/"))

    @classmethod
    def of(cls, frozen: FrozenTree, left_out: Paths) -> "FrozenIndex":
        """Walks the frozen tree once."""
        index = cls(frozen, left_out=left_out)
        index._add_directory(frozen.root)
        for _, entry in frozen.walk():
            if isinstance(entry, FrozenFile):
                index.files.setdefault(entry.node, []).append(entry)
            elif isinstance(entry, FrozenDir):
                index._add_directory(entry)
        return index

    def _add_directory(self, directory: FrozenDir) -> None:
        self.dirs[directory.node] = directory
        if directory.base_path is not None:
            self.by_base_path[directory.base_path] = directory

    def leaving_out(self, paths: Iterable[TreePath]) -> "FrozenIndex":
        """Returns the same with further paths that were not committed."""
        return replace(self, left_out=self.left_out.union(paths))

    def hidden_paths(self) -> Iterator[TreePath]:
        """Yields the base paths that the frozen tree did not show, and that are gone."""
        for directory in self.dirs.values():
            if directory.base_path is not None:
                for name, entry in directory.entries.items():
                    path = child(directory.base_path, name)
                    is_hidden = entry is WHITEOUT or entry.base_path != path
                    if is_hidden and not self.is_left_out(child(directory.path, name)):
                        yield path

    def is_left_out(self, path: TreePath) -> bool:
        """Tells whether a path, or one it lies below, was not committed."""
        if not self.left_out:
            return False
        above = path
        while above and above not in self.left_out:
            above, _ = split(above)
        return above in self.left_out or self.is_held(path)

    def is_held(self, path: TreePath) -> bool:
        """Tells whether a path is, or lies in, a directory of which nothing was committed."""
        while self._held and path not in self._held:
            if not path:
                return False
            path, _ = split(path)
        return bool(self._held)

    def left_path(self, base_path: TreePath) -> TreePath | None:
        """Returns where the name of a base path was hidden, unless that was committed; None if it was not hidden."""
        above, name = split(base_path)
        directory = self.by_base_path.get(above)
        if directory is None or name not in directory.entries:
            return None
        path = child(directory.path, name)
        return path if self.is_left_out(path) else None

    def new_path(self, base_path: TreePath) -> TreePath | None:
        """Returns where a base path was in the merged tree, None if it was not to be seen."""
        above, below = base_path, ROOT_DIRECTORY
        while True:
            directory = self.by_base_path.get(above)
            if directory is not None:
                break
            if not above:
                return None
            above, _ = split(above)
            below = relative(base_path, above)
        if not below:
            return directory.path
        entry = directory.entries.get(below.partition("/")[0])
        if entry is None:
            return child(directory.path, below)
        if isinstance(entry, FrozenFile) and entry.base_path == base_path:
            return entry.path
        return None

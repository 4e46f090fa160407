"""Where everything of a frozen tree was, by node and by lower path; for changes of base (`settle`)."""

from dataclasses import dataclass, field

from icefs.worktree.frozen import FrozenDir, FrozenFile, FrozenTree
from icefs.worktree.lower import join
from icefs.worktree.nodes import DirNode, FileNode

type Paths = frozenset[str]


@dataclass(slots=True)
class FrozenIndex:
    """Where everything of a frozen tree was.

    Attributes:
        dirs: The frozen directories by node.
        files: The names of each file.
        by_lower: The frozen directories by lower path.
        left: Which paths were not committed.
    """

    dirs: dict[DirNode, FrozenDir] = field(default_factory=dict)
    files: dict[FileNode, list[FrozenFile]] = field(default_factory=dict)
    by_lower: dict[str, FrozenDir] = field(default_factory=dict)
    left: Paths = frozenset()

    @classmethod
    def of(cls, frozen: FrozenTree, left: Paths) -> "FrozenIndex":
        """Walks the frozen tree once."""
        index = cls(left=left)
        for directory in (frozen.root, *(entry for _, entry in frozen.walk() if isinstance(entry, FrozenDir))):
            index.dirs[directory.node] = directory
            if directory.lower_path is not None:
                index.by_lower[directory.lower_path] = directory
        for _, entry in frozen.walk():
            if isinstance(entry, FrozenFile):
                index.files.setdefault(entry.node, []).append(entry)
        return index

    def is_left(self, path: str) -> bool:
        """Tells whether a path, or one it lies below, was not committed."""
        while path and self.left:
            if path in self.left:
                return True
            path = path.rpartition("/")[0]
        return "" in self.left

    def new_path(self, lower_path: str) -> str | None:
        """Returns where a lower path was in the merged tree, None if it was not to be seen."""
        above, below = lower_path, ""
        while True:
            directory = self.by_lower.get(above)
            if directory is not None:
                break
            if not above:
                return None
            above, _, name = above.rpartition("/")
            below = join(name, below) if below else name
        if not below:
            return directory.path
        entry = directory.entries.get(below.partition("/")[0])
        if entry is None:
            return join(directory.path, below)
        if isinstance(entry, FrozenFile) and entry.lower_path == lower_path:
            return entry.path
        return None

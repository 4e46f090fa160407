"""The former states of nodes, for frozen trees (`freeze.frozen`)."""

from collections.abc import Iterable
from typing import NamedTuple

from icefs.worktree.model.nodes import DirNode, DirState, Entry, FileNode, FileState, Node


class SavedDir(NamedTuple):
    """A directory as it was."""

    state: DirState
    entries: dict[str, Entry]


class View:
    """The former states of what changed since a freeze.

    INVARIANT: nodes with ids above `limit` are not part of the view; every other node that has changed since
        the freeze is in `files` or `dirs`.

    Attributes:
        limit: The largest id, of nodes and of spool files, at the freeze.
        is_durable: Whether the database keeps the view, too.
        unfinished: The files that were open for writing and had changed; see `TreeCore.unfinished`.
        files: Former states of files.
        dirs: Former states of directories.
    """

    __slots__ = ("dirs", "files", "is_durable", "limit", "unfinished")

    def __init__(self, limit: int, *, is_durable: bool, unfinished: Iterable[FileNode] = ()) -> None:
        self.limit = limit
        self.is_durable = is_durable
        self.unfinished = frozenset(unfinished)
        self.files: dict[FileNode, FileState] = {}
        self.dirs: dict[DirNode, SavedDir] = {}

    def keep(self, node: Node) -> None:
        """Remembers a node that is about to change. The tree's lock is held."""
        if node.id > self.limit:
            return
        if isinstance(node, FileNode):
            if node not in self.files:
                self.files[node] = node.state()
        elif node not in self.dirs:
            self.dirs[node] = SavedDir(node.state(), dict(node.entries))

    def file_state(self, node: FileNode) -> FileState:
        """Returns a file as it was."""
        return self.files.get(node) or node.state()

    def dir_state(self, node: DirNode) -> SavedDir:
        """Returns a directory as it was; the caller does not change the entries."""
        return self.dirs.get(node) or SavedDir(node.state(), node.entries)

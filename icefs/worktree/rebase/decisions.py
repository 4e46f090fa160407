"""What becomes of the files and whiteouts of a working tree that is put on another base; nothing is changed here.

- A committed file whose content did not change since is dropped; if it is open, or has further names, it stays as a
  node whose bytes are the new base's.
- A whiteout stays where the new base directory has the name, but for one that was committed: others put there what is
  there then.
- At a path that is *yielded* the new base is to be seen: a file there that did not change since goes, and so does what
  hides it.
"""

from enum import Enum
from typing import NamedTuple

from icefs.paths import TreePath, ancestors, child
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import DIRTY, FROM_BASE, WHITEOUT, DirNode, FileNode
from icefs.worktree.rebase.new_base import NewBase


class Dropped(NamedTuple):
    """The new base has the file, under all its names; the tree has nothing more to say of it.

    Attributes:
        paths: Its names in the new base, that of the first link first.
        twin: Where the new base also has it under its old name; see `Decisions`.
        shows_attributes: Whether mode, owner and number of links become those of the new base.
    """

    paths: tuple[TreePath, ...]
    twin: TreePath | None
    shows_attributes: bool


class ReadsBase(NamedTuple):
    """The file was committed and stays, as it is open or has further names; the new base has its bytes at `path`."""

    path: TreePath
    twin: TreePath | None


class Stays(NamedTuple):
    """The file stays; `origin` is the new base's path that it has its identity, or its bytes, from."""

    origin: TreePath | None


class Vanishes(NamedTuple):
    """The file gives way to the new base, or showed what the new base no longer has."""


type FileDecision = Dropped | ReadsBase | Stays | Vanishes


class WhiteoutDecision(Enum):
    """What becomes of a name that the tree hides."""

    GOES = "goes"
    STAYS = "stays"
    OPENS = "opens"
    """It becomes a directory that hides all but the yielded names."""


class Decisions:
    """Decides about one file or whiteout at a time.

    A *twin*: where a commit took a file at its new name, but not that it is gone from its old one, the new base has
    both, and both would have the file's inode number.

    Concurrency: made without the tree's lock; asked with it.

    Attributes:
        yielded: The paths at which the new base is to be seen.
    """

    def __init__(self, new: NewBase, committed: FrozenIndex | None, yielded: frozenset[TreePath]) -> None:
        self.yielded = yielded
        self._above_yielded = frozenset(above for path in yielded for above in ancestors(path))
        self._new = new
        self._committed = committed
        # Known before the tree is locked: most files of a commit need no other look.
        self._provided = {} if committed is None else _provided(committed, yielded)

    @property
    def is_commit(self) -> bool:
        """Whether the new base was made of the tree."""
        return self._committed is not None

    def of_file(self, node: FileNode) -> FileDecision:
        """Decides about a file that has a name."""
        twin = None if node.origin is None else self._twin(node.origin)
        provided = self._provided.get(node)
        if provided is not None and self._is_as_frozen(node, provided):
            return Dropped((provided,), twin, False)
        if self.yields(node):
            return Vanishes()
        committed = self._committed_paths(node)
        path = self._chosen(node, committed)
        if path is not None:
            places = [self._new.below(*link) for link in node.links()]
            if node.io is None and all(place in committed for place in places):
                return Dropped(tuple(place for place in places if place is not None), twin, True)
            return ReadsBase(path, twin)
        if not node.flags & FROM_BASE:
            return Stays(None if node.origin is None else self._new.new_path(node.origin) or twin)
        source = self._new.source(node)
        return Vanishes() if source is None else Stays(source)

    def is_provided(self, node: FileNode) -> bool:
        """Tells whether the new base has the bytes that a file takes from the old one."""
        return self._chosen(node, self._committed_paths(node)) is not None or self._new.source(node) is not None

    def _is_as_frozen(self, node: FileNode, path: TreePath) -> bool:
        """Tells whether a file that the new base has is closed, and just what and where it was when frozen."""
        assert self._committed is not None
        return (
            node.io is None
            and node not in self._committed.frozen.view.files
            and not node.flags & DIRTY
            and node.extra is None
            and node.parent is not None
            and self._new.below(node.parent, node.name) == path
        )

    def _committed_paths(self, node: FileNode) -> list[TreePath]:
        """Returns the paths under which the new base has the very content of a file."""
        committed = self._committed
        files = None if committed is None else committed.files.get(node)
        if committed is None or files is None or node.flags & DIRTY:
            return []
        was = committed.frozen.view.file_state(node)
        same = was.spool_id == node.spool_id and was.flags & FROM_BASE == node.flags & FROM_BASE
        if not same or (node.flags & FROM_BASE and was.origin != node.origin):
            return []
        return [
            file.path
            for file in files
            if not (file.path in self.yielded or committed.is_left_out(file.path))
            and self._new.asked.has_file(file.path, node.size)
            and not (file.is_natural and not self._new.is_same(file.path, file.path))
        ]

    def _chosen(self, node: FileNode, paths: list[TreePath]) -> TreePath | None:
        """Returns the one of some paths that a file takes its content from: its own place if it can be."""
        if not paths or node.parent is None:
            return None
        first = self._new.below(node.parent, node.name)
        return first if first in paths else paths[0]

    def _twin(self, base_path: TreePath) -> TreePath | None:
        path = None if self._committed is None else self._committed.left_path(base_path)
        return None if path is None or self._new.asked.stat(path) is None else path

    def yields(self, node: FileNode) -> bool:
        """Tells whether a file gives way to what others wrote: under all names that it has."""
        if not self.yielded or node.parent is None:
            return False
        committed = self._committed
        if committed is None:
            return all(child(directory.path(), name) in self.yielded for directory, name in node.links())
        files = committed.files.get(node)
        if files is None or not all(file.path in self.yielded for file in files) or node.flags & DIRTY:
            return False
        was = committed.frozen.view.file_state(node)
        return (was.spool_id, was.origin, was.flags & FROM_BASE) == (
            node.spool_id,
            node.origin,
            node.flags & FROM_BASE,
        )

    def of_whiteout(self, directory: DirNode, place: TreePath, name: str) -> WhiteoutDecision:
        """Decides about a name that a directory hides; `place` is the new base directory that belongs under it."""
        if self._new.asked.stat(child(place, name)) is None or self._was_committed(directory, name):
            return WhiteoutDecision.GOES
        path = child(directory.path(), name)
        if path in self.yielded:
            return WhiteoutDecision.GOES
        return WhiteoutDecision.OPENS if self.is_above_yielded(path) else WhiteoutDecision.STAYS

    def is_above_yielded(self, path: TreePath) -> bool:
        """Tells whether a yielded path lies below a path."""
        return path in self._above_yielded

    def _was_committed(self, directory: DirNode, name: str) -> bool:
        frozen = self._committed.dirs.get(directory) if self._committed is not None else None
        if self._committed is None or frozen is None or frozen.entries.get(name) is not WHITEOUT:
            return False
        return not self._committed.is_left_out(child(frozen.path, name))

    def removed_since(self, directory: DirNode) -> list[str]:
        """Returns the names of a directory that were committed and have been removed since."""
        frozen = self._committed.dirs.get(directory) if self._committed is not None else None
        entries = {} if frozen is None else frozen.entries
        return [name for name, entry in entries.items() if entry is not WHITEOUT and name not in directory.entries]


def _provided(committed: FrozenIndex, yielded: frozenset[TreePath]) -> dict[FileNode, TreePath]:
    """Returns the paths of the files that were committed under one name."""
    return {
        node: files[0].path
        for node, files in committed.files.items()
        if len(files) == 1
        and not files[0].is_natural
        and not committed.is_left_out(files[0].path)
        and files[0].path not in yielded
    }

"""What a tree shows that only its old base has: before the base changes, its bytes have to be copied up."""

from collections.abc import Iterator
from dataclasses import dataclass

from icefs.errors import StaleError
from icefs.paths import TreePath, child
from icefs.worktree.base import BaseEntry, BaseTree
from icefs.worktree.core.content import Content
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.frozen import FrozenDir, FrozenFile
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import FROM_BASE, WHITEOUT, DirNode, FileNode
from icefs.worktree.rebase.decisions import Decisions
from icefs.worktree.rebase.new_base import NewBase


@dataclass(frozen=True, slots=True)
class OnlyInOldBase:
    """What has to be copied up.

    Attributes:
        files: Files.
        directories: Directories, with all that they show.
    """

    files: list[FileNode]
    directories: list[DirNode]

    def __bool__(self) -> bool:
        return bool(self.files or self.directories)


class Rescue:
    """Finds, and copies up, what only the old base has.

    Concurrency: made without the tree's lock; `find` is called with it, `copy_up` without.

    Attributes:
        copied: The files that were copied up, with the base paths that they had, their spool files and times.
    """

    def __init__(self, core: TreeCore, new: NewBase, decisions: Decisions, committed: FrozenIndex | None) -> None:
        self._core = core
        self._new = new
        self._decisions = decisions
        self._committed = committed
        self._left_out = [] if committed is None else list(_left_out_in_renamed(committed))
        self.copied: dict[FileNode, tuple[TreePath, int, int]] = {}

    def find(self) -> OnlyInOldBase:
        """Returns what has to be copied up before the base can change."""
        left_files, left_directories = self._find_left()
        return OnlyInOldBase([*self._files(), *left_files], [*self._directories(), *left_directories])

    def _files(self) -> Iterator[FileNode]:
        """Yields the files of the tree whose bytes only the old base has."""
        for node in self._core.by_ino.values():
            if isinstance(node, FileNode) and node.flags & FROM_BASE and node.parent is not None:
                is_own = not node.is_natural or self._is_left(node)
                if not self._decisions.is_provided(node) and is_own and not self._decisions.yields(node):
                    yield node

    def _directories(self) -> Iterator[DirNode]:
        """Yields the directories that show what only the old base has, and that a program put there."""
        committed = self._committed
        for node in list(self._core.base_dirs.values()):
            if node.parent is None:
                continue
            frozen = committed.dirs.get(node) if committed is not None else None
            is_left_out = frozen is not None and committed is not None and committed.is_left_out(frozen.path)
            if (is_left_out or not node.is_natural) and self._new.directory(node) is None and self._shows_base(node):
                yield node

    def _find_left(self) -> tuple[list[FileNode], list[DirNode]]:
        """Returns what was not committed of renamed directories that the new base has otherwise."""
        files: list[FileNode] = []
        directories: list[DirNode] = []
        for base_path in self._left_out:
            try:
                node = self._core.materialise.at(base_path)
            except StaleError:  # removed since
                continue
            if isinstance(node, DirNode):
                if self._shows_base(node):
                    directories.append(node)
            elif node.flags & FROM_BASE and node.parent is not None:
                files.append(node)
        return files, directories

    def _shows_base(self, node: DirNode) -> bool:
        """Tells whether anything untouched is to be seen in a directory or below it."""
        waiting = [node]
        for directory in waiting:
            path = directory.base_path
            if path is not None and any(name not in directory.entries for name, _ in self._new.old.list(path)):
                return True
            for entry in directory.entries.values():
                if isinstance(entry, DirNode):
                    if entry.is_natural:
                        waiting.append(entry)
                elif entry is not WHITEOUT and entry.flags & FROM_BASE and entry.is_natural:
                    return True
        return False

    def _is_left(self, node: FileNode) -> bool:
        committed = self._committed
        return committed is not None and any(committed.is_left_out(file.path) for file in committed.files.get(node, ()))

    def copy_up(self, content: Content, found: OnlyInOldBase) -> None:
        """Gives what was found bytes of its own; takes time, and the network."""
        for node in found.files:
            content.copy_up(node)
            assert node.origin is not None
            self.copied[node] = node.origin, node.spool_id, node.mtime_ns
        for directory in found.directories:
            _copy_up_below(self._core, content, directory, self._new.old)


def _copy_up_below(core: TreeCore, content: Content, top: DirNode, old: BaseTree) -> None:
    """Gives everything that a directory shows bytes of its own."""
    waiting = [top]
    for directory in waiting:
        if directory.base_path is None:
            continue
        for name, attr in list(old.list(directory.base_path)):
            with core.change():
                entry = directory.entries.get(name)
                if entry is None:
                    entry = core.materialise.node(directory, name, BaseEntry(child(directory.base_path, name), attr))
            if isinstance(entry, DirNode):
                if entry.is_natural:
                    waiting.append(entry)
            elif entry is not WHITEOUT:
                content.copy_up(entry)


def _left_out_in_renamed(committed: FrozenIndex) -> Iterator[TreePath]:
    """Yields the base paths of what was not committed of renamed directories."""
    for path in (TreePath(path.rstrip("/")) for path in committed.left_out):
        found = committed.frozen.find(path)
        base_path = None
        if isinstance(found, BaseEntry):
            base_path = found.path
        elif isinstance(found, FrozenDir | FrozenFile):
            base_path = found.base_path
        if base_path is not None and base_path != path:
            yield base_path

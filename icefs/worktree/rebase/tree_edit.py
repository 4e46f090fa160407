"""Carries a change of base out on the nodes of a tree, in memory; it can be taken back until its rows are written."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from icefs.inode import Ino
from icefs.paths import TreePath, child
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import (
    FROM_BASE,
    WHITEOUT,
    DirNode,
    DirState,
    Entry,
    FileNode,
    FileState,
    Node,
)
from icefs.worktree.rebase.decisions import Decisions, Dropped, ReadsBase, Stays, Vanishes, WhiteoutDecision
from icefs.worktree.rebase.new_base import NewBase


@dataclass(slots=True)
class Edited:
    """What an edit did.

    Attributes:
        dropped: (path, inode number, mtime_ns) of what the new base provides now.
        renumbered: The paths among these that have new numbers: a file that had several names is several files now.
        inodes: The inodes whose mode, owner or number of links is another one.
        spools: The spool files that no node refers to any more.
        twins: The paths whose number another file has; see `Decisions`.
        vanished: The files that give way to the new base, or showed what it no longer has.
        converted: The files whose bytes are the new base's now.
        remaining: The nodes that the tree still has, in the order of their rows.
    """

    dropped: list[tuple[TreePath, Ino, int]] = field(default_factory=list)
    renumbered: list[TreePath] = field(default_factory=list)
    inodes: list[Ino] = field(default_factory=list)
    spools: list[int] = field(default_factory=list)
    twins: list[TreePath] = field(default_factory=list)
    vanished: list[FileNode] = field(default_factory=list)
    converted: list[FileNode] = field(default_factory=list)
    remaining: dict[Node, None] = field(default_factory=dict)


class TreeEdit:
    """One change of base, on the nodes.

    `apply`, then `undo` if the rows could not be written.

    Concurrency: under the tree's lock.

    Attributes:
        done: What was done.
    """

    def __init__(self, core: TreeCore, new: NewBase, decisions: Decisions) -> None:
        self.done = Edited()
        self._core = core
        self._new = new
        self._decisions = decisions
        self._undo: list[tuple[Node, FileState | DirState, dict[str, Entry] | None, set[str] | None]] = []
        self._parted: set[tuple[DirNode, str]] = set()

    def apply(self, copied: Mapping[FileNode, tuple[TreePath, int, int]]) -> None:
        """Changes the tree in memory; `copied` are the files that were copied up for it (`Rescue.copied`)."""
        core = self._core
        order = [core.root]
        for directory in order:
            order.extend(entry for entry in directory.entries.values() if isinstance(entry, DirNode))
        self._new.join_made(order)
        files = [node for node in core.by_ino.values() if isinstance(node, FileNode) and node.parent is not None]
        for node in files:
            if node.extra is not None:
                self._part(node, copied)
        keep = {node: self._edit_file(node) for node in files}
        for directory in reversed(order):
            self._edit_directory(directory, keep)
        self._collect()

    # Files

    def _part(self, node: FileNode, copied: Mapping[FileNode, tuple[TreePath, int, int]]) -> None:
        """Drops a file's name in the old base, if it has others, is unwritten, and that name has changed there."""
        path, *copy = copied.get(node, (node.origin,))
        if path is None or not (node.flags & FROM_BASE or copy == [node.spool_id, node.mtime_ns]):
            return
        for directory, name in self._new.outdated_names(node, path):
            self._save(node)
            node.drop_link(directory, name)
            node.origin = node.origin if node.flags & FROM_BASE else None
            self._parted.add((directory, name))

    def _edit_file(self, node: FileNode) -> bool:
        """Gives a file its new content; returns whether the tree keeps it."""
        done = self.done
        match self._decisions.of_file(node):
            case Dropped(paths, twin, shows_attributes):
                self._note_twin(twin)
                done.spools.append(node.spool_id)
                if shows_attributes and (node.extra is not None or node.perm != self._core.defaults.file):
                    done.inodes.append(node.ino)
                done.dropped.append((paths[0], node.ino, node.mtime_ns))
                # One name keeps the number, all keep the time.
                for path in paths[1:]:
                    done.dropped.append((path, self._core.new_ino(), node.mtime_ns))
                    done.renumbered.append(path)
                return False
            case Vanishes():
                done.vanished.append(node)
                if node.io is None:
                    done.spools.append(node.spool_id)
                return False
            case ReadsBase(path, twin):
                self._note_twin(twin)
                self._save(node)
                done.spools.append(node.spool_id)
                node.spool_id = node.stamp = 0
                node.origin = path
                node.flags |= FROM_BASE
                done.converted.append(node)
            case Stays(origin):
                if origin != node.origin:
                    self._save(node)
                    node.origin = origin
        return True

    def _note_twin(self, path: TreePath | None) -> None:
        if path is not None:
            self.done.twins.append(path)

    # Directories

    def _edit_directory(self, directory: DirNode, keep: Mapping[FileNode, bool]) -> None:
        place = self._new.directory(directory)
        entries = self._edited_entries(directory, place, keep)
        # Only its attributes were set, and others have removed what was in it.
        is_gone = place is None and not entries and not self._decisions.is_commit and directory.is_natural
        is_gone = is_gone and WHITEOUT not in directory.entries.values()
        self._save(directory)
        directory.entries = entries
        directory.base_path = place
        directory.hidden = None if place is not None else set()
        parent = directory.parent
        if parent is not None and is_gone:
            directory.parent = None
        if parent is None or entries or place is None or place != self._new.below(parent, directory.name):
            return
        # Says nothing any more that the new base directory does not say itself.
        self.done.dropped.append((place, directory.ino, directory.mtime_ns))
        if directory.perm != self._core.defaults.directory:
            self.done.inodes.append(directory.ino)
        directory.parent = None

    def _edited_entries(
        self, directory: DirNode, place: TreePath | None, keep: Mapping[FileNode, bool]
    ) -> dict[str, Entry]:
        entries: dict[str, Entry] = {}
        for name, entry in directory.entries.items():
            if entry is WHITEOUT:
                self._edit_whiteout(directory, place, name, entries)
            elif (directory, name) not in self._parted:
                is_kept = entry.parent is directory if isinstance(entry, DirNode) else keep[entry]
                if is_kept:
                    entries[name] = entry
        if place is not None:
            for name in self._decisions.removed_since(directory):
                if self._new.asked.stat(child(place, name)) is not None:
                    entries[name] = WHITEOUT
            for name in self._new.hidden_names(directory):
                self._edit_whiteout(directory, place, name, entries)
        return entries

    def _edit_whiteout(self, directory: DirNode, place: TreePath | None, name: str, entries: dict[str, Entry]) -> None:
        if place is None:
            return
        match self._decisions.of_whiteout(directory, place, name):
            case WhiteoutDecision.STAYS:
                entries[name] = WHITEOUT
            case WhiteoutDecision.OPENS:
                path = child(directory.path(), name)
                entries[name] = self._opened(directory, name, child(place, name), path)
            case WhiteoutDecision.GOES:
                pass

    def _opened(self, parent: DirNode, name: str, place: TreePath, path: TreePath) -> DirNode:
        """Makes a directory that hides all entries of a base directory but the yielded ones."""
        core, decisions = self._core, self._decisions
        attr = self._new.asked.stat(place)
        mtime_ns = 0 if attr is None else max(attr.mtime_ns, 0)
        node = DirNode(core.take_id(), core.new_ino(), core.perm(*core.defaults.directory), mtime_ns, place)
        node.parent, node.name, node.hidden = parent, name, None
        for below, _ in self._new.asked.tree.list(place):
            inner = child(path, below)
            if decisions.is_above_yielded(inner):
                node.entries[below] = self._opened(node, below, child(place, below), inner)
            elif inner not in decisions.yielded:
                node.entries[below] = WHITEOUT
        return node

    def _collect(self) -> None:
        waiting: list[DirNode] = [self._core.root]
        for directory in waiting:
            self.done.remaining[directory] = None
            for entry in directory.entries.values():
                if isinstance(entry, DirNode):
                    waiting.append(entry)
                elif entry is not WHITEOUT:
                    self.done.remaining[entry] = None

    # Taking it back

    def _save(self, node: Node) -> None:
        self._core.keep_for_views(node)
        if isinstance(node, DirNode):
            self._undo.append((node, node.state(), node.entries, node.hidden))
        else:
            self._undo.append((node, node.state(), None, None))

    def undo(self) -> None:
        """Takes `apply` back."""
        for node, state, entries, hidden in reversed(self._undo):
            if isinstance(node, DirNode):
                assert isinstance(state, DirState)
                assert entries is not None
                node.restore(state)
                node.entries, node.hidden = entries, hidden
            else:
                assert isinstance(state, FileState)
                node.restore(state)

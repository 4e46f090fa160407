"""Putting a working tree on another base: after a commit, after a rebase, or to follow a branch.

After a commit the new snapshot provides what was frozen and committed, so the working tree lets go of it; what
changed since the freeze stays, now over the new snapshot. For every directory and file that remains this decides
what of the new base belongs under it:

- A directory that was frozen at path P stands over the new base directory P, wherever it has been moved since; if
  the new snapshot has no directory P (an empty one, one of untracked names), over nothing.
- A directory that was untouched at the freeze stands over the base directory at the path it had then.
- A directory that was made here, of which nothing is committed, stands over the one that others made at its path
  (`NewPlaces`): what they put in it is to be seen, and what it hid of the old base stays hidden.
- A committed file whose content did not change since is dropped; if it is open, or has further names, it stays as a
  node whose bytes are the new base file's.
- A file that has a further name shows the new base's content under its own one, if only others have changed it.
- A whiteout stays where the new base directory has the name, but for one that was committed: what is there then was
  put there by others. A name that was committed and has been removed since gets one.
- At a path that is *yielded* the new snapshot is to be seen: a file there that did not change since goes, and so does
  what hides it.

Nothing that is only in the old base, and that the tree still shows, may be lost: before the change, `rescue` lists
the files whose bytes must be copied up.

Concurrency: `Settlement` is used under the tree's lock, except that it asks the new base for the frozen files
before (`verify`).
"""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from icefs.errors import FormatError, StaleError, StorageError
from icefs.worktree.base import BaseEntry, BaseTree, ancestors, join
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.kept_regions import KeptAttr, Region
from icefs.worktree.model.nodes import (
    DIRTY,
    FROM_BASE,
    STORED,
    WHITEOUT,
    DirNode,
    DirState,
    Entry,
    FileNode,
    FileState,
    Node,
)
from icefs.worktree.rebase.new_places import NewPlaces
from icefs.worktree.spool.journal import LinkRow, NodeRow


class Settlement:
    """One change of base, planned and carried out."""

    def __init__(
        self,
        core: TreeCore,
        index: FrozenIndex | None,
        frozen: FrozenTree | None,
        base_tree: BaseTree,
        yielded: Iterable[str] = (),
    ) -> None:
        self._yielded = frozenset(yielded)
        self._above_yielded = frozenset(above for path in self._yielded for above in ancestors(path))
        self._core = core
        self._index = index
        self._frozen = frozen
        self._base_tree = base_tree
        self.places = NewPlaces(core, index, frozen, base_tree)
        self._provided: dict[FileNode, str] = {}
        self._undo: list[tuple[Node, FileState | DirState, dict[str, Entry] | None, set[str] | None]] = []
        self._vanished: list[FileNode] = []
        self._converted: list[FileNode] = []
        self._left_base: list[str] = []
        self._still_open: dict[str, str] = {}
        self._copied: dict[FileNode, tuple[str, int, int]] = {}
        self._parted: set[tuple[DirNode, str]] = set()
        self.kept_back: list[str] = []
        self.dropped: list[tuple[str, int, int]] = []
        self.changed_attrs: list[int] = []
        self.spools: list[int] = []
        self.remaining: dict[Node, None] = {}
        self.renamed: list[tuple[int, bytes]] = []
        self.twins: list[str] = []

    # Before the lock

    def verify(self) -> None:
        """Asks the new base for every committed file; what it does not have as it was frozen stays."""
        index = self._index
        assert index is not None
        sizes = {
            file.path: file.size
            for files in index.files.values()
            for file in files
            if not (file.is_natural or index.is_left(file.path) or file.path in self._yielded)
        }
        paths = list(sizes)
        self.places.stats.update(zip(paths, self._base_tree.stat_many(paths), strict=True))
        self.kept_back = sorted(path for path, size in sizes.items() if not self._has_file(path, size))
        index.left = index.left.union(self.kept_back)
        self._left_base = list(self._find_left_base())
        # What the lock need not be held for: whoever wants to read or write waits for it.
        self._provided = {
            node: files[0].path
            for node, files in index.files.items()
            if len(files) == 1
            and not files[0].is_natural
            and not index.is_left(files[0].path)
            and files[0].path not in self._yielded
        }
        for files in index.files.values():
            # A file that is also still at its own place has not moved.
            for file in files if len(files) == 1 else sorted(files, key=lambda file: not file.is_natural):
                if file.base_path is not None and not index.is_left(file.path):
                    self.places.moved_files.setdefault(file.base_path, file.path)

    def _find_left_base(self) -> Iterator[str]:
        """Yields the base paths of what was not committed of a renamed directory."""
        assert self._frozen is not None
        assert self._index is not None
        for path in (path.rstrip("/") for path in self._index.left):
            found = self._frozen.find(path)
            base_path = found.path if isinstance(found, BaseEntry) else getattr(found, "base_path", None)
            if base_path is not None and base_path != path:
                yield base_path

    def look_ahead(self) -> None:
        """Asks what will be asked with the lock held, so that no fetch makes whoever reads or writes wait then."""
        core = self._core
        with core.lock:
            nodes = [node for node in core.by_ino.values() if node.parent is not None]
            files = [node.origin for node in nodes if isinstance(node, FileNode) and node.flags & FROM_BASE]
            dirs = [node for node in nodes if isinstance(node, DirNode)]
            made = [node.path() for node in dirs if node.base_path is None]
            origins = [path for path in (*files, *(node.base_path for node in dirs)) if path is not None]
        for origin in origins:
            core.base_tree.content(origin)
        for path in (*made, *map(self.places.new_path, origins)):
            if path is not None:
                self.places.stat(path)

    # Under the lock: what must be rescued first

    def rescue_files(self) -> list[FileNode]:
        """Returns files of the tree whose bytes only the old base has."""
        core = self._core
        found = []
        for node in core.by_ino.values():
            if isinstance(node, FileNode) and node.flags & FROM_BASE and node.parent is not None:
                is_provided = self._committed_path(node) is not None or self._source(node) is not None
                is_own = not self._is_natural(node) or self._is_left(node)
                if not is_provided and is_own and not self._yields(node):
                    found.append(node)
        return found

    def rescue_dirs(self) -> list[DirNode]:
        """Returns directories that show base entries which only the old base has, and that somebody put there."""
        found = []
        for node in list(self._core.base_dirs.values()):
            if node.parent is None:
                continue
            frozen = self._index.dirs.get(node) if self._index is not None else None
            is_left = frozen is not None and self._index is not None and self._index.is_left(frozen.path)
            if (is_left or not node.is_natural) and self.places.of(node) is None and self._shows_base(node):
                found.append(node)
        return found

    def rescue_left(self) -> tuple[list[FileNode], list[DirNode]]:
        """Returns files and directories that only the old base has, in directories that the new one has otherwise."""
        core = self._core
        files: list[FileNode] = []
        dirs: list[DirNode] = []
        for base_path in self._left_base:
            try:
                node = core.materialise.at(base_path)
            except StaleError:  # removed since
                continue
            if isinstance(node, DirNode):
                if self._shows_base(node):
                    dirs.append(node)
            elif node.flags & FROM_BASE and node.parent is not None:
                files.append(node)
        return files, dirs

    def _shows_base(self, node: DirNode) -> bool:
        """Tells whether anything untouched is to be seen in a directory or below it."""
        waiting = [node]
        for directory in waiting:
            path = directory.base_path
            if path is not None and any(name not in directory.entries for name, _ in self._core.base_tree.list(path)):
                return True
            for entry in directory.entries.values():
                if isinstance(entry, DirNode):
                    if entry.is_natural:
                        waiting.append(entry)
                elif entry is not WHITEOUT and entry.flags & FROM_BASE and self._is_natural(entry):
                    return True
        return False

    def _is_left(self, node: FileNode) -> bool:
        index = self._index
        return index is not None and any(index.is_left(file.path) for file in index.files.get(node, ()))

    def _is_natural(self, node: FileNode) -> bool:
        parent = node.parent
        return (
            node.extra is None
            and parent is not None
            and parent.base_path is not None
            and node.origin == join(parent.base_path, node.name)
        )

    # What the new base has of the files

    def _committed_paths(self, node: FileNode) -> list[str]:
        """Returns the paths under which the new base has the very content of a file."""
        if self._index is None or self._frozen is None:
            return []
        files = self._index.files.get(node)
        if files is None or node.flags & DIRTY:
            return []
        was = self._frozen.view.file_state(node)
        same = was.spool_id == node.spool_id and was.flags & FROM_BASE == node.flags & FROM_BASE
        if not same or (node.flags & FROM_BASE and was.origin != node.origin):
            return []
        return [
            file.path
            for file in files
            if not (file.path in self._yielded or self._index.is_left(file.path))
            and self._has_file(file.path, node.size)
            and not (file.is_natural and not self.places.is_same(file.path, file.path))
        ]

    def _yields(self, node: FileNode) -> bool:
        """Tells whether a file gives way to what others wrote: under all names that it has."""
        if not self._yielded or node.parent is None:
            return False
        if self._index is None or self._frozen is None:
            return all(join(directory.path(), name) in self._yielded for directory, name in node.links())
        files = self._index.files.get(node)
        if files is None or not all(file.path in self._yielded for file in files) or node.flags & DIRTY:
            return False
        was = self._frozen.view.file_state(node)
        return (was.spool_id, was.origin, was.flags & FROM_BASE) == (
            node.spool_id,
            node.origin,
            node.flags & FROM_BASE,
        )

    def _committed_path(self, node: FileNode) -> str | None:
        """Returns the one of these paths that the file takes its content from: its own place if it can be."""
        return self._chosen(node, self._committed_paths(node))

    def _chosen(self, node: FileNode, committed: list[str]) -> str | None:
        if not committed or node.parent is None:
            return None
        first = self.places.below(node.parent, node.name)
        return first if first in committed else committed[0]

    def _has_file(self, path: str, size: int) -> bool:
        attr = self.places.stat(path)
        return attr is not None and not attr.is_dir and attr.size == size

    def _source(self, node: FileNode) -> str | None:
        """Returns the new base path with the content that a file takes from the old base."""
        assert node.origin is not None
        path = self.places.new_path(node.origin)
        if path is None:
            return None
        attr = self.places.stat(path)
        if attr is None or attr.is_dir:
            return None
        if attr.size != node.size or not self.places.is_same(node.origin, path):
            return None
        return path

    # Under the lock: the change

    def apply(self) -> None:
        """Changes the tree in memory; `undo` takes it back."""
        core = self._core
        if self._index is not None:
            self.renamed = [
                (node.parent.ino, node.name.encode(errors="surrogatepass"))
                for node, frozen in self._index.dirs.items()
                if frozen.is_redirect and node.parent is not None
            ]
        self._still_open = dict(self._find_still_open())
        order = [core.root]
        for directory in order:
            order.extend(entry for entry in directory.entries.values() if isinstance(entry, DirNode))
        self.places.find(order)
        files = [node for node in core.by_ino.values() if isinstance(node, FileNode) and node.parent is not None]
        for node in files:
            if node.extra is not None:
                self._part(node)
        keep = {node: self._settle_file(node) for node in files}
        for directory in reversed(order):
            self._settle_dir(directory, keep)
        self._collect()

    def _find_still_open(self) -> Iterator[tuple[str, str]]:
        """Yields the base paths of open files, with the new ones, that have the same content there."""
        for path, opened in self._core.base_handles.items():
            new, base_tree = self.places.new_path(path), opened[0].base_tree
            if (
                new is not None
                and base_tree is not None
                and base_tree.content(opened[0].path) == self._base_tree.content(new)
            ):
                yield path, new

    def copied(self, node: FileNode) -> None:
        """Takes note that the bytes of a file that only the old base had were copied."""
        assert node.origin is not None
        self._copied[node] = (node.origin, node.spool_id, node.mtime_ns)

    def _part(self, node: FileNode) -> None:
        """Takes from a file with several names the one in the old base, if nobody wrote to it but others in the new."""
        path, *copy = self._copied.get(node, (node.origin,))
        if path is None or not (node.flags & FROM_BASE or copy == [node.spool_id, node.mtime_ns]):
            return
        for directory, name in self.places.outdated_names(node, path):
            self._save(node)
            node.drop_link(directory, name)
            node.origin = node.origin if node.flags & FROM_BASE else None
            self._parted.add((directory, name))

    def _settle_file(self, node: FileNode) -> bool:
        """Gives a file its new content; returns whether the tree keeps it."""
        left = None if node.origin is None else self._left_path(node.origin)
        if node in self._provided and self._is_unchanged(node):
            self._note_twin(left)
            self.spools.append(node.spool_id)
            self.dropped.append((self._provided[node], node.ino, node.mtime_ns))
            return False
        if self._yields(node):
            self._vanished.append(node)
            if node.io is None:
                self.spools.append(node.spool_id)
            return False
        committed = self._committed_paths(node)
        path = self._chosen(node, committed)
        if path is not None:
            self._note_twin(left)
            places = [self.places.below(*link) for link in node.links()]
            if node.io is None and all(place in committed for place in places):
                self.spools.append(node.spool_id)
                if node.extra is not None or node.perm != self._core.defaults.file:
                    self.changed_attrs.append(node.ino)
                for place in places:
                    # Names of one file become files of their own; one of them keeps the number, all keep the time.
                    assert place is not None
                    ino = node.ino if place == places[0] else self._core.new_ino()
                    self.dropped.append((place, ino, node.mtime_ns))
                return False
            self._save(node)
            self.spools.append(node.spool_id)
            node.spool_id = node.stamp = 0
            node.origin = path
            node.flags |= FROM_BASE
            self._converted.append(node)
            return True
        if not node.flags & FROM_BASE:
            if node.origin is not None:
                self._save(node)
                node.origin = self.places.new_path(node.origin) or left
            return True
        source = self._source(node)
        if source is None:
            self._vanished.append(node)
            return False
        self._save(node)
        node.origin = source
        return True

    def _note_twin(self, path: str | None) -> None:
        if path is not None:
            self.twins.append(path)

    def _left_path(self, base_path: str) -> str | None:
        """Returns where the new base still has a renamed file, as no commit took that it is gone from there.

        It has the renamed file's number: the two must not be seen both, or have to be given different ones.
        """
        path = None if self._index is None else self._index.left_path(base_path)
        return None if path is None or self.places.stat(path) is None else path

    def _is_unchanged(self, node: FileNode) -> bool:
        """Tells whether a file that the new base has is closed, and just what and where it was when frozen."""
        assert self._frozen is not None
        return (
            node.io is None
            and node not in self._frozen.view.files
            and not node.flags & DIRTY
            and node.extra is None
            and node.parent is not None
            and self.places.below(node.parent, node.name) == self._provided[node]
        )

    def _settle_dir(self, directory: DirNode, keep: dict[FileNode, bool]) -> None:
        place = self.places.of(directory)
        entries: dict[str, Entry] = {}
        for name, entry in directory.entries.items():
            if entry is WHITEOUT:
                opened = None if place is None else self._whiteout(directory, place, name)
                if opened is not None:
                    entries[name] = opened
                continue
            if (directory, name) in self._parted:
                continue
            is_kept = entry.parent is directory if isinstance(entry, DirNode) else keep[entry]
            if is_kept:
                entries[name] = entry
        if place is not None:
            for name in self._removed_since(directory):
                if self.places.stat(join(place, name)) is not None:
                    entries[name] = WHITEOUT
            for name in self.places.hidden_names(directory):
                opened = self._whiteout(directory, place, name)
                if opened is not None:
                    entries[name] = opened
        # Only its attributes were set, and others have removed what was in it.
        is_gone = place is None and not entries and self._index is None and directory.is_natural
        is_gone = is_gone and WHITEOUT not in directory.entries.values()
        self._save(directory)
        directory.entries = entries
        directory.base_path = place
        directory.hidden = None if place is not None else set()
        parent = directory.parent
        if parent is not None and is_gone:
            directory.parent = None
        if parent is None or entries or place is None or place != self.places.below(parent, directory.name):
            return
        # Says nothing any more that the new base directory does not say itself.
        self.dropped.append((place, directory.ino, directory.mtime_ns))
        if directory.perm != self._core.defaults.directory:
            self.changed_attrs.append(directory.ino)
        directory.parent = None

    def _whiteout(self, directory: DirNode, place: str, name: str) -> Entry | None:
        """Returns what becomes of a whiteout: itself, nothing, or a directory of which some names are to be seen."""
        if self.places.stat(join(place, name)) is None or self._was_committed(directory, name):
            return None
        path = join(directory.path(), name)
        if path in self._yielded:
            return None
        return self._opened(directory, name, join(place, name), path) if path in self._above_yielded else WHITEOUT

    def _was_committed(self, directory: DirNode, name: str) -> bool:
        frozen = self._index.dirs.get(directory) if self._index is not None else None
        if self._index is None or frozen is None or frozen.entries.get(name) is not WHITEOUT:
            return False
        return not self._index.is_left(join(frozen.path, name))

    def _opened(self, parent: DirNode, name: str, place: str, path: str) -> DirNode:
        """Makes a directory that hides everything of a base one but what is yielded."""
        core = self._core
        attr = self.places.stat(place)
        mtime_ns = 0 if attr is None else max(attr.mtime_ns, 0)
        node = DirNode(core.take_id(), core.new_ino(), core.perm(*core.defaults.directory), mtime_ns, place)
        node.parent, node.name, node.hidden = parent, name, None
        for below, _ in self._base_tree.list(place):
            inner = join(path, below)
            if inner in self._above_yielded:
                node.entries[below] = self._opened(node, below, join(place, below), inner)
            elif inner not in self._yielded:
                node.entries[below] = WHITEOUT
        return node

    def _removed_since(self, directory: DirNode) -> Iterator[str]:
        frozen = self._index.dirs.get(directory) if self._index is not None else None
        if frozen is not None:
            for name, entry in frozen.entries.items():
                if entry is not WHITEOUT and name not in directory.entries:
                    yield name

    def _collect(self) -> None:
        waiting: list[DirNode] = [self._core.root]
        for directory in waiting:
            self.remaining[directory] = None
            for entry in directory.entries.values():
                if isinstance(entry, DirNode):
                    waiting.append(entry)
                elif entry is not WHITEOUT:
                    self.remaining[entry] = None

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

    def rows(self) -> tuple[list[NodeRow], list[LinkRow]]:
        """Returns the rows of the tree as it is after `apply`."""
        core = self._core
        nodes = [core.row(node) for node in self.remaining if not self.is_placeholder(node)]
        links: list[LinkRow] = []
        for directory in self.remaining:
            if isinstance(directory, DirNode):
                for name, entry in directory.entries.items():
                    if entry is WHITEOUT:
                        links.append((directory.id, name, 0))
                    elif isinstance(entry, FileNode) and (entry.parent, entry.name) != (directory, name):
                        links.append((directory.id, name, entry.id))
        return nodes, links

    def is_placeholder(self, node: Node) -> bool:
        """Tells whether a node says only what the new base says, and is there because it is open."""
        return isinstance(node, FileNode) and node.flags & ~STORED == FROM_BASE and self._is_natural(node)

    # Under the lock: after the rows are written, nothing below may fail

    def finish(self) -> None:
        """Brings everything beside the nodes in line."""
        core = self._core
        old_base_tree = core.base_tree
        orphans = [node for node in core.by_ino.values() if node.parent is None and node is not core.root]
        core.by_ino = {node.ino: node for node in self.remaining}
        core.base_dirs = {
            node.base_path: node for node in self.remaining if isinstance(node, DirNode) and node.base_path is not None
        }
        core.base_files = {
            node.origin: node for node in self.remaining if isinstance(node, FileNode) and node.origin is not None
        }
        for node in (*orphans, *self._vanished):
            # Removed but still open: it goes on reading from the tree that has its bytes.
            if isinstance(node, FileNode) and node.io is not None and node not in self.remaining:
                node.parent = None
                node.io.base_tree = node.io.base_tree or old_base_tree
                core.by_ino[node.ino] = node
        for node in self._converted:
            core.unfinished.forget(node)  # all that was written is committed, by somebody who wanted it so
            if node.io is not None and node.io.file is not None:
                node.io.file.retire()
                node.io.file = None
        core.soft = {node: None for node in core.soft if node in self.remaining}
        for node in self.remaining:
            if self.is_placeholder(node):
                node.flags &= ~STORED
            else:
                node.flags |= STORED
                if isinstance(node, FileNode) and not node.flags & DIRTY:
                    core.behind.pop(node, None)
        core.behind = {node: None for node in core.behind if core.by_ino.get(node.ino) is node}
        self._finish_kept()
        self._finish_handles()
        core.base_tree = self._base_tree

    def _finish_kept(self) -> None:
        core, index = self._core, self._index
        if index is not None:
            files = {old: new for old, new in self.places.moved_files.items() if old != new}
            dirs = {path: frozen.path for path, frozen in index.by_base_path.items() if path != frozen.path}
            hidden = sorted(set(index.hidden_paths()))
            core.kept.settle(files | dirs, hidden)
            core.kept.regions.settle(dirs, hidden)
        core.kept.forget_numbers([ino for _, ino, _ in self.dropped])
        core.kept.add_paths(self.dropped)

    def keep_renamed(self, regions: Mapping[str, Region], names: Mapping[str, KeptAttr]) -> None:
        """Keeps numbers and times of renamed directories of chunks, where the new base has them."""
        kept = self._core.kept
        kept.regions.add({path: region for path, region in regions.items() if self._surely_has(path)})
        kept.regions.forget(self._yielded)
        kept.add_paths(
            (path, *attr)
            for path, attr in names.items()
            if path not in self._yielded and kept.get(path) is None and self._surely_has(path)
        )

    def _surely_has(self, path: str) -> bool:
        with contextlib.suppress(FormatError, StorageError):  # it is too late to fail
            return self.places.stat(path) is not None
        return False

    def _finish_handles(self) -> None:
        core = self._core
        handles, core.base_handles = core.base_handles, {}
        for path, opened in handles.items():
            new = self._still_open.get(path)
            if new is not None:
                core.base_handles[new] = opened
                for handle in opened:
                    handle.path, handle.base_tree = new, self._base_tree

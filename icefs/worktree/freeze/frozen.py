"""Frozen trees: the working tree as it was at one moment, while it goes on changing.

Freezing copies nothing. From then on, an operation that changes a node first leaves its former state with each view
(`View.keep`), and a writer of a spool file that a view may refer to first makes the node a new one; ids only
grow, so a spool file belongs to a view if its id is not above the view's limit. Reading a view takes the former
state where there is one and the node itself where there is none.

A *durable* view is the one that a commit works on: the database keeps the former rows as well (`journal`), so that
a commit whose outcome was not learnt before a crash can be completed or abandoned afterwards. There is one of these
at a time; views for `status` and `diff` are only in memory.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from icefs.errors import StorageError
from icefs.inode import Ino
from icefs.paths import ROOT_DIRECTORY, TreePath, child
from icefs.worktree.base import BaseEntry, BaseTree
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import (
    CUT,
    FROM_BASE,
    LOST,
    WHITEOUT,
    DirNode,
    FileNode,
    Node,
    Whiteout,
)
from icefs.worktree.model.views import View
from icefs.worktree.spool.files import disk_error

_READ_BYTES: Final = 1 << 20


class FrozenFile(NamedTuple):
    """One name of a file in a frozen tree.

    A commit makes one for each file, in 0.4 us; a frozen dataclass of so many fields would take 1.6.

    Attributes:
        node: Identifies the file; of several names with one node the content is one.
        path: Where it is in the merged tree.
        ino: Its inode number.
        size: Its size in bytes.
        mtime_ns: When its content last changed.
        spool_id: The spool file with its bytes, 0 if it has none.
        spool_path: Where that is; None if it has none.
        base_path: The base file that has its bytes; None if they are in a spool file, or it is empty.
        is_natural: Whether the bytes are those of the base file at this very path, so nothing is to be committed.
        is_lost: Bytes of it are lost (see `lost`); it is not to be committed.
        is_open: It was open for writing and had changed, so that more of it may have been to come.
        is_alias: The node was seen under another path before (a hard link).
        is_cut: The bytes were not all there when the tree was opened.
    """

    node: FileNode
    path: TreePath
    ino: Ino
    size: int
    mtime_ns: int
    spool_id: int
    spool_path: str | None
    base_path: TreePath | None
    is_natural: bool
    is_lost: bool
    is_open: bool
    is_alias: bool
    is_cut: bool = False


class _Facts(NamedTuple):
    """What a view needs of a node as it was; of directories, `origin` alone: their base path."""

    size: int
    mtime_ns: int
    spool_id: int
    origin: TreePath | None
    flags: int


@dataclass(frozen=True, slots=True)
class FrozenDir:
    """A directory that has a node in a frozen tree.

    Attributes:
        node: Identifies the directory.
        path: Where it is in the merged tree.
        ino: Its inode number.
        base_path: The base directory that shines through where `entries` has no name; None for none.
        is_natural: Whether that is the base directory at this very path; otherwise, with a `base_path`, it was
            renamed here.
        entries: What lies over the base directory, by name, sorted.
    """

    node: DirNode = field(repr=False)
    path: TreePath
    ino: Ino
    base_path: TreePath | None
    is_natural: bool
    entries: "dict[str, FrozenEntry]" = field(repr=False)

    @property
    def is_redirect(self) -> bool:
        """Whether it is a base directory that was renamed."""
        return self.base_path is not None and not self.is_natural


type FrozenEntry = FrozenFile | FrozenDir | Whiteout


class FrozenTree:
    """A working tree as it was at one moment. Made by `WorkTree.freeze` and `WorkTree.view`.

    Safe to use from any thread, until it is completed, abandoned or released.

    Attributes:
        base: The snapshot that it stands on.
        revision: The tree's own at that moment; together with `base` it tells whether anything has changed since.
        base_tree: The base.
        view: The former states; for the working tree.
    """

    def __init__(self, core: TreeCore, view: View) -> None:
        self._core = core
        self.view = view
        self.base = core.base
        self.revision = core.revision
        self.base_tree: BaseTree = core.base_tree
        self._root: FrozenDir | None = None

    @property
    def root(self) -> FrozenDir:
        """The root, and through it everything that differs from the base."""
        if self._root is None:
            self._root = self._build()
        return self._root

    def _build(self) -> FrozenDir:
        """Reads the whole view; takes the lock for one directory at a time."""
        core, view = self._core, self.view
        with core.lock:
            state = view.dir_state(core.root).state
        root = FrozenDir(core.root, ROOT_DIRECTORY, core.root.ino, state.base_path, True, {})
        waiting = [root]
        seen: set[FileNode] = set()
        while waiting:
            directory = waiting.pop()
            with core.lock:
                entries = sorted(view.dir_state(directory.node).entries.items())
                states = [None if entry is WHITEOUT else self._facts(entry) for _, entry in entries]
            below: list[FrozenDir] = []
            for (name, entry), facts in zip(entries, states, strict=True):
                path = child(directory.path, name)
                if entry is WHITEOUT or facts is None:
                    directory.entries[name] = WHITEOUT
                elif isinstance(entry, DirNode):
                    base_path = None if directory.base_path is None else child(directory.base_path, name)
                    is_natural = facts.origin is not None and facts.origin == base_path
                    inner = FrozenDir(entry, path, entry.ino, facts.origin, is_natural, {})
                    directory.entries[name] = inner
                    below.append(inner)
                else:
                    directory.entries[name] = self._file(directory, path, name, entry, facts, entry in seen)
                    seen.add(entry)
            waiting.extend(reversed(below))
        return root

    def _facts(self, node: Node) -> "_Facts":
        """Reads the fields of a node, which may change as soon as the lock is released."""
        if isinstance(node, FileNode):
            state = self.view.files.get(node) or node
            return _Facts(state.size, state.mtime_ns, state.spool_id, state.origin, state.flags)
        return _Facts(0, 0, 0, self.view.dir_state(node).state.base_path, 0)

    def _file(
        self, parent: FrozenDir, path: TreePath, name: str, node: FileNode, facts: "_Facts", is_alias: bool
    ) -> FrozenFile:
        size, mtime_ns, spool_id, origin, flags = facts
        spool_path = self._core.spool.path(spool_id) if spool_id else None
        is_lost = bool(flags & LOST)
        # What was written over a base file and is lost is a change, though the bytes are still those of the file.
        is_of_base = bool(flags & FROM_BASE) and not is_lost
        base_path = origin if is_of_base else None
        is_natural = is_of_base and parent.base_path is not None and origin == child(parent.base_path, name)
        is_open = node in self.view.unfinished
        # By position, as naming that many takes half of the time.
        return FrozenFile(
            node,
            path,
            node.ino,
            size,
            mtime_ns,
            spool_id,
            spool_path,
            base_path,
            is_natural,
            is_lost,
            is_open,
            is_alias,
            bool(flags & CUT),
        )

    def keep_final(self, spool_ids: Iterable[int]) -> None:
        """Makes some of the tree's spool files final: nothing writes to them again, also after the tree is released."""
        with self._core.lock:
            self._core.final.update(spool_ids)

    def walk(self) -> Iterator[tuple[TreePath, FrozenEntry]]:
        """Yields every entry but the root with its path: a directory before its entries, names sorted."""
        waiting: list[Iterator[tuple[TreePath, FrozenEntry]]] = [_entries(self.root)]
        while waiting:
            for path, entry in waiting[-1]:
                yield path, entry
                if isinstance(entry, FrozenDir):
                    waiting.append(_entries(entry))
                    break
            else:
                waiting.pop()

    def find(self, path: TreePath) -> FrozenFile | FrozenDir | BaseEntry | None:
        """Returns the entry at a path of the merged tree, None if there is none."""
        found: FrozenEntry = self.root
        names = path.split("/") if path else []
        for position, name in enumerate(names):
            if not isinstance(found, FrozenDir):
                return None
            below = found.entries.get(name)
            if below is None:
                if found.base_path is None:
                    return None
                base_path = child(found.base_path, "/".join(names[position:]))
                attr = self.base_tree.stat(base_path)
                return None if attr is None else BaseEntry(base_path, attr)
            found = below
        return None if found is WHITEOUT else found

    def list(self, found: FrozenDir | BaseEntry) -> Iterator[tuple[str, FrozenFile | FrozenDir | BaseEntry]]:
        """Yields the merged entries of a directory, the upper ones first."""
        hidden: dict[str, FrozenEntry] = {}
        base_path: TreePath | None
        if isinstance(found, FrozenDir):
            hidden, base_path = found.entries, found.base_path
            for name, entry in hidden.items():
                if entry is not WHITEOUT:
                    yield name, entry
        else:
            base_path = found.path
        if base_path is not None:
            for name, attr in self.base_tree.list(base_path):
                if name not in hidden:
                    yield name, BaseEntry(child(base_path, name), attr)

    def read(self, found: FrozenFile | BaseEntry) -> bytes:
        """Reads a whole file of the merged tree.

        Raises:
            StorageError: the bytes are gone, or cannot be had.
        """
        if isinstance(found, BaseEntry):
            return self.base_tree.read(found.path, 0, found.attr.size)
        if found.is_lost:
            raise StorageError(f"the bytes of {found.path!r} were lost", kind="io", path=found.path)
        if found.base_path is not None:
            return self.base_tree.read(found.base_path, 0, found.size)
        if found.spool_path is None:
            return b""
        try:
            return _read_file(found.spool_path, found.size)
        except OSError as error:
            raise disk_error(error, f"reading the bytes of {found.path!r}") from error


def _read_file(path: str, size: int) -> bytes:
    """Reads a file that should have a size; all that it has if it has another.

    `open` makes nine system calls of this. Each gives the interpreter away, so that four threads that read small files
    took 48 us of CPU for each, instead of 11.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = os.read(fd, size + 1)
        if len(data) == size:
            return data
        parts = [data]
        while part := os.read(fd, _READ_BYTES):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(fd)


def _entries(directory: FrozenDir) -> Iterator[tuple[TreePath, FrozenEntry]]:
    for name, entry in directory.entries.items():
        yield child(directory.path, name), entry


def is_directory(found: FrozenFile | FrozenDir | BaseEntry) -> bool:
    """Tells whether a merged entry is a directory."""
    return found.attr.is_dir if isinstance(found, BaseEntry) else isinstance(found, FrozenDir)

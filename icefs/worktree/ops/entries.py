"""What stands where: entries of directories, attributes, and the names by which callers find nodes again.

Concurrency: methods may be called from any thread; each takes the tree's lock.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from icefs.errors import InvalidInputError, NameTooLongError
from icefs.inode import Ino
from icefs.paths import TreePath, child
from icefs.worktree.base import BaseAttr, BaseEntry
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import WHITEOUT, Attr, DirNode, FileNode, NodeRef, TreeEntry

MAX_NAME_BYTES: Final = 255


class DirView(NamedTuple):
    """What a directory shows, for a caller that lists the base directory by itself.

    Attributes:
        base_path: The base directory whose entries shine through, except those in `hides`; None for none.
        entries: The upper entries by name.
        hides: The names of the base directory that are not to be shown.
    """

    base_path: TreePath | None
    entries: dict[str, TreeEntry]
    hides: frozenset[str]


def check_name(name: str) -> None:
    """Raises an error if no file of any tree can have the name.

    Raises:
        NameTooLongError: it has more than 255 bytes in UTF-8.
        InvalidInputError: it has a slash or a NUL, is `.`, `..` or empty, or is no Unicode text.
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidInputError(f"{name!r} is not valid UTF-8", kind="invalid-path", name=name) from None
    if length > MAX_NAME_BYTES:
        raise NameTooLongError(f"a name of {length} bytes is too long: 255 are allowed", name=name)
    if "/" in name or "\0" in name or name in {"", ".", ".."}:
        raise InvalidInputError(f"{name!r} is not a file name", kind="invalid-path", name=name)


class Entries:
    """The entries of a working tree, to look at."""

    def __init__(self, core: TreeCore) -> None:
        self._core = core

    def lookup(self, parent: NodeRef, name: str) -> TreeEntry | None:
        """Returns what a name in a directory refers to, None if nothing."""
        check_name(name)
        core = self._core
        with core.lock:
            core.check_open()
            found = core.child(core.directory(parent), name)
            return None if found is None else core.entry(found)

    def list(self, where: NodeRef) -> Iterator[tuple[str, TreeEntry]]:
        """Yields the entries of a directory as they are now: upper ones first, then those of the base directory.

        The base directory is listed while the iterator is advanced.
        """
        core = self._core
        view = self.view(where)
        yield from view.entries.items()
        if view.base_path is None:
            return
        with core.lock:
            base_tree = core.base_tree
            retained_of = core.retained.in_directory(view.base_path)
        for name, attr in base_tree.list(view.base_path):
            if name not in view.hides:
                retained = retained_of(name)
                if retained is not None:
                    attr = BaseAttr(retained.ino, attr.is_dir, attr.size, retained.mtime_ns)
                yield name, TreeEntry(child(view.base_path, name), core.base_attr(attr))

    def view(self, where: NodeRef) -> DirView:
        """Returns what a directory shows; cheap, whatever the size of the base directory."""
        core = self._core
        with core.lock:
            core.check_open()
            directory = core.directory(where)
            if not isinstance(directory, DirNode):
                return DirView(directory, {}, frozenset())
            entries = {name: core.entry(entry) for name, entry in directory.entries.items() if entry is not WHITEOUT}
            return DirView(directory.base_path, entries, frozenset(directory.entries))

    def attr(self, where: NodeRef) -> Attr:
        """Returns a node's attributes.

        Raises:
            StaleError: it is no longer there.
        """
        core = self._core
        with core.lock:
            return core.entry(core.resolve(where)).attr

    def knows(self, ino: Ino) -> bool:
        """Tells whether an inode number is (or was, before a commit) the tree's, and so may be used as a `NodeRef`."""
        core = self._core
        if ino in core.by_ino:
            return True
        with core.lock:
            return ino in core.by_ino or core.retained.path_of(ino) is not None

    def path_of(self, where: NodeRef) -> TreePath:
        """Returns where something is in the merged tree; of several names of a file the first.

        Raises:
            StaleError: it is no longer there.
            EntryNotFoundError: it is open, and was removed.
        """
        core = self._core
        with core.lock:
            return core.path_of(core.resolve(where))

    def find(self, path: TreePath) -> NodeRef | None:
        """Returns how to name what is at a path of the merged tree, None if nothing is."""
        core = self._core
        with core.lock:
            where: NodeRef = core.root.ino
            for name in path.split("/") if path else ():
                found = core.resolve(where)
                if isinstance(found, FileNode) or (isinstance(found, BaseEntry) and not found.attr.is_dir):
                    return None
                below = core.child(found.path if isinstance(found, BaseEntry) else found, name)
                if below is None:
                    return None
                where = core.entry(below).where
            return where

    def has_retained_in(self, path: TreePath) -> bool:
        """Tells whether entries of a base directory have numbers or times that they keep from before a commit."""
        core = self._core
        with core.lock:
            return core.retained.has_names(path)

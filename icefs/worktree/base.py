"""What a working tree stands on: a read-only tree of files, addressed by path.

A *base path* has no leading slash: `""` is the root, `"a/b/c/0/0"` a chunk. The VFS implements `BaseTree` over a
snapshot; tests implement it over a dictionary. One `BaseTree` never changes: after a commit or a rebase the working
tree asks its owner for another one.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Protocol

from icefs.inode import Ino
from icefs.paths import TreePath


class BaseAttr(NamedTuple):
    """What the base says of one path.

    Attributes:
        ino: Its inode number, the same one at every call. It belongs to the content more than to the path: where
            another snapshot has other content at the path, it has another number, since a working tree lets what
            was renamed and committed keep the number it had.
        is_dir: Whether it is a directory.
        size: Bytes; exact. 0 for directories.
        mtime_ns: When its content last changed.
    """

    ino: Ino
    is_dir: bool
    size: int
    mtime_ns: int


class BaseEntry(NamedTuple):
    """A untouched node: its path and attributes."""

    path: TreePath
    attr: BaseAttr


class BaseTree(Protocol):
    """A read-only tree.

    Concurrency: every method may be called from any thread. `stat` and `list` are called while the working tree's
    lock is held, so they should answer from memory; a caller that knows that a first answer needs the network asks once
    before, without it. `read` and `copy_to` are called without the lock.
    """

    def stat(self, path: TreePath) -> BaseAttr | None:
        """Returns the attributes of `path`, None if nothing is there. The root is always a directory."""

    def stat_many(self, paths: Sequence[TreePath]) -> Sequence[BaseAttr | None]:
        """Returns what `stat` says of each path; may wait for the network, so nobody holds a lock."""

    def content(self, path: TreePath) -> object:
        """Returns something that is equal for two files of any snapshots only if their bytes are; None for no file."""

    def list(self, path: TreePath) -> Iterable[tuple[str, BaseAttr]]:
        """Yields the entries of a directory, in any order but the same at every call; lazily if there are many."""

    def read(self, path: TreePath, offset: int, size: int) -> bytes:
        """Returns `size` bytes of a file from `offset`, fewer only where the file ends."""

    def copy_to(self, path: TreePath, fd: int) -> None:
        """Writes a whole file to a descriptor that is open for writing and stands at its beginning."""


type BaseFactory = Callable[[str], BaseTree]
"""Returns the tree of a snapshot, by its id."""

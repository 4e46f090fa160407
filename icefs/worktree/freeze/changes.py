"""What a working tree has that its base has not, as a list."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from icefs.paths import TreePath
from icefs.worktree.freeze.frozen import FrozenDir, FrozenEntry, FrozenTree
from icefs.worktree.model.nodes import WHITEOUT


class ChangeKind(StrEnum):
    """What differs from the base at a path."""

    WRITTEN = "written"
    """A file with bytes of its own, new or over a base one."""
    REUSED = "reused"
    """A file whose bytes are those of a base file of another path: renamed, or linked."""
    ATTRIBUTES = "attributes"
    """The base file itself, with times, mode or owner that a program set; nothing to commit."""
    WHITEOUT = "whiteout"
    """A file or directory of the base that was removed."""
    NEW_DIRECTORY = "new-directory"
    """A directory of which the base shows nothing."""
    RENAMED_DIRECTORY = "renamed-directory"
    """A directory of the base from another path, with everything below it."""


@dataclass(frozen=True, slots=True)
class TreeChange:
    """One difference.

    Attributes:
        kind: What differs.
        path: Where, in the merged tree.
        size: The file's size in bytes; 0 for anything but a file.
        mtime_ns: When the file's content changed; 0 for anything but a file.
        source: The base path that the entry comes from, if it is another one.
        is_lost: The file's bytes are gone.
        is_cut: The file's bytes are not all there.
    """

    kind: ChangeKind
    path: TreePath
    size: int = 0
    mtime_ns: int = 0
    source: str | None = None
    is_lost: bool = False
    is_cut: bool = False


def list_changes(frozen: FrozenTree) -> Iterator[TreeChange]:
    """Yields every difference: a directory before its entries, names sorted."""
    for path, entry in frozen.walk():
        change = _change(path, entry)
        if change is not None:
            yield change


def _change(path: TreePath, entry: FrozenEntry) -> TreeChange | None:
    if isinstance(entry, FrozenDir):
        if entry.is_natural:
            return None
        kind = ChangeKind.NEW_DIRECTORY if entry.base_path is None else ChangeKind.RENAMED_DIRECTORY
        return TreeChange(kind, path, source=entry.base_path)
    if entry is WHITEOUT:
        return TreeChange(ChangeKind.WHITEOUT, path)
    if entry.base_path is None:
        return TreeChange(
            ChangeKind.WRITTEN, path, entry.size, entry.mtime_ns, is_lost=entry.is_lost, is_cut=entry.is_cut
        )
    if entry.is_natural:
        return TreeChange(ChangeKind.ATTRIBUTES, path, entry.size, entry.mtime_ns)
    return TreeChange(ChangeKind.REUSED, path, entry.size, entry.mtime_ns, source=entry.base_path)

"""What a change of base did (`settle`), for whoever has cached what the tree was."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from icefs.inode import Entry
from icefs.worktree.model.kept_regions import KeptAttr, Region


@dataclass(slots=True)
class SettleResult:
    """What a change of base did.

    Attributes:
        base: The snapshot that the tree stands on now.
        dropped: (path, ino, mtime_ns) of every file and directory that the snapshot provides now.
        changed_attrs: Inode numbers of those whose mode, owner or number of links is not what it was.
        kept_back: Paths that were said to be committed but that the new snapshot does not have as they were frozen;
            they stay in the tree.
        copied_up: Paths whose bytes were saved from the old base.
        remaining: The number of files, directories and whiteouts that the working tree still has.
        renamed: (number of the directory above, name) of every directory that was renamed: what lies below it, and
            is the new base's, has the numbers that it has there.
        new_path: The base path, in the new base, of what had a base path in the old one; None if it is gone.
        forget: Forgets what is kept of base paths; returns of which there was. While the tree is still locked.
    """

    base: str
    dropped: list[tuple[str, int, int]]
    changed_attrs: list[int]
    kept_back: list[str]
    copied_up: list[str]
    remaining: int
    renamed: list[Entry]
    new_path: Callable[[str], str | None]
    forget: Callable[[Iterable[str]], list[str]]
    keep_renamed: Callable[[Mapping[str, Region], Mapping[str, KeptAttr]], None]

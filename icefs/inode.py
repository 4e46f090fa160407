"""Inode numbers, and what a change makes the kernel's copies of them untrue for."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NewType

Ino = NewType("Ino", int)
"""The number of a file or directory of a mount, as stat(2) shows it."""

ROOT_INO: Final = Ino(1)
"""The root of a mount (`FUSE_ROOT_ID`)."""

NO_INO: Final = Ino(0)
"""No inode: a name that does not exist, or a file that no mount shows."""

type Entry = tuple[Ino, bytes]
"""A directory's inode number, and a name in it."""


@dataclass(frozen=True, slots=True)
class Invalidations:
    """What the kernel caches and has to ask for again.

    Attributes:
        entries: The names that lead elsewhere, or nowhere.
        inodes: The numbers of the inodes with other attributes.
    """

    entries: Sequence[Entry] = ()
    inodes: Sequence[Ino] = ()

    def __add__(self, other: "Invalidations") -> "Invalidations":
        """Returns the invalidations of both, the first's first."""
        return Invalidations([*self.entries, *other.entries], [*self.inodes, *other.inodes])

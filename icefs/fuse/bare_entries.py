"""Which processes get directory entries without attributes.

READDIRPLUS answers a listing with the attributes of each entry, and the kernel makes an inode and a dentry of it. For
a program that wants to `stat` what it lists that saves a request an entry; for one that only wants names (`find -type
f`, most Zarr listers) it is most of the time that a large directory takes: a million entries list in a quarter of it
without. The protocol has a way to say "no attributes for this one": a node id of 0 (`entries.EntryBuffer.add_bare`).

Which processes want attributes is found out by trying (`Listers`): of the files that a process lists, most come with
attributes and a few without; if it never looks any of those up, the directories that it lists next come without
attributes, until it does look something up. A process that looks them up is tried less and less.
"""

from typing import Final

SPARSE: Final = 16
"""So many entries with attributes come between two without, at first."""

_SPARSEST: Final = 4096
_PATIENCE: Final = 4
# fts(3), which is in find, du, rm and chmod, reads up to 100 000 names before it looks at the first.
_LARGE: Final = 1 << 17
_MAX_PROCESSES: Final = 256


class Lister:
    """What a process does with the entries that it gets.

    Attributes:
        ignored: How many bare entries it got since it looked a file up.
        gap: How many entries lie between two bare ones.
        until_bare: How many entries come before the next bare one.
    """

    __slots__ = ("gap", "ignored", "until_bare")

    def __init__(self) -> None:
        self.ignored = 0
        self.gap = SPARSE
        self.until_bare = 1

    @property
    def wants_attributes(self) -> bool:
        """Whether it may still want attributes."""
        return self.ignored < _PATIENCE


class OpenListing:
    """A directory that is open.

    Attributes:
        lister: The process that reads it.
        is_full: Whether its entries bring their attributes. That is settled when it is opened, since many a program
            reads a directory to its end before it looks at the first name; and once more in a very large one.
    """

    __slots__ = ("_sent", "is_full", "lister")

    def __init__(self, lister: Lister) -> None:
        self.lister = lister
        self.is_full = lister.wants_attributes
        self._sent = 0

    def sent(self, count: int) -> None:
        """Records that entries were sent."""
        self._sent += count
        if self._sent >= _LARGE:
            self._sent = 0
            self.is_full = self.lister.wants_attributes


class Listers:
    """The processes that list directories, and the directories that they have open."""

    __slots__ = ("_by_pid", "_open")

    def __init__(self) -> None:
        self._open: dict[int, OpenListing] = {}
        self._by_pid: dict[int, Lister] = {}

    def begin(self, fh: int, pid: int) -> None:
        """Records that a process opened a directory."""
        lister = self._by_pid.get(pid)
        if lister is None:
            if len(self._by_pid) >= _MAX_PROCESSES:
                del self._by_pid[next(iter(self._by_pid))]
            lister = self._by_pid[pid] = Lister()
        self._open[fh] = OpenListing(lister)

    def end(self, fh: int) -> None:
        """Records that a directory was closed."""
        self._open.pop(fh, None)

    def looked_up(self, pid: int) -> None:
        """Records that a process looked a file up."""
        lister = self._by_pid.get(pid)
        if lister is not None:
            lister.ignored = 0
            lister.gap = min(2 * lister.gap, _SPARSEST)

    def of(self, fh: int) -> OpenListing:
        """Returns the listing of an open directory."""
        found = self._open.get(fh)
        return OpenListing(Lister()) if found is None else found

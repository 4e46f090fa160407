"""Directory entries without attributes, which pyfuse3 does not offer.

pyfuse3 answers every listing with READDIRPLUS: each entry brings its attributes, and the kernel makes an inode and a
dentry of it. For a program that wants to `stat` what it lists that saves a request an entry; for one that only wants
names (`find -type f`, most Zarr listers) it is most of the time that a large directory takes: a million entries list
in a quarter of it without.

The protocol has a way to say "no attributes for this one": a node id of 0, beside the inode number that `readdir(3)`
shows. pyfuse3 sets both through `st_ino`. Here the node id is set alone, where libfuse keeps it, in the memory of a
`pyfuse3.EntryAttributes`; `EntryBuffer` checks once that it is where it is expected, and does without if it is not.

Who wants attributes is found out by trying (`Listers`): of the files that a process lists, most come with attributes
and a few without; if it never looks any of those up, it gets no more attributes, until it does look something up.
"""

import ctypes
from typing import Final

import pyfuse3

SPARSE: Final = 16
"""Of the entries that come with attributes, every one of so many comes without, to see whether it is asked for."""

_PATIENCE: Final = 4
_MAX_PROCESSES: Final = 256

# Behind the object's header (count and type) comes a `struct fuse_entry_param`: u64 ino, u64 generation, struct stat.
_NODE_ID_AT: Final = 16
# `st_ino` is the second member of `struct stat`, which is the third of `struct fuse_entry_param`.
_STAT_INO_AT: Final = _NODE_ID_AT + 16 + 8
_PROBE: Final = 0x1CEC_0FFE_E000_0001


class EntryBuffer:
    """An `EntryAttributes` whose node id can be set by itself.

    Attributes:
        entry: The attributes that are sent.
        node_id: Where the node id is kept (`.value`), or None where it could not be found.
    """

    __slots__ = ("entry", "node_id")

    def __init__(self) -> None:
        self.entry = pyfuse3.EntryAttributes()
        self.node_id = _find_node_id(self.entry)


def _find_node_id(entry: pyfuse3.EntryAttributes) -> ctypes.c_uint64 | None:
    """Finds the node id in an entry's memory; None if anything there is not as expected."""
    if type(entry).__basicsize__ < _STAT_INO_AT + 8:
        return None
    node_id = ctypes.c_uint64.from_address(id(entry) + _NODE_ID_AT)
    stat_ino = ctypes.c_uint64.from_address(id(entry) + _STAT_INO_AT)
    entry.st_ino = _PROBE
    if node_id.value != _PROBE or stat_ino.value != _PROBE:
        return None
    node_id.value = _PROBE + 1
    # The property reads the node id back, so it is that; and the number that readdir shows has not moved.
    found = entry.st_ino == _PROBE + 1 and stat_ino.value == _PROBE
    entry.st_ino = _PROBE
    return node_id if found else None


class Listers:
    """What the processes that list directories do with what they are sent.

    A process wants attributes as long as it looks up some of the few files that it was sent without, before
    `_PATIENCE` more of those were sent.
    """

    __slots__ = ("_by_handle", "_ignored")

    def __init__(self) -> None:
        self._by_handle: dict[int, int] = {}
        # By process: how many bare entries it was sent since it looked a file up.
        self._ignored: dict[int, int] = {}

    def begin(self, fh: int, pid: int) -> None:
        """Takes note that a process opened a directory."""
        self._by_handle[fh] = pid
        if pid not in self._ignored:
            if len(self._ignored) >= _MAX_PROCESSES:
                del self._ignored[next(iter(self._ignored))]
            self._ignored[pid] = 0

    def end(self, fh: int) -> None:
        """Takes note that a directory was closed."""
        self._by_handle.pop(fh, None)

    def looked_up(self, pid: int) -> None:
        """Takes note that a process looked a file up."""
        if pid in self._ignored:
            self._ignored[pid] = 0

    def want_attributes(self, fh: int) -> bool:
        """Tells whether the process behind a handle may want attributes."""
        return self._ignored.get(self._by_handle.get(fh, 0), 0) < _PATIENCE

    def next_bare(self, fh: int) -> int:
        """Returns how many entries with attributes come before the first bare one of a run."""
        return min(SPARSE - 1, self._ignored.get(self._by_handle.get(fh, 0), 0) + 1)

    def sent_bare(self, fh: int) -> int:
        """Takes note that a bare entry was sent; returns how far behind it the next one is."""
        pid = self._by_handle.get(fh, 0)
        if pid in self._ignored:
            self._ignored[pid] += 1
        return SPARSE

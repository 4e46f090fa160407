"""Directory listings: sections of entries that are alike, cut into runs when the kernel asks for them.

A listing holds what the directory was when it was begun, as columns: an open directory of a million chunks costs
the daemon its coordinates and lengths, and a run of entries is made when it is sent and then dropped.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from icefs.clock import NS_PER_US
from icefs.engine.history.key_times import ChunkTimes
from icefs.inode import Ino
from icefs.vfs.attrs import Attr, EntryRun
from icefs.vfs.chunks.array_view import ArrayView, ChunkColumns
from icefs.vfs.inodes.history import U32, ChunkEpochs, History
from icefs.vfs.inodes.numbers import Prefix
from icefs.vfs.interface import DirHandle

_RUN: Final = 1024
MAX_SIZE: Final = (1 << 63) - 1
"""The largest size that `stat(2)` can tell. A manifest may claim more; such a chunk cannot be read anyway."""


class Section(ABC):
    """Entries of a directory that share everything but name, number, size and time."""

    @abstractmethod
    def __len__(self) -> int:
        """Returns the number of entries."""

    @abstractmethod
    def run(self, first: int, end: int, start: int) -> EntryRun:
        """Makes the run of the entries `[first, end)`, the first of which is at position `start` of the listing."""


class NamedEntries(Section):
    """Entries that are given one by one."""

    def __init__(
        self, template: Attr, entries: Sequence[tuple[bytes, int, int, int]], *, has_attributes: bool = True
    ) -> None:
        """Takes the name, inode number, size and time of each entry; `has_attributes` as of an `EntryRun`."""
        self._template = template
        self._entries = entries
        self._has_attributes = has_attributes

    def __len__(self) -> int:
        return len(self._entries)

    def run(self, first: int, end: int, start: int) -> EntryRun:
        """Makes a run."""
        names, inos, sizes, times = zip(*self._entries[first:end], strict=True)
        return EntryRun(start, self._template, list(names), list(inos), list(sizes), list(times), self._has_attributes)


class ChunkEntries(Section):
    """The chunks, or directories above chunks, below one place of an array's key space."""

    def __init__(
        self,
        view: ArrayView,
        level: int,
        prefix: Prefix,
        part: ChunkColumns,
        template: Attr,
        history: History,
        first: ChunkTimes | None = None,
    ) -> None:
        self._view = view
        self._level = level
        self._prefix = prefix
        self._part = part
        self._template = template
        self._history = history
        epochs = history.chunks(view.node.id)
        self._epochs = None if epochs is None else epochs.copy()  # a listing is finished as it was begun
        self._first = first

    def __len__(self) -> int:
        return self._part.count

    def run(self, first: int, end: int, start: int) -> EntryRun:
        """Makes a run."""
        part, view = self._part, self._view
        names = view.names(self._level, part, first, end)
        epochs = self._epochs
        if part.lengths is None:
            return self._dirs(names, first, end, start, epochs)
        own = [column[first:end] for column in part.columns]
        # A constant column for each coordinate that the directory fixes; a scalar has no coordinates at all.
        whole = [np.full(end - first, position, np.uint32) for position in self._prefix] + own
        since = 0 if epochs is None else epochs.since
        each = None if epochs is None else epochs.of_all(whole)
        inos = view.numbers.numbers(whole, each, since)
        sizes = np.minimum(part.lengths[first:end], MAX_SIZE).tolist()
        return EntryRun(start, self._template, names, inos, sizes, self._times(whole, each, since, len(names)))

    def _times(self, columns: Sequence[U32], each: U32 | None, since: int, count: int) -> list[int] | None:
        """Returns the chunks' times; None where all have the template's."""
        history, first = self._history, self._first
        if each is None and since:
            return [history.time_ns(since)] * count
        own = None if first is None else first.of_all(columns, count)
        if each is None:
            return None if own is None else (own * NS_PER_US).tolist()
        times = history.times_ns(each)
        if first is not None:
            for row in np.flatnonzero(each == 0).tolist():
                times[row] = (first.uniform if own is None else int(own[row])) * NS_PER_US
        return times

    def _dirs(self, names: list[bytes], first: int, end: int, start: int, epochs: ChunkEpochs | None) -> EntryRun:
        if self._part.columns:
            prefixes = [(*self._prefix, position) for position in self._part.columns[0][first:end].tolist()]
        else:
            prefixes = [()]
        inos = [self._view.numbers.dir_number(prefix) for prefix in prefixes]
        times = None
        if epochs is not None:
            times = [self._history.time_ns(epochs.newest_below(prefix)) for prefix in prefixes]
        return EntryRun(start, self._template, names, inos, None, times)


class Listing(DirHandle):
    """An open directory.

    Attributes:
        ino: The directory's inode.
    """

    __slots__ = ("_begin", "_bounds", "_note", "_run", "_sections")

    def __init__(
        self, ino: Ino, begin: Callable[[], Sequence[Section]], note: Callable[[EntryRun, int, int], None]
    ) -> None:
        """Takes an inode and two functions.

        Args:
            ino: The directory's inode.
            begin: Returns the directory's sections as they are now; may raise `NotInMemoryError`.
            note: Gets the entries that the kernel was sent.
        """
        super().__init__(ino)
        self._begin = begin
        self._note = note
        self._sections: Sequence[Section] | None = None
        self._bounds: list[int] = []
        self._run: EntryRun | None = None

    def run_at(self, position: int) -> EntryRun | None:
        """Returns the run that holds a position."""
        if position == 0 or self._sections is None:
            self._sections = None  # so that a failure does not leave the listing before
            self._sections = [section for section in self._begin() if len(section)]
            self._run = None
            self._bounds = [0]
            for section in self._sections:
                self._bounds.append(self._bounds[-1] + len(section))
        run = self._run
        if run is not None and run.start <= position < run.start + len(run.names):
            return run
        if position >= self._bounds[-1]:
            return None
        which = bisect_right(self._bounds, position) - 1
        first = position - self._bounds[which]
        section = self._sections[which]
        self._run = run = section.run(first, min(first + _RUN, len(section)), position)
        return run

    def entered(self, run: EntryRun, first: int, end: int) -> None:
        """Passes on which entries the kernel was sent."""
        self._note(run, first, end)

    def release(self) -> None:
        """Drops the columns."""
        self._sections = self._run = None


def dots(own: Attr, parent: Ino) -> NamedEntries:
    """Makes the entries `.` and `..`."""
    return NamedEntries(own, [(b".", own.ino, 0, own.mtime_ns), (b"..", parent, 0, own.mtime_ns)])


def without(sections: Sequence[Section], taken: set[bytes]) -> Sequence[Section]:
    """Drops the entries whose names are taken, by a node or by an earlier section; for the rare clash."""
    kept: list[Section] = []
    for section in sections:
        run = section.run(0, len(section), 0)
        sizes = run.sizes or [0] * len(run.names)
        times = run.mtimes_ns or [run.template.mtime_ns] * len(run.names)
        rows = [row for row in zip(run.names, run.inos, sizes, times, strict=True) if row[0] not in taken]
        taken.update(run.names)
        kept.append(NamedEntries(run.template, rows))
    return kept

"""The history of a branch by time: which snapshot was its tip at a moment, and on which days there were commits."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, Self

from icefs.engine.repository import Repository
from icefs.errors import FormatError, IcefsError, NotFoundError, ObjectNotFoundError
from icefs.format.ids import SnapshotId

_US_PER_DAY: Final = 86_400_000_000
_LAST_DAY: Final = 2_932_896
"""9999-12-31, in days since the epoch: no later day can be written."""


@dataclass(frozen=True, slots=True)
class BranchHistory:
    """A snapshot and its ancestors.

    Attributes:
        ids: The snapshots, newest first.
        times: When each was written, in microseconds since the epoch.
        days: The days in UTC on which any was written, ascending, counted from the epoch.
        problem: Why the history ends before its first snapshot; None if it does not.
    """

    ids: Sequence[SnapshotId]
    times: Sequence[int]
    days: Sequence[int]
    problem: IcefsError | None
    _falling: Sequence[int]
    _members: frozenset[SnapshotId]

    def __contains__(self, snapshot_id: SnapshotId) -> bool:
        return snapshot_id in self._members

    @classmethod
    def of(cls, ids: Sequence[SnapshotId], times: Sequence[int], problem: IcefsError | None = None) -> Self:
        """Makes a history of snapshots, newest first, and their times."""
        days = sorted({day for time in times if 0 <= (day := time // _US_PER_DAY) <= _LAST_DAY})
        return cls(ids, times, days, problem, [-time for time in accumulate(times, min)], frozenset(ids))

    def find(self, micros: int) -> int | None:
        """Returns the position of the newest snapshot that is not younger than a time.

        Clocks of writers differ: where a parent is younger than its child, the child is found first, as
        `Repository.resolve` does.

        Raises:
            FormatError, NotFoundError: that snapshot is in the part that could not be read.
        """
        position = bisect_left(self._falling, -micros)
        if position < len(self.ids):
            return position
        if self.problem is not None:
            raise self.problem
        return None


def fetch_history(repository: Repository, tip: SnapshotId, known: BranchHistory | None) -> BranchHistory:
    """Reads the history of a snapshot as far as it goes; may block.

    Args:
        repository: Has it.
        tip: The snapshot.
        known: A history that was read before. Where it is a part of this one, it is not read again.

    Raises:
        StorageError: the store does not answer. A snapshot that is missing or damaged there is the `problem`.
    """
    ids: list[SnapshotId] = []
    times: list[int] = []
    rest = None if known is None or known.problem is not None else known
    try:
        for info in repository.ancestry(snapshot_id=tip):
            if rest is not None and info.id == rest.ids[0]:
                return BranchHistory.of([*ids, *rest.ids], [*times, *rest.times])
            ids.append(info.id)
            times.append(info.flushed_at)
    except (NotFoundError, ObjectNotFoundError, FormatError) as error:
        return BranchHistory.of(ids, times, error)
    return BranchHistory.of(ids, times)

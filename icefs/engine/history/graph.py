"""The tree of snapshots as rows to draw, the newest first, with a lane for each line of history."""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum

from icefs.engine.history.ancestry import ancestry
from icefs.engine.history.origins import parents_of
from icefs.engine.read.context import ReadContext
from icefs.errors import ObjectNotFoundError, SnapshotNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo


class Mark(Enum):
    """What a row shows of a lane."""

    NOTHING = " "
    LINE = "|"
    SNAPSHOT = "*"


@dataclass(frozen=True, slots=True)
class Row:
    """One row.

    Attributes:
        marks: What it shows of each lane, from the left.
        info: The snapshot on it; None on a row where a lane begins or ends.
        joins: The lane that ends here, at the snapshot of the next row.
        into: The lane that this one is in, to the left; there may be others in between, which go on.
        forks: The lane that begins here, at the snapshot of the row before, which merged what the lane leads to.
    """

    marks: tuple[Mark, ...]
    info: SnapshotInfo | None = None
    joins: int | None = None
    into: int = 0
    forks: int | None = None


def graph_rows(context: ReadContext, tips: Iterable[SnapshotId]) -> Iterator[Row]:
    """Yields the rows of all snapshots that some lead to, by parents and by merges."""
    infos = _reached(context, tips)
    lanes: list[SnapshotId | None] = []
    for info in _newest_first(infos):
        here = [number for number, wanted in enumerate(lanes) if wanted == info.id]
        if not here:
            here = [_free_lane(lanes)]
        for number in reversed(here[1:]):  # branches that began here
            lanes[number] = None
            yield Row(_marks(lanes), joins=number, into=here[0])
            _trim(lanes)
        lanes[here[0]] = info.parent_id
        marks = list(_marks(lanes))
        marks[here[0]] = Mark.SNAPSHOT
        yield Row(tuple(marks), info)
        merged = [parent for parent in parents_of(info) if parent != info.parent_id and parent in infos]
        for parent in merged:
            lanes.insert(here[0] + 1, parent)
            yield Row(_marks(lanes), forks=here[0] + 1)
        _trim(lanes)


def _reached(context: ReadContext, tips: Iterable[SnapshotId]) -> dict[SnapshotId, SnapshotInfo]:
    infos: dict[SnapshotId, SnapshotInfo] = {}
    waiting = [(tip, True) for tip in tips]
    while waiting:
        tip, is_certain = waiting.pop()
        try:
            for info in ancestry(context, tip):
                if info.id in infos:
                    break
                infos[info.id] = info
                waiting += [(parent, False) for parent in parents_of(info) if parent != info.parent_id]
        except (SnapshotNotFoundError, ObjectNotFoundError):
            if is_certain:
                raise
            # What was merged has expired, or was never there: metadata are anybody's.
    return infos


def _newest_first(infos: dict[SnapshotId, SnapshotInfo]) -> Iterator[SnapshotInfo]:
    """Yields snapshots by time, each before its parents whatever the clocks said."""
    children = dict.fromkeys(infos, 0)
    parents = {info.id: {each for each in parents_of(info) if each in infos} for info in infos.values()}
    for each in parents.values():
        for parent in each:
            children[parent] += 1
    ready = [(-infos[snapshot_id].flushed_at, snapshot_id) for snapshot_id, count in children.items() if not count]
    heapq.heapify(ready)
    while ready:
        info = infos[heapq.heappop(ready)[1]]
        yield info
        for parent in parents[info.id]:
            children[parent] -= 1
            if not children[parent]:
                heapq.heappush(ready, (-infos[parent].flushed_at, parent))


def _free_lane(lanes: list[SnapshotId | None]) -> int:
    lanes.append(None)
    return lanes.index(None)


def _trim(lanes: list[SnapshotId | None]) -> None:
    while lanes and lanes[-1] is None:
        lanes.pop()


def _marks(lanes: list[SnapshotId | None]) -> tuple[Mark, ...]:
    return tuple(Mark.NOTHING if wanted is None else Mark.LINE for wanted in lanes)

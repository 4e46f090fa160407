"""`icefs log --graph`: the tree of snapshots with lanes for its branches, the newest first."""

import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from icefs.cli.options import human_time, printable
from icefs.clock import to_datetime
from icefs.engine.repository import Repository
from icefs.format.ids import SnapshotId
from icefs.format.repo_info import SnapshotInfo

if TYPE_CHECKING:
    from icefs.cli.history import Names

_COLOURS = ("green", "blue", "magenta", "cyan", "red", "yellow")


def graph_lines(repository: Repository, names: "Names", ref: str | None) -> Iterator[str]:
    """Yields the lines of the graph.

    Args:
        repository: Whose history.
        names: Which refs are at each snapshot.
        ref: The version to begin at; None for all branches and tags.
    """
    tips = [*names.branches, *names.tags] if ref is None else [repository.resolve_ref(ref)]
    infos: dict[SnapshotId, SnapshotInfo] = {}
    for tip in tips:
        for info in repository.ancestry(snapshot_id=tip):
            if info.id in infos:
                break
            infos[info.id] = info
    lanes: list[SnapshotId | None] = []
    for info in _newest_first(infos):
        here = [number for number, wanted in enumerate(lanes) if wanted == info.id]
        if not here:
            here = [_free_lane(lanes)]
        for number in reversed(here[1:]):  # branches that began here
            lanes[number] = None
            yield _joining(lanes, number)
            while lanes and lanes[-1] is None:
                lanes.pop()
        lanes[here[0]] = info.parent_id
        yield f"{_row(lanes, here[0])} {_text(info, names)}"
        while lanes and lanes[-1] is None:
            lanes.pop()


def _newest_first(infos: dict[SnapshotId, SnapshotInfo]) -> Iterator[SnapshotInfo]:
    """Yields snapshots by time, each before its parent whatever the clocks said."""
    children = dict.fromkeys(infos, 0)
    for info in infos.values():
        if info.parent_id in children:
            children[info.parent_id] += 1
    ready = [(-infos[snapshot_id].flushed_at, snapshot_id) for snapshot_id, count in children.items() if not count]
    heapq.heapify(ready)
    while ready:
        info = infos[heapq.heappop(ready)[1]]
        yield info
        parent = info.parent_id
        if parent in children:
            children[parent] -= 1
            if not children[parent]:
                heapq.heappush(ready, (-infos[parent].flushed_at, parent))


def _free_lane(lanes: list[SnapshotId | None]) -> int:
    lanes.append(None)
    return lanes.index(None)


def _row(lanes: list[SnapshotId | None], at: int) -> str:
    marks = ["*" if number == at else " " if wanted is None else "|" for number, wanted in enumerate(lanes)]
    return " ".join(_coloured(number, mark) for number, mark in enumerate(marks)).rstrip()


def _joining(lanes: list[SnapshotId | None], at: int) -> str:
    """Draws how a lane ends at the one beside it."""
    drawn = [_coloured(number, " " if lanes[number] is None else "|") for number in range(at)]
    after = [_coloured(number, "|") if lanes[number] is not None else " " for number in range(at + 1, len(lanes))]
    return (" ".join(drawn) + _coloured(at, "/") + ("  " + " ".join(after) if after else "")).rstrip()


def _coloured(number: int, mark: str) -> str:
    return mark if mark == " " else click.style(mark, fg=_COLOURS[number % len(_COLOURS)])


def _text(info: SnapshotInfo, names: "Names") -> str:
    here = names.branches.get(info.id, []) + [f"tag: {name}" for name in names.tags.get(info.id, [])]
    labels = f" ({click.style(printable(', '.join(here)), bold=True)})" if here else ""
    message = printable(info.message.partition("\n")[0])
    return f"{click.style(str(info.id), fg='yellow')}{labels} {human_time(to_datetime(info.flushed_at))}  {message}"

"""`icefs log --graph`: the tree of snapshots with lanes for its branches, the newest first."""

from collections.abc import Iterator

import click

from icefs.cli.support.options import human_time
from icefs.cli.support.snapshots import Names
from icefs.clock import to_datetime
from icefs.engine.history.graph import Row, graph_rows
from icefs.engine.repository import Repository
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.words import visible

_COLOURS = ("green", "blue", "magenta", "cyan", "red", "yellow")


def graph_lines(repository: Repository, names: Names, ref: str | None) -> Iterator[str]:
    """Yields the lines of the graph; arguments as `rows_of`."""
    for row in rows_of(repository, names, ref):
        drawn = _drawn(row)
        yield drawn if row.info is None else f"{drawn} {_text(row.info, names)}"


def rows_of(repository: Repository, names: Names, ref: str | None) -> Iterator[Row]:
    """Yields the rows of the graph.

    Args:
        repository: Whose history.
        names: Which refs are at each snapshot.
        ref: The version to begin at; None for all branches and tags.
    """
    tips = [*names.branches, *names.tags] if ref is None else [repository.resolve_ref(ref)]
    return graph_rows(repository.context, tips)


def _drawn(row: Row) -> str:
    marks = [_coloured(number, mark.value) for number, mark in enumerate(row.marks)]
    if row.forks is not None:
        # The lane begins at the one next to it, and moves those behind it.
        moved = [_coloured(number, "\\" if mark.value != " " else " ") for number, mark in enumerate(row.marks)]
        return (" ".join(marks[: row.forks]) + " ".join(moved[row.forks :])).rstrip()
    if row.joins is None:
        return " ".join(marks).rstrip()
    # The lane passes below those between it and the one that it ends in.
    between, after = marks[row.into : row.joins], marks[row.joins + 1 :]
    joined = "".join(f"{mark} " for mark in marks[: row.into]) + _coloured(row.joins, "_").join(between)
    joined += _coloured(row.joins, "/")
    return (joined + ("  " + " ".join(after) if after else "")).rstrip()


def _coloured(number: int, mark: str) -> str:
    return mark if mark == " " else click.style(mark, fg=_COLOURS[number % len(_COLOURS)])


def _text(info: SnapshotInfo, names: Names) -> str:
    here = names.labels(info.id)
    labels = f" ({click.style(here, bold=True)})" if here else ""
    message = visible(info.message.partition("\n")[0])
    return f"{click.style(str(info.id), fg='yellow')}{labels} {human_time(to_datetime(info.flushed_at))}  {message}"

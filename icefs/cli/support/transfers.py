"""Progress, lists and places that `icefs import` and `icefs export` have in common."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from icefs.cli.support.options import (
    say,
)
from icefs.cli.support.progress import PATIENCE_S
from icefs.paths import NodePath
from icefs.transfer.progress import Transferred
from icefs.words import plural
from icefs.zarr.keys import normalize_key

_SHOWN = 20


def as_node_path(text: str) -> NodePath:
    """Reads the path of a node as a user types it, with or without slashes around it.

    Raises:
        InvalidInputError: no node can have it.
    """
    return NodePath("/" + normalize_key(text.strip("/")).removeprefix("."))


def list_lines(what: str, lines: list[str]) -> None:
    """Prints the first of some lines to standard error, each behind `what`, and how many more there are."""
    for line in lines[:_SHOWN]:
        say(f"{what} {line}", err=True)
    if len(lines) > _SHOWN:
        click.echo(f"and {len(lines) - _SHOWN:,} more; --json lists them all", err=True)


def state_home() -> Path:
    """Returns the directory of what is known of imports and exports."""
    return Path(os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state"), "icefs")


@contextmanager
def transfer_bar(what: str) -> Iterator[Callable[[Transferred], None]]:
    """Shows a bar if it takes long and stderr is a terminal; yields the function that moves it."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console  # 100 ms that a pipe does not pay
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[files]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task(what, total=None, files="")
    started = time.monotonic()

    def show(done: Transferred) -> None:
        if time.monotonic() - started > PATIENCE_S:
            bar.start()
        files = f"{done.files:,}/{plural(done.total_files, 'file')}"
        bar.update(task, completed=done.bytes, total=done.total_bytes or None, files=files)

    try:
        yield show
    finally:
        bar.stop()

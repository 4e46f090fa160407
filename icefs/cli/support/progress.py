"""The progress of a commit on a terminal, and what Ctrl-C means meanwhile."""

import signal
import sys
import time
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Self

import click

from icefs.cli.support.mounts import Mounted
from icefs.errors import IcefsError

if TYPE_CHECKING:
    from rich.progress import Progress

PATIENCE_S = 1.0
"""How long something takes before a bar is shown."""


class CommitProgress:
    """Shows how far a commit is, if it takes long and somebody looks.

    Ctrl-C calls the commit off, which the daemon does unless it is at the point of being published; either way its
    answer tells what became of it. A second Ctrl-C does not wait for that.
    """

    def __init__(self, mounted: Mounted) -> None:
        """Takes where the commit is under way."""
        self._mounted = mounted
        self._started = time.monotonic()
        self._bar: Progress | None = None
        self._task: Any = None
        self._before: Any = None
        self.was_interrupted = False

    def __enter__(self) -> Self:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._bar is not None:
            self._bar.stop()

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # Raising here could lose the answer that was just read.
        if self.was_interrupted:
            raise KeyboardInterrupt
        self.was_interrupted = True
        try:
            in_time = self._mounted.ask("cancel")["cancelled"]
        except (IcefsError, OSError):
            in_time = False
        click.echo("calling the commit off" if in_time else "too late to call the commit off", err=True)

    def __call__(self, progress: dict[str, Any]) -> None:
        """Shows progress."""
        if self._bar is None:
            if time.monotonic() - self._started < PATIENCE_S or not sys.stderr.isatty():
                return
            self._bar, self._task = _make_bar()
            self._bar.start()
        self._bar.update(
            self._task,
            completed=progress["bytes"],
            total=progress["total_bytes"] or None,
            files=f"{progress['files']}/{progress['total_files']} chunks",
        )


def _make_bar() -> "tuple[Progress, Any]":
    from rich.console import Console  # 100 ms that only a long commit pays
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TextColumn("{task.fields[files]}"),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    return bar, bar.add_task("committing", total=None, files="")

"""Progress of long work in this process: after a second, a line on a terminal names the present step."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from icefs.cli.support.progress import PATIENCE_S

if TYPE_CHECKING:
    from rich.status import Status

_EVERY_S = 0.1


class _Steps:
    def __init__(self) -> None:
        self._started = self._shown = time.monotonic()
        self._status: Status | None = None

    def __call__(self, what: str, count: int) -> None:
        now = time.monotonic()
        if now - self._started < PATIENCE_S or now - self._shown < _EVERY_S or not sys.stderr.isatty():
            return
        self._shown = now
        if self._status is None:
            from rich.console import Console  # 100 ms that only long work pays

            self._status = Console(stderr=True).status("")
            self._status.start()
        self._status.update(f"{what}: {count:,}")

    def end(self) -> None:
        if self._status is not None:
            self._status.stop()


@contextlib.contextmanager
def steps() -> Iterator[Callable[[str, int], None]]:
    """Shows how far work is that calls `progress(what, count)`, if it takes long and stderr is a terminal."""
    shown = _Steps()
    try:
        yield shown
    finally:
        shown.end()

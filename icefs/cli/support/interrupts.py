"""Ctrl-C while threads wait for a store that does not answer."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from icefs.cli.support.exit_codes import INTERRUPTED

_PATIENCE_S: Final = 2.0


@contextmanager
def ending_soon() -> Iterator[None]:
    """Has Ctrl-C end the process after two seconds at most, for a command that uses a store in its own process.

    Python waits for its threads otherwise, and those for the store, for minutes. Nothing is lost: a repository, a
    local store and a working tree survive that a process is killed anywhere.
    """
    before = signal.getsignal(signal.SIGINT)
    # Ctrl-C may be ignored, as in the background of a shell, and only the main thread takes signals.
    if before is not signal.default_int_handler or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    last = threading.Timer(_PATIENCE_S, os._exit, (INTERRUPTED,))
    last.daemon = True
    last.start()
    raise KeyboardInterrupt

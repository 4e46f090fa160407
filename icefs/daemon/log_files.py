"""Log files: they may be renamed away at any time, and those of the default directory have a limit.

A daemon holds a shared lock (flock) on its log file. A file of the default directory that no daemon holds may be
deleted (`keep_logs_within`).
"""

import contextlib
import fcntl
import io
import os
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Final

from icefs.bounded import Limits, keep_within

LIMITS: Final = Limits(max_bytes=256 << 20, max_files=200, max_unused_s=90 * 86400)
"""The limits of logs in the default directory. The log of a running daemon stays in any case."""


class LogFile(WatchedFileHandler):
    """A log file that may be renamed or removed: the next line goes into a new one of its name.

    With `takes_stderr`, stderr follows it there: tracebacks of the end, and the stacks of SIGUSR1.
    """

    def __init__(self, path: str, *, takes_stderr: bool) -> None:
        self._takes_stderr = takes_stderr
        super().__init__(path, encoding="utf-8", errors="backslashreplace")

    def _open(self) -> io.TextIOWrapper:
        stream = super()._open()
        hold(stream.fileno())
        return stream

    def reopenIfNeeded(self) -> None:
        """Opens the file again if its name leads elsewhere now."""
        before = self.stream
        super().reopenIfNeeded()
        if self._takes_stderr and self.stream is not before and self.stream is not None:
            os.dup2(self.stream.fileno(), 2)


def hold(descriptor: int) -> None:
    """Marks an open log file as one that a daemon writes, for as long as it is open."""
    with contextlib.suppress(OSError):  # without locks it looks unused, and is made again if it was deleted
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


def keep_logs_within(directory: Path, own: Path) -> None:
    """Deletes logs that are over the limits, except the caller's own and those that daemons hold.

    Raises:
        OSError: the directory cannot be read or changed.
    """
    for pattern in ("*.log", "*.log.1"):
        keep_within(directory, pattern, LIMITS, own=own, is_free=_is_free)


def _is_free(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True

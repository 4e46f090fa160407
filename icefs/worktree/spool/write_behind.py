"""Has the disk begin with what a commit would wait for.

A commit to a local repository gives spool files a second name there, and then waits until they are on the disk. The
kernel by itself leaves them in memory for half a minute, so the commit of a gibibyte just written waits for a gibibyte.
Here the disk begins with files as they are closed, while the program that writes them is busy with the next. The last
ones are spared: a file that is soon written again, or removed, shall not be written to the disk for nothing.

Nothing is waited for and nothing promised: the caller that syncs the file meets a failure.
"""

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

SPARED_BYTES: Final = 64 << 20
"""So many bytes of the files that were closed last are left alone."""

_AT_ONCE_BYTES: Final = 8 << 20
_WORTH_BYTES: Final = 64 << 10
_SYNC_FILE_RANGE_WRITE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def begin_writing(path: str) -> None:
    """Has the kernel begin to write a file to its disk; does not wait for it.

    Raises:
        OSError: the file cannot be opened. Errors of the disk come later, and are not raised.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE))
    finally:
        os.close(fd)


class WriteBehind:
    """Begins to write what was closed, all but the last of it.

    Concurrency: `closed` and `close` are called with the tree's lock held; a thread of its own makes the system calls.

    Attributes:
        begun_bytes: How much the disk was asked to write.
    """

    def __init__(self, path_of: Callable[[int], str], begin: Callable[[str], None] = begin_writing) -> None:
        """Takes what returns the path of a spool file, and what begins to write one."""
        self.begun_bytes = 0
        self._path_of = path_of
        self._begin = begin
        self._waiting: deque[tuple[int, int]] = deque()
        self._waiting_bytes = 0
        self._orders: SimpleQueue[list[tuple[int, int]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def closed(self, spool_id: int, size_bytes: int) -> None:
        """Records a spool file that was written and that nobody has open any more."""
        if size_bytes < _WORTH_BYTES:
            return  # a commit syncs small files in no time, and they would be many
        self._waiting.append((spool_id, size_bytes))
        self._waiting_bytes += size_bytes
        if self._waiting_bytes < SPARED_BYTES + _AT_ONCE_BYTES:
            return
        order = []
        while self._waiting_bytes > SPARED_BYTES:
            oldest = self._waiting.popleft()
            self._waiting_bytes -= oldest[1]
            order.append(oldest)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="icefs-write-behind", daemon=True)
            self._thread.start()
        self._orders.put(order)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            for spool_id, size_bytes in order:
                try:
                    self._begin(self._path_of(spool_id))
                except OSError:
                    continue  # removed meanwhile, mostly; its reader meets any other error
                self.begun_bytes += size_bytes

    def close(self) -> None:
        """Ends the thread."""
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
            self._thread = None

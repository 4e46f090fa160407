"""Spool files that are made before anybody wants them.

Making a file takes a journaling file system some hundred microseconds, which is as long as everything else that
creating a small file through a mount takes. A program that writes many files gets theirs made in another thread
while it is busy with the one before. An id that was given to such a file and not used is never used at all.
"""

import threading
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final

from icefs.errors import IcefsError
from icefs.worktree.model.open_state import SpoolFile
from icefs.worktree.spool.files import Spool

_STREAK: Final = 8
"""How many files must be wanted in quick succession before more are made ahead."""

_QUICK_NS: Final = 50_000_000


class SpoolAhead:
    """Keeps empty spool files ready while many are wanted.

    INVARIANT: `_ready` holds files that nothing refers to; with those under way they are at most `count`.

    Concurrency: `take` and `close` are called with the tree's lock held. A thread of its own makes files and removes
    those that a freeze has made useless; what it shares, `_ready` and `_orders`, has atomic operations.
    """

    def __init__(self, spool: Spool, take_id: Callable[[], int], count: int) -> None:
        """Makes nothing yet.

        Args:
            spool: Where the files are.
            take_id: Returns an id for a file; called with the tree's lock held.
            count: How many files are kept ready at most; 0 for none.
        """
        self._spool = spool
        self._take_id = take_id
        self._count = count
        self._ready: deque[SpoolFile] = deque()
        self._orders: SimpleQueue[list[int] | SpoolFile | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._asked = 0
        self._made = 0
        self._streak = 0
        self._last_ns = 0
        self._is_closed = False

    def take(self, limit: int) -> SpoolFile | None:
        """Returns an empty spool file with an id above `limit`, None if none is ready."""
        if not self._count:
            return None
        now = time.monotonic_ns()
        self._streak = self._streak + 1 if now - self._last_ns < _QUICK_NS else 0
        self._last_ns = now
        ready = self._ready
        file = None
        while ready:
            file = ready.popleft()
            if file.id > limit:
                break
            self._order(file)
            file = None
        half = self._count // 2
        if self._streak >= _STREAK and len(ready) + self._asked - self._made <= half:
            # One order for many, as waking a thread takes as long as making a file.
            self._asked += half
            self._order([self._take_id() for _ in range(half)])
        return file

    def _order(self, order: "list[int] | SpoolFile") -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="icefs-spool", daemon=True)
            self._thread.start()
        self._orders.put(order)

    def _run(self) -> None:
        while (order := self._orders.get()) is not None:
            if isinstance(order, SpoolFile):
                self._remove(order)
            else:
                self._make(order)

    def _make(self, ids: list[int]) -> None:
        for number, spool_id in enumerate(ids):
            if self._is_closed:
                return
            try:
                self._ready.append(self._spool.create(spool_id))
            except IcefsError:
                # The next writer makes its own file, and gets the error: a full disk, mostly.
                self._streak = -_STREAK
                self._made += len(ids) - number
                return
            self._made += 1

    def _remove(self, file: SpoolFile) -> None:
        file.retire()
        self._spool.remove(file.id)

    def close(self) -> None:
        """Removes what nobody wanted; nothing is taken afterwards."""
        self._is_closed = True
        if self._thread is not None:
            self._orders.put(None)
            self._thread.join()
        while self._ready:
            self._remove(self._ready.popleft())

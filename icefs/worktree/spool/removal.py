"""Spool files that nothing refers to any more are removed: many of them by a thread, while nobody waits.

A journaling file system may take a millisecond for each file whose blocks it has to free, so that those of a commit
of 100 000 chunks would take minutes. Nothing is lost if the process dies before they are gone: what nothing refers to
is swept when the tree is opened again.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import Final

from icefs.locks import Rank, new_lock
from icefs.worktree.spool.files import Spool

_AT_ONCE: Final = 128
_PATIENCE_S: Final = 5.0


class SpoolRemovals:
    """Removes spool files.

    Concurrency: `remove` may be called from any thread, without the tree's lock, by the one caller that knew the ids.
    """

    def __init__(self, spool: Spool, *, at_once: int = _AT_ONCE) -> None:
        """Takes where the files are, and how many of them are removed while the caller waits."""
        self._spool = spool
        self._at_once = at_once
        self._lock = new_lock(Rank.LEAF, "spool files to be removed")
        self._waiting: deque[int] = deque()
        self._thread: threading.Thread | None = None
        self._is_closed = False

    def __len__(self) -> int:
        """Returns how many files are still to be removed."""
        return len(self._waiting)

    def remove(self, spool_ids: Sequence[int]) -> None:
        """Removes files, now or soon; one that cannot be removed stays until the tree is opened again."""
        if len(spool_ids) <= self._at_once:
            for spool_id in spool_ids:
                self._spool.remove(spool_id)
            return
        with self._lock:
            self._waiting.extend(spool_ids)
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._run, name="icefs-remove", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if self._is_closed or not self._waiting:
                    self._thread = None
                    return
                spool_id = self._waiting.popleft()
            self._spool.remove(spool_id)

    def close(self, patience_s: float = _PATIENCE_S) -> None:
        """Waits for the end, but not for long; the next opening of the tree sweeps the rest."""
        thread = self._thread
        if thread is not None:
            thread.join(patience_s)
        with self._lock:
            self._is_closed = True
        if thread is not None:
            thread.join()

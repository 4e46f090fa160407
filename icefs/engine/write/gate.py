"""The gate to a session's changes: many callers for a moment each, or one commit for as long as it takes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from icefs.errors import SessionStateError


class Gate:
    """Guards a session's state.

    `with gate:` is for changing it, and waits while the session is frozen. `with gate.lock:` is for looking at it,
    also while it is frozen. `with gate.frozen():` keeps everybody else from changing it across requests, without
    holding the lock: a commit then publishes and afterwards forgets the same changes.

    Concurrency: the lock is held for moments, and across no request.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._frozen_by: int | None = None

    def __enter__(self) -> None:
        """Waits until nobody has the session frozen, and takes the lock.

        Raises:
            SessionStateError: this thread has it frozen itself: it is in the midst of a commit.
        """
        self.lock.acquire()
        if self._frozen_by is None:
            return
        try:
            while self._frozen_by is not None:
                if self._frozen_by == threading.get_ident():
                    raise SessionStateError("the session is being committed", kind="commit-not-allowed")
                self._changed.wait()
        except BaseException:
            self.lock.release()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.lock.release()

    @property
    def is_frozen(self) -> bool:
        """Whether anybody has the session frozen, as of now."""
        return self._frozen_by is not None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Lets nobody else change the session meanwhile; the same thread may freeze it again inside."""
        me = threading.get_ident()
        if self._frozen_by == me:
            yield
            return
        with self.lock:
            while self._frozen_by is not None:
                self._changed.wait()
            self._frozen_by = me
        try:
            yield
        finally:
            with self.lock:
                self._frozen_by = None
                self._changed.notify_all()

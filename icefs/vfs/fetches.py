"""Fetches before a question can be answered: once for all callers that need the value, then the question again.

ask             on the event loop's thread: the fetch runs in a thread, and others are answered meanwhile
ask_in_thread   in a worker thread: the fetch runs in it
"""

import threading
from collections.abc import Awaitable, Callable, Hashable
from typing import TYPE_CHECKING, Any, Final

import trio

from icefs.errors import InternalError
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

_MAX_TRIES: Final = 100


async def ask[T](
    question: Callable[[], T],
    bring: Callable[[NotInMemoryError], Awaitable[None]],
    missing: NotInMemoryError | None = None,
) -> T:
    """Asks until everything that the answer takes is in memory.

    Args:
        question: What is asked, on the event loop's thread; it does not wait.
        bring: Returns when something that the question asked for is in memory.
        missing: What the question asked for already, where it was asked before.

    Raises:
        InternalError: the fetched value is always gone again.
    """
    for _ in range(_MAX_TRIES):
        if missing is not None:
            await bring(missing)
            question = missing.again or question
        try:
            return question()
        except NotInMemoryError as more:
            missing = more
    raise InternalError(f"the fetched value is always gone again: {missing and missing.key}")


def ask_in_thread[T](question: Callable[[], T], lock: threading.RLock) -> T:
    """Asks like `ask`, in a worker thread; the lock is held while the question is asked, and not while one fetches."""
    while True:
        with lock:
            try:
                return question()
            except NotInMemoryError as error:
                missing = error
        value = missing.load()
        with lock:
            missing.store(value)


class _Running:
    """Something that is being fetched.

    Attributes:
        finished: Set when it was stored, or will never be.
        error: Why not.
        waiting: How many wait for it.
        untaken: The loaded value that is for one of them, which stores it.
    """

    __slots__ = ("error", "finished", "untaken", "waiting")

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.error: BaseException | None = None
        self.waiting = 0
        self.untaken: list[Any] = []


class Fetches:
    """Brings into memory what `NotInMemoryError` asks for, once for all callers that need the same.

    A waiter may be cancelled, as programs are ended that wait for a store. A load that is under way goes on for the
    others, and its value is stored for the next caller: it may exist but once, such as an open state directory.

    Concurrency: on the event loop's thread. Between the end of a load and the retry of its waiters, others may run;
    a waiter that finds its value gone again asks again.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._running: dict[Hashable, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def bring(self, missing: NotInMemoryError) -> None:
        """Returns when the missing value was loaded and stored; raises the exceptions of that."""
        key = missing.key
        running = self._running.get(key)
        if running is None:
            begun = running = self._running[key] = _Running()
            self._threads.start(missing.load, lambda future: self._land(missing, begun, future))
        running.waiting += 1
        try:
            await running.finished.wait()
        finally:
            running.waiting -= 1
            if missing.is_for_asker and not running.waiting and self._running.get(key) is running:
                del self._running[key]  # a caller that asks from now on wants the value of then
        if running.error is not None:
            raise running.error
        if running.untaken:
            missing.store(running.untaken.pop())

    def _land(self, missing: NotInMemoryError, running: _Running, future: "Future[Any]") -> None:
        if self._running.get(missing.key) is running:
            del self._running[missing.key]
        running.error = future.exception()
        if running.error is None and missing.is_for_asker:
            running.untaken.append(future.result())
        elif running.error is None:
            try:
                missing.store(future.result())
            except Exception as error:  # noqa: BLE001  (it goes to all that wait, as what `load` raises does)
                running.error = error
        running.finished.set()

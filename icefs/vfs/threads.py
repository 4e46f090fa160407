"""Worker threads for what may block, answering on the event loop's thread."""

import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import trio

from icefs.vfs.interface import NotInMemoryError


class Threads:
    """A bounded pool whose results are handed to the event loop.

    A result is a `Future`, so that an exception is a result as well, and never ends the loop.

    Attributes:
        pending: How many functions run, or wait for a thread or for the event loop.
        is_closed: Whether it takes no more work.
    """

    def __init__(self, max_workers: int, name: str) -> None:
        self.pending = 0
        self.is_closed = False
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix=name)

    def start[T](self, function: Callable[[], T], done: "Callable[[Future[T]], None]") -> None:
        """Runs `function` in a thread and then `done`, which must not raise, on the event loop's thread."""
        token = trio.lowlevel.current_trio_token()

        def report(future: "Future[T]") -> None:
            if future.cancelled():
                return  # by `close`: the mount is going away, and who waits with it
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(finish, future)

        def finish(future: "Future[T]") -> None:
            self.pending -= 1
            done(future)

        self.pending += 1
        self._pool.submit(function).add_done_callback(report)

    async def run[T](self, function: Callable[[], T], ended: Callable[[], None] | None = None) -> T:
        """Runs `function` in a thread, and returns what it returns or raises what it raises.

        Who waits may be cancelled; the function is not, and ends when it ends.

        Args:
            function: What is run.
            ended: Called on the event loop's thread when it has ended, also if nobody waits any more; must not raise.
        """
        finished = trio.Event()
        answer: list[Future[T]] = []

        def done(future: "Future[T]") -> None:
            answer.append(future)
            if ended is not None:
                ended()
            finished.set()

        self.start(function, done)
        await finished.wait()
        return answer[0].result()

    def close(self) -> None:
        """Takes no more work; what runs is left to end by itself."""
        self.is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Running:
    """Something that is being fetched.

    Attributes:
        finished: Set when it was stored, or will never be.
        error: Why not.
        waiting: How many wait for it.
        untaken: What was loaded and is for one of them, who stores it.
    """

    __slots__ = ("error", "finished", "untaken", "waiting")

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.error: BaseException | None = None
        self.waiting = 0
        self.untaken: list[Any] = []


class Fetches:
    """Brings into memory what `NotInMemoryError` asks for, once for all who need the same.

    Who waits may be cancelled, as programs are ended that wait for a store. What is under way goes on for the others,
    and is stored for whoever comes next: it may be what exists but once, such as an open state directory.

    Concurrency: on the event loop's thread. Between the end of a load and the retry of those who waited, others may
    run; whoever finds that what they need is gone again asks again.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._running: dict[Hashable, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def bring(self, missing: NotInMemoryError) -> None:
        """Returns when what is missing was loaded and stored; raises what that raised."""
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
                del self._running[key]  # who asks from now on wants what is true then
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
            except Exception as error:  # noqa: BLE001  (it goes to all who wait, as what `load` raises does)
                running.error = error
        running.finished.set()

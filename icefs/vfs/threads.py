"""Worker threads for what may block, answering on the event loop's thread."""

import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

import trio

from icefs.vfs.interface import NotInMemoryError


class Threads:
    """A bounded pool whose results are handed to the event loop.

    A result is a `Future`, so that an exception is a result as well, and never ends the loop.
    """

    def __init__(self, max_workers: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(max_workers, thread_name_prefix=name)

    def start[T](self, function: Callable[[], T], done: "Callable[[Future[T]], None]") -> None:
        """Runs `function` in a thread and then `done`, which must not raise, on the event loop's thread."""
        token = trio.lowlevel.current_trio_token()

        def report(future: "Future[T]") -> None:
            # Nobody waits any more once the loop has ended.
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(done, future)

        self._pool.submit(function).add_done_callback(report)

    async def run[T](self, function: Callable[[], T]) -> T:
        """Runs `function` in a thread, and returns what it returns or raises what it raises."""
        finished = trio.Event()
        answer: list[Future[T]] = []

        def done(future: "Future[T]") -> None:
            answer.append(future)
            finished.set()

        self.start(function, done)
        await finished.wait()
        return answer[0].result()

    def close(self) -> None:
        """Takes no more work; what runs is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)


class Fetches:
    """Brings into memory what `NotInMemoryError` asks for, once for all who need the same.

    Concurrency: on the event loop's thread. Between the end of a load and the retry of those who waited, others may
    run; whoever finds that what they need is gone again asks again.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._running: dict[Hashable, tuple[trio.Event, list[BaseException]]] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def bring(self, missing: NotInMemoryError) -> None:
        """Returns when what is missing was loaded and stored; raises what loading it raised."""
        running = self._running.get(missing.key)
        if running is None:
            running = self._running[missing.key] = trio.Event(), []
            self._threads.start(missing.load, lambda future: self._finish(missing, future))
        event, errors = running
        await event.wait()
        if errors:
            raise errors[0]

    def _finish[T](self, missing: NotInMemoryError, future: "Future[T]") -> None:
        event, errors = self._running.pop(missing.key)
        error = future.exception()
        if error is None:
            missing.store(future.result())
        else:
            errors.append(error)
        event.set()

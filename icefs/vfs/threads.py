"""Worker threads for what may block, answering on the event loop's thread."""

import contextlib
from collections.abc import Callable, Hashable
from concurrent.futures import Future, ThreadPoolExecutor

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
        self.is_closed = True
        self._pool.shutdown(wait=False, cancel_futures=True)


class _Running:
    """Something that is being fetched."""

    __slots__ = ("error", "finished")

    def __init__(self) -> None:
        self.finished = trio.Event()
        self.error: Exception | None = None


class Fetches:
    """Brings into memory what `NotInMemoryError` asks for, once for all who need the same.

    Concurrency: on the event loop's thread. Between the end of a load and the retry of those who waited, others may
    run; whoever finds that what they need is gone again asks again.
    """

    def __init__(self, threads: Threads) -> None:
        self._threads = threads
        self._running: dict[Hashable, _Running] = {}

    def __len__(self) -> int:
        return len(self._running)

    async def bring(self, missing: NotInMemoryError) -> None:
        """Returns when what is missing was loaded and stored; raises what loading it raised."""
        running = self._running.get(missing.key)
        if running is not None:
            await running.finished.wait()
            if running.error is not None:
                raise running.error
            return
        running = self._running[missing.key] = _Running()
        try:
            missing.store(await self._threads.run(missing.load))
        except Exception as error:
            running.error = error
            raise
        finally:
            # Whoever waited for a task that was cancelled asks again.
            del self._running[missing.key]
            running.finished.set()

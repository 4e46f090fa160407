"""Worker threads for what may block, answering on the event loop's thread."""

import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import trio

_LOADERS: Final = 8
_CONTROLLERS: Final = 32
_FEWEST_READERS: Final = 4
_MOST_READERS: Final = 32


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
                return  # by `close`: the mount is going away, and the waiters with it
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(finish, future)

        def finish(future: "Future[T]") -> None:
            self.pending -= 1
            done(future)

        self.pending += 1
        self._pool.submit(function).add_done_callback(report)

    async def run[T](self, function: Callable[[], T], ended: Callable[[], None] | None = None) -> T:
        """Runs `function` in a thread, and returns what it returns or raises what it raises.

        A waiter may be cancelled; the function is not, and ends when it ends.

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


class Pools:
    """The worker threads of a mount.

    Attributes:
        load: Fetch what trees need.
        read: Fetch chunks.
        write: Copy, sync and truncate files of working trees.
        control: Serve control files and commands. They have threads of their own, and say what is wrong while a store
            does not answer.
    """

    def __init__(self, concurrency: int) -> None:
        """Takes how many requests the store serves at once."""
        self.load = Threads(_LOADERS, "icefs-load")
        self.read = Threads(max(_FEWEST_READERS, min(_MOST_READERS, concurrency)), "icefs-read")
        self.write = Threads(_LOADERS, "icefs-write")
        self.control = Threads(_CONTROLLERS, "icefs-control")

    def pending(self) -> dict[str, int]:
        """Returns how many functions run or wait, by pool."""
        return {
            "load": self.load.pending,
            "read": self.read.pending,
            "write": self.write.pending,
            "control": self.control.pending,
        }

    def close(self) -> None:
        """Takes no more work; see `Threads.close`."""
        for threads in (self.write, self.load, self.control, self.read):
            threads.close()

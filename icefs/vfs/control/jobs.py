"""Work in a thread that reports its progress, can be cancelled, and goes on when no caller waits for it any more.

begun ──► reports progress ──► past the point of no return ──► ended
                └ cancelled: `report` and `commit_point` raise, and the work undoes itself
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import Future
from contextlib import aclosing
from typing import Any, Final

import trio

from icefs.errors import SessionStateError
from icefs.locks import Rank, new_lock
from icefs.vfs.threads import Threads
from icefs.worktree.upload.uploader import UploadProgress

BEAT_S: Final = 0.1
"""How often a waiting program gets a line: Ctrl-C interrupts its reading only between two of them."""


class Job[T]:
    """One piece of work.

    Concurrency: begun, awaited and cancelled on the event loop's thread; `report` and `commit_point` are called by
    the work, in its thread. The lock decides between cancelling and going past the point of no return.

    Attributes:
        progress: What was reported last.
    """

    def __init__(self, then: Callable[[], Awaitable[None]] | None = None) -> None:
        """Takes a step that callers await as well, after the work has ended."""
        self.progress = UploadProgress(0, 0, 0, 0)
        self._then = then
        self._lock = new_lock(Rank.LEAF, "jobs")
        self._is_cancelled = False
        self._is_past = False
        self._ended = trio.Event()
        self._outcome: Future[T] | None = None

    # For the work.

    def report(self, progress: UploadProgress) -> None:
        """Records how far the work is.

        Raises:
            SessionStateError: it was cancelled (kind `commit-cancelled`).
        """
        self.progress = progress
        self._check()

    def commit_point(self) -> None:
        """Goes past the point of no return; raises as `report`."""
        with self._lock:
            self._check()
            self._is_past = True

    def _check(self) -> None:
        if self._is_cancelled:
            raise SessionStateError(
                "the commit was called off before it was published: nothing was committed",
                kind="commit-cancelled",
                hint="all changes are still in the working tree",
            )

    # For its owner.

    def start(self, threads: Threads, work: Callable[[], T], finish: Callable[[Future[T]], None]) -> None:
        """Begins.

        Args:
            threads: Where.
            work: The work itself.
            finish: Called on the event loop's thread when it has ended, however; must not raise.
        """

        def done(outcome: Future[T]) -> None:
            self._outcome = outcome
            finish(outcome)
            self._ended.set()

        threads.start(work, done)

    def cancel(self) -> bool:
        """Cancels the work; tells whether that was in time."""
        with self._lock:
            if self._is_past or self._outcome is not None:
                return False
            self._is_cancelled = True
            return True

    async def wait(self) -> T:
        """Returns what the work returned, or raises what it raised."""
        await self._ended.wait()
        if self._then is not None:
            await self._then()
        assert self._outcome is not None  # set before the event
        return self._outcome.result()

    async def beats(self) -> AsyncGenerator[UploadProgress]:
        """Yields the progress again and again until the work has ended."""
        while not self._ended.is_set():
            with trio.move_on_after(BEAT_S):
                await self._ended.wait()
            if not self._ended.is_set():
                yield self.progress


def progress_json(progress: UploadProgress) -> dict[str, Any]:
    """Describes progress in JSON."""
    return {
        "files": progress.files,
        "total_files": progress.total_files,
        "bytes": progress.bytes,
        "total_bytes": progress.total_bytes,
    }


class Answer:
    """The answer of `rpc` that a job gives: progress, then its result.

    A program that goes away before the end cancels the job.
    """

    def __init__(self, begin: Callable[[], Awaitable[Job[dict[str, Any]]]]) -> None:
        """Takes what begins the job, which happens when the answer is first asked for."""
        self._begin = begin
        self._job: Job[dict[str, Any]] | None = None
        self._lines = self._tell()

    async def _tell(self) -> AsyncGenerator[Mapping[str, Any]]:
        self._job = job = await self._begin()
        async with aclosing(job.beats()) as beats:
            async for progress in beats:
                yield {"type": "progress", **progress_json(progress)}
        yield await job.wait()

    def __aiter__(self) -> AsyncIterator[Mapping[str, Any]]:
        return self

    async def __anext__(self) -> Mapping[str, Any]:
        """Returns the next line."""
        return await anext(self._lines)

    async def aclose(self) -> None:
        """Ends the answer; the job goes on, unless it is abandoned."""
        await self._lines.aclose()

    def abandon(self) -> None:
        """Cancels the job, if it is not too late."""
        if self._job is not None:
            self._job.cancel()

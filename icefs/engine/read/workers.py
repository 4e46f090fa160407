"""The one bounded thread pool of a repository."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from itertools import islice


class Workers:
    """Runs requests to the object store side by side, at most `max_workers` at a time.

    The threads are started when they are first needed. A function that runs on a worker may use the pool again:
    its items then run one after the other on that same worker, so that workers never wait for workers.

    Attributes:
        pending: How many items run on a worker, or wait for one.
    """

    def __init__(self, max_workers: int, name: str = "icefs") -> None:
        self.max_workers = max(1, max_workers)
        self._name = name
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._local = threading.local()
        self.pending = 0

    def map[T, R](self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Applies `function` to all items and returns the results in order; raises the first item's error."""
        return list(self.map_ahead(function, items, window=None))

    def map_ahead[T, R](self, function: Callable[[T], R], items: Iterable[T], *, window: int | None = 8) -> Iterator[R]:
        """Yields the results in order, with at most `window` items (None: all) started ahead of the consumer."""
        remaining = iter(items)
        if window is None:
            remaining = iter(list(remaining))
        head = list(islice(remaining, 2))
        if len(head) < 2 or self.max_workers == 1 or getattr(self._local, "is_worker", False):
            yield from map(function, head)
            yield from map(function, remaining)
            return
        started: deque[Future[R]] = deque(self._start(function, item) for item in head)
        try:
            while started:
                for item in islice(remaining, None if window is None else max(0, window - len(started))):
                    started.append(self._start(function, item))
                yield started.popleft().result()
        finally:
            for future in started:
                future.cancel()

    def submit[**P, R](self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Starts something on a worker, for a caller that must not wait, such as an event loop."""
        return self._start(function, *args, **kwargs)

    def _start[**P, R](self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        pool = self._get_pool()
        with self._lock:
            self.pending += 1
        try:
            future = pool.submit(self._run, partial(function, *args, **kwargs))
        except BaseException:
            self._end(None)
            raise
        future.add_done_callback(self._end)
        return future

    def _end(self, future: object) -> None:
        with self._lock:
            self.pending -= 1

    def _run[**P, R](self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        self._local.is_worker = True
        return function(*args, **kwargs)

    def _get_pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self.max_workers, thread_name_prefix=self._name)
            return self._pool

    def close(self) -> None:
        """Ends the threads after what they are doing; the pool starts again when it is used again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)

"""Tasks for several threads, some at a time, while somebody is shown how far they have come."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Final

_BEAT_S: Final = 0.2


def carry_out[T](
    pool: ThreadPoolExecutor,
    tasks: Iterator[Callable[[], T]],
    window: int,
    take: Callable[[T], None],
    beat: Callable[[], None],
) -> None:
    """Carries out tasks and waits for all of them.

    Args:
        pool: The threads.
        tasks: The tasks, each taken when there is room for it.
        window: How many may be waiting or running.
        take: Receives what they return, in this thread.
        beat: Called again and again meanwhile; an error of it, or of a task, ends the work.
    """
    running: set[Future[T]] = {pool.submit(task) for task in islice(tasks, window)}
    try:
        while running:
            finished, running = wait(running, _BEAT_S, FIRST_COMPLETED)
            for future in finished:
                take(future.result())
            running |= {pool.submit(task) for task in islice(tasks, len(finished))}
            beat()
    except BaseException:
        for future in running:
            future.cancel()
        raise

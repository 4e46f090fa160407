"""Counts the mount's requests by kind, with errors, latencies and bytes, and remembers the last of them.

Counting must cost next to nothing, for it is done for every request: a request is two or three additions to lists and
one entry of a ring. Requests that the kernel answers from its own caches never come here.
"""

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from icefs.vfs.interface import Subject

BUCKETS: Final = 36
"""Latencies are counted by the power of two, in nanoseconds, that they stay below: up to a minute."""

RING: Final = 1000
"""So many of the last requests are remembered."""

_REMEMBERED: Final = 50

type Access = tuple[int, int, int, int, Subject]
"""One request: its kind, when it began (`perf_counter_ns`), how long it took, its errno, what it was about."""


class Stats:
    """The counters of one mount.

    Attributes:
        operations: The names of the requests; everything else is by position in it.
        total_ns: How long they took altogether.
        latencies: For each kind, how many took less than 2**n nanoseconds and not less than 2**(n-1).
        num_bytes: How many bytes they moved.
        errors: How many requests of a kind failed with an errno.
        failures: The last failures that were not what programs ask for: paths that cannot be read, and bugs.
        recent: The last requests, oldest first.
        on_access: Is given each request; appends to `recent`, and may be replaced by what does that and more.
        started_at: When counting began, in seconds since the epoch.
    """

    def __init__(self, operations: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self.operations = tuple(operations)
        self.total_ns = [0] * len(self.operations)
        self.latencies = [[0] * (BUCKETS + 1) for _ in self.operations]
        self.num_bytes = [0] * len(self.operations)
        self.errors: dict[tuple[int, int], int] = {}
        self.failures: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self.recent: deque[Access] = deque(maxlen=RING)
        self.on_access: Callable[[Access], None] = self.recent.append
        self.started_at = clock()
        self._clock = clock

    def record(self, operation: int, started_ns: int, elapsed_ns: int, error: int, subject: Subject) -> None:
        """Counts one request that was answered, well or not."""
        self.total_ns[operation] += elapsed_ns
        bucket = elapsed_ns.bit_length()
        self.latencies[operation][bucket if bucket < BUCKETS else BUCKETS] += 1
        if subject[2]:
            self.num_bytes[operation] += subject[2]
        self.on_access((operation, started_ns, elapsed_ns, error, subject))

    def record_failure(self, operation: int, error: BaseException, row_errno: int, level: int, where: str) -> None:
        """Counts a failure, and remembers it if it is worth reading about."""
        key = operation, row_errno
        self.errors[key] = self.errors.get(key, 0) + 1
        if level < logging.WARNING:
            return
        self.failures.append(
            {
                "time": self._clock(),
                "operation": self.operations[operation],
                "path": where,
                "errno": errno_name(row_errno),
                "kind": getattr(error, "kind", type(error).__name__),
                "message": getattr(error, "own_message", None) or str(error),
            }
        )

    @property
    def uptime_s(self) -> float:
        """How long it has been counted."""
        return self._clock() - self.started_at

    def count(self, operation: int) -> int:
        """Returns how many requests of a kind were answered."""
        return sum(self.latencies[operation])

    def errors_of(self, operation: int) -> dict[str, int]:
        """Returns how many requests of a kind failed, by the name of the errno."""
        return {errno_name(number): count for (kind, number), count in sorted(self.errors.items()) if kind == operation}

    def as_json(self) -> dict[str, Any]:
        """Describes the requests by kind, those that there were."""
        return {
            name: {
                "count": count,
                "errors": self.errors_of(number),
                "bytes": self.num_bytes[number],
                "total_us": self.total_ns[number] // 1000,
                "p50_us": quantile_us(self.latencies[number], 0.5),
                "p99_us": quantile_us(self.latencies[number], 0.99),
                "latencies": self.latencies[number].copy(),
            }
            for number, name in enumerate(self.operations)
            if (count := self.count(number))
        }


def errno_name(number: int) -> str:
    """Returns the name of an errno."""
    return errno.errorcode.get(number, str(number))


def quantile_us(buckets: Sequence[int], share: float) -> float:
    """Returns a latency in microseconds that at least `share` of the requests stayed below, by powers of two.

    Args:
        buckets: For each power of two, in nanoseconds, how many stayed below it and not below the one before.
        share: From 0 to 1.
    """
    wanted = share * sum(buckets)
    seen = 0
    for bucket, count in enumerate(buckets):
        seen += count
        if seen >= wanted and seen:
            return (1 << bucket) / 1000
    return 0.0

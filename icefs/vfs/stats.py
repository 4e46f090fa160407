"""Counts what the mount does: requests by kind with errors and latencies, and the failures worth reading about.

Counting must cost next to nothing, for it is done for every request: a request is three additions to lists.
"""

import errno
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

BUCKETS: Final = 36
"""Latencies are counted by the power of two, in nanoseconds, that they stay below: up to a minute."""

_LOG_AGAIN_S: Final = 60.0
_REMEMBERED: Final = 50
_KNOWN_FAILURES: Final = 512


class Stats:
    """The counters of one mount.

    Attributes:
        operations: The names of the requests; everything else is by position in it.
        counts: How many requests were answered.
        total_ns: How long they took altogether.
        latencies: For each kind, how many took less than 2**n nanoseconds and not less than 2**(n-1).
        errors: How many requests of a kind failed with an errno.
        failures: The last failures that were not what programs ask for: paths that cannot be read, and bugs.
    """

    def __init__(self, operations: Sequence[str], clock: Callable[[], float] = time.time) -> None:
        self.operations = tuple(operations)
        self.counts = [0] * len(self.operations)
        self.total_ns = [0] * len(self.operations)
        self.latencies = [[0] * (BUCKETS + 1) for _ in self.operations]
        self.errors: dict[tuple[int, int], int] = {}
        self.failures: deque[dict[str, Any]] = deque(maxlen=_REMEMBERED)
        self.started_at = clock()
        self._clock = clock
        self._logged: OrderedDict[tuple[int, str, str], float] = OrderedDict()

    def record(self, operation: int, elapsed_ns: int) -> None:
        """Counts one request that was answered, well or not."""
        self.counts[operation] += 1
        self.total_ns[operation] += elapsed_ns
        bucket = elapsed_ns.bit_length()
        self.latencies[operation][bucket if bucket < BUCKETS else BUCKETS] += 1

    def record_failure(self, operation: int, error: BaseException, row_errno: int, level: int, where: str) -> bool:
        """Remembers a failure.

        Returns:
            Whether it is worth a log line: not if the same one was logged within a minute.
        """
        key = operation, row_errno
        self.errors[key] = self.errors.get(key, 0) + 1
        if level < logging.WARNING:
            return True
        now = self._clock()
        self.failures.append(
            {
                "time": now,
                "operation": self.operations[operation],
                "path": where,
                "errno": errno.errorcode.get(row_errno, str(row_errno)),
                "kind": getattr(error, "kind", type(error).__name__),
                "message": str(error),
            }
        )
        return self._is_news((operation, where, str(error)), now)

    def _is_news(self, what: tuple[int, str, str], now: float) -> bool:
        last = self._logged.get(what)
        if last is not None and now - last < _LOG_AGAIN_S:
            return False
        self._logged[what] = now
        self._logged.move_to_end(what)
        if len(self._logged) > _KNOWN_FAILURES:
            self._logged.popitem(last=False)
        return True

    def errors_of(self, operation: int) -> dict[str, int]:
        """Returns how many requests of a kind failed, by the name of the errno."""
        return {
            errno.errorcode.get(number, str(number)): count
            for (kind, number), count in sorted(self.errors.items())
            if kind == operation
        }

    def quantile_us(self, operation: int, share: float) -> float:
        """Returns a latency in microseconds that at least `share` of the requests stayed below, by powers of two."""
        wanted = share * self.counts[operation]
        seen = 0
        for bucket, count in enumerate(self.latencies[operation]):
            seen += count
            if seen >= wanted and seen:
                return (1 << bucket) / 1000
        return 0.0

    def as_json(self, gauges: Mapping[str, float]) -> dict[str, Any]:
        """Describes everything, for `stats.json`."""
        return {
            "uptime_s": round(self._clock() - self.started_at, 3),
            "operations": {
                name: {
                    "count": self.counts[number],
                    "errors": self.errors_of(number),
                    "total_us": self.total_ns[number] // 1000,
                    "p50_us": self.quantile_us(number, 0.5),
                    "p99_us": self.quantile_us(number, 0.99),
                }
                for number, name in enumerate(self.operations)
                if self.counts[number]
            },
            "gauges": dict(gauges),
            "failures": list(self.failures),
        }

    def as_prometheus(self, gauges: Mapping[str, float], labels: Mapping[str, str]) -> str:
        """Describes everything in Prometheus' text format, for `metrics`."""
        fixed = "".join(f',{name}="{_escape(value)}"' for name, value in labels.items())
        lines = [
            "# HELP icefs_request_duration_seconds How long requests took.",
            "# TYPE icefs_request_duration_seconds histogram",
        ]
        for number, name in enumerate(self.operations):
            if not self.counts[number]:
                continue
            seen = 0
            for bucket, count in enumerate(self.latencies[number][:-1]):
                seen += count
                # From a microsecond up; below that nothing is ever answered.
                if bucket >= 10:
                    bound = (1 << bucket) / 1e9
                    lines.append(
                        f'icefs_request_duration_seconds_bucket{{operation="{name}",le="{bound:g}"{fixed}}} {seen}'
                    )
            total = self.counts[number]
            lines += [
                f'icefs_request_duration_seconds_bucket{{operation="{name}",le="+Inf"{fixed}}} {total}',
                f'icefs_request_duration_seconds_sum{{operation="{name}"{fixed}}} {self.total_ns[number] / 1e9:.9f}',
                f'icefs_request_duration_seconds_count{{operation="{name}"{fixed}}} {total}',
            ]
        lines += [
            "# HELP icefs_request_errors_total Requests that failed, by errno.",
            "# TYPE icefs_request_errors_total counter",
        ]
        for (number, code), count in sorted(self.errors.items()):
            name, reason = self.operations[number], errno.errorcode.get(code, str(code))
            lines.append(f'icefs_request_errors_total{{operation="{name}",errno="{reason}"{fixed}}} {count}')
        for name, value in gauges.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            own = f"{{{fixed[1:]}}}" if fixed else ""
            lines += [f"# TYPE icefs_{name} {kind}", f"icefs_{name}{own} {value:.15g}"]
        return "\n".join(lines) + "\n"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")

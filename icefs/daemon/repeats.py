"""Log lines that repeat: the same one again within a minute is counted, and the count is logged later."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

_AGAIN_S: Final = 60.0
_KNOWN_LINES: Final = 512


class Repeats(logging.Handler):
    """Passes records on. The same one again within a minute is counted, and the count follows when the minute is over.

    Records of level DEBUG all pass.
    """

    def __init__(self, targets: Sequence[logging.Handler], clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._targets = tuple(targets)
        self._clock = clock
        self._known: OrderedDict[tuple[str, int, str], tuple[float, logging.LogRecord, int]] = OrderedDict()

    def emit(self, record: logging.LogRecord) -> None:
        """Passes a record on, or counts it."""
        if record.levelno <= logging.DEBUG:
            self._pass_on(record)
            return
        now = self._clock()
        self._end_minutes(now)
        key = record.name, record.levelno, getattr(record, "repeat_key", None) or record.getMessage()
        known = self._known.get(key)
        if known is not None:
            self._known[key] = known[0], record, known[2] + 1
            return
        self._known[key] = now, record, 0
        if len(self._known) > _KNOWN_LINES:
            _, (_, oldest, count) = self._known.popitem(last=False)
            self._summarise(oldest, count)
        self._pass_on(record)

    def tick(self) -> None:
        """Passes the counts on whose minute is over."""
        self.acquire()
        try:
            self._end_minutes(self._clock())
        finally:
            self.release()

    def flush(self) -> None:
        """Passes all counts on."""
        self.acquire()
        try:
            self._end_minutes(float("inf"))
        finally:
            self.release()
        for target in self._targets:
            target.flush()

    def close(self) -> None:
        """Passes all counts on, and closes the handlers."""
        self.flush()
        for target in self._targets:
            target.close()
        super().close()

    def _end_minutes(self, now: float) -> None:
        while self._known:
            key, (first, record, count) = next(iter(self._known.items()))
            if now - first < _AGAIN_S:
                return
            del self._known[key]
            self._summarise(record, count)

    def _summarise(self, record: logging.LogRecord, count: int) -> None:
        if not count:
            return
        times = "time" if count == 1 else "times"
        counted = f"repeated {count} {times}"
        if getattr(record, "repeat_key", None):
            counted = f"the last of {count} more of its kind"
        summary = logging.makeLogRecord(
            {
                **record.__dict__,
                "msg": f"{record.getMessage()} … {counted}",
                "args": None,
                "exc_info": None,
                "repeated": count,
            }
        )
        self._pass_on(summary)

    def _pass_on(self, record: logging.LogRecord) -> None:
        for target in self._targets:
            target.handle(record)

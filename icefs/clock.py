"""Where icefs reads the time, so that tests can hand it another one.

Icechunk's times are microseconds since 1970-01-01 UTC without leap seconds (spec 2.1, "Snapshot files").
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

type Clock = Callable[[], int]
"""Returns the present time in microseconds since the epoch."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def system_clock() -> int:
    """Returns the system's time in microseconds since the epoch."""
    return time.time_ns() // 1000


def to_datetime(micros: int) -> datetime:
    """Converts microseconds since the epoch to an aware datetime in UTC.

    Raises:
        OverflowError: the value lies beyond the year 9999.
    """
    return _EPOCH + timedelta(microseconds=micros)


def to_micros(moment: datetime) -> int:
    """Converts a datetime to microseconds since the epoch; a naive one is taken as UTC."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)

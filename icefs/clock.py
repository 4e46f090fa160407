"""Where icefs reads the time, so that tests can hand it another one.

Icechunk's times are microseconds since 1970-01-01 UTC without leap seconds (spec 2.1, "Snapshot files").
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

type Clock = Callable[[], int]
"""Returns the present time in microseconds since the epoch."""

NS_PER_US: Final = 1000
"""Icechunk's times are microseconds, the kernel's nanoseconds."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def system_clock() -> int:
    """Returns the system's time in microseconds since the epoch."""
    return time.time_ns() // NS_PER_US


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

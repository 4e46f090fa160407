"""Where icefs reads the time, so that tests can hand it another one.

Icechunk's times are microseconds since 1970-01-01 UTC without leap seconds (spec 2.1, "Snapshot files"). Times
that people write are read here, too, so that they mean the same on a command line and as names in a mount.
"""

import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
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


def read_moment(text: str) -> datetime:
    """Reads a point in time in ISO 8601, UTC if it has no offset.

    Raises:
        ValueError: it is none.
    """
    moment = datetime.fromisoformat(text)
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def read_last_moment(text: str) -> datetime:
    """Reads until when a version may have been written that a time stands for.

    A date stands for its last moment. A time to the second stands for the end of that second: that is how times are
    shown, and the snapshot with the time that was shown shall be found.

    Raises:
        ValueError: the text is no time, or one beyond the year 9999.
    """
    moment = read_moment(text)
    span = timedelta(seconds=1)
    if moment.microsecond or _has_fraction(text):
        span = timedelta(microseconds=1)
    elif _is_date(text):
        span = timedelta(days=1)
    try:
        return moment + (span - timedelta(microseconds=1))
    except OverflowError as error:
        raise ValueError(f"{text} lies beyond the year 9999") from error


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _has_fraction(text: str) -> bool:
    return "." in text or "," in text

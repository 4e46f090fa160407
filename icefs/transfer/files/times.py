"""Times as CF has them: numbers of a unit since a date, which files of one series may count from different dates.

Source: CF Conventions 1.12, §4.4 (time coordinate), §4.4.1 (calendars), §7.1 (bounds have the units of their
coordinate).
"""

import math
import re
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from icefs.transfer.files.model import Document

_UNITS_NS: Final[Mapping[str, int]] = {
    name: size
    for names, size in (
        ("weeks week", 604_800_000_000_000),
        ("days day d", 86_400_000_000_000),
        ("hours hour hrs hr h", 3_600_000_000_000),
        ("minutes minute mins min", 60_000_000_000),
        ("seconds second secs sec s", 1_000_000_000),
        ("milliseconds millisecond millisecs millisec msecs msec ms", 1_000_000),
        ("microseconds microsecond microsecs microsec us", 1_000),
        ("nanoseconds nanosecond nanosecs nanosec ns", 1),
    )
    for name in names.split()
}
_SINCE: Final = re.compile(r"\s*(\w+)\s+since\s+(.+?)\s*", re.IGNORECASE | re.DOTALL)
_DATE: Final = re.compile(
    r"(-?\d{1,6})-(\d{1,2})-(\d{1,2})"
    r"(?:(?:T|\s+)(\d{1,2})(?::(\d{1,2})(?::(\d{1,2}(?:\.\d{1,9})?))?)?)?"
    r"\s*(?:Z|UTC|GMT|([+-])(\d{1,2}):?(\d{2})?)?",
    re.IGNORECASE,
)
_DAY_NS: Final = _UNITS_NS["days"]
_MONTHS: Final = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_MIXED: Final = frozenset({"standard", "gregorian"})
# The first day that the mixed calendar has in common with the Gregorian one.
_REFORM: Final = (1582, 10, 15)
_TOLERANCE_NS: Final = 500_000


class Coding(NamedTuple):
    """What numbers mean as times.

    Attributes:
        units: A unit and a date, as in `days since 2000-01-01`.
        calendar: The calendar of the date.
    """

    units: str
    calendar: str = "standard"


class Scale(NamedTuple):
    """A coding in nanoseconds.

    Attributes:
        unit_ns: How long the unit is.
        origin_ns: The date, since the first day of year 0 in its calendar.
        calendar: The calendar; all that count days in one way have one name.
    """

    unit_ns: int
    origin_ns: int
    calendar: str


def coding_of(path: str, documents: Mapping[str, Document]) -> Coding | None:
    """Returns what the numbers of an array mean as times; None if they are no times.

    Args:
        path: The array's path.
        documents: It, and those of the same file: bounds have the units of the coordinate that names them.
    """
    own = documents[path].get("attributes") or {}
    if "units" not in own:
        above, _, name = path.rpartition("/")
        for other, document in documents.items():
            attributes = document.get("attributes") or {}
            if other.rpartition("/")[0] == above and name in (attributes.get("bounds"), attributes.get("climatology")):
                own = attributes
                break
    units = own.get("units")
    return Coding(str(units), str(own.get("calendar", "standard")).lower()) if is_time(units) else None


def is_time(units: Any) -> bool:
    """Tells whether units are a unit and a date, as those of times are."""
    return isinstance(units, str) and _SINCE.fullmatch(units) is not None


def scale_of(coding: Coding) -> Scale:
    """Returns a coding in nanoseconds.

    Raises:
        ValueError: the unit has no fixed length, or the date or the calendar is none that is known.
    """
    found = _SINCE.fullmatch(coding.units)
    unit_ns = _UNITS_NS.get(found[1].lower()) if found else None
    if found is None or unit_ns is None:
        raise ValueError(f"the unit of {coding.units!r} has no fixed length")
    date = _DATE.fullmatch(found[2])
    if date is None:
        raise ValueError(f"the date of {coding.units!r} is not understood")
    year, month, day = int(date[1]), int(date[2]), int(date[3])
    is_early = coding.calendar in _MIXED and (year, month, day) < _REFORM
    days, calendar = _days("julian" if is_early else coding.calendar, year, month, day)
    seconds = int(date[4] or 0) * 3600 + int(date[5] or 0) * 60 + Fraction(date[6] or 0)
    zone = (int(date[8]) * 3600 + int(date[9] or 0) * 60) * (-1 if date[7] == "-" else 1) if date[7] else 0
    # From an early date the mixed calendar counts the days of the Julian one, and yet is not that calendar.
    name = "standard from before 1582-10-15" if is_early else calendar
    return Scale(unit_ns, days * _DAY_NS + int((seconds - zone) * 1_000_000_000), name)


def translation(
    theirs: Coding, ours: Coding, missing: npt.NDArray[Any] | None = None
) -> Callable[[npt.NDArray[Any]], npt.NDArray[Any]]:
    """Returns what makes numbers of one coding those of another that name the same times.

    Args:
        theirs: The coding that the numbers have.
        ours: The coding that they get.
        missing: Numbers that stand for no time, and stay.

    Returns:
        A function of values, which keeps their type. It raises ValueError where their type cannot hold the times:
        integers exactly, floating-point numbers to half a millisecond.

    Raises:
        ValueError: the codings have different calendars, or one is not understood.
    """
    source, target = scale_of(theirs), scale_of(ours)
    if source.calendar != target.calendar:
        raise ValueError(f"{theirs.units!r} and {ours.units!r} count in different calendars")
    delta = source.origin_ns - target.origin_ns
    common = math.gcd(source.unit_ns, target.unit_ns, delta)
    factor, offset, divisor = source.unit_ns // common, delta // common, target.unit_ns // common
    is_one_calendar = (theirs.calendar in _MIXED) == (ours.calendar in _MIXED)
    reform = (_days("proleptic_gregorian", *_REFORM)[0] * _DAY_NS - target.origin_ns) // common

    def translate(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        kept = np.zeros(values.shape, np.bool_) if missing is None else np.isin(values, missing)
        if values.dtype.kind == "f":
            kept |= ~np.isfinite(values)
            exact = np.where(kept, 0, values).astype(np.longdouble) * factor + offset
            result = (exact / divisor).astype(values.dtype)
            fits = np.abs(result.astype(np.longdouble) * divisor - exact) * common <= _TOLERANCE_NS
        else:
            exact = np.where(kept, 0, values).astype(object) * factor + offset
            whole, rest = np.asarray(exact // divisor, object), np.asarray(exact % divisor, object)
            limits = np.iinfo(values.dtype)
            fits = np.asarray((rest == 0) & (whole >= limits.min) & (whole <= limits.max), np.bool_)
            result = np.where(fits, whole, 0).astype(values.dtype)
        if not is_one_calendar:
            fits &= np.asarray(exact >= reform, np.bool_)  # before it the two calendars differ
        if missing is not None:
            fits &= ~np.isin(result, missing) | kept
        if not fits[~kept].all():
            raise ValueError(f"the times of {theirs.units!r} are no {values.dtype} numbers of {ours.units!r}")
        return np.where(kept, values, result)

    return translate


def _days(calendar: str, year: int, month: int, day: int) -> tuple[int, str]:
    """Returns how many days a date is after the first of year 0, and the calendar's first name.

    Raises:
        ValueError: there is no such date, or calendar.
    """
    lengths: tuple[int, ...]
    if calendar == "360_day":
        lengths, days, name = (30,) * 12, year * 360, calendar
    elif calendar in ("noleap", "365_day"):
        lengths, days, name = _MONTHS, year * 365, "noleap"
    elif calendar in ("all_leap", "366_day"):
        lengths, days, name = _with_leap_day(is_leap=True), year * 366, "all_leap"
    elif calendar in (*_MIXED, "proleptic_gregorian", "julian"):
        is_julian = calendar == "julian"
        is_leap = year % 4 == 0 and (is_julian or year % 100 != 0 or year % 400 == 0)
        before = year - 1
        leap_days = before // 4 + 1
        if not is_julian:
            leap_days += before // 400 - before // 100
        lengths, days, name = (
            _with_leap_day(is_leap=is_leap),
            year * 365 + leap_days,
            "julian" if is_julian else "gregorian",
        )
    else:
        raise ValueError(f"the calendar {calendar!r} is not known")
    if not (1 <= month <= 12 and 1 <= day <= lengths[month - 1]):
        raise ValueError(f"there is no day {year}-{month}-{day} in the calendar {name}")
    return days + sum(lengths[: month - 1]) + day - 1, name


def _with_leap_day(*, is_leap: bool) -> tuple[int, ...]:
    return (31, 28 + is_leap, *_MONTHS[2:])

"""Which bytes of a file are lost: the pages that a program wrote and that could not be stored.

A file with lost bytes has the flag LOST, and `FileNode.lost` says which: half-open ranges `[start, end)`, sorted and
apart. A file that is LOST without a range has no byte left, as its spool file is gone. Bytes that are lost cannot be
read and are never committed. They are whole again when they are written again, truncated, or replaced.
"""

from typing import Final

type Ranges = tuple[tuple[int, int], ...]

REASON: Final = "its bytes were lost"
"""Why a commit does not take such a file."""

HINT: Final = "write the file again, or discard it"

_MAX_RANGES: Final = 256
"""More than that become one, so that neither a row nor a write grows without bound."""


def add(ranges: Ranges, start: int, end: int) -> Ranges:
    """Returns the ranges with `[start, end)` among them."""
    if start >= end:
        return ranges
    apart = [one for one in ranges if one[1] < start or one[0] > end]
    near = [one for one in ranges if one[1] >= start and one[0] <= end]
    whole = min([start, *(one[0] for one in near)]), max([end, *(one[1] for one in near)])
    found = tuple(sorted([*apart, whole]))
    return found if len(found) <= _MAX_RANGES else ((found[0][0], found[-1][1]),)


def remove(ranges: Ranges, start: int, end: int) -> Ranges:
    """Returns the ranges without the bytes of `[start, end)`."""
    if start >= end:
        return ranges
    found = []
    for first, last in ranges:
        parts = (first, min(last, start)), (max(first, end), last)
        found += [part for part in parts if part[0] < part[1]]
    return tuple(found)


def overlaps(ranges: Ranges, start: int, end: int) -> bool:
    """Tells whether a byte of `[start, end)` is in one of the ranges."""
    return any(first < end and start < last for first, last in ranges)


def to_text(ranges: Ranges) -> str | None:
    """Writes ranges for a database row: `0-4096,8192-9000`; None for none."""
    return ",".join(f"{start}-{end}" for start, end in ranges) or None


def from_text(text: str | None) -> Ranges:
    """Reads what `to_text` wrote.

    Raises:
        ValueError: the text is something else.
    """
    if not text:
        return ()
    found: Ranges = ()
    for part in text.split(","):
        start, _, end = part.partition("-")
        found = add(found, int(start), int(end))
    return found

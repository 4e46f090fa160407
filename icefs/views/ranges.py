"""Sorted, disjoint, half-open ranges of numbers, and what two sets of them have in common."""

from collections.abc import Iterable, Iterator

type Range = tuple[int, int]


def common(some: Iterable[Range], others: Iterable[Range]) -> Iterator[Range]:
    """Yields the ranges of numbers that are in both."""
    rest = iter(others)
    other = next(rest, None)
    for start, stop in some:
        while other is not None and other[1] <= start:
            other = next(rest, None)
        while other is not None and other[0] < stop:
            yield max(start, other[0]), min(stop, other[1])
            if other[1] > stop:
                break
            other = next(rest, None)


def without(some: Iterable[Range], others: Iterable[Range]) -> Iterator[Range]:
    """Yields the ranges of numbers that are in the first alone."""
    rest = iter(others)
    other = next(rest, None)
    for begin, stop in some:
        start = begin
        while other is not None and other[1] <= start:
            other = next(rest, None)
        while other is not None and other[0] < stop:
            if start < other[0]:
                yield start, other[0]
            start = other[1]
            if start >= stop:
                break
            other = next(rest, None)
        if start < stop:
            yield start, stop


def joined(ranges: Iterable[Range]) -> Iterator[Range]:
    """Joins ranges, ordered by their starts, that touch or overlap."""
    last: Range | None = None
    for start, stop in ranges:
        if last is None:
            last = start, stop
        elif start <= last[1]:
            last = last[0], max(last[1], stop)
        else:
            yield last
            last = start, stop
    if last is not None:
        yield last

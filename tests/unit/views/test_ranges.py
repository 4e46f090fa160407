"""Ranges have in common, and alone, just the numbers that sets of numbers have."""

from hypothesis import given
from hypothesis import strategies as st

from icefs.views.ranges import common, joined, without

LIMIT = 30


def ranges_of(numbers):
    return list(joined((number, number + 1) for number in sorted(numbers)))


def numbers_of(ranges):
    found = list(ranges)
    assert all(start < stop for start, stop in found)
    assert found == sorted(found)
    numbers = [number for start, stop in found for number in range(start, stop)]
    assert len(numbers) == len(set(numbers))
    return set(numbers)


sets = st.sets(st.integers(0, LIMIT))


@given(sets, sets)
def test_ranges_are_sets(some, others):
    assert numbers_of(common(ranges_of(some), ranges_of(others))) == some & others
    assert numbers_of(without(ranges_of(some), ranges_of(others))) == some - others


def test_ranges_that_touch_or_overlap_are_joined():
    assert list(joined([(0, 2), (2, 3), (5, 9), (6, 7), (9, 10), (12, 13)])) == [(0, 3), (5, 10), (12, 13)]
    assert list(joined([])) == []

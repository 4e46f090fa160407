"""The chunks of an array in Zarr v2: which exist, what they are called, and in which order."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.errors import NotShownError
from icefs.views.zarr2.grids import Grid, in_decimal_order


def grid_of(shape, stored, inner=None, may_cut=False):
    return Grid(shape, stored, inner or stored, may_cut=may_cut)


def test_a_name_has_the_index():
    grid = grid_of((10, 10), (3, 4))
    assert grid.parse("3.2") == (3, 2)
    assert [grid.parse(name) for name in ("4.0", "0.3", "3", "3.2.0", "03.2", "a", "", "0/0", "-1.0", ".zarray")] == [
        None
    ] * 10


def test_a_scalar_has_one_chunk():
    grid = grid_of((), ())
    assert grid.parse("0") == ()
    assert list(grid.names([()])) == [("0", ())]
    assert list(grid.names([])) == []


def test_inner_chunks_are_in_their_shard_and_in_the_array():
    grid = grid_of((7,), (4,), (2,))
    assert [grid.stored_index((number,)) for number in range(4)] == [(0,), (0,), (1,), (1,)]
    assert list(grid.names([(1,)])) == [("2", (2,)), ("3", (3,))]
    assert list(grid_of((5,), (4,), (2,)).names([(0,), (1,), (2,)])) == [("0", (0,)), ("1", (1,)), ("2", (2,))]


def test_pieces_of_the_only_chunk_need_not_divide_it():
    grid = grid_of((7, 2), (8, 2), (3, 2))
    assert [grid.parse(name) for name in ("2.0", "3.0")] == [(2, 0), None]
    assert grid.stored_index((2, 0)) == (0, 0)
    assert [name for name, _ in grid.names([(0, 0)])] == ["0.0", "1.0", "2.0"]


def test_chunks_outside_of_the_array_are_none():
    assert list(grid_of((4,), (2,)).names([(1,), (2,), (9,)])) == [("1", (1,))]


def test_a_chunk_larger_than_the_array_is_cut():
    assert grid_of((2, 9), (5, 4), may_cut=True).chunks == (2, 4)
    assert grid_of((2, 9), (5, 4)).chunks == (5, 4)


def test_an_array_of_no_elements_has_no_chunks():
    grid = grid_of((0, 3), (1, 1))
    assert (grid.size, grid.stored_size, list(grid.names([]))) == (0, 0, [])
    assert grid.parse("0.0") is None


@pytest.mark.parametrize("grid", [((8,), (4,), (3,)), ((2**40,), (2,), (1,))])
def test_what_has_no_names_is_not_shown(grid):
    with pytest.raises(NotShownError):
        grid_of(*grid)


@given(st.data())
def test_names_are_ordered_and_those_of_existing_chunks(data):
    axes = data.draw(
        st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3), st.integers(1, 3)), min_size=1, max_size=3)
    )
    shape, inner, per_shard = (tuple(column) for column in zip(*axes, strict=True))
    stored = tuple(size * number for size, number in zip(inner, per_shard, strict=True))
    grid = grid_of(shape, stored, inner)
    counts = [range(-(-length // size)) for length, size in zip(shape, stored, strict=True)]
    every = list(itertools.product(*counts))
    exist = sorted(data.draw(st.sets(st.sampled_from(every)))) if every else []
    names = list(grid.names(exist))
    assert [name for name, _ in names] == sorted(name for name, _ in names)
    inner_counts = [range(-(-length // size)) for length, size in zip(shape, inner, strict=True)]
    expected = {index for index in itertools.product(*inner_counts) if grid.stored_index(index) in set(exist)}
    assert {index for _, index in names} == expected
    assert all(grid.parse(name) == index for name, index in names)


@pytest.mark.parametrize("ranges", [[(0, 70_000)], [(0, 3), (5, 70_000), (99_999, 100_002)], [(7, 100_000)]])
def test_many_numbers_come_in_decimal_order(ranges):
    expected = sorted(itertools.chain.from_iterable(range(*each) for each in ranges), key=str)
    assert list(in_decimal_order(ranges)) == expected


def test_the_first_names_of_very_many_chunks_come_at_once():
    grid = grid_of((2**32 - 1, 2**32 - 1), (2**32 - 1, 2**32 - 1), (1, 1))
    first = [name for name, _ in itertools.islice(grid.names([(0, 0)]), 3)]
    assert first == ["0.0", "0.1", "0.10"]

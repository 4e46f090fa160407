"""The picture of a chunk grid: which axes are drawn, and what stands for the others."""

import click
import numpy as np
import pytest

from icefs.cli.support.chunk_map import axes, draw, scale


def picture(grid, ranks):
    columns = [np.array([index[axis] for index in ranks], np.uint32) for axis in range(len(grid))]
    numbers = np.array(list(ranks.values()), np.int64)
    return [click.unstyle(line) for line in draw(columns, numbers, grid, width=70, mark=str)]


@pytest.mark.parametrize(
    ("grid", "drawn"),
    [
        ((), (None, None)),
        ((5,), (None, 0)),
        ((3, 4), (0, 1)),
        ((40, 1, 2), (0, 2)),
        ((40, 10, 1), (0, 1)),
        ((3, 3, 3), (1, 2)),
        ((1, 1, 1), (1, 2)),
        ((2, 9, 1, 9), (1, 3)),
    ],
)
def test_the_two_axes_with_most_chunks_are_drawn(grid, drawn):
    assert axes(grid) == drawn


def test_time_runs_downwards_in_a_series_of_maps():
    lines = picture((12, 1, 2), {(0, 0, 0): 3, (11, 0, 1): 1})
    assert len(lines) == 12
    assert (lines[0][0], lines[11][-1]) == ("3", "1")
    assert scale((12, 1, 2), width=70) == "axis 0 is drawn downwards, axis 2 across"


def test_what_is_newest_of_the_hidden_axes_is_shown():
    lines = picture((2, 3, 4), {(0, 1, 2): 5, (1, 1, 2): 2})
    assert [line[2] for line in lines][1] == "2"
    assert scale((2, 3, 4), width=70) == "looking through 2 planes"
    assert scale((1, 3, 4), width=70) == ""


def test_a_scalar_and_one_dimension():
    assert picture((), {(): 1}) == ["1"]
    assert picture((3,), {(1,): 2})[0][1] == "2"

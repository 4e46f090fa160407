"""Names that programs and file systems take, each given once."""

import pytest

from icefs.views.names import Dimensions, Names, entry_names, safe_name


@pytest.mark.parametrize("name", ["a", "é", "a b", "1x", "x" * 255, ".x", "a%b", "日本"])
def test_a_name_that_everything_takes_is_kept(name):
    assert safe_name(name) == name


@pytest.mark.parametrize(
    ("name", "safe"),
    [("", "_"), (".", "_."), ("..", "_.."), (" a", "_a"), ("a/b", "a_b"), ("a\0b\n", "a_b_"), ("\udc80", "?")],
)
def test_an_odd_name_becomes_one_like_it(name, safe):
    assert safe_name(name) == safe


def test_a_long_name_is_cut_between_characters():
    assert safe_name("é" * 200) == "é" * 127
    assert safe_name("é" * 200, 200) == "é" * 100


def test_each_name_is_given_once():
    names = Names(["b"])
    assert [names.give(name) for name in ("a", "a", "b", "a/", "a_", "a")] == ["a", "a_2", "b_2", "a_", "a__2", "a_3"]
    long = Names(max_bytes=10)
    assert [long.give("x" * 20) for _ in range(3)] == ["x" * 10, "x" * 8 + "_2", "x" * 8 + "_3"]


def test_many_names_that_are_alike_take_no_time():
    names = Names()
    assert len({names.give("/" * (number % 2 + 1)) for number in range(100_000)}) == 100_000


def test_names_that_can_stay_do():
    assert entry_names(["a_", "a/", ".zattrs", "b"], [".zattrs"]) == {
        "a_": "a_",
        "b": "b",
        "a/": "a__2",
        ".zattrs": ".zattrs_2",
    }


def test_a_dimension_has_one_size():
    dimensions = Dimensions()
    assert dimensions.name(["t", "x"], [4, 5]) == ["t", "x"]
    assert dimensions.name(["x", "t"], [5, 4]) == ["x", "t"]
    assert dimensions.name(["t"], [7]) == ["t_7"]
    assert dimensions.name(["t_7", "t"], [8, 7]) == ["t_7_8", "t_7"]


def test_an_array_has_each_dimension_once():
    dimensions = Dimensions()
    assert dimensions.name(["x", "x", "x"], [3, 3, 4]) == ["x", "x_2", "x_4"]
    assert dimensions.name([None, None, None], [3, 3, 4]) == ["dim_3", "dim_3_2", "dim_4"]
    assert dimensions.name(["", "a/b"], [3, 3]) == ["_", "a_b"]

"""Attributes as no reader of Zarr v2 stumbles over them."""

import json
import math

import pytest

from icefs.views.zarr2.attributes import dump, harmless


@pytest.mark.parametrize(
    "value",
    [1, -1, 2**64 - 1, -(2**63), 0.1, 1e300, "", "text", "ü", True, [1, 2], [300, 1], [1.5, 2.5], [True, False], {}],
)
def test_what_every_reader_reads_is_kept(value):
    found = harmless({"a": value})["a"]
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        ([], "[]"),
        (["a", "ü"], '["a", "ü"]'),
        ([1, "a"], '[1, "a"]'),
        ([[1, 2], [3]], "[[1, 2], [3]]"),
        ([{"a": 1}], '[{"a": 1}]'),
        ([True, 2], "[true, 2]"),
        ([1, None], "[1, null]"),
        ([math.nan, 1.0], '["NaN", 1.0]'),
        (math.nan, "NaN"),
        (-math.inf, "-Infinity"),
        (10**19 * 10 + 1, "100000000000000000001"),
        ([1, 2**63], "[1, 9223372036854775808]"),
    ],
)
def test_what_some_reader_does_not_read_becomes_text(value, text):
    assert harmless({"a": value}) == {"a": text}


@pytest.mark.parametrize("value", [[0, 300], [127, 128], [-1, 200], [1, 2.5], [2.5, 1], [0, 2**40]])
def test_numbers_that_are_not_of_the_type_of_the_first_become_floats(value):
    found = harmless({"a": value})["a"]
    assert found == value
    assert all(isinstance(number, float) for number in found)


def test_a_number_beyond_64_bits_that_is_exact_becomes_a_float():
    assert harmless({"a": 2**70}) == {"a": 2.0**70}


def test_names_are_made_safe_and_stay_apart():
    assert harmless({"": 1, "_": 2, " x": 3, "y" * 300: 4}) == {"_": 1, "__2": 2, "_x": 3, "y" * 200: 4}


def test_deep_and_wide_attributes_do_no_harm():
    deep = json.loads('{"a":' * 900 + "1" + "}" * 900)
    found = harmless({"deep": deep, "list": [deep]})
    assert isinstance(found["deep"], str)
    assert isinstance(found["list"], str)


def test_json_is_utf_8_without_escapes_and_strict():
    assert dump({"a": "é\udc80"}) == '{\n    "a": "é?"\n}'.encode()
    with pytest.raises(ValueError):
        dump({"a": math.nan})

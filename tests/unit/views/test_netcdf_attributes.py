"""Zarr's attributes as typed values."""

import base64
import json
import struct

import numpy as np
import pytest

from icefs.views.cf.attributes import exact, in_type, shown_attributes, value_of
from icefs.views.cf.fill import fill_number, marks_missing
from icefs.views.cf.limits import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES

TYPED = [
    (3, [3], "i4"),
    (True, [1], "i1"),
    (2**31, [2**31], "i8"),
    (2**63, [2**63], "u8"),
    (1.5, [1.5], "f8"),
    ([1, 2], [1, 2], "i4"),
    ([1, 2.5], [1, 2.5], "f8"),
    ([True, False], [1, 0], "i1"),
    ([1.0, "NaN", "-Infinity"], [1, np.nan, -np.inf], "f8"),
    ([-1, 2**40], [-1, 2**40], "i8"),
]


@pytest.mark.parametrize(("value", "numbers", "dtype"), TYPED)
def test_numbers_have_types(value, numbers, dtype):
    made = value_of("a", value)
    assert made.dtype == dtype
    np.testing.assert_array_equal(made, numbers)


TEXTS = [
    ("K", "K"),
    ("NaN", "NaN"),
    ("", ""),
    ("a\0b", "a\\x00b"),
    ("\ud800", "\\ud800"),
    (None, "null"),
    ([], "[]"),
    ({"a": [1]}, '{"a": [1]}'),
    ([1, "a"], '[1, "a"]'),
    ([1, True], "[1, true]"),
    ([[1]], "[[1]]"),
    ([2**53 + 1, 0.5], "[9007199254740993, 0.5]"),
    ([-1, 2**63], "[-1, 9223372036854775808]"),
    (["a", "é"], ("a", "é")),
]


@pytest.mark.parametrize(("value", "text"), TEXTS)
def test_texts_and_what_has_no_type(value, text):
    assert value_of("a", value) == text


@pytest.mark.parametrize("name", ["_FillValue", "missing_value", "valid_min", "scale_factor", "add_offset"])
def test_numbers_of_cf_may_be_spelled_as_text(name):
    assert np.isnan(value_of(name, "NaN"))
    assert value_of(name, "-Infinity") == [-np.inf]
    assert value_of(name, base64.b64encode(struct.pack("<d", 0.1)).decode()) == [0.1]
    assert value_of(name, "none") == "none"


def test_packing_attributes_are_floats():
    assert value_of("scale_factor", 1).dtype == "f8"
    assert value_of("add_offset", -273).dtype == "f8"


def test_names_are_mapped_and_said():
    shown = shown_attributes({"a/b": 1, "CLASS": "x", "ok": "y"}, pytest.fail, {"ok": "own"})
    assert shown.keys() == {"a%2Fb", "_%43LASS", "ok", "icefs_attribute_names"}
    assert json.loads(shown["icefs_attribute_names"]) == {"a%2Fb": "a/b", "_%43LASS": "CLASS"}
    assert shown["ok"] == "own"


def test_large_and_many_attributes_are_left_out_and_named():
    left_out = []
    shown = shown_attributes({"large": "x" * (MAX_ATTRIBUTE_BYTES + 1), "small": "x"}, left_out.append)
    assert [*shown] == ["small"]
    assert left_out == ["attribute large: it is larger than 1 MiB"]
    left_out.clear()
    shown = shown_attributes({f"a{number}": 1 for number in range(MAX_ATTRIBUTES + 5)}, left_out.append)
    assert len(shown) == MAX_ATTRIBUTES
    assert left_out == [f"5 attributes: there are more than {MAX_ATTRIBUTES}"]


def test_deep_nesting_is_said():
    value = []
    for _ in range(100_000):
        value = [value]
    assert value_of("a", value) == "(nested too deep)"


EXACT = [
    ([1, -1], "i8", "i4", True),
    ([2**31], "i8", "i4", False),
    ([-1], "i8", "u1", False),
    ([2**53], "i8", "f8", True),
    ([2**53 + 1], "i8", "f8", False),
    ([2**63 - 1], "i8", "f8", False),
    ([-(2**63)], "i8", "f8", True),
    ([2**64 - 1], "u8", "f8", False),
    ([2**64 - 2048], "u8", "f8", True),
    ([1.0], "f8", "i2", True),
    ([1.5], "f8", "i2", False),
    ([np.nan], "f8", "i2", False),
    ([32768.0], "f8", "i2", False),
    ([np.nan, np.inf], "f8", "f4", True),
    ([1e20], "f8", "f4", True),
    ([1e300], "f8", "f4", False),
    ([], "i8", "i4", True),
]


@pytest.mark.parametrize(("values", "given", "wanted", "is_exact"), EXACT)
def test_numbers_are_converted_only_where_they_stay(values, given, wanted, is_exact):
    made = exact(np.array(values, given), np.dtype(wanted))
    assert (made is not None) == is_exact
    if made is not None:
        assert made.dtype == wanted


def test_text_is_in_no_type():
    assert in_type("1", np.dtype("i4")) is None
    assert in_type(np.array([1]), np.dtype("S1")) is None


FILLS = [
    (0, "i4", [0]),
    (-9999, "i2", [-9999]),
    (70000, "i2", None),
    ("NaN", "f4", [np.nan]),
    ("-Infinity", "f8", [-np.inf]),
    ("0x7fc00000", "f4", [np.nan]),
    ("0x3c00", "f2", [1.0]),
    ("0x3c", "f2", None),
    ("0xzz", "f2", None),
    (3, "f8", [3.0]),
    ("x", "i4", None),
    (True, "i4", None),
    (1.5, "i4", None),
    (None, "f8", None),
    ("x", "f8", None),
    (1, "S1", None),
]


@pytest.mark.parametrize(("spelled", "dtype", "expected"), FILLS)
def test_fill_values_are_read(spelled, dtype, expected):
    fill = fill_number(spelled, np.dtype(dtype))
    assert (fill is None) == (expected is None)
    if fill is not None:
        np.testing.assert_array_equal(fill, expected)
        assert fill.dtype == dtype


def test_zero_marks_nothing_as_missing():
    assert not marks_missing(np.array([0.0]))
    assert marks_missing(np.array([np.nan]))
    assert marks_missing(np.array([-1]))

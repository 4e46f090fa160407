"""Metadata values: MessagePack within bounds, and what becomes of Python values on the way in."""

import enum
import math
from types import MappingProxyType
from typing import Any

import msgpack
import pytest

from icefs.errors import FormatError, InvalidInputError
from icefs.format.flat.flexbuffer import MAX_DEPTH, decode_flexbuffer
from icefs.format.metadata import decode_msgpack, decode_value, encode_msgpack, encode_value, normalise


class Colour(enum.IntEnum):
    RED = 3


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        False,
        0,
        127,
        128,
        2**16,
        2**32,
        2**64 - 1,
        -1,
        -32,
        -33,
        -129,
        -(2**15) - 1,
        -(2**63),
        1.5,
        -0.0,
        "",
        "é" * 15,
        "x" * 31,
        "x" * 32,
        "x" * 256,
        "x" * 70_000,
        [],
        list(range(16)),
        [None] * 70_000,
        {},
        {str(number): number for number in range(20)},
        {str(number): [number] for number in range(66_000)},
        {"a": {"b": [1, "two", 3.5, None, {"c": []}]}},
    ],
    ids=lambda value: repr(value)[:20],
)
def test_msgpack_round_trip(value: Any) -> None:
    data = encode_msgpack(value)
    assert decode_msgpack(data) == value
    assert msgpack.unpackb(data) == value
    assert decode_msgpack(memoryview(data)) == value


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\xca\x3f\x80\x00\x00", 1.0),
        (b"\xcb\x7f\xf0\x00\x00\x00\x00\x00\x00", None),
        (b"\xca\x7f\xc0\x00\x00", None),
        (b"\xd1\xff\x00", -256),
        (b"\x82\xa1a\x01\xa1a\x02", {"a": 2}),
        (b"\x01 what follows", 1),
        (b"\xdd\x00\x00\x00\x01\xc3", [True]),
    ],
)
def test_msgpack_by_hand(data: bytes, value: Any) -> None:
    assert decode_msgpack(data) == value


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "ends within"),
        (b"\xa3ab", "ends within"),
        (b"\xcd\x01", "ends within"),
        (b"\xda\x00", "ends within"),
        (b"\x92\x01", "ends within"),
        (b"\xdd\xff\xff\xff\xff\x01", "ends within"),
        (b"\xdf\xff\xff\xff\xff\xa1a\x01", "ends within"),
        (b"\xdb\xff\xff\xff\xffabc", "ends within"),
        (b"\xa2\xff\xfe", "UTF-8"),
        (b"\xc4\x01x", "no JSON"),
        (b"\xc1", "no JSON"),
        (b"\xd4\x01x", "no JSON"),
        (b"\xd6\xff\x00\x00\x00\x00", "no JSON"),
        (b"\x81\x01\x02", "no string"),
        (b"\x81\x90\x02", "no string"),
        (b"\x91" * (MAX_DEPTH + 1) + b"\x01", "deeper"),
        (b"\xdd\x7f\xff\xff\xff" * 10_000, "deeper"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_malformed_msgpack(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        decode_msgpack(data, name="a file")
    assert caught.value.kind == "deserialization"
    assert caught.value.facts["file"] == "a file"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        ((1, (2,)), [1, [2]]),
        (b"ab", [97, 98]),
        (bytearray(b"a"), [97]),
        (2**64 - 1, 2**64 - 1),
        (2**64, 2.0**64),
        (-(2**63) - 1, -(2.0**63)),
        (Colour.RED, 3),
        (MappingProxyType({"a": (1,)}), {"a": [1]}),
        (True, True),
    ],
)
def test_python_values_become_json(value: Any, expected: Any) -> None:
    found = normalise({"key": [value]})["key"][0]
    assert found == expected
    assert type(found) is type(expected)
    for version in (1, 2):
        assert decode_value(encode_value(value, version), version, name="x") == expected


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, object(), 1j, 10**400, {"a": {None: 1}}])
def test_what_is_no_json_is_a_type_error(value: Any) -> None:
    for version in (1, 2):
        with pytest.raises(TypeError):
            encode_value(value, version)


@pytest.mark.parametrize("value", ["\ud800", {"\udcff": 1}, nested(MAX_DEPTH + 1)], ids=["text", "key", "deep"])
def test_what_cannot_be_written(value: Any) -> None:
    for version in (1, 2):
        with pytest.raises(InvalidInputError) as caught:
            encode_value(value, version)
        assert caught.value.kind == "serialization"


def test_depth_is_limited() -> None:
    for version in (1, 2):
        assert decode_value(encode_value(nested(MAX_DEPTH), version), version, name="x") == nested(MAX_DEPTH)


def test_the_spec_version_decides_the_encoding() -> None:
    assert msgpack.unpackb(encode_value({"a": [1]}, 1)) == {"a": [1]}
    assert decode_flexbuffer(encode_value({"a": [1]}, 2)) == {"a": [1]}

"""FlexBuffers: bytes from the specification, what the `flatbuffers` package writes and reads, and hostile ones."""

import math
import struct
from typing import Any

import pytest
from flatbuffers import flexbuffers

from icefs.errors import FormatError, InvalidInputError
from icefs.format.flat.flexbuffer import MAX_DEPTH, decode_flexbuffer, encode_flexbuffer

VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    -1,
    127,
    128,
    -128,
    -129,
    255,
    256,
    65_535,
    65_536,
    2**31,
    -(2**31) - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    0.0,
    1.5,
    0.1,
    1e300,
    5e-324,
    "",
    "a",
    "Zürich 🧊",
    "x" * 255,
    "x" * 256,
    "with\0nul",
    [],
    {},
    [1, 2, 3],
    [1, -1],
    [True, False],
    [1.5, 0.1],
    ["a", "b"],
    [[], [[]], {}],
    {"a": 1, "b": [1, {"a": "again"}], "": None},
    {"é": 1, "z": 2, "🧊": 3, "\ue000": 4},
    list(range(300)),
    ["x" * 100] * 3,
    {str(number): number for number in range(300)},
    [2**64 - 1, 1],
    [1e300, 1, "text", None],
    {"deep": {"deep": {"deep": [{"deep": 2**40}]}}},
]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:30])
def test_round_trip(value: Any) -> None:
    data = encode_flexbuffer(value)
    found = decode_flexbuffer(data)
    assert found == value
    assert type(found) is type(value)


def others(value: Any) -> bool:
    """Tells whether the `flatbuffers` package can: it knows ASCII keys, signed numbers and small floats only."""
    text = repr(value)
    return not any(part in text for part in ("é", "1e+300", str(2**63), str(2**64 - 1)))


@pytest.mark.parametrize("value", [value for value in VALUES if "é" not in repr(value)], ids=lambda v: repr(v)[:30])
def test_the_other_implementation_reads_what_is_written(value: Any) -> None:
    assert flexbuffers.Loads(encode_flexbuffer(value)) == value


@pytest.mark.parametrize("value", list(filter(others, VALUES)), ids=lambda value: repr(value)[:30])
def test_reads_what_the_other_implementation_writes(value: Any) -> None:
    assert decode_flexbuffer(bytes(flexbuffers.Dumps(value))) == value


def typed(builder: flexbuffers.Builder) -> bytes:
    return bytes(builder.Finish())


def test_typed_vectors_and_indirect_numbers() -> None:
    builder = flexbuffers.Builder()
    with builder.Vector():
        builder.TypedVectorFromElements([1, 2, 300])
        builder.TypedVectorFromElements([1.5, 2.5])
        builder.TypedVectorFromElements([True, False, True])
        builder.FixedTypedVectorFromElements([1, -2])
        builder.FixedTypedVectorFromElements([1.0, 2.0, 3.0])
        builder.FixedTypedVectorFromElements([5, 6, 7, 8])
        builder.IndirectInt(-5)
        builder.IndirectUInt(2**63)
        builder.IndirectFloat(0.1)
        builder.Key("a key")
        with builder.TypedVector():
            builder.Key("k1")
            builder.Key("k2")
    assert decode_flexbuffer(typed(builder)) == [
        [1, 2, 300],
        [1.5, 2.5],
        [True, False, True],
        [1, -2],
        [1.0, 2.0, 3.0],
        [5, 6, 7, 8],
        -5,
        2**63,
        0.1,
        "a key",
        ["k1", "k2"],
    ]


# Bytes by hand


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"\x00\x00\x01", None),
        (b"\x05\x04\x01", 5),
        (b"\xfb\x04\x01", -5),
        (b"\xfb\x08\x01", 251),
        (b"\x02\x68\x01", True),
        (b"\x05hello\x00\x06\x14\x01", "hello"),
        (b"hello\x00\x06\x10\x01", "hello"),
        # 1, 2 as a fixed vector of two signed numbers, without a count
        (b"\x01\x02\x02\x40\x01", [1, 2]),
        # what stands before the value is ignored
        (b"ignored\x05\x04\x01", 5),
    ],
)
def test_known_bytes(data: bytes, value: Any) -> None:
    assert decode_flexbuffer(data) == value


def test_a_small_document_is_as_small_as_it_can_be() -> None:
    assert encode_flexbuffer(5) == b"\x05\x08\x01"
    assert encode_flexbuffer("hello") == b"\x05hello\x00\x06\x14\x01"
    # key, keys vector, map: keys offset and width, count, value, its type
    assert encode_flexbuffer({"a": 1}) == b"a\x00\x01\x03\x01\x01\x01\x01\x08\x02\x24\x01"


def test_keys_are_shared_and_sorted_by_their_bytes() -> None:
    data = encode_flexbuffer([{"key": 1, "abc": 2}, {"key": 3, "abc": 4}])
    assert data.count(b"key\0") == data.count(b"abc\0") == 1
    found = flexbuffers.GetRoot(encode_flexbuffer({"🧊": 1, "\ue000": 2, "b": 3})).AsMap
    assert [bytes(key.AsKeyBytes) for key in found.Keys] == [b"b", "\ue000".encode(), "🧊".encode()]


def test_what_is_no_number_reads_as_null() -> None:
    for number in (math.nan, math.inf, -math.inf):
        assert decode_flexbuffer(struct.pack("<d", number) + b"\x0f\x08") is None
        assert decode_flexbuffer(struct.pack("<f", number) + b"\x0e\x04") is None


def test_the_last_of_two_equal_keys_wins() -> None:
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("a", 1)
        builder.Int("b", 2)
    data = typed(builder).replace(b"b\0", b"a\0")
    assert decode_flexbuffer(data) in ({"a": 1}, {"a": 2})


# Limits


def test_depth_is_limited_in_both_directions() -> None:
    assert decode_flexbuffer(encode_flexbuffer(nested(MAX_DEPTH))) == nested(MAX_DEPTH)
    with pytest.raises(InvalidInputError, match="deeper"):
        encode_flexbuffer(nested(MAX_DEPTH + 1))
    # Vectors of one item and three bytes, each three bytes behind what it contains.
    by_hand = b"\x01\x01\x08" + b"\x01\x03\x28" * (MAX_DEPTH - 1)
    assert decode_flexbuffer(by_hand + b"\x02\x28\x01") == nested(MAX_DEPTH)
    with pytest.raises(FormatError, match="deeper"):
        decode_flexbuffer(by_hand + b"\x01\x03\x28" + b"\x02\x28\x01")


def test_a_vector_that_contains_itself_is_refused() -> None:
    with pytest.raises(FormatError, match=r"deeper|overlap"):
        # one item, whose offset leads to where the items begin
        decode_flexbuffer(b"\x01\x00\x28\x02\x28\x01")


def test_shared_containers_cannot_multiply() -> None:
    """Thirty lists of two, each referring to the next twice, are a thousand million values in 200 bytes."""
    data = b"\x02\x01\x01\x08\x08"
    start = 1
    for _ in range(30):
        items = len(data) + 1
        data += bytes((2, items - start, items + 1 - start)) + b"\x28\x28"
        start = items
    data += bytes((len(data) - start,)) + b"\x28\x01"
    with pytest.raises(FormatError, match="overlap"):
        decode_flexbuffer(data)


def test_a_shared_long_string_is_one_string() -> None:
    count = 100
    data = b"\xc8" + b"x" * 200 + b"\0"
    # Offsets of two bytes, so that they reach.
    items = len(data) + 2
    data += count.to_bytes(2, "little")
    data += b"".join((items + 2 * row - 1).to_bytes(2, "little") for row in range(count)) + b"\x14" * count
    data += (len(data) - items).to_bytes(2, "little") + b"\x29\x02"
    found = decode_flexbuffer(data)
    assert found == ["x" * 200] * count
    assert len({id(item) for item in found}) == 1


def test_overlapping_strings_cannot_multiply() -> None:
    """Keys that each begin one byte later would together have the square of the file's size."""
    size = 4000
    keys = b"k" * size + b"\0"
    data = keys + b"\0" * (len(keys) % 2)
    vector = size.to_bytes(2, "little")
    items = len(data) + 2
    data += vector + b"".join((items + 2 * row - row).to_bytes(2, "little") for row in range(size))
    data += (len(data) - items).to_bytes(2, "little") + bytes((14 << 2 | 1, 2))
    with pytest.raises(FormatError, match="overlap"):
        decode_flexbuffer(data)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "too few"),
        (b"\x04\x01", "too few"),
        (b"\x05\x04\x00", "0 bytes wide"),
        (b"\x05\x04\x03", "3 bytes wide"),
        (b"\x05\x04\xff", "255 bytes wide"),
        (b"\x05\x04\x08", "outside"),
        (b"\x05\x0c\x01", "a float of 1 bytes"),
        (b"\x05\x05\x0d\x02", "a float of 2 bytes"),
        (b"\x05\x14\x01", "outside"),
        (b"\x05hello\x00\xff\x14\x01", "outside"),
        (b"\xf0hello\x00\x06\x14\x01", "outside"),
        (b"\x02\xff\xfe\x00\x03\x14\x01", "UTF-8"),
        (b"hell\x05\x10\x01", "outside|does not end"),
        (b"\x01x\x01\x64\x01", "blob"),
        (b"\x01\x90\x01", "unknown type|outside"),
        (b"\x00\xa0\x01", "unknown type"),
        (b"\xff\x01\x28\x01", "outside"),
        (b"\x01\x05\x02\x24\x01", "outside|bytes wide"),
        (b"\x05\x3c\x01", "outside"),
        (b"\x00\x58\x01", "outside"),
    ],
)
def test_malformed(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match) as caught:
        decode_flexbuffer(data, name="a file")
    assert caught.value.kind == "deserialization"
    assert caught.value.facts["file"] == "a file"
    assert caught.value.facts["reason"] in caught.value.message


@pytest.mark.parametrize("value", [2**64, -(2**63) - 1, {"a\0b": 1}])
def test_what_cannot_be_written(value: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_flexbuffer(value)
    assert caught.value.kind == "serialization"

"""Any JSON value survives MessagePack and FlexBuffers, and reads the same in the other implementations."""

import json
from contextlib import suppress
from typing import Any

import msgpack
from flatbuffers import flexbuffers
from hypothesis import example, given
from hypothesis import strategies as st

from icefs.errors import FormatError
from icefs.format.config.yaml import Tagged, emit_yaml, load_yaml
from icefs.format.flat.flexbuffer import decode_flexbuffer, encode_flexbuffer
from icefs.format.metadata import decode_msgpack, encode_msgpack, normalise

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
KEYS = TEXT.filter(lambda text: "\0" not in text)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.integers(-200, 300)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=6) | st.dictionaries(KEYS, inner, max_size=6), max_leaves=40
)


def same(found: Any, expected: Any) -> bool:
    """Compares with types: 1, 1.0 and True are three values."""
    return (
        repr(found) == repr(expected)
        or (
            isinstance(expected, dict)
            and isinstance(found, dict)
            and found.keys() == expected.keys()
            and all(same(found[key], expected[key]) for key in expected)
        )
        or (
            isinstance(expected, list)
            and isinstance(found, list)
            and len(found) == len(expected)
            and all(map(same, found, expected))
        )
    )


@given(JSON)
@example([0.1, 1e300, 5e-324, -0.0, 2.0**63])
def test_round_trip(value: Any) -> None:
    assert same(decode_flexbuffer(encode_flexbuffer(value)), value)
    assert same(decode_msgpack(encode_msgpack(value)), value)
    assert same(normalise(value), value)


@given(JSON)
def test_the_other_implementations_read_the_same(value: Any) -> None:
    assert same(msgpack.unpackb(encode_msgpack(value)), value)
    try:
        found = flexbuffers.Loads(encode_flexbuffer(value))
    except UnicodeDecodeError:
        return  # it takes keys for ASCII
    assert found == value


@given(JSON)
def test_reads_what_the_other_implementation_writes(value: Any) -> None:
    try:
        data = bytes(flexbuffers.Dumps(value))
    except (UnicodeEncodeError, OverflowError, RuntimeError):
        return  # it cannot write keys beyond ASCII, floats beyond 32 bits, numbers beyond 63
    assert decode_flexbuffer(data) == value


@given(JSON, st.data())
def test_damage_is_a_format_error_or_another_value(value: Any, data: st.DataObject) -> None:
    for encode, decode in ((encode_flexbuffer, decode_flexbuffer), (encode_msgpack, decode_msgpack)):
        damaged = bytearray(encode(value))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(damaged) - 1))
            damaged[at] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(0, len(damaged)))
        for candidate in (bytes(damaged), bytes(damaged[:cut]), bytes(damaged[cut:])):
            with suppress(FormatError):
                found = decode(candidate)
                assert same(normalise(found), found)


@given(st.binary(max_size=60))
def test_any_bytes(data: bytes) -> None:
    for decode in (decode_flexbuffer, decode_msgpack):
        with suppress(FormatError):
            normalise(decode(data))


def is_untagged(tree: Any) -> bool:
    return not isinstance(tree, Tagged)


TREES = st.recursive(
    TEXT | st.integers(-(2**63), 2**64 - 1) | st.booleans() | st.none(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(TEXT, inner, max_size=4)
        # Two tags in a row are no YAML.
        | st.builds(Tagged, st.from_regex("[A-Za-z_]{1,10}", fullmatch=True), inner.filter(is_untagged))
    ),
    max_leaves=30,
)


def as_texts(tree: Any) -> Any:
    """What reading gives back: scalars stay texts until somebody asks for a number, a boolean or null."""
    if isinstance(tree, Tagged):
        return Tagged(tree.tag, as_texts(tree.content))
    if isinstance(tree, dict):
        return {key: as_texts(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [as_texts(item) for item in tree]
    return tree if isinstance(tree, str) else json.dumps(tree)


@given(TREES)
def test_yaml(tree: Any) -> None:
    assert load_yaml(emit_yaml(tree).encode(), name="x") == as_texts(tree)

"""Metadata values (of snapshots, and of the repository): JSON values as MessagePack (spec 1) or FlexBuffers (spec 2).

The encoding follows the spec version in the header of the snapshot file that holds the value; the repo info's
metadata is FlexBuffers always. Values of callers become JSON the way the official library does it: NaN and
the infinities are null, tuples and NumPy's arrays are lists, NumPy's numbers are numbers, bytes are lists of numbers,
and an integer beyond 64 bits is the nearest float.

MessagePack is read here and not by the `msgpack` package, whose arrays are allocated by the size that they claim.
Bytes and extension types are no JSON values; what follows the value is ignored; of equal keys the last wins.

Divergence 6: values nest 256 deep at most (official: 1024 in MessagePack, no limit in FlexBuffers).
Divergence 7: a key with a NUL is refused in FlexBuffers (official: its end is lost silently).

Source: https://github.com/msgpack/msgpack/blob/master/spec.md; format notes §7.8.
"""

import math
import struct
from collections.abc import Mapping
from typing import Any, Final

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np

from icefs.errors import FormatError, InvalidInputError
from icefs.format.flat.flexbuffer import MAX_DEPTH, decode_flexbuffer, encode_flexbuffer

_U64_MAX: Final = 2**64 - 1
_I64_MIN: Final = -(2**63)


def encode_value(value: Any, spec_version: int) -> bytes:
    """Writes one metadata value in the encoding of the spec version.

    Raises:
        TypeError: it holds something that is no JSON value.
        InvalidInputError: it nests too deep, or cannot be encoded.
    """
    return encode_msgpack(value) if spec_version == 1 else encode_flexbuffer(normalise(value))


def decode_value(data: bytes | memoryview, spec_version: int, *, name: str) -> Any:
    """Reads one metadata value in the encoding of the spec version.

    Raises:
        FormatError: it is malformed (kind `deserialization`).
    """
    return decode_msgpack(data, name=name) if spec_version == 1 else decode_flexbuffer(data, name=name)


def normalise(value: Any, depth: int = 0) -> Any:
    """Returns `value` as None, bool, int, float, str, list and dict, as the official library converts it.

    Raises:
        TypeError: it holds something that is no JSON value, or a key that is no string.
        InvalidInputError: it nests deeper than `MAX_DEPTH`, or a text cannot be UTF-8.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if _I64_MIN <= value <= _U64_MAX else _as_float(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return _checked_text(value)
    if depth == MAX_DEPTH:
        raise InvalidInputError(f"a metadata value nests deeper than {MAX_DEPTH}", kind="serialization")
    if isinstance(value, np.ndarray | np.generic):
        return normalise(value.tolist(), depth)
    if isinstance(value, list | tuple | bytes | bytearray):
        return [normalise(item, depth + 1) for item in value]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("the keys of metadata must be strings")
        return {_checked_text(key): normalise(item, depth + 1) for key, item in value.items()}
    raise TypeError(f"metadata cannot hold a {type(value).__name__}")


def _as_float(value: int) -> float:
    try:
        return float(value)
    except OverflowError:
        raise TypeError(f"metadata cannot hold an integer of {value.bit_length()} bits") from None


def _checked_text(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"{text!r} cannot be written as UTF-8", kind="serialization") from None
    return str(text)


def encode_msgpack(value: Any) -> bytes:
    """Writes a value as MessagePack.

    Raises:
        TypeError: it holds something that is no JSON value.
        InvalidInputError: it nests deeper than `MAX_DEPTH`, or a text cannot be UTF-8.
    """
    packed: bytes = msgpack.packb(normalise(value), use_bin_type=True)
    return packed


def decode_msgpack(data: bytes | memoryview, *, name: str = "a MessagePack value") -> Any:
    """Reads a JSON value.

    Raises:
        FormatError: it is malformed, nests deeper than `MAX_DEPTH`, or is no JSON value (kind `deserialization`).
    """
    return _MsgpackReader(bytes(data), name).value(0)


# First byte → format of the number behind it, for numbers and for sizes of text, arrays and maps.
_NUMBERS: Final = {
    code: struct.Struct(">" + kind)
    for code, kind in zip((0xCA, 0xCB, *range(0xCC, 0xD4)), "fdBHIQbhiq", strict=True)
}  # fmt: skip
_TEXT_SIZES: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_ARRAY_SIZES: Final = {0xDC: 2, 0xDD: 4}
_MAP_SIZES: Final = {0xDE: 2, 0xDF: 4}
_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}


class _MsgpackReader:
    """Reads one value from the front; every item takes a byte or more, so that the work is bounded by the size."""

    __slots__ = ("_at", "_data", "_name")

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._at = 0

    def _error(self, reason: str) -> FormatError:
        return FormatError(
            f"{self._name} is malformed: {reason}", kind="deserialization", file=self._name, reason=reason
        )

    def _take(self, size_bytes: int) -> bytes:
        start = self._at
        if start + size_bytes > len(self._data):
            raise self._error(f"it ends within a value, at {len(self._data)}")
        self._at = start + size_bytes
        return self._data[start : self._at]

    def value(self, depth: int) -> Any:
        code = self._take(1)[0]
        if code < 0x80:
            return code
        if code >= 0xE0:
            return code - 0x100
        if code in _CONSTANTS:
            return _CONSTANTS[code]
        number = _NUMBERS.get(code)
        if number is not None:
            found: int | float = number.unpack(self._take(number.size))[0]
            return found if math.isfinite(found) else None
        text_size = self._size(code, 0xA0, 0xC0, _TEXT_SIZES)
        if text_size >= 0:
            return self._text(text_size)
        if depth == MAX_DEPTH:
            raise self._error(f"it nests deeper than {MAX_DEPTH}")
        return self._container(code, depth + 1)

    def _size(self, code: int, fixed_from: int, fixed_to: int, sizes: dict[int, int]) -> int:
        if fixed_from <= code < fixed_to:
            return code - fixed_from
        return int.from_bytes(self._take(sizes[code])) if code in sizes else -1

    def _text(self, size_bytes: int) -> str:
        try:
            return self._take(size_bytes).decode()
        except UnicodeDecodeError as error:
            raise self._error(f"a string is not UTF-8: {error.reason}") from None

    def _container(self, code: int, depth: int) -> Any:
        count = self._size(code, 0x90, 0xA0, _ARRAY_SIZES)
        if count >= 0:
            return [self.value(depth) for _ in range(count)]
        count = self._size(code, 0x80, 0x90, _MAP_SIZES)
        if count < 0:
            raise self._error(f"a value of type {code:#x} is no JSON")
        found = {}
        for _ in range(count):
            key = self.value(depth)
            if not isinstance(key, str):
                raise self._error("a key of a map is no string")
            found[key] = self.value(depth)
        return found

"""FlexBuffers: the self-describing encoding of metadata values and configuration in spec 2; read within bounds.

    root        … value (w bytes) | packed type | w              w in 1, 2, 4, 8
    packed type kind << 2 | log2(width of what the value is, or refers to)
    inline      null, int, uint, float, bool: the number itself
    offset      everything else: distance backwards from where the offset stands; its width is its container's
    vector      count | items | one packed type each (not in typed vectors; fixed ones have no count either)
    map         keys offset | width of the keys | count | values | one packed type each
    keys        a typed vector of offsets to NUL-terminated strings
    string      size | UTF-8 | NUL

The reader's values are those of JSON. Like the official one, it takes an inline number's width from its packed type,
reads NaN and the infinities as null, lets the last of two equal keys win, and ignores what precedes the root. A blob
is no JSON value, hence an error. Offsets may lead anywhere backwards, so that a small file could describe endless
work: the depth is limited, and the values and the text of one file are together limited by twice its size. The
official reader turns numbers and strings outside the buffer into 0 and ""; here they are errors.

The writer chooses the same types as the official one: unsigned numbers where they are not negative, floats of four
bytes where nothing is lost, keys shared.

Source: https://flatbuffers.dev/flexbuffers/; format notes §7.7.
"""

import math
import struct
from typing import Any, Final, NamedTuple

from icefs.errors import FormatError, InvalidInputError

MAX_DEPTH: Final = 256
"""How deep lists and maps may nest."""

(
    _NULL, _INT, _UINT, _FLOAT, _KEY, _STRING, _INDIRECT_INT, _INDIRECT_UINT, _INDIRECT_FLOAT, _MAP, _VECTOR,
    _VECTOR_INT,
) = range(12)  # fmt: skip
_VECTOR_STRING = 15
_FIRST_FIXED_VECTOR, _LAST_FIXED_VECTOR = 16, 24
_BLOB, _BOOL, _VECTOR_BOOL = 25, 26, 36

_INLINE = frozenset({_NULL, _INT, _UINT, _FLOAT, _BOOL})
_INDIRECT = {_INDIRECT_INT: _INT, _INDIRECT_UINT: _UINT, _INDIRECT_FLOAT: _FLOAT}
_FLOATS = {4: struct.Struct("<f"), 8: struct.Struct("<d")}


def decode_flexbuffer(data: bytes | memoryview, *, name: str = "a FlexBuffers value") -> Any:
    """Reads a JSON value.

    Raises:
        FormatError: it is malformed, nests deeper than `MAX_DEPTH`, or holds a blob (kind `deserialization`).
    """
    return _Reader(bytes(data), name).root()


def encode_flexbuffer(value: Any) -> bytes:
    """Writes a JSON value of None, bool, int (64 bits, signed or unsigned), float, str, list and dict.

    Raises:
        InvalidInputError: it nests deeper than `MAX_DEPTH`, or a map's key contains a NUL.
    """
    return _Writer().finish(value)


class _Reader:
    __slots__ = ("_allowance", "_data", "_keys", "_name", "_texts")

    def __init__(self, data: bytes, name: str) -> None:
        self._data = data
        self._name = name
        self._allowance = 2 * len(data) + 64
        self._texts: dict[tuple[int, int], str] = {}
        self._keys: dict[int, str] = {}

    def root(self) -> Any:
        end = len(self._data)
        if end < 3:
            raise self._error(f"{end} bytes are too few")
        width = self._data[-1]
        if width not in (1, 2, 4, 8):
            raise self._error(f"its root is {width} bytes wide")
        return self._value(end - 2 - width, self._data[-2], width, 0)

    def _error(self, reason: str) -> FormatError:
        return FormatError(
            f"{self._name} is malformed: {reason}", kind="deserialization", file=self._name, reason=reason
        )

    def _charge(self, amount: int) -> None:
        self._allowance -= amount
        if self._allowance < 0:
            raise self._error("its parts overlap: it describes more content than it holds")

    def _bytes(self, position: int, size_bytes: int) -> bytes:
        if position < 0 or position + size_bytes > len(self._data):
            raise self._error(f"{size_bytes} bytes at {position} lie outside its {len(self._data)} bytes")
        return self._data[position : position + size_bytes]

    def _uint(self, position: int, width: int) -> int:
        return int.from_bytes(self._bytes(position, width), "little")

    def _value(self, position: int, packed: int, container_width: int, depth: int) -> Any:
        self._charge(1)
        kind, width = packed >> 2, 1 << (packed & 3)
        if kind in _INLINE:
            return self._number(kind, position, width)
        target = position - self._uint(position, container_width)
        if kind in _INDIRECT:
            return self._number(_INDIRECT[kind], target, width)
        if kind == _STRING:
            return self._text(target, self._uint(target - width, width))
        if kind == _KEY:
            return self._key(target)
        if depth == MAX_DEPTH:
            raise self._error(f"it nests deeper than {MAX_DEPTH}")
        if kind == _MAP:
            return self._map(target, width, depth + 1)
        if kind == _VECTOR:
            count = self._uint(target - width, width)
            return self._items(target, count, width, depth + 1)
        return self._typed_items(kind, target, width, depth + 1)

    def _number(self, kind: int, position: int, width: int) -> int | float | bool | None:
        if kind == _NULL:
            return None
        raw = self._bytes(position, width)
        if kind == _BOOL:
            return any(raw)
        if kind != _FLOAT:
            return int.from_bytes(raw, "little", signed=kind == _INT)
        if width not in _FLOATS:
            raise self._error(f"a float of {width} bytes")
        number: float = _FLOATS[width].unpack(raw)[0]
        return number if math.isfinite(number) else None

    def _text(self, start: int, size_bytes: int) -> str:
        # The text is kept: a string that many values refer to is decoded, held and charged once.
        text = self._texts.get((start, size_bytes))
        if text is None:
            raw = self._bytes(start, size_bytes)
            self._charge(size_bytes)
            try:
                text = raw.decode()
            except UnicodeDecodeError as error:
                raise self._error(f"a string is not UTF-8: {error.reason}") from None
            self._texts[start, size_bytes] = text
        return text

    def _key(self, start: int) -> str:
        text = self._keys.get(start)
        if text is None:
            end = self._data.find(b"\0", start) if start >= 0 else -1
            if end < 0:
                raise self._error(f"a key at {start} does not end")
            text = self._keys[start] = self._text(start, end - start)
        return text

    def _items(self, start: int, count: int, width: int, depth: int) -> list[Any]:
        types = self._bytes(start + count * width, count)
        return [self._value(start + row * width, packed, width, depth) for row, packed in enumerate(types)]

    def _typed_items(self, kind: int, start: int, width: int, depth: int) -> list[Any]:
        if _FIRST_FIXED_VECTOR <= kind <= _LAST_FIXED_VECTOR:
            extra, item_kind = divmod(kind - _FIRST_FIXED_VECTOR, 3)
            count, item_kind = extra + 2, item_kind + _INT
        elif _VECTOR_INT <= kind <= _VECTOR_STRING or kind == _VECTOR_BOOL:
            count = self._uint(start - width, width)
            item_kind = _BOOL if kind == _VECTOR_BOOL else kind - _VECTOR_INT + _INT
        else:
            raise self._error("a blob, which no JSON value is" if kind == _BLOB else f"a value of unknown type {kind}")
        self._bytes(start, count * width)
        packed = item_kind << 2 | width.bit_length() - 1
        return [self._value(start + row * width, packed, width, depth) for row in range(count)]

    def _map(self, start: int, width: int, depth: int) -> dict[str, Any]:
        count = self._uint(start - width, width)
        keys_width = self._uint(start - 2 * width, width)
        keys_offset = start - 3 * width
        keys = keys_offset - self._uint(keys_offset, width)
        if keys_width not in (1, 2, 4, 8):
            raise self._error(f"the keys of a map are {keys_width} bytes wide")
        values = self._items(start, count, width, depth)
        self._charge(count)
        names = []
        for row in range(count):
            position = keys + row * keys_width
            names.append(self._key(position - self._uint(position, keys_width)))
        return dict(zip(names, values, strict=True))


class _Slot(NamedTuple):
    """A value on its way into a container: `number` is inline, or the `address` refers to what is written already."""

    kind: int
    width: int
    number: int | float
    address: int

    def fits(self, at: int, width: int) -> bool:
        """Tells whether it can stand at `at`, `width` bytes wide."""
        if self.address >= 0:
            return at - self.address < 1 << 8 * width
        return self.width <= width

    def packed(self, container_width: int) -> int:
        width = self.width if self.address >= 0 else container_width
        return self.kind << 2 | width.bit_length() - 1


class _Writer:
    __slots__ = ("_keys", "_out")

    def __init__(self) -> None:
        self._out = bytearray()
        self._keys: dict[str, int] = {}

    def finish(self, value: Any) -> bytes:
        root = self._add(value, 0)
        width = self._begin([root], prefix=0)
        self._store(root, width)
        self._out += bytes((root.packed(width), width))
        return bytes(self._out)

    def _add(self, value: Any, depth: int) -> _Slot:
        if value is None:
            return _Slot(_NULL, 1, 0, -1)
        if isinstance(value, bool):
            return _Slot(_BOOL, 1, int(value), -1)
        if isinstance(value, int):
            return _Slot(_UINT if value >= 0 else _INT, _int_width(value), value, -1)
        if isinstance(value, float):
            return _Slot(_FLOAT, _float_width(value), value, -1)
        if isinstance(value, str):
            return self._add_string(value)
        if depth == MAX_DEPTH:
            raise InvalidInputError(f"a value nests deeper than {MAX_DEPTH}", kind="serialization")
        if isinstance(value, list):
            items = [self._add(item, depth + 1) for item in value]
            return self._add_vector(_VECTOR, items, prefix=[])
        return self._add_map(value, depth)

    def _add_string(self, text: str) -> _Slot:
        raw = text.encode()
        width = _int_width(len(raw))
        self._align(width)
        self._out += len(raw).to_bytes(width, "little")
        address = len(self._out)
        self._out += raw + b"\0"
        return _Slot(_STRING, width, 0, address)

    def _add_key(self, key: str) -> _Slot:
        if "\0" in key:
            raise InvalidInputError(f"the key {key!r} contains a NUL", kind="serialization", key=key)
        if key not in self._keys:
            self._keys[key] = len(self._out)
            self._out += key.encode() + b"\0"
        return _Slot(_KEY, 1, 0, self._keys[key])

    def _add_map(self, value: dict[str, Any], depth: int) -> _Slot:
        # Readers search by the keys' bytes; so does sorting text by code point.
        names = sorted(value)
        keys = [self._add_key(key) for key in names]
        values = [self._add(value[key], depth + 1) for key in names]
        table = self._add_vector(_VECTOR_INT, keys, prefix=[], is_typed=True)
        link = _Slot(_KEY, 1, 0, table.address)
        return self._add_vector(_MAP, values, prefix=[link, _Slot(_UINT, 1, table.width, -1)])

    def _add_vector(self, kind: int, items: list[_Slot], *, prefix: list[_Slot], is_typed: bool = False) -> _Slot:
        count = _Slot(_UINT, _int_width(len(items)), len(items), -1)
        slots = [*prefix, count, *items]
        width = self._begin(slots, prefix=len(prefix) + 1)
        for slot in slots[: len(prefix) + 1]:
            self._store(slot, width)
        address = len(self._out)
        for slot in items:
            self._store(slot, width)
        if not is_typed:
            self._out += bytes(slot.packed(width) for slot in items)
        return _Slot(kind, width, 0, address)

    def _begin(self, slots: list[_Slot], *, prefix: int) -> int:
        """Aligns the end for a vector of `slots`, and returns the smallest width in which all of them fit."""
        for width in (1, 2, 4, 8):
            start = -(-len(self._out) // width) * width
            if all(slot.fits(start + row * width, width) for row, slot in enumerate(slots)):
                self._align(width)
                return width
        raise InvalidInputError("a value is too large for FlexBuffers", kind="serialization")

    def _align(self, width: int) -> None:
        self._out += bytes(-len(self._out) % width)

    def _store(self, slot: _Slot, width: int) -> None:
        if slot.address >= 0:
            self._out += (len(self._out) - slot.address).to_bytes(width, "little")
        elif slot.kind == _FLOAT:
            self._out += _FLOATS[width].pack(slot.number)
        else:
            self._out += int(slot.number).to_bytes(width, "little", signed=slot.kind == _INT)


def _int_width(value: int) -> int:
    bits = value.bit_length() if value >= 0 else (~value).bit_length() + 1
    for width in (1, 2, 4, 8):
        if bits <= 8 * width:
            return width
    raise InvalidInputError(f"{value} does not fit 64 bits", kind="serialization")


def _float_width(value: float) -> int:
    try:
        return 4 if _FLOATS[4].unpack(_FLOATS[4].pack(value))[0] == value else 8
    except OverflowError:
        return 8

"""A bounded FlatBuffers reader: one table at a time, or one field of a million tables at once.

    root       u32 at 0: position of the root table (an identifier may follow at 4; it is not looked at)
    table      i32: table position - vtable position; then the inline fields
    vtable     u16: its size in bytes; u16: the table's inline size; then one u16 per slot: field position - table
               position, 0 where the field is absent. A slot beyond the vtable is absent too.
    offset     u32, forward, relative to where it stands: to a table, a vector or a string
    vector     u32 count, then the items; a string is a vector of bytes (with a NUL behind it, which is not needed here)

Nothing of a buffer is trusted: every position is compared with the buffer's size before it is read, and what fails
is a `FormatError`. Offsets may overlap or point anywhere inside the buffer, so that a small file could describe
endless work; the readers above follow a fixed schema, which bounds the depth, and `FlatBuffer.charge` bounds the
amount: what one pass copies out of a buffer, and the entries of the table vectors it walks, stay in proportion to
the size of the buffer. Alignment is not required.

Divergence 3: the official reader refuses misaligned fields; reading them does no harm.

Source: https://flatbuffers.dev/internals/; format notes §7.3.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from icefs.errors import FormatError

type Int64Array = npt.NDArray[np.int64]
type BoolArray = npt.NDArray[np.bool_]
type ByteArray = npt.NDArray[np.uint8]

_U16 = struct.Struct("<H")
_I32 = struct.Struct("<i")
_U32 = struct.Struct("<I")
_I64 = struct.Struct("<q")
_U64 = struct.Struct("<Q")

# A file that shares nothing needs one entry of four bytes and one table of four bytes or more for each table, and
# holds each payload once: a factor of two leaves room for writers that share strings.
_CHARGE_FACTOR = 2
_CHARGE_SLACK = 4096


class Vectors(NamedTuple):
    """The vectors (or strings) that one field of many tables refers to.

    Attributes:
        starts: Position of the first item, 0 where the field is absent.
        counts: Number of items, 0 where the field is absent.
        present: Whether the table has the field.
    """

    starts: Int64Array
    counts: Int64Array
    present: BoolArray

    def select(self, rows: BoolArray | Int64Array) -> "Vectors":
        """Returns those of some tables, chosen by mask or by row numbers."""
        return Vectors(self.starts[rows], self.counts[rows], self.present[rows])

    def otherwise(self, other: "Vectors") -> "Vectors":
        """Returns these where they are present, else the other ones."""
        mine = self.present
        return Vectors(
            np.where(mine, self.starts, other.starts),
            np.where(mine, self.counts, other.counts),
            mine | other.present,
        )


class FlatBuffer:
    """The bytes of one file, its name for errors, and the number of bytes that a pass over it may still copy.

    Make a new one for each pass (they are cheap): the allowance of `charge` is never given back.
    """

    __slots__ = ("_allowance", "data", "name", "size")

    def __init__(self, data: bytes, *, name: str) -> None:
        self.data = data
        self.name = name
        self.size = len(data)
        self._allowance = _CHARGE_FACTOR * self.size + _CHARGE_SLACK

    def error(self, reason: str) -> FormatError:
        """Builds the error for this file; the caller raises it."""
        return FormatError(f"{self.name} is malformed: {reason}", file=self.name, reason=reason)

    def charge(self, size_bytes: int) -> None:
        """Takes `size_bytes` of the pass's allowance, before they are copied or walked.

        Raises:
            FormatError: the buffer describes more content than it can hold.
        """
        self._allowance -= size_bytes
        if self._allowance < 0:
            raise self.error("its parts overlap: it describes more content than it holds")

    def require[T](self, value: T | None, field: str) -> T:
        """Returns `value`.

        Raises:
            FormatError: `value` is None: the required field `field` is absent.
        """
        if value is None:
            raise self.error(f"the required field {field} is missing")
        return value

    def root(self) -> "Table":
        """Returns the root table."""
        if self.size < 8:
            raise self.error(f"{self.size} bytes are too few for a flatbuffer")
        return Table(self, _U32.unpack_from(self.data)[0])

    def check(self, position: int, size_bytes: int, what: str) -> None:
        """Checks that `size_bytes` at `position` lie inside the buffer."""
        if position < 0 or position + size_bytes > self.size:
            raise self.error(f"{what} at {position} ({size_bytes} bytes) lies outside its {self.size} bytes")

    def check_all(self, positions: Int64Array, size_bytes: int | Int64Array, what: str) -> None:
        """Checks that `size_bytes` at each of `positions` lie inside the buffer."""
        if not len(positions):
            return
        ends = positions + size_bytes
        if int(positions.min()) < 0 or int(ends.max()) > self.size:
            wrong = int(np.flatnonzero((positions < 0) | (ends > self.size))[0])
            raise self.error(f"{what} number {wrong} lies outside its {self.size} bytes")

    def rows(self, positions: Int64Array, size_bytes: int, what: str = "an item") -> ByteArray:
        """Copies `size_bytes` from each of `positions`, as `uint8[n, size_bytes]`; checked, not charged."""
        self.check_all(positions, size_bytes, what)
        if not len(positions) or not size_bytes:
            return np.zeros((len(positions), size_bytes), np.uint8)
        # One opaque item starts at every byte: taking them is a memcpy each, whatever the alignment (4 ms a million).
        items = np.ndarray((self.size - size_bytes + 1,), f"V{size_bytes}", self.data, strides=(1,))
        return items[positions].view(np.uint8).reshape(len(positions), size_bytes)

    def scalars(self, positions: Int64Array, dtype: npt.DTypeLike, what: str = "a field") -> npt.NDArray[np.generic]:
        """Reads one scalar of the little-endian `dtype` at each of `positions`; checked, not charged."""
        kind = np.dtype(dtype)
        return self.rows(positions, kind.itemsize, what).view(kind).reshape(len(positions))

    def follow(self, positions: Int64Array, what: str) -> Int64Array:
        """Follows the offset that stands at each of `positions`; the targets are not checked yet."""
        return positions + self.scalars(positions, "<u4", what).astype(np.int64)

    def vectors_at(self, positions: Int64Array, item_size: int, what: str) -> tuple[Int64Array, Int64Array]:
        """Reads the vectors that start (with their count) at `positions`: first items and counts, all in bounds."""
        counts = self.scalars(positions, "<u4", what).astype(np.int64)
        starts = positions + 4
        self.check_all(starts, counts * item_size, what)
        return starts, counts

    def text(self, start: int, size_bytes: int, what: str) -> str:
        """Decodes UTF-8, strictly."""
        self.check(start, size_bytes, what)
        try:
            return self.data[start : start + size_bytes].decode()
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {error.reason}") from None

    def texts(self, vectors: Vectors, what: str) -> list[str | None]:
        """Decodes the strings of one field, None where it is absent; charged."""
        self.charge(int(vectors.counts.sum()))
        found = zip(vectors.starts.tolist(), vectors.counts.tolist(), vectors.present.tolist(), strict=True)
        return [self.text(start, count, what) if present else None for start, count, present in found]


class Table:
    """One table; fields are looked up by slot (their number in the schema, counting from 0)."""

    __slots__ = ("_slots_end", "_vtable", "buffer", "position")

    def __init__(self, buffer: FlatBuffer, position: int) -> None:
        buffer.check(position, 4, "a table")
        vtable = position - _I32.unpack_from(buffer.data, position)[0]
        buffer.check(vtable, 4, "a vtable")
        size_bytes = _U16.unpack_from(buffer.data, vtable)[0]
        if size_bytes < 4:
            raise buffer.error(f"a vtable of {size_bytes} bytes")
        buffer.check(vtable, size_bytes, "a vtable")
        self.buffer = buffer
        self.position = position
        self._vtable = vtable
        self._slots_end = vtable + size_bytes

    def field(self, slot: int) -> int:
        """Returns the position of a field, unchecked, or 0 where it is absent."""
        entry = self._vtable + 4 + 2 * slot
        if entry + 2 > self._slots_end:
            return 0
        offset: int = _U16.unpack_from(self.buffer.data, entry)[0]
        return self.position + offset if offset else 0

    def has(self, slot: int) -> bool:
        """Tells whether the field is present."""
        return self.field(slot) != 0

    def _scalar(self, slot: int, kind: struct.Struct, default: int) -> int:
        position = self.field(slot)
        if not position:
            return default
        self.buffer.check(position, kind.size, "a field")
        value: int = kind.unpack_from(self.buffer.data, position)[0]
        return value

    def u8(self, slot: int, default: int = 0) -> int:
        """Reads a byte (also a bool, an enum of bytes or a union's type)."""
        position = self.field(slot)
        if not position:
            return default
        self.buffer.check(position, 1, "a field")
        return self.buffer.data[position]

    def u16(self, slot: int, default: int = 0) -> int:
        """Reads an unsigned 16-bit field."""
        return self._scalar(slot, _U16, default)

    def u32(self, slot: int, default: int = 0) -> int:
        """Reads an unsigned 32-bit field."""
        return self._scalar(slot, _U32, default)

    def i32(self, slot: int, default: int = 0) -> int:
        """Reads a signed 32-bit field."""
        return self._scalar(slot, _I32, default)

    def u64(self, slot: int, default: int = 0) -> int:
        """Reads an unsigned 64-bit field."""
        return self._scalar(slot, _U64, default)

    def i64(self, slot: int, default: int = 0) -> int:
        """Reads a signed 64-bit field."""
        return self._scalar(slot, _I64, default)

    def struct(self, slot: int, size_bytes: int) -> bytes | None:
        """Reads the bytes of an inline struct."""
        position = self.field(slot)
        if not position:
            return None
        self.buffer.check(position, size_bytes, "a struct")
        return self.buffer.data[position : position + size_bytes]

    def _target(self, slot: int) -> int:
        position = self.field(slot)
        if not position:
            return 0
        self.buffer.check(position, 4, "an offset")
        target: int = position + _U32.unpack_from(self.buffer.data, position)[0]
        return target

    def vector(self, slot: int, item_size: int) -> tuple[int, int] | None:
        """Locates a vector: position of its first item and number of items, all of them in bounds."""
        target = self._target(slot)
        if not target:
            return None
        self.buffer.check(target, 4, "a vector")
        count: int = _U32.unpack_from(self.buffer.data, target)[0]
        self.buffer.check(target + 4, count * item_size, "a vector")
        return target + 4, count

    def string(self, slot: int) -> str | None:
        """Reads a string; it must be UTF-8."""
        found = self.vector(slot, 1)
        return None if found is None else self.buffer.text(*found, "a string")

    def byte_vector(self, slot: int) -> memoryview | None:
        """Returns a vector of bytes, as a view into the buffer."""
        found = self.vector(slot, 1)
        return None if found is None else memoryview(self.buffer.data)[found[0] : found[0] + found[1]]

    def scalar_vector(self, slot: int, dtype: npt.DTypeLike) -> npt.NDArray[np.generic] | None:
        """Returns a vector of scalars of the little-endian `dtype`, as a read-only view into the buffer."""
        kind = np.dtype(dtype)
        found = self.vector(slot, kind.itemsize)
        return None if found is None else np.frombuffer(self.buffer.data, kind, found[1], found[0])

    def struct_vector(self, slot: int, size_bytes: int) -> ByteArray | None:
        """Returns a vector of structs, as a read-only view `uint8[n, size_bytes]` into the buffer."""
        found = self.vector(slot, size_bytes)
        if found is None:
            return None
        return np.frombuffer(self.buffer.data, np.uint8, found[1] * size_bytes, found[0]).reshape(found[1], size_bytes)

    def string_vector(self, slot: int) -> list[str] | None:
        """Reads a vector of strings; charged."""
        found = self.vector(slot, 4)
        if found is None:
            return None
        buffer = self.buffer
        buffer.charge(4 * found[1])
        targets = buffer.follow(found[0] + 4 * np.arange(found[1], dtype=np.int64), "a string")
        starts, counts = buffer.vectors_at(targets, 1, "a string")
        buffer.charge(int(counts.sum()))
        pairs = zip(starts.tolist(), counts.tolist(), strict=True)
        return [buffer.text(start, count, "a string") for start, count in pairs]

    def table(self, slot: int) -> "Table | None":
        """Returns the table that the field refers to."""
        target = self._target(slot)
        return Table(self.buffer, target) if target else None

    def tables(self, slot: int) -> "TableArray | None":
        """Returns the tables of a vector of tables; charged with four bytes each."""
        found = self.vector(slot, 4)
        return None if found is None else TableArray.at(self.buffer, *found)

    def union(self, type_slot: int, slot: int) -> "tuple[int, Table | None]":
        """Returns a union's type code and its table; (0, None) where it is not set."""
        code = self.u8(type_slot)
        return (code, self.table(slot)) if code else (0, None)


class TableArray(Sequence[Table]):
    """The tables of a vector (each may have a vtable of its own): columns of their fields, or single `Table`s."""

    __slots__ = ("_vtable_sizes", "_vtables", "buffer", "positions")

    def __init__(self, buffer: FlatBuffer, positions: Int64Array) -> None:
        """Takes the tables' positions, of any origin, and checks them and their vtables."""
        self.buffer = buffer
        self.positions = positions
        self._vtables = positions - buffer.scalars(positions, "<i4", "a table").astype(np.int64)
        self._vtable_sizes = buffer.scalars(self._vtables, "<u2", "a vtable").astype(np.int64)
        if len(positions) and int(self._vtable_sizes.min()) < 4:
            raise buffer.error("a vtable of less than 4 bytes")
        buffer.check_all(self._vtables, self._vtable_sizes, "a vtable")

    @classmethod
    def at(cls, buffer: FlatBuffer, start: int, count: int) -> Self:
        """Reads the vector of `count` table offsets at `start` (bounds checked already); charged."""
        buffer.charge(4 * count)
        entries = start + 4 * np.arange(count, dtype=np.int64)
        return cls(buffer, buffer.follow(entries, "a table"))

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: int) -> Table:  # type: ignore[override]
        return Table(self.buffer, int(self.positions[index]))

    def select(self, rows: BoolArray | Int64Array) -> "TableArray":
        """Returns some of the tables, chosen by mask or by row numbers."""
        chosen = object.__new__(TableArray)
        chosen.buffer = self.buffer
        chosen.positions = self.positions[rows]
        chosen._vtables = self._vtables[rows]
        chosen._vtable_sizes = self._vtable_sizes[rows]
        return chosen

    def fields(self, slot: int) -> tuple[Int64Array, BoolArray]:
        """Returns the positions (unchecked) of one field in all tables, and where it is present."""
        entry = 4 + 2 * slot
        has_slot = self._vtable_sizes >= entry + 2
        if has_slot.all():
            offsets = self.buffer.scalars(self._vtables + entry, "<u2").astype(np.int64)
        else:
            offsets = np.zeros(len(self), np.int64)
            offsets[has_slot] = self.buffer.scalars(self._vtables[has_slot] + entry, "<u2")
        return self.positions + offsets, offsets != 0

    def column(self, slot: int, dtype: npt.DTypeLike, default: int = 0) -> npt.NDArray[np.generic]:
        """Reads a scalar field of all tables (little-endian `dtype`), `default` where it is absent."""
        positions, present = self.fields(slot)
        if present.all():
            return self.buffer.scalars(positions, dtype)
        values = np.full(len(self), default, dtype)
        if present.any():
            values[present] = self.buffer.scalars(positions[present], dtype)
        return values

    def structs(self, slot: int, size_bytes: int) -> tuple[ByteArray, BoolArray]:
        """Reads an inline struct of all tables: `uint8[n, size_bytes]`, zeros where absent, and where it is present."""
        positions, present = self.fields(slot)
        if present.all():
            return self.buffer.rows(positions, size_bytes, "a struct"), present
        values = np.zeros((len(self), size_bytes), np.uint8)
        if present.any():
            values[present] = self.buffer.rows(positions[present], size_bytes, "a struct")
        return values, present

    def vectors(self, slot: int, item_size: int) -> Vectors:
        """Locates the vector (or string, with item size 1) that a field of all tables refers to; not charged."""
        positions, present = self.fields(slot)
        if present.all():
            starts, counts = self._vectors_at(positions, item_size)
            return Vectors(starts, counts, present)
        starts, counts = np.zeros(len(self), np.int64), np.zeros(len(self), np.int64)
        if present.any():
            starts[present], counts[present] = self._vectors_at(positions[present], item_size)
        return Vectors(starts, counts, present)

    def nested(self, slot: int) -> "tuple[TableArray, Int64Array]":
        """Returns the tables of a required vector of tables in all tables, end to end; charged with four bytes each.

        Returns:
            The nested tables, and bounds: those of table i are `bounds[i]` to `bounds[i + 1]`.
        """
        starts, counts, present = self.vectors(slot, 4)
        if not present.all():
            raise self.buffer.error(f"a table lacks its required field {slot}")
        bounds = np.zeros(len(self) + 1, np.int64)
        np.cumsum(counts, out=bounds[1:])
        total = int(bounds[-1])
        self.buffer.charge(4 * total)
        entries = np.repeat(starts - 4 * bounds[:-1], counts) + 4 * np.arange(total, dtype=np.int64)
        return TableArray(self.buffer, self.buffer.follow(entries, "a table")), bounds

    def _vectors_at(self, positions: Int64Array, item_size: int) -> tuple[Int64Array, Int64Array]:
        return self.buffer.vectors_at(self.buffer.follow(positions, "an offset"), item_size, "a vector")

    def strings(self, slot: int, what: str = "a string") -> list[str | None]:
        """Decodes a string field of all tables, None where it is absent; charged."""
        return self.buffer.texts(self.vectors(slot, 1), what)

"""The bounded FlatBuffers reader, against what the flatbuffers runtime builds and against what is out of bounds."""

import flatbuffers
import numpy as np
import pytest

from icefs.errors import FormatError
from icefs.format.flat.reader import FlatBuffer, Table, TableArray

NAME = "some/file"


def string_offsets(builder: flatbuffers.Builder, texts: list[str]) -> int:
    offsets = [builder.CreateString(text) for text in texts]
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def add_inner(builder: flatbuffers.Builder, number: int) -> int:
    """A table with slots 0 u8, 1 u32, 2 u64, 3 string, 4 struct of 4 bytes; which ones depends on the number."""
    text = builder.CreateString(f"täxt {number}") if number % 2 else None
    builder.StartObject(8 if number == 3 else 5)
    builder.PrependUint8Slot(0, number, 0)
    if number > 1:
        builder.PrependUint32Slot(1, 10 * number, 0)
    builder.PrependUint64Slot(2, 2**63 + number, 7)
    if text is not None:
        builder.PrependUOffsetTRelativeSlot(3, text, 0)
    if number != 2:
        builder.Prep(1, 4)
        for byte in (4, 3, 2, number):
            builder.PrependUint8(byte)
        builder.PrependStructSlot(4, builder.Offset(), 0)
    if number == 3:
        builder.PrependInt32Slot(7, -5, 0)
    return builder.EndObject()


def build() -> bytes:
    builder = flatbuffers.Builder(64)
    names = string_offsets(builder, ["a", "", "ü"])
    numbers = builder.CreateNumpyVector(np.array([1, 2, 2**32 - 1], np.uint32))
    builder.StartVector(4, 2, 1)
    for byte in reversed(range(8)):
        builder.PrependUint8(byte)
    structs = builder.EndVector()
    inner = [add_inner(builder, number) for number in range(4)]
    builder.StartVector(4, 4, 4)
    for offset in reversed(inner):
        builder.PrependUOffsetTRelative(offset)
    tables = builder.EndVector()
    text = builder.CreateString("härz")
    builder.StartObject(16)
    builder.PrependUOffsetTRelativeSlot(0, text, 0)
    builder.PrependUOffsetTRelativeSlot(1, names, 0)
    builder.PrependUOffsetTRelativeSlot(2, numbers, 0)
    builder.PrependUOffsetTRelativeSlot(3, structs, 0)
    builder.PrependUOffsetTRelativeSlot(4, tables, 0)
    builder.PrependUOffsetTRelativeSlot(5, inner[3], 0)
    builder.PrependUint8Slot(6, 2, 0)
    builder.PrependUOffsetTRelativeSlot(7, inner[1], 0)
    builder.PrependUint16Slot(8, 65_000, 0)
    builder.PrependInt32Slot(9, -7, 0)
    builder.PrependInt64Slot(10, -(2**40), 0)
    builder.PrependUint64Slot(11, 2**64 - 1, 0)
    builder.Finish(builder.EndObject(), file_identifier=b"Ichk")
    return bytes(builder.Output())


@pytest.fixture(name="root")
def root_fixture() -> Table:
    return FlatBuffer(build(), name=NAME).root()


def test_scalars_and_their_defaults(root: Table) -> None:
    assert (root.u8(6), root.u16(8), root.i32(9), root.i64(10), root.u64(11)) == (2, 65_000, -7, -(2**40), 2**64 - 1)
    assert (root.u8(12, 9), root.u16(13, 8), root.u32(14, 7), root.i32(15, -6)) == (9, 8, 7, -6)
    assert (root.u64(99, 5), root.i64(99), root.has(99), root.has(6)) == (5, 0, False, True)


def test_vectors_and_strings(root: Table) -> None:
    assert root.string(0) == "härz"
    assert root.string_vector(1) == ["a", "", "ü"]
    numbers = root.scalar_vector(2, "<u4")
    assert numbers is not None
    assert numbers.tolist() == [1, 2, 2**32 - 1]
    structs = root.struct_vector(3, 4)
    assert structs is not None
    assert structs.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert root.byte_vector(3) == bytes((0, 1))
    assert root.string(14) is None
    assert root.byte_vector(14) is None
    assert root.scalar_vector(14, "<u4") is None
    assert root.string_vector(14) is None
    assert root.tables(14) is None
    assert root.table(14) is None
    assert root.struct(14, 4) is None


def test_tables_and_unions(root: Table) -> None:
    inner = root.table(5)
    assert inner is not None
    assert (inner.u8(0), inner.u32(1), inner.string(3), inner.i32(7)) == (3, 30, "täxt 3", -5)
    assert inner.struct(4, 4) == bytes((3, 2, 3, 4))
    code, chosen = root.union(6, 7)
    assert code == 2
    assert chosen is not None
    assert chosen.string(3) == "täxt 1"
    assert root.union(14, 15) == (0, None)


def test_columns_say_what_single_tables_say(root: Table) -> None:
    """Each of the four tables has another vtable."""
    tables = root.tables(4)
    assert tables is not None
    assert len(tables) == 4
    assert tables.column(0, "u1").tolist() == [table.u8(0) for table in tables]
    assert tables.column(1, "<u4", 5).tolist() == [table.u32(1, 5) for table in tables] == [5, 5, 20, 30]
    assert tables.column(2, "<u8", 7).tolist() == [table.u64(2, 7) for table in tables]
    assert tables.column(7, "<i4").tolist() == [0, 0, 0, -5]
    assert tables.column(50, "<i4", -1).tolist() == [-1] * 4
    assert tables.strings(3) == [table.string(3) for table in tables] == [None, "täxt 1", None, "täxt 3"]
    rows, present = tables.structs(4, 4)
    assert present.tolist() == [True, True, False, True]
    assert rows.tolist() == [[0, 2, 3, 4], [1, 2, 3, 4], [0] * 4, [3, 2, 3, 4]]
    vectors = tables.vectors(3, 1)
    assert vectors.counts.tolist() == [0, 7, 0, 7]
    chosen = tables.select(np.array([3, 1]))
    assert chosen.strings(3) == ["täxt 3", "täxt 1"]
    assert chosen[0].u8(0) == 3
    assert tables.vectors(50, 1).otherwise(vectors).counts.tolist() == [0, 7, 0, 7]


def test_nested_vectors_of_tables() -> None:
    builder = flatbuffers.Builder(64)
    outer = []
    for size in (2, 0, 3):
        inner = [add_inner(builder, size) for _ in range(size)]
        builder.StartVector(4, size, 4)
        for offset in inner:
            builder.PrependUOffsetTRelative(offset)
        vector = builder.EndVector()
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, vector, 0)
        outer.append(builder.EndObject())
    builder.StartVector(4, 3, 4)
    for offset in reversed(outer):
        builder.PrependUOffsetTRelative(offset)
    vector = builder.EndVector()
    builder.StartObject(1)
    builder.PrependUOffsetTRelativeSlot(0, vector, 0)
    builder.Finish(builder.EndObject())
    tables = FlatBuffer(bytes(builder.Output()), name=NAME).root().tables(0)
    assert tables is not None
    nested, bounds = tables.nested(0)
    assert bounds.tolist() == [0, 2, 2, 5]
    assert nested.column(0, "u1").tolist() == [2, 2, 3, 3, 3]
    with pytest.raises(FormatError, match="required field 1"):
        tables.nested(1)


def test_an_empty_vector_of_tables() -> None:
    buffer = FlatBuffer(bytes(64), name=NAME)
    tables = TableArray(buffer, np.zeros(0, np.int64))
    assert tables.column(0, "<u8").tolist() == []
    assert tables.strings(0) == []
    assert tables.structs(0, 12)[0].shape == (0, 12)


def put(data: bytes, position: int, value: int, size: int = 4) -> FlatBuffer:
    changed = data[:position] + value.to_bytes(size, "little") + data[position + size :]
    return FlatBuffer(changed, name=NAME)


@pytest.mark.parametrize("value", [0xFFFFFFFF, 0x7FFFFFFF, 10_000])
def test_what_lies_outside_is_refused(value: int) -> None:
    data = build()
    root = FlatBuffer(data, name=NAME).root()
    with pytest.raises(FormatError, match="lies outside"):
        put(data, 0, value).root()
    with pytest.raises(FormatError, match="lies outside"):
        put(data, root.position, value & 0x7FFFFFFF).root()
    for slot, read in (
        (0, lambda table: table.string(0)),
        (1, lambda table: table.string_vector(1)),
        (2, lambda table: table.scalar_vector(2, "<u4")),
        (3, lambda table: table.byte_vector(3)),
        (3, lambda table: table.struct_vector(3, 4)),
        (4, lambda table: table.tables(4)),
        (5, lambda table: table.table(5)),
    ):
        field = root.field(slot)
        with pytest.raises(FormatError, match="lies outside"):
            read(put(data, field, value).root())
        target = field + int.from_bytes(data[field : field + 4], "little")
        if slot != 5:
            with pytest.raises(FormatError, match="lies outside"):
                read(put(data, target, value).root())


def test_a_field_beyond_the_end() -> None:
    """A table may stand so near to the end that its fields do not fit."""
    data = bytes((16, 0, 0, 0)) + bytes(4) + bytes((8, 0, 12, 0, 4, 0, 8, 0)) + bytes((8, 0, 0, 0))
    buffer = FlatBuffer(data, name=NAME)
    root = buffer.root()
    for read in (root.u8, root.u16, root.u32, root.u64, root.i32, root.i64, root.string, root.table):
        with pytest.raises(FormatError, match="lies outside"):
            read(0)
    with pytest.raises(FormatError, match="lies outside"):
        root.struct(1, 12)
    tables = TableArray(buffer, np.array([16]))
    for read_all in (
        lambda: tables.column(0, "<u4"),
        lambda: tables.structs(1, 12),
        lambda: tables.vectors(0, 1),
        lambda: tables.nested(0),
    ):
        with pytest.raises(FormatError, match="lies outside"):
            read_all()


def test_bad_vtables() -> None:
    data = build()
    root = FlatBuffer(data, name=NAME).root()
    vtable = root.position - int.from_bytes(data[root.position : root.position + 4], "little", signed=True)
    for size, reason in ((0, "a vtable of"), (3, "a vtable of"), (0xFFFF, "lies outside")):
        with pytest.raises(FormatError, match=reason):
            put(data, vtable, size, 2).root()
        with pytest.raises(FormatError, match="a vtable"):
            TableArray(put(data, vtable, size, 2), np.array([root.position]))


def test_strings_must_be_utf8() -> None:
    data = build()
    at = data.index("härz".encode()) + 1
    root = put(data, at, 0xFF, 1).root()
    with pytest.raises(FormatError, match="not UTF-8") as caught:
        root.string(0)
    assert caught.value.facts["file"] == NAME
    at = data.index("täxt 3".encode()) + 1
    tables = put(data, at, 0xFF, 1).root().tables(4)
    assert tables is not None
    with pytest.raises(FormatError, match="not UTF-8"):
        tables.strings(3)


def test_a_pass_copies_no_more_than_it_may() -> None:
    buffer = FlatBuffer(bytes(100), name=NAME)
    buffer.charge(200)
    buffer.charge(4096)
    with pytest.raises(FormatError, match="overlap"):
        buffer.charge(1)


def test_required_fields_and_short_buffers() -> None:
    buffer = FlatBuffer(bytes(7), name=NAME)
    with pytest.raises(FormatError, match="too few"):
        buffer.root()
    assert buffer.require(0, "x") == 0
    with pytest.raises(FormatError, match="required field x is missing"):
        buffer.require(None, "x")

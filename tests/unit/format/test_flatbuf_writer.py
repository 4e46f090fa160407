"""The FlatBuffers builder, read back by icefs's reader and by the `flatbuffers` package, alignment included."""

import flatbuffers.table
import numpy as np
import pytest

from icefs.errors import InvalidInputError
from icefs.format.flat.reader import FlatBuffer, Table
from icefs.format.flat.writer import OFFSET, FlatBuilder, encode_text, field_offset

CODES = ("B", "H", "i", "Q", "12s", OFFSET, OFFSET)


def read(builder: FlatBuilder, root: int) -> tuple[Table, flatbuffers.table.Table]:
    data = builder.finish(root)
    assert len(data) % 8 == 0
    assert data[4:8] == b"Ichk"
    start = int.from_bytes(data[:4], "little")
    return FlatBuffer(data, name="x").root(), flatbuffers.table.Table(bytearray(data), start)


def test_every_kind_of_field_in_every_combination() -> None:
    values = (200, 60_000, -5, 2**63 + 1, b"abcdefghijkl")
    for mask in range(128):
        builder = FlatBuilder()
        text, items = builder.string("Zürich"), builder.vector(b"\x01\x00\x02\x00", 2, alignment=2)
        wanted = [value if mask >> slot & 1 else None for slot, value in enumerate((*values, text, items))]
        found, other = read(builder, builder.table(CODES, wanted))
        assert [found.has(slot) for slot in range(7)] == [value is not None for value in wanted]
        for slot, size in ((1, 2), (2, 4), (3, 8)):
            at = other.Offset(4 + 2 * slot)
            assert not at or (other.Pos + at) % size == 0
        assert found.u8(0) == (wanted[0] or 0)
        assert found.u16(1) == (wanted[1] or 0)
        assert found.i32(2) == (wanted[2] or 0)
        assert found.u64(3) == (wanted[3] or 0)
        assert found.struct(4, 12) == wanted[4]
        assert found.string(5) == ("Zürich" if wanted[5] else None)
        vector = found.scalar_vector(6, "<u2")
        assert vector is None if wanted[6] is None else vector is not None and vector.tolist() == [1, 2]
        if wanted[5]:
            assert other.String(other.Pos + other.Offset(14)) == "Zürich".encode()


def test_defaults_are_written() -> None:
    builder = FlatBuilder()
    found, _ = read(builder, builder.table(("B", "Q"), (0, 0)))
    assert found.has(0)
    assert found.has(1)


def test_strings_end_in_nul() -> None:
    builder = FlatBuilder()
    data = builder.finish(builder.table((OFFSET,), (builder.string("abc"),)))
    assert b"\x03\0\0\0abc\0" in data


def test_equal_tables_share_their_vtable_and_shared_strings_their_text() -> None:
    builder = FlatBuilder()
    tables = [builder.table(("I", OFFSET), (number, builder.shared_string("text"))) for number in range(50)]
    found, _ = read(builder, builder.table((OFFSET,), (builder.offsets(tables),)))
    listed = found.tables(0)
    assert listed is not None
    assert listed.column(0, "<u4").tolist() == list(range(50))
    assert set(listed.strings(1)) == {"text"}
    assert found.buffer.data.count(b"text") == 1
    assert len(found.buffer.data) < 50 * 12 + 4 * 50 + 100


@pytest.mark.parametrize("alignment", [1, 2, 4, 8])
@pytest.mark.parametrize("before", range(5))
def test_vectors_are_aligned(alignment: int, before: int) -> None:
    builder = FlatBuilder()
    builder.byte_vector(b"x" * before)
    vector = builder.vector(b"y" * 24, 24 // alignment, alignment=alignment)
    found, other = read(builder, builder.table((OFFSET,), (vector,)))
    assert found.vector(0, alignment) == (other.Vector(other.Offset(4)), 24 // alignment)
    assert other.Vector(other.Offset(4)) % alignment == 0


@pytest.mark.parametrize("count", [0, 1, 32, 33, 100])
def test_references(count: int) -> None:
    builder = FlatBuilder()
    refs = [builder.string(str(number)) for number in range(count)]
    as_list, as_array = builder.offsets(refs), builder.offsets(np.array(refs, np.int64))
    found, _ = read(builder, builder.table((OFFSET, OFFSET), (as_list, as_array)))
    assert found.string_vector(0) == found.string_vector(1) == [str(number) for number in range(count)]


def test_detached_buffers_are_spliced() -> None:
    """Each is whole in itself; a number in each is found where `field_offset` says."""
    codes = ("Q", "i", OFFSET, OFFSET)
    at = field_offset(codes, (True,) * 4, 1)
    assert at == field_offset(codes, (True, True, True, False), 1)
    parts, roots = [], []
    for number in range(40):
        inner = FlatBuilder()
        extra = inner.string("extra") if number % 2 else None
        roots.append(inner.table(codes, (number, -1, inner.string("x" * number), extra)))
        parts.append(inner.detach())
    assert all(len(part) % 8 == 0 for part in parts)
    joined = bytearray(b"".join(parts))
    end = 0
    for number, (part, root) in enumerate(zip(parts, roots, strict=True)):
        end += len(part)
        joined[end - root + at : end - root + at + 4] = number.to_bytes(4, "little")
    builder = FlatBuilder()
    builder.byte_vector(b"odd")
    refs = builder.splice(bytes(joined), np.array([len(part) for part in parts]), np.array(roots))
    found, _ = read(builder, builder.table((OFFSET,), (builder.offsets(refs),)))
    listed = found.tables(0)
    assert listed is not None
    assert listed.column(0, "<u8").tolist() == listed.column(1, "<i4").tolist() == list(range(40))
    assert listed.strings(2) == ["x" * number for number in range(40)]
    assert listed.strings(3) == [None, "extra"] * 20
    assert all(int(position) % 8 == 4 for position in listed.positions)


def test_nothing_spliced() -> None:
    builder = FlatBuilder()
    refs = builder.splice(b"", np.zeros(0, np.int64), np.zeros(0, np.int64))
    found, _ = read(builder, builder.table((OFFSET,), (builder.offsets(refs),)))
    assert found.string_vector(0) == []


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(InvalidInputError) as caught:
        encode_text("a\udcff")
    assert caught.value.kind == "serialization"


def test_more_than_two_gib_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icefs.format.flat.writer.MAX_BYTES", 1000)
    builder = FlatBuilder()
    builder.string("x" * 900)
    with pytest.raises(InvalidInputError, match="2 GiB"):
        builder.string("x" * 100)

"""Metadata inside snapshots and the repo info: a vector of tables, each with a name and an encoded value.

    MetadataItem      0 name  1 value

Items stay encoded until a caller asks for them: a snapshot's metadata are copied from repo info to repo info at each
commit, and one malformed value is an error for its readers alone.

Source: spec 2.1 "Common Types"; format notes §7.8.
"""

import struct
from collections.abc import Iterable, Mapping
from typing import Any, Final

from icefs.format.flat.reader import FlatBuffer, Table, TableArray
from icefs.format.flat.writer import OFFSET, FlatBuilder
from icefs.format.metadata import decode_value, encode_value

type Items = tuple[tuple[str, bytes], ...]

MAX_TIMESTAMP: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999; Python's datetimes end there."""

_ITEM = (OFFSET, OFFSET)


def short_tables(table: Table, slot: int) -> list[Table] | None:
    """Returns the tables of a short vector; for a handful of them this is five times faster than columns."""
    found = table.vector(slot, 4)
    if found is None:
        return None
    start, count = found
    buffer = table.buffer
    buffer.charge(4 * count)
    offsets = struct.unpack_from(f"<{count}I", buffer.data, start)
    return [Table(buffer, start + 4 * row + offset) for row, offset in enumerate(offsets)]


def checked_timestamp(buffer: FlatBuffer, micros: int) -> int:
    """Returns a time in microseconds since the epoch.

    Raises:
        FormatError: it lies beyond the year 9999.
    """
    if micros > MAX_TIMESTAMP:
        raise buffer.error(f"the time {micros} µs lies beyond the year 9999")
    return micros


def parse_items(buffer: FlatBuffer, tables: TableArray) -> Items:
    """Reads metadata items, their values still encoded."""
    names = tables.strings(0, "the name of a metadata item")
    values = tables.vectors(1, 1)
    if None in names or not values.present.all():
        raise buffer.error("a metadata item lacks its name or value")
    buffer.charge(int(values.counts.sum()))
    spans = zip(names, values.starts.tolist(), values.counts.tolist(), strict=True)
    return tuple((name or "", buffer.data[start : start + count]) for name, start, count in spans)


def read_items(table: Table, slot: int) -> Items | None:
    """Reads the metadata items of one table, their values still encoded; None where the field is absent."""
    tables = short_tables(table, slot)
    if tables is None:
        return None
    buffer = table.buffer
    items = []
    for item in tables:
        name, value = item.vector(0, 1), item.byte_vector(1)
        if name is None or value is None:
            raise buffer.error("a metadata item lacks its name or value")
        buffer.charge(name[1] + len(value))
        items.append((buffer.text(*name, "the name of a metadata item"), bytes(value)))
    return tuple(items)


def decode_items(items: Iterable[tuple[str, bytes]], spec_version: int, name: str) -> dict[str, Any]:
    """Decodes metadata items.

    Raises:
        FormatError: a value is malformed.
    """
    return {key: decode_value(raw, spec_version, name=f"{name} (metadata {key!r})") for key, raw in items}


def encode_items(metadata: Mapping[str, Any], spec_version: int) -> Items:
    """Encodes metadata, sorted by name.

    Raises:
        TypeError: a value is no JSON value.
        InvalidInputError: a value cannot be encoded.
    """
    return tuple((key, encode_value(metadata[key], spec_version)) for key in sorted(metadata))


def add_items(builder: FlatBuilder, items: Iterable[tuple[str, bytes]]) -> int:
    """Adds a vector of metadata items."""
    return builder.offsets(
        [builder.table(_ITEM, (builder.shared_string(key), builder.byte_vector(raw))) for key, raw in items]
    )

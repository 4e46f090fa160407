"""The repo info's list of snapshots, as columns: ids, parents and encoded records, sorted by id.

    SnapshotInfo      0 id  1 parent_offset (row of the parent, negative for none)  2 flushed_at  3 message
                      4 metadata  5 pruned_ancestor_tx_logs (spec 2.1)

A repository may have tens of thousands of snapshots, and its `repo` file is read and written whole at each commit. So
a snapshot becomes an object only when it is asked for. An untouched snapshot goes from the file that was read to
the file that is written as an encoded record without positions in it (`FlatBuilder.detach`), in which only the parent's
row is set again; a table keeps the records that it made, and so do the tables that are derived from it.

Source: spec 2.1 "SnapshotInfo"; format notes §7.4.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from icefs.errors import FormatError, SnapshotNotFoundError
from icefs.format.flat.reader import ByteArray, FlatBuffer, Int64Array, Table, TableArray
from icefs.format.flat.writer import OFFSET, FlatBuilder, encode_text, field_offset
from icefs.format.ids import SnapshotId
from icefs.format.layout import REPO_INFO
from icefs.format.metadata_items import (
    Items,
    add_items,
    checked_timestamp,
    decode_items,
    encode_items,
    parse_items,
    read_items,
)

_RECORD = ("12s", "i", "Q", OFFSET, OFFSET, OFFSET)
_HAS_PRUNED: Final = (True,) * 6
# Where the parent's row stands in a record's table; the same with and without pruned logs, as offsets follow it.
_PARENT_AT: Final = field_offset(_RECORD, _HAS_PRUNED, 1)

type _Record = tuple[bytes, int]
"""A detached buffer, and the distance of its table from its end."""


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """The facts of a snapshot in the repo info.

    Attributes:
        id: Its id.
        parent_id: Its parent's, None for the first snapshot.
        flushed_at: When it was written, in microseconds since the epoch.
        message: The commit message.
        metadata: The commit's metadata: JSON values by name.
        pruned_ancestor_tx_logs: Transaction logs of ancestors that expired, oldest first; what they and the snapshot's
            own log tell is the change from its present parent.
    """

    id: SnapshotId
    parent_id: SnapshotId | None
    flushed_at: int
    message: str
    metadata: Mapping[str, Any]
    pruned_ancestor_tx_logs: tuple[SnapshotId, ...] = ()


class SnapshotTable(Mapping[SnapshotId, SnapshotInfo]):
    """The snapshots of a repository by id, in the order of their ids.

    INVARIANT: ids are sorted and distinct; a parent is another row of the table.

    Concurrency: a value. Records and the index of ids are made when they are first needed; doing so twice at once
    makes the same ones.
    """

    __slots__ = ("_file", "_ids", "_parents", "_positions", "_records", "_rows")

    def __init__(
        self,
        ids: ByteArray,
        parents: Int64Array,
        records: list[_Record | None],
        file: FlatBuffer,
        positions: Int64Array,
    ) -> None:
        """Takes sorted columns; a row without record stands in `file` at its position."""
        self._ids = ids
        self._parents = parents
        self._records = records
        self._file = file
        self._positions = positions
        self._rows: dict[bytes, int] | None = None

    @classmethod
    def from_tables(cls, tables: TableArray) -> tuple["SnapshotTable", Int64Array]:
        """Reads the columns of a file's list, in whatever order it is.

        Returns:
            The table, and the row of each entry of the list.

        Raises:
            FormatError: a required field is missing, two have the same id, or a parent is outside of the list.
        """
        buffer = tables.buffer
        ids, present = tables.structs(0, 12)
        if not present.all() or not tables.vectors(3, 1).present.all():
            raise buffer.error("a snapshot lacks its id or message")
        parents = tables.column(1, "<i4").astype(np.int64)
        count = len(tables)
        if count and int(parents.max()) >= count:
            raise buffer.error(f"a snapshot's parent is number {int(parents.max())} of {count}")
        order = _sorting(ids)
        ids = ids[order]
        if count and (ids[1:] == ids[:-1]).all(axis=1).any():
            raise buffer.error("two snapshots have the same id")
        rank = np.empty(count, np.int64)
        rank[order] = np.arange(count)
        parents = np.where(parents < 0, -1, rank[np.maximum(parents, 0)])[order]
        return cls(ids, parents, [None] * count, buffer, tables.positions[order]), rank

    @classmethod
    def of(cls, infos: Iterable[SnapshotInfo]) -> "SnapshotTable":
        """Makes a table of snapshots.

        Raises:
            FormatError: two have the same id (kind `duplicate-snapshot-id`).
            SnapshotNotFoundError: a parent is missing.
            InvalidInputError: metadata cannot be encoded.
        """
        empty = cls(
            np.zeros((0, 12), np.uint8),
            np.zeros(0, np.int64),
            [],
            FlatBuffer(b"", name=REPO_INFO),
            np.zeros(0, np.int64),
        )
        return empty.rewritten(add=infos)

    def __len__(self) -> int:
        return len(self._ids)

    def __iter__(self) -> Iterator[SnapshotId]:
        return map(SnapshotId, self._index())

    def __contains__(self, snapshot_id: object) -> bool:
        return snapshot_id in self._index()

    def __getitem__(self, snapshot_id: SnapshotId) -> SnapshotInfo:
        return self._info(self._index()[snapshot_id])

    def row(self, snapshot_id: SnapshotId) -> int:
        """Returns a snapshot's row.

        Raises:
            SnapshotNotFoundError: there is none of that id.
        """
        row = self._index().get(snapshot_id)
        if row is None:
            raise SnapshotNotFoundError(f"no snapshot {snapshot_id}", snapshot_id=str(snapshot_id))
        return row

    def id_at(self, row: int) -> SnapshotId:
        """Returns the id of a row."""
        return SnapshotId(self._ids[row].tobytes())

    def parent_of(self, snapshot_id: SnapshotId) -> SnapshotId | None:
        """Returns a snapshot's parent without decoding anything.

        Raises:
            SnapshotNotFoundError: there is none of that id.
        """
        parent = int(self._parents[self.row(snapshot_id)])
        return None if parent < 0 else self.id_at(parent)

    def ancestry_rows(self, snapshot_id: SnapshotId) -> Iterator[int]:
        """Iterates over the rows of a snapshot and its ancestors, newest first.

        Raises:
            SnapshotNotFoundError: there is none of that id (at once).
            FormatError: the ancestors go round in a circle.
        """
        return self._walk(self.row(snapshot_id))

    def _walk(self, row: int) -> Iterator[int]:
        for _ in range(len(self)):
            yield row
            row = int(self._parents[row])
            if row < 0:
                return
        raise self._file.error(f"the ancestors of snapshot {self.id_at(row)} go round in a circle")

    def ancestry(self, snapshot_id: SnapshotId) -> Iterator[SnapshotInfo]:
        """Iterates over a snapshot and its ancestors, newest first.

        Raises:
            SnapshotNotFoundError: there is none of that id (at once).
            FormatError: the ancestors go round in a circle, or one of them is malformed.
        """
        return map(self._info, self.ancestry_rows(snapshot_id))

    def rewritten(
        self,
        *,
        add: Iterable[SnapshotInfo] = (),
        drop: Collection[SnapshotId] = (),
        replace: Iterable[SnapshotInfo] = (),
    ) -> "SnapshotTable":
        """Returns a table with other snapshots.

        Args:
            add: New ones.
            drop: Those that go; no other may have them as parent afterwards.
            replace: Others in the place of those with the same ids.

        Raises:
            FormatError: one of `add` exists (kind `duplicate-snapshot-id`).
            SnapshotNotFoundError: one of `drop` or `replace`, or a parent, does not exist.
            InvalidInputError: metadata cannot be encoded, or there are two of one id.
        """
        keep = np.ones(len(self), bool)
        incoming = {info.id: info for info in add}
        for snapshot_id in incoming:
            if snapshot_id in self:
                raise _duplicate(snapshot_id)
        for info in replace:
            keep[self.row(info.id)] = False
            incoming[info.id] = info
        for snapshot_id in drop:
            keep[self.row(snapshot_id)] = False
        kept = np.flatnonzero(keep)
        new_ids = np.frombuffer(b"".join(incoming), np.uint8).reshape(-1, 12)
        ids = np.concatenate([self._ids[kept], new_ids])
        order = _sorting(ids)
        records = [self._records[row] for row in kept.tolist()] + [_encode(info) for info in incoming.values()]
        positions = np.concatenate([self._positions[kept], np.full(len(incoming), -1, np.int64)])
        table = SnapshotTable(
            ids[order],
            np.full(len(ids), -1, np.int64),
            [records[row] for row in order.tolist()],
            self._file,
            positions[order],
        )
        table._set_parents(self, kept, incoming.values())
        return table

    def _set_parents(self, old: "SnapshotTable", kept: Int64Array, incoming: Iterable[SnapshotInfo]) -> None:
        """Gives the kept rows of `old` their parents back, and the incoming snapshots theirs."""
        index = self._index()
        # Old row → new row; the last entry, which index -1 finds, means "no parent".
        moved = np.full(len(old) + 1, -2, np.int64)
        moved[-1] = -1
        old_ids = old._ids.tobytes()
        for row in range(len(old)):
            moved[row] = index.get(old_ids[12 * row : 12 * row + 12], -2)
        self._parents[moved[kept]] = moved[old._parents[kept]]
        for info in incoming:
            row = index[info.id]
            self._parents[row] = -1 if info.parent_id is None else self.row(info.parent_id)
        orphans = np.flatnonzero(self._parents == -2)
        if len(orphans):
            raise SnapshotNotFoundError(f"the parent of snapshot {self.id_at(int(orphans[0]))} is being dropped")

    def add_to(self, builder: FlatBuilder) -> int:
        """Adds the list to a repo info that is being built.

        Raises:
            FormatError: a record of the file that this was read from is malformed.
        """
        records = self._encoded()
        sizes = np.fromiter((len(record) for record, _ in records), np.int64, len(records))
        roots = np.fromiter((root for _, root in records), np.int64, len(records))
        joined = np.frombuffer(bytearray(b"".join(record for record, _ in records)), np.uint8)
        if len(records):
            where = sizes.cumsum() - roots + _PARENT_AT
            rows = self._parents.astype("<i4").view(np.uint8).reshape(-1, 4)
            joined[where[:, None] + np.arange(4)] = rows
        return builder.offsets(builder.splice(joined.tobytes(), sizes, roots))

    def _index(self) -> dict[bytes, int]:
        rows = self._rows
        if rows is None:
            raw = self._ids.tobytes()
            rows = self._rows = {raw[12 * row : 12 * row + 12]: row for row in range(len(self))}
        return rows

    def _info(self, row: int) -> SnapshotInfo:
        record = self._records[row]
        if record is None:
            buffer, position = FlatBuffer(self._file.data, name=self._file.name), int(self._positions[row])
        else:
            buffer, position = FlatBuffer(record[0], name=self._file.name), len(record[0]) - record[1]
        table = Table(buffer, position)
        items = read_items(table, 4)
        pruned = table.struct_vector(5, 12)
        parent = int(self._parents[row])
        if pruned is not None:
            buffer.charge(12 * len(pruned))
        return SnapshotInfo(
            self.id_at(row),
            None if parent < 0 else self.id_at(parent),
            checked_timestamp(buffer, table.u64(2)),
            buffer.require(table.string(3), "message"),
            decode_items(items or (), 2, buffer.name),
            () if pruned is None else tuple(SnapshotId(log.tobytes()) for log in pruned),
        )

    def _encoded(self) -> list[_Record]:
        """Returns the records of all rows; those that stand in the file only are copied out of it."""
        missing = [row for row, record in enumerate(self._records) if record is None]
        if missing:
            buffer = FlatBuffer(self._file.data, name=self._file.name)
            tables = TableArray(buffer, self._positions[missing])
            for row, record in zip(missing, _copied(tables), strict=True):
                self._records[row] = record
        return [record for record in self._records if record is not None]


def _sorting(ids: ByteArray) -> Int64Array:
    """Returns the order that sorts ids by their bytes."""
    high = np.ascontiguousarray(ids[:, :8]).view(">u8").reshape(-1)
    low = np.ascontiguousarray(ids[:, 8:]).view(">u4").reshape(-1)
    return np.lexsort((low, high))


def _duplicate(snapshot_id: SnapshotId) -> FormatError:
    return FormatError(
        f"snapshot {snapshot_id} is in the repository already",
        kind="duplicate-snapshot-id",
        snapshot_id=str(snapshot_id),
    )


def _encode(info: SnapshotInfo) -> _Record:
    pruned = b"".join(info.pruned_ancestor_tx_logs)
    return _record(info.id, info.flushed_at, encode_text(info.message), encode_items(info.metadata, 2), pruned)


def _record(snapshot_id: bytes, flushed_at: int, message: bytes, items: Items, pruned: bytes) -> _Record:
    builder = FlatBuilder()
    message_ref, items_ref = builder.raw_string(message), add_items(builder, items)
    # The list of pruned logs is absent where it would be empty, as older readers know no such field.
    pruned_ref = builder.vector(pruned, len(pruned) // 12) if pruned else None
    root = builder.table(_RECORD, (snapshot_id, -1, flushed_at, message_ref, items_ref, pruned_ref))
    return builder.detach(), root


def _copied(tables: TableArray) -> Iterator[_Record]:
    """Encodes the snapshots of a file again, column by column."""
    buffer = tables.buffer
    ids = tables.structs(0, 12)[0].tobytes()
    times = tables.column(2, "<u8").tolist()
    messages = tables.vectors(3, 1)
    metadata = _items_of_all(tables)
    pruned = tables.vectors(5, 12)
    buffer.charge(int(messages.counts.sum()) + 12 * int(pruned.counts.sum()))
    message_spans = zip(messages.starts.tolist(), messages.counts.tolist(), strict=True)
    pruned_spans = zip(pruned.starts.tolist(), pruned.counts.tolist(), strict=True)
    for row, (message, logs) in enumerate(zip(message_spans, pruned_spans, strict=True)):
        yield _record(
            ids[12 * row : 12 * row + 12],
            times[row],
            buffer.data[message[0] : message[0] + message[1]],
            metadata.get(row, ()),
            buffer.data[logs[0] : logs[0] + 12 * logs[1]],
        )


def _items_of_all(tables: TableArray) -> dict[int, Items]:
    """Returns the metadata items of the snapshots that have any, by row."""
    rows = np.flatnonzero(tables.vectors(4, 4).counts)
    if not len(rows):
        return {}
    items, bounds = tables.select(rows).nested(4)
    flat = parse_items(tables.buffer, items)
    return {row: flat[bounds[at] : bounds[at + 1]] for at, row in enumerate(rows.tolist())}

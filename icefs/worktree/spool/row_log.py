"""The row log: a second copy of a working tree's rows, from which a damaged database is made again.

    rows.log    a header, and one record for each change of the rows, in the order in which they were made
    rows.end    how long `rows.log` is; whether the tree was closed in order

No file of the state directory can be trusted alone: SQLite has no checksums of its pages, takes a log whose end is
gone for one that ends there, and makes a new database where there is none. So each change is appended here before it
is made in the database. A record has a checksum that covers all records before it, so that the log is right up to
its first damaged byte. `rows.end` tells a whole log from one that was cut at the end of a record, or is an older
copy. As long as one of the three is whole, `opening` knows which it is.

The log is written without fsync. It outlives the death of the process as the database does; after power loss it may
be shorter than the database, which then counts. It begins again, with all rows in one record, when the tree is
opened, when its base changes, and when it has grown far beyond that.

A log that cannot be written, mostly for want of space, is removed: the database goes on without it.
"""

import contextlib
import logging
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

import msgpack  # type: ignore[import-untyped]  # it ships no types

logger = logging.getLogger(__name__)

LOG_NAME: Final = "rows.log"
END_NAME: Final = "rows.end"

_HEADER: Final = struct.Struct("<8sI36sQ")  # magic, version of working trees, boot id, generation
_MAGIC: Final = b"IcefsRow"
_RECORD: Final = struct.Struct("<II")  # length of what follows, checksum
_END: Final = struct.Struct("<QQB")  # generation, length of the log, whether the tree was closed
_SUM: Final = struct.Struct("<I")
_BATCH: Final = 0
_ALL: Final = 1
_OVERGROWN_BYTES: Final = 32 << 20
_OVERGROWN: Final = 8

type Row = tuple[Any, ...]
type Meta = Mapping[str, str | int | None]
type Links = dict[int, dict[str, int]]


def boot_id() -> bytes:
    """Returns what names the time since the machine was started; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_bytes().strip()[:36]
    except OSError:
        return b""


@dataclass(slots=True)
class Rows:
    """All rows of a tree.

    Attributes:
        meta: The table `meta`.
        nodes: The table `node`, by id.
        links: The table `link`: the node, or 0, by directory and name.
        frozen: `nodes` and `links` as they were at the freeze; None while nothing is frozen.
    """

    meta: dict[str, Any] = field(default_factory=dict)
    nodes: dict[int, Row] = field(default_factory=dict)
    links: Links = field(default_factory=dict)
    frozen: tuple[dict[int, Row], Links] | None = None

    def apply(self, record: list[Any]) -> None:
        """Makes the change that a record tells of."""
        if record[0] == _ALL:
            _, nodes, links, meta = record
            self.nodes = {row[0]: tuple(row) for row in nodes}
            self.links = {}
            for parent, name, node in links:
                self.links.setdefault(parent, {})[name] = node
        else:
            _, nodes, dead, links, purged, meta = record
            for row in nodes:
                self.nodes[row[0]] = tuple(row)
            for node_id in dead:
                self.nodes.pop(node_id, None)
            for parent, name, node in links:
                if node is None:
                    names = self.links.get(parent, {})
                    names.pop(name, None)
                    if not names:
                        self.links.pop(parent, None)
                else:
                    self.links.setdefault(parent, {})[name] = node
            for parent in purged:
                self.links.pop(parent, None)
        for key, value in meta.items():
            if value is None:
                self.meta.pop(key, None)
            else:
                self.meta[key] = value
        if "frozen" in meta:
            copy = {parent: dict(names) for parent, names in self.links.items()}
            self.frozen = None if meta["frozen"] is None else (dict(self.nodes), copy)

    def link_rows(self) -> list[tuple[int, str, int]]:
        """Returns the rows of `link`, sorted."""
        return link_rows(self.links)


def link_rows(links: Links) -> list[tuple[int, str, int]]:
    """Returns links as rows, sorted."""
    return sorted((parent, name, node) for parent, names in links.items() for name, node in names.items())


class FoundLog(NamedTuple):
    """A log that was read.

    Attributes:
        rows: The rows after its last record.
        before: The records but the last, for `rows_before`.
        named: Every spool id that a row ever named.
        generation: Which log it is; each one that begins has a larger number.
        version: The version of working trees that it was written by.
        is_whole: Whether it has all that was written to it; None where that is not known.
        is_closed: Whether the tree was closed in order.
        is_of_this_boot: Whether the machine has run without interruption since it began.
    """

    rows: Rows
    before: list[list[Any]]
    named: set[int]
    generation: int
    version: int
    is_whole: bool | None
    is_closed: bool
    is_of_this_boot: bool

    def rows_before(self) -> Rows:
        """Returns the rows as they were before the last record."""
        rows = Rows()
        for record in self.before:
            rows.apply(record)
        return rows


def read_log(directory: Path) -> FoundLog | None:
    """Reads the row log of a state directory, up to where it is damaged; None if nothing of it can be read."""
    try:
        data = (directory / LOG_NAME).read_bytes()
    except OSError:
        return None
    if len(data) < _HEADER.size + _SUM.size or not data.startswith(_MAGIC):
        return None
    header = data[: _HEADER.size]
    (crc,) = _SUM.unpack_from(data, _HEADER.size)
    if crc32(header) != crc:
        return None
    _, version, boot, generation = _HEADER.unpack(header)
    rows, named = Rows(), set[int]()
    records: list[list[Any]] = []
    length = _HEADER.size + _SUM.size
    for record, after in _records(data, length, crc):
        try:
            rows.apply(record)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError):
            break  # its checksum is right and its content is none of ours
        named.update(row[11] for row in record[1])
        records.append(record)
        length = after
    if not records:
        return None
    end = _read_end(directory)
    is_whole: bool | None = None
    if end is not None and end[0] == generation:
        is_whole = length >= end[1]
    elif end is not None and end[0] > generation:
        is_whole = False  # an older copy
    is_closed = bool(end is not None and end[0] == generation and end[2])
    return FoundLog(
        rows,
        records[:-1],
        named - {0},
        generation,
        version,
        is_whole,
        is_closed,
        boot.rstrip(b"\0") == boot_id(),
    )


def _records(data: bytes, at: int, crc: int) -> Iterator[tuple[list[Any], int]]:
    view = memoryview(data)
    while at + _RECORD.size <= len(data):
        length, told = _RECORD.unpack_from(data, at)
        start = at + _RECORD.size
        if length > len(data) - start:
            return
        payload = view[start : start + length]
        crc = crc32(payload, crc)
        if crc != told:
            return
        try:
            record = msgpack.unpackb(payload, use_list=True, strict_map_key=False, unicode_errors="surrogatepass")
        except ValueError:
            return
        if not isinstance(record, list):
            return
        at = start + length
        yield record, at


def _read_end(directory: Path) -> tuple[int, int, bool] | None:
    try:
        data = (directory / END_NAME).read_bytes()
    except OSError:
        return None
    if len(data) != _END.size + _SUM.size or _SUM.unpack_from(data, _END.size)[0] != crc32(data[: _END.size]):
        return None
    generation, length, is_closed = _END.unpack_from(data)
    return generation, length, bool(is_closed)


class RowLog:
    """The log of an open tree.

    Concurrency: the caller's lock serialises everything. No method raises `OSError`: a log that cannot be written is
    given up.

    Attributes:
        is_lost: The log was given up; nothing is written to it.
    """

    def __init__(self, directory: Path, version: int) -> None:
        """Takes the state directory; `begin` makes the log."""
        self.is_lost = True
        self._directory = directory
        self._version = version
        self._generation = 0
        self._fd = self._end_fd = -1
        self._length = self._first_length = self._crc = 0
        self._before = 0, 0

    @property
    def is_overgrown(self) -> bool:
        """Whether most of the log tells of rows that have changed since."""
        return self._length > max(_OVERGROWN_BYTES, _OVERGROWN * self._first_length)

    def begin(self, records: Iterable[list[Any]], generation: int) -> None:
        """Makes the log, with records that give all rows; takes the place of an older one."""
        self.close(is_closed=False)
        path = self._directory / LOG_NAME
        new = path.with_name(f"{LOG_NAME}.new")
        header = _HEADER.pack(_MAGIC, self._version, boot_id(), generation)
        crc = crc32(header)
        parts = [header, _SUM.pack(crc)]
        for record in records:
            payload = _packed(record)
            crc = crc32(payload, crc)
            parts += [_RECORD.pack(len(payload), crc), payload]
        data = b"".join(parts)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
            self._fd = os.open(new, flags | os.O_TRUNC, 0o600)
            self._end_fd = os.open(self._directory / END_NAME, flags, 0o600)
            self._generation, self._crc = generation, crc
            self._length = self._first_length = len(data)
            self._before = len(data), crc
            _write(self._fd, data, 0)
            new.replace(path)
            self._write_end()
            os.truncate(self._end_fd, _END.size + _SUM.size)
        except OSError as error:
            self._give_up(error)
        else:
            self.is_lost = False

    def append(self, record: list[Any]) -> None:
        """Writes one change; outlives the death of the process when this returns."""
        if self.is_lost:
            return
        payload = _packed(record)
        self._before = at, crc = self._length, self._crc
        crc = crc32(payload, crc)
        data = _RECORD.pack(len(payload), crc) + payload
        try:
            _write(self._fd, data, at)
            self._length, self._crc = at + len(data), crc
            self._write_end()
        except OSError as error:
            self._give_up(error)

    def undo(self) -> None:
        """Takes the last record back, because the database did not take the change."""
        if self.is_lost:
            return
        self._length, self._crc = self._before
        try:
            os.truncate(self._fd, self._length)
            self._write_end()
        except OSError as error:
            self._give_up(error)

    def close(self, *, is_closed: bool) -> None:
        """Closes the files; where the tree is closed in order, says so once the log is on the disk."""
        if is_closed and not self.is_lost:
            try:
                os.fsync(self._fd)
                self._write_end(is_closed=True)
                os.fsync(self._end_fd)
            except OSError as error:
                self._give_up(error)
        self._close()

    def _close(self) -> None:
        self.is_lost = True
        for fd in (self._fd, self._end_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._end_fd = -1

    def _write_end(self, *, is_closed: bool = False) -> None:
        data = _END.pack(self._generation, self._length, is_closed)
        _write(self._end_fd, data + _SUM.pack(crc32(data)), 0)

    def _give_up(self, error: OSError) -> None:
        """Removes the log: the database may go on without it."""
        logger.warning("%s: the copy of the rows cannot be written: %s", self._directory, error.strerror)
        self._close()
        self._length = self._first_length = 0
        for name in (LOG_NAME, f"{LOG_NAME}.new", END_NAME):
            with contextlib.suppress(OSError):
                (self._directory / name).unlink()


def _packed(record: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(record, unicode_errors="surrogatepass")
    return packed


def _write(fd: int, data: bytes, at: int) -> None:
    done = os.pwrite(fd, data, at)
    while done < len(data):
        done += os.pwrite(fd, memoryview(data)[done:], at + done)


def batch_record(
    nodes: Iterable[Row], dead: Iterable[int], links: Iterable[Row], purged: Iterable[int], meta: Meta
) -> list[Any]:
    """Returns the record of one operation's changes, as `journal.Batch` has them."""
    return [_BATCH, nodes, dead, links, purged, meta]


def all_record(nodes: Iterable[Row], links: Iterable[Row], meta: Meta) -> list[Any]:
    """Returns the record of all rows; `meta` has what changes of that table alone."""
    return [_ALL, nodes, links, meta]


def records_of(rows: Rows) -> Iterator[list[Any]]:
    """Yields the records with which a log begins that is to have these rows."""
    meta = rows.meta
    if rows.frozen is not None:
        during: dict[str, str | int | None] = {key: meta[key] for key in ("frozen", "intent") if key in meta}
        rest = {key: value for key, value in meta.items() if key not in during}
        nodes, links = rows.frozen
        yield all_record(list(nodes.values()), link_rows(links), rest)
        yield batch_record([], [], [], [], during)
        meta = {}
    yield all_record(list(rows.nodes.values()), rows.link_rows(), meta)

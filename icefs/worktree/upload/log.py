"""Which spool files are in the object store already, though nothing refers to them yet: `uploads.db`.

A row is good for as long as there is a spool file with its id, size and modification time; spool files in the store
are not written to any more. A lost row costs an upload, and nothing else; so each row has a checksum, and a damaged one
counts as lost.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple
from zlib import crc32

from icefs.errors import StorageError
from icefs.format.ids import ChunkId

LOG_NAME: Final = "uploads.db"
_VERSION: Final = 3
_SCHEMA: Final = """
create table stored (
    spool integer primary key,
    stamp integer not null,         -- the spool file's st_mtime_ns
    size integer not null,
    chunk_id blob not null,         -- of the object
    offset integer not null,        -- where in it
    stored_at integer not null,     -- seconds since 1970
    mark integer not null,          -- where the repository's log ended before the upload
    sum integer not null            -- checksum of the others
)
"""


_INSERT: Final = "insert or replace into stored values (?, ?, ?, ?, ?, ?, ?, ?)"


class Stored(NamedTuple):
    """Where a spool file's bytes are in the object store; the columns are those of the table."""

    spool: int
    stamp: int
    size: int
    chunk_id: ChunkId
    offset: int
    stored_at: int
    mark: int


class UploadLog:
    """The open file. Its owner lets one thread at a time call it."""

    def __init__(self, path: Path) -> None:
        """Opens or creates the file; one of another version, or a damaged one, is replaced by an empty one.

        Raises:
            StorageError: it cannot be written.
        """
        self._path = path
        with _translated(path):
            try:
                self._open()
            except sqlite3.DatabaseError:
                self._begin_again()

    def _begin_again(self) -> None:
        self._db.close()
        for name in (self._path.name, f"{self._path.name}-wal", f"{self._path.name}-shm"):
            self._path.with_name(name).unlink(missing_ok=True)
        self._open()

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        execute = self._db.execute
        execute("pragma locking_mode = exclusive")
        execute("pragma journal_mode = wal")
        execute("pragma synchronous = normal")
        found = execute("pragma user_version").fetchone()[0]
        if found not in range(_VERSION + 1):
            raise sqlite3.DatabaseError(f"version {found}")
        if found != _VERSION:
            # What version 1 stored is looked up before a commit refers to it: a collection may have run since.
            rows = [[*row, 0][:7] for row in execute("select * from stored")] if found else []
            execute("begin")
            execute("drop table if exists stored")
            execute(_SCHEMA)
            self._db.executemany(_INSERT, [(*row, _sum(row)) for row in rows])
            execute(f"pragma user_version = {_VERSION}")
            execute("commit")

    def load(self) -> Iterator[Stored]:
        """Yields all rows that are whole."""
        with _translated(self._path):
            try:
                rows = self._db.execute("select * from stored").fetchall()
            except sqlite3.DatabaseError:
                self._begin_again()
                rows = []
        for *row, told in rows:
            if told == _sum(row):
                spool, stamp, size, chunk_id, *rest = row
                yield Stored(spool, stamp, size, ChunkId(chunk_id), *rest)

    def add(self, rows: Iterable[Stored]) -> None:
        """Remembers uploads; they survive the death of the process when this returns."""
        with _translated(self._path), self._db:
            self._db.execute("begin")
            self._db.executemany(
                _INSERT,
                [(*plain, _sum(plain)) for plain in map(_plain, rows)],
            )

    def remove(self, spool_ids: Iterable[int]) -> None:
        """Forgets uploads."""
        with _translated(self._path), self._db:
            self._db.execute("begin")
            self._db.executemany("delete from stored where spool = ?", [(spool_id,) for spool_id in spool_ids])

    def close(self) -> None:
        """Closes the file."""
        with _translated(self._path):
            self._db.close()


def _plain(row: Stored) -> list[Any]:
    return [row.spool, row.stamp, row.size, bytes(row.chunk_id), row.offset, row.stored_at, row.mark]


def _sum(row: list[Any]) -> int:
    return crc32(repr(row).encode())


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"the record of uploads {path} failed: {error}", kind="io", path=str(path)) from error

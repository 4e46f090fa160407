"""Which spool files are in the object store already, though nothing refers to them yet: `uploads.db`.

A row is good for as long as there is a spool file with its id, size and modification time; spool files in the store
are not written to any more. What is lost of this file costs an upload, and nothing else.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from icefs.errors import StorageError
from icefs.format.ids import ChunkId

LOG_NAME: Final = "uploads.db"
_VERSION: Final = 2
_SCHEMA: Final = """
create table stored (
    spool integer primary key,
    stamp integer not null,         -- the spool file's st_mtime_ns
    size integer not null,
    chunk_id blob not null,         -- of the object
    offset integer not null,        -- where in it
    stored_at integer not null,     -- seconds since 1970
    mark integer not null           -- where the repository's log ended before the upload
)
"""
# What version 1 stored is looked up before a commit refers to it: a collection may have run since.
_FROM_VERSION_1: Final = "alter table stored add column mark integer not null default 0"


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
        """Opens or creates the file; one of another version, or a damaged one, is begun anew.

        Raises:
            StorageError: it cannot be written.
        """
        self._path = path
        with _translated(path):
            try:
                self._open()
            except sqlite3.DatabaseError:
                self._db.close()
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)
                self._open()

    def _open(self) -> None:
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        execute = self._db.execute
        execute("pragma locking_mode = exclusive")
        execute("pragma journal_mode = wal")
        execute("pragma synchronous = normal")
        found = execute("pragma user_version").fetchone()[0]
        if found not in (0, 1, _VERSION):
            raise sqlite3.DatabaseError(f"version {found}")
        if found == 1:
            execute(_FROM_VERSION_1)
            execute(f"pragma user_version = {_VERSION}")
        if not found:
            execute("drop table if exists stored")
            execute(_SCHEMA)
            execute(f"pragma user_version = {_VERSION}")

    def load(self) -> Iterator[Stored]:
        """Yields all rows."""
        with _translated(self._path):
            for spool, stamp, size, chunk_id, *rest in self._db.execute("select * from stored"):
                yield Stored(spool, stamp, size, ChunkId(chunk_id), *rest)

    def add(self, rows: Iterable[Stored]) -> None:
        """Remembers uploads; they survive the death of the process when this returns."""
        with _translated(self._path), self._db:
            self._db.execute("begin")
            self._db.executemany(
                "insert or replace into stored values (?, ?, ?, ?, ?, ?, ?)",
                [row._replace(chunk_id=bytes(row.chunk_id)) for row in rows],  # type: ignore[arg-type]
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


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StorageError(f"the record of uploads {path} failed: {error}", kind="io", path=str(path)) from error

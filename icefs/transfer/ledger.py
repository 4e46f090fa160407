"""Which files of a directory are in the object store already, though no commit may refer to them yet.

One SQLite file for each directory and repository, under the state directory. A row is good for as long as a file has
its size and both of its times; what is lost of it costs storing those files again, and nothing else.

The files have a limit: each import deletes those that no import has used for long, or that are too many together. A
finished import leaves its file, from which a repeated one knows that it has nothing to do, and one with `--overwrite`
which files are new.

A row is written after its object is durable. It does not keep garbage collection from taking the object: an import that
trusts an old row asks the store first, and one older than `KEPT_S` is not trusted, as a collection that began before
the question was asked may still end after it.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from icefs.bounded import Limits, keep_within
from icefs.errors import SessionStateError, StorageError
from icefs.format.ids import ChunkId, SnapshotId
from icefs.paths import NodePath
from icefs.private import make_private

_log = logging.getLogger(__name__)

LIMITS: Final = Limits(max_bytes=256 << 20, max_files=1000, max_unused_s=90 * 86400)
_SUFFIXES: Final = ("", "-wal", "-shm")
KEPT_S: Final = 3 * 86400
_VERSION: Final = 1
_SCHEMA: Final = """
create table arrays (id integer primary key, path text not null unique);
create table stored (
    array integer not null,
    chunk blob not null,            -- its index, each coordinate as a big-endian uint32
    size integer not null,
    mtime integer not null,         -- nanoseconds
    ctime integer not null,
    chunk_id blob not null,         -- of the object
    offset integer not null,        -- where in it
    stored_at integer not null,     -- seconds since 1970
    primary key (array, chunk)
) without rowid;
create table commits (snapshot text not null, fingerprint text not null, target text not null);
"""


class StoredRows(NamedTuple):
    """What a ledger has of one array: columns."""

    coords: tuple[npt.NDArray[np.uint32], ...]
    sizes: npt.NDArray[np.int64]
    mtimes: npt.NDArray[np.int64]
    ctimes: npt.NDArray[np.int64]
    chunk_ids: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    stored_at: npt.NDArray[np.int64]


type Row = tuple[int, bytes, int, int, int, bytes, int, int]
"""A row of the table `stored`."""


def ledger_path(state_dir: Path, repository_url: str, source: str) -> Path:
    """Returns the ledger of a directory and a repository, under a state directory."""
    digest = hashlib.sha256(f"{repository_url}\0{source}".encode(errors="surrogateescape")).hexdigest()[:24]
    return state_dir / "imports" / f"{digest}.db"


class Ledger:
    """The open file; for one thread, and one process at a time."""

    def __init__(self, path: Path, limits: Limits = LIMITS) -> None:
        """Opens or creates the file; one of another version, or a damaged one, is replaced by an empty one.

        Args:
            path: The file.
            limits: What stays of the ledgers in its directory.

        Raises:
            SessionStateError: another process has it open.
            StorageError: it cannot be written.
        """
        self.path = path
        self._arrays: dict[NodePath, int] = {}
        with self._translated():
            make_private(path.parent)
            try:
                self._open()
            except sqlite3.OperationalError:
                self._db.close()
                raise
            except sqlite3.DatabaseError:
                self._db.close()
                for suffix in _SUFFIXES:
                    path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
                self._open()
        try:
            os.utime(path)
            keep_within(path.parent, "*.db", limits, own=path, suffixes=_SUFFIXES, is_free=_is_free)
        except OSError as error:
            _log.warning("records of earlier imports in %s cannot be deleted: %s", path.parent, error)

    def _open(self) -> None:
        self._db = sqlite3.connect(self.path, isolation_level=None, timeout=0.5)
        execute = self._db.execute
        execute("pragma locking_mode = exclusive")
        execute("pragma journal_mode = wal")
        execute("pragma synchronous = normal")
        execute("begin immediate")
        found = execute("pragma user_version").fetchone()[0]
        if found not in (0, _VERSION):
            raise sqlite3.DatabaseError(f"version {found}")
        execute("commit")
        if not found:
            self._db.executescript(_SCHEMA)
            execute(f"pragma user_version = {_VERSION}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        with self._translated():
            self._db.close()

    def array(self, path: NodePath) -> int:
        """Returns the number that stands for an array."""
        number = self._arrays.get(path)
        if number is None:
            with self._translated():
                self._db.execute("insert or ignore into arrays (path) values (?)", (_text(path),))
                row = self._db.execute("select id from arrays where path = ?", (_text(path),)).fetchone()
            number = self._arrays[path] = int(row[0])
        return number

    def rows(self, path: NodePath, ndim: int) -> StoredRows | None:
        """Returns what is stored of an array; None for nothing."""
        with self._translated():
            rows = self._db.execute(
                "select chunk, size, mtime, ctime, chunk_id, offset, stored_at from stored "
                "where array = ? and length(chunk) = ? order by chunk",
                (self.array(path), 4 * ndim),
            ).fetchall()
        if not rows:
            return None
        chunks, sizes, mtimes, ctimes, ids, offsets, stored_at = zip(*rows, strict=True)
        table = np.frombuffer(b"".join(chunks), ">u4").reshape(len(rows), ndim).astype(np.uint32)
        return StoredRows(
            tuple(np.ascontiguousarray(table[:, axis]) for axis in range(ndim)),
            np.array(sizes, np.int64),
            np.array(mtimes, np.int64),
            np.array(ctimes, np.int64),
            np.frombuffer(b"".join(ids), np.uint8).reshape(len(rows), ChunkId.SIZE),
            np.array(offsets, np.int64),
            np.array(stored_at, np.int64),
        )

    def add(self, rows: Iterable[Row]) -> None:
        """Remembers what was stored."""
        with self._translated(), self._db:
            self._db.execute("begin")
            self._db.executemany("insert or replace into stored values (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def about_to_commit(self, snapshot_id: SnapshotId, fingerprint: str, target: str) -> None:
        """Notes which snapshot the directory, as it is now, is about to become in a branch and group."""
        with self._translated(), self._db:
            self._db.execute("begin")
            self._db.execute("delete from commits")
            self._db.execute("insert into commits values (?, ?, ?)", (str(snapshot_id), fingerprint, _text(target)))

    def last_commit(self, fingerprint: str, target: str) -> SnapshotId | None:
        """Returns the snapshot that was noted for just this; None if there is none."""
        with self._translated():
            row = self._db.execute(
                "select snapshot from commits where fingerprint = ? and target = ?", (fingerprint, _text(target))
            ).fetchone()
        return None if row is None else SnapshotId.parse(str(row[0]))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise SessionStateError(
                    "the same directory is being imported into this repository by another process",
                    hint="wait for it to end",
                    path=str(self.path),
                ) from error
            raise self._failed(error) from error
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> StorageError:
        return StorageError(f"the record of what is imported {self.path} failed: {error}", kind="io")


def _is_free(path: Path) -> bool:
    """Tells whether no import has a file open; a damaged one is free."""
    try:
        other = sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True, isolation_level=None, timeout=0)
        try:
            other.execute("begin immediate")
        finally:
            other.close()
    except sqlite3.OperationalError:
        return False
    except sqlite3.DatabaseError:
        return True
    return True


def _text(path: str) -> str:
    """Makes a name that is not UTF-8 one that SQLite takes."""
    return os.fsencode(path).decode(errors="backslashreplace")

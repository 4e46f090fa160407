"""Answers about histories, kept in a small database on this machine.

    touches   what one commit, or all that a snapshot stands for, did to which nodes
    lineages  which commits changed one node, up to one snapshot; the few newest of each node

Snapshots never change, so that answers are never wrong, only unused; the database may be deleted at any time. One
that cannot be read is made again, and one that cannot be written is done without. The directory has a limit: the
process that opens a database deletes those of other repositories that were not used for long, or that are too many.
"""

import contextlib
import hashlib
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Self

import msgpack  # type: ignore[import-untyped]  # it ships no types
import numpy as np
import zstandard

from icefs.bounded import Limits, keep_within
from icefs.engine.history.lineage_values import Lineage, Touch
from icefs.errors import FormatError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId, SnapshotId
from icefs.private import make_private

_log = logging.getLogger(__name__)

_VERSION: Final = 2
_KEPT_PER_NODE: Final = 4
_MAX_VALUE_BYTES: Final = 1 << 30
MAX_DIRECTORY_BYTES: Final = 256 << 20
MAX_UNUSED_S: Final = 90 * 86400
_SUFFIXES: Final = ("", "-wal", "-shm")
_SCHEMA: Final = """
create table if not exists touches (snapshot blob primary key, value blob not null) without rowid;
create table if not exists lineages (
    number integer primary key, snapshot blob not null, node blob not null, value blob not null, unique (node, snapshot)
);
"""


def default_cache_path(repository_url: str) -> Path:
    """Returns where answers about a repository's history are kept on this machine."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(repository_url.encode(errors="surrogateescape")).hexdigest()[:24]
    return Path(home, "icefs", "history", f"{digest}.db")


class LineageCache:
    """The database of one repository.

    Concurrency: any number of threads and processes may use it; a thread waits while another one writes.
    """

    def __init__(self, path: Path) -> None:
        """Opens a database, or makes it; a damaged one is made again."""
        self._path = path
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._guard(self._open, None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open(self) -> None:
        make_private(self._path.parent)
        connection = sqlite3.connect(self._path, timeout=5, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("pragma journal_mode = wal")
            # What a power failure takes is found out again.
            connection.execute("pragma synchronous = off")
            [version] = connection.execute("pragma user_version").fetchone()
            if version not in (0, _VERSION):
                raise sqlite3.DatabaseError(f"made by another version ({version})")
            connection.executescript(_SCHEMA)
            connection.execute(f"pragma user_version = {_VERSION}")
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        with contextlib.suppress(OSError):  # files of another process, which come and go
            os.utime(self._path)
            # A process that has another one open goes on with the deleted file.
            limits = Limits(max_bytes=MAX_DIRECTORY_BYTES, max_unused_s=MAX_UNUSED_S)
            keep_within(self._path.parent, "*.db", limits, own=self._path, suffixes=_SUFFIXES)

    def _guard[T](self, action: Callable[[], T], otherwise: T) -> T:
        """Does something with the database; where that fails, without it."""
        try:
            with self._lock:
                return action()
        except (sqlite3.OperationalError, OSError) as error:
            # Busy, read-only, a full disk: no reason to throw the file away.
            _log.debug("%s: %s", self._path, error)
        except (sqlite3.DatabaseError, FormatError) as error:
            _log.warning("%s is damaged and is made again: %s", self._path, error)
            self._remake()
        return otherwise

    def _remake(self) -> None:
        self.close()
        with contextlib.suppress(OSError, sqlite3.Error), self._lock:
            _remove(self._path)
            self._open()

    def _value(self, query: str, *arguments: bytes) -> Any:
        if self._connection is None:
            return None
        row = self._connection.execute(query, arguments).fetchone()
        return None if row is None else _unpack(row[0])

    # What commits touched.

    def touches(self, key: bytes) -> dict[NodeId, Touch] | None:
        """Returns what logs say that was done to which nodes, given the ids of all of them; None if not kept."""

        def read() -> dict[NodeId, Touch] | None:
            value = self._value("select value from touches where snapshot = ?", key)
            if value is None:
                return None
            with _damage():
                return {NodeId(node): Touch(tuple(words), count) for node, words, count in value}

        return self._guard(read, None)

    def keep_touches(self, key: bytes, touches: dict[NodeId, Touch]) -> None:
        """Keeps what logs say that was done."""
        value = _pack([(bytes(node), touch.words, touch.num_chunks) for node, touch in touches.items()])

        def write() -> None:
            if self._connection is not None:
                self._connection.execute("insert or replace into touches values (?, ?)", (key, value))

        self._guard(write, None)

    # Which commits changed a node.

    def snapshots_of(self, node_id: NodeId) -> set[SnapshotId]:
        """Returns the snapshots up to which the lineage of a node is kept."""

        def read() -> set[SnapshotId]:
            if self._connection is None:
                return set()
            rows = self._connection.execute("select snapshot from lineages where node = ?", (bytes(node_id),))
            return {SnapshotId(row[0]) for row in rows}

        return self._guard(read, set())

    def lineage(self, snapshot_id: SnapshotId, node_id: NodeId) -> Lineage | None:
        """Returns which commits changed a node, up to a snapshot; None if that is not kept."""

        def read() -> Lineage | None:
            query = "select value from lineages where node = ? and snapshot = ?"
            value = self._value(query, node_id, snapshot_id)
            return None if value is None else _to_lineage(value)

        return self._guard(read, None)

    def keep_lineage(self, snapshot_id: SnapshotId, node_id: NodeId, lineage: Lineage) -> None:
        """Keeps which commits changed a node; of each node the few that were found out last."""
        value = _pack(
            {
                "commits": [(bytes(commit), flushed_at) for commit, flushed_at in lineage.commits],
                "metadata": lineage.metadata,
                "rest": lineage.rest,
                "complete": lineage.is_complete,
                "count": len(lineage.chunks),
                "coords": [column.astype("<u4").tobytes() for column in lineage.chunks.coords],
                "owners": lineage.owners.astype("<u4").tobytes(),
            }
        )
        node, snapshot = bytes(node_id), bytes(snapshot_id)

        def write() -> None:
            if self._connection is None:
                return
            self._connection.execute(
                "insert or replace into lineages (snapshot, node, value) values (?, ?, ?)", (snapshot, node, value)
            )
            self._connection.execute(
                "delete from lineages where node = ? and number not in "
                "(select number from lineages where node = ? order by number desc limit ?)",
                (node, node, _KEPT_PER_NODE),
            )

        self._guard(write, None)


def _remove(path: Path) -> None:
    for suffix in _SUFFIXES:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _pack(value: Any) -> bytes:
    return zstandard.ZstdCompressor(1).compress(msgpack.packb(value))


def _unpack(data: bytes) -> Any:
    with _damage():
        plain = zstandard.ZstdDecompressor().decompress(data, max_output_size=_MAX_VALUE_BYTES)
        return msgpack.unpackb(plain, use_list=True, strict_map_key=False)


@contextlib.contextmanager
def _damage() -> Any:
    """Turns what a damaged value raises into a `FormatError`."""
    try:
        yield
    except (zstandard.ZstdError, ValueError, TypeError, KeyError, msgpack.UnpackException, msgpack.ExtraData) as error:
        raise FormatError(f"a kept answer is damaged: {error}", file="lineages", reason=str(error)) from error


def _to_lineage(value: Any) -> Lineage:
    with _damage():
        chunks = ChunkIndices([np.frombuffer(column, "<u4") for column in value["coords"]], value["count"])
        owners = np.frombuffer(value["owners"], "<u4")
        commits = tuple((SnapshotId(commit), int(flushed_at)) for commit, flushed_at in value["commits"])
        if len(owners) != len(chunks) or not commits:
            raise ValueError("columns of different lengths")
        if max(int(owners.max(initial=0)), value["rest"], value["metadata"]) >= len(commits):
            raise ValueError("a commit that is not there")
        return Lineage(commits, value["metadata"], chunks, owners, value["rest"], bool(value["complete"]))

"""The chunk files of a directory as a source of chunks, and the memory of what an earlier run has stored.

    stored by an earlier run    the ledger's reference, if the store still has the object
    else                        as `ChunkWriter` decides; a large chunk's object is a copy of the file, never a link

Nothing here makes anything visible. A file that changes while it is read ends the work.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import numpy as np

from icefs.engine.write.chunk_guard import missing_chunks
from icefs.engine.write.chunk_writer import ChunkColumns, ChunkWriter, Row
from icefs.engine.write.context import WriteContext
from icefs.errors import IcefsError, SessionStateError
from icefs.format.chunk_indices import BoolArray, pack_keys
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.paths import NodePath
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.ledger import KEPT_S, Ledger
from icefs.transfer.ledger import Row as LedgerRow
from icefs.transfer.progress import Progress, Transferred
from icefs.transfer.scan import I64, ArrayFiles

# Stored chunks are made durable, and remembered, whenever they are as many bytes or as long ago as this. The disk
# writes them while more are copied: to wait for a gibibyte at the end takes as long as to copy it.
NOTE_BYTES: Final = 128 << 20
_NOTE_EVERY_S: Final = 5.0
# A file that was written this shortly before may be written again without another time.
_SETTLED_NS: Final = 1_000_000_000


class ArrayRows(ChunkColumns):
    """The chunk files of an array, and the references to them.

    Attributes:
        files: The files.
        number: The number of the array in the ledger.
        is_done: Which of them are stored by an earlier run.
    """

    def __init__(self, files: ArrayFiles, number: int) -> None:
        super().__init__(files.coords, files.sizes.tolist())
        self.files = files
        self.number = number
        self.is_done: BoolArray = np.zeros(len(files), np.bool_)


class ChunkFiles:
    """The chunk files of one import as a source of chunks.

    Concurrency: `run` belongs to one thread, and has others do what waits.

    INVARIANT: a chunk that was stored now is in `_waiting`, or in `_settling` with a `Storage.sync` that began after it
    was stored, or in the ledger, which has nothing that is not durable.
    """

    def __init__(
        self,
        context: WriteContext,
        ledger: Ledger,
        pack_bytes: int,
        progress: Progress,
        *,
        clock_s: Callable[[], float] = time.time,
        note_bytes: int = NOTE_BYTES,
    ) -> None:
        """Creates the source.

        Args:
            context: The repository.
            ledger: Remembers what is stored.
            pack_bytes: How large an object may become that small chunks share; 0 gives each its own.
            progress: See `Progress`.
            clock_s: Returns the time in seconds since 1970.
            note_bytes: After how many stored bytes the ledger remembers them.
        """
        self._context = context
        self._storage = context.storage
        self._writer = ChunkWriter(context.storage, context.inline_threshold_bytes, pack_bytes, self)
        self._ledger = ledger
        self._progress = progress
        self._clock_s = clock_s
        self._note_bytes = note_bytes
        self._waiting: list[Row[ArrayRows]] = []
        self._waiting_bytes = 0
        self._noted_at = time.monotonic()
        self._disk: ThreadPoolExecutor | None = None
        self._settling: tuple[Future[None], list[Row[ArrayRows]]] | None = None
        self.transferred = Transferred()

    # What is there already.

    def reuse(self, arrays: Sequence[ArrayRows], known: Callable[[NodePath], ArrayRefs | None]) -> bool:
        """Takes over what an earlier run has stored, and the store still has.

        Nothing but a reference of the branch keeps garbage collection from an object: every other one is looked up.

        Args:
            arrays: The arrays.
            known: Returns the references that the branch has to an array's chunks: their objects are there.

        Returns:
            Whether it took over chunks that the branch does not refer to.
        """
        found = [taken for array in arrays if (taken := self._matching(array, known)) is not None]
        doubtful = {
            bytes(array.chunk_ids[row]) for array, rows, is_referred in found for row in rows[~is_referred].tolist()
        }
        gone = missing_chunks(self._storage, self._context.assets.workers, doubtful)
        for array, rows, _ in found:
            if gone:
                is_there = [bytes(array.chunk_ids[row]) not in gone for row in rows.tolist()]
                rows = rows[np.array(is_there, np.bool_)]
            array.is_done[rows] = True
            self.transferred.files += len(rows)
            self.transferred.bytes += int(array.files.sizes[rows].sum())
        return bool(doubtful - gone)

    def _matching(
        self, array: ArrayRows, known: Callable[[NodePath], ArrayRefs | None]
    ) -> tuple[ArrayRows, I64, BoolArray] | None:
        """Writes down where the ledger says that chunks are; returns their rows, and which the branch refers to."""
        files = array.files
        stored = self._ledger.rows(files.path, len(files.coords)) if len(files) else None
        if stored is None:
            return None
        mine = np.arange(len(files))
        if files.coords:
            keys, theirs = pack_keys(files.coords, stored.coords)
            at = np.minimum(theirs.searchsorted(keys), len(theirs) - 1)
            mine = np.flatnonzero(theirs[at] == keys)
            rows = at[mine]
        else:
            rows = np.zeros(len(mine), np.int64)
        same = (
            (files.sizes[mine] == stored.sizes[rows])
            & (files.mtimes[mine] == stored.mtimes[rows])
            & (files.ctimes[mine] == stored.ctimes[rows])
        )
        mine, rows = mine[same], rows[same]
        array.chunk_ids[mine] = stored.chunk_ids[rows]
        array.offsets[mine] = stored.offsets[rows].astype(np.uint64)
        is_referred = np.zeros(len(mine), np.bool_)
        refs = known(files.path)
        if refs is not None and len(refs) and refs.ndim == len(files.coords):
            is_referred = _referred(array, mine, refs)
        is_kept = is_referred | (stored.stored_at[rows] > self._clock_s() - KEPT_S)
        return array, mine[is_kept], is_referred[is_kept]

    # What is to be stored.

    def run(self, arrays: Sequence[ArrayRows]) -> None:
        """Stores what is not stored; ends early with the first error, and remembers what it has done.

        Raises:
            StorageError: the store failed, or a file cannot be read.
            SessionStateError: a file changed meanwhile.
        """
        for array in arrays:
            array.chunk_ids[~array.is_done] = 0
            array.offsets[~array.is_done] = 0
        self.transferred.total_files = sum(len(array.files) for array in arrays)
        self.transferred.total_bytes = sum(int(array.files.sizes.sum()) for array in arrays)
        rows = (Row(array, row) for array in arrays for row in np.flatnonzero(~array.is_done).tolist())
        with ThreadPoolExecutor(1, thread_name_prefix="icefs-sync") as self._disk:
            try:
                self._writer.run(rows)
            except BaseException:
                with contextlib.suppress(IcefsError):
                    self._note()
                raise
            self._note()

    def read(self, row: Row[ArrayRows]) -> bytes:
        """Reads the bytes of a chunk file."""
        return _read(row.columns, row.number)

    def store(self, row: Row[ArrayRows], key: str) -> None:
        """Stores a copy of a chunk file as an object."""
        path = row.columns.files.file(row.number)
        self._storage.put_file(key, path)
        try:
            _check_unchanged(row.columns, row.number, os.stat(path))
        except OSError as error:
            raise disk_error("read", path, error) from error

    def stored(self, rows: Sequence[Row[ArrayRows]], offsets: Sequence[int], chunk_id: ChunkId) -> None:
        """Does nothing: chunks are remembered when they are durable."""

    def done(self, rows: Sequence[Row[ArrayRows]]) -> None:
        """Counts chunks that are stored."""
        for row in rows:
            size = row.size
            self.transferred.files += 1
            self.transferred.bytes += size
            if row.number not in row.columns.inline:
                self.transferred.stored_files += 1
                self.transferred.stored_bytes += size
                self._waiting.append(row)
                self._waiting_bytes += size

    def beat(self) -> None:
        """Remembers what became durable, has the disk make the rest durable from time to time, and reports progress."""
        if self._settling is None or self._settling[0].done():
            self._note_settling()
            is_due = self._waiting_bytes >= self._note_bytes or time.monotonic() - self._noted_at > _NOTE_EVERY_S
            if self._waiting and is_due:
                assert self._disk is not None  # `run` has opened it
                self._settling = self._disk.submit(self._storage.sync), self._take_waiting()
        self._progress(self.transferred)

    def _note(self) -> None:
        """Remembers all that was stored, once it is durable."""
        self._note_settling()
        self._note_waiting()

    def _note_settling(self) -> None:
        if self._settling is not None:
            (synced, rows), self._settling = self._settling, None
            synced.result()
            self._ledger.add(self._ledger_rows(rows))

    def _note_waiting(self) -> None:
        rows = self._take_waiting()
        if rows:
            self._storage.sync()
            self._ledger.add(self._ledger_rows(rows))

    def _take_waiting(self) -> list[Row[ArrayRows]]:
        rows, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._noted_at = time.monotonic()
        return rows

    def _ledger_rows(self, rows: Sequence[Row[ArrayRows]]) -> Iterator[LedgerRow]:
        now = int(self._clock_s())
        settled = time.time_ns() - _SETTLED_NS
        for array, row in rows:
            files = array.files
            mtime = int(files.mtimes[row])
            if mtime < settled:
                chunk = np.array([column[row] for column in files.coords], ">u4").tobytes()
                times = mtime, int(files.ctimes[row])
                where = array.chunk_ids[row].tobytes(), int(array.offsets[row])
                yield array.number, chunk, array.sizes[row], *times, *where, now


def _referred(array: ArrayRows, rows: I64, refs: ArrayRefs) -> BoolArray:
    """Tells which rows of an array a set of references has in just the same place."""
    if array.files.coords:
        keys, theirs = pack_keys([column[rows] for column in array.files.coords], refs.coords)
        at = np.minimum(theirs.searchsorted(keys), len(theirs) - 1)
        is_there = theirs[at] == keys
    else:
        at, is_there = np.zeros(len(rows), np.int64), np.ones(len(rows), np.bool_)
    is_same: BoolArray = is_there & (refs.kinds[at] == ChunkKind.NATIVE)
    is_same &= (refs.offsets[at] == array.offsets[rows]) & (refs.chunk_ids[at] == array.chunk_ids[rows]).all(axis=1)
    is_same &= refs.lengths[at] == array.files.sizes[rows].astype(np.uint64)
    return is_same


def _read(array: ArrayRows, row: int) -> bytes:
    path = array.files.file(row)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = os.read(fd, array.sizes[row] + 1)
            _check_unchanged(array, row, os.fstat(fd), len(data))
        finally:
            os.close(fd)
    except OSError as error:
        raise disk_error("read", path, error) from error
    return data


def _check_unchanged(array: ArrayRows, row: int, now: os.stat_result, size: int | None = None) -> None:
    files = array.files
    then = array.sizes[row], int(files.mtimes[row])
    if (now.st_size, now.st_mtime_ns) != then or (size is not None and size != then[0]):
        path = files.file(row)
        raise SessionStateError(
            f"{path} changed while it was imported",
            kind="source-changed",
            hint="run it again when nobody writes to the directory; chunks that are stored are not stored again",
            path=path,
        )

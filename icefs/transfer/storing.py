"""The chunk files of a directory on their way into the object store, and the references that come of them.

    stored by an earlier run      what the ledger says of it, if the store still has it
    up to the inline threshold    into the manifest
    small                         into objects that they share (see `worktree.upload.packing`)
    else                          an object of its own: locally a copy of the file, never a link to it

Nothing here makes anything visible. A file that changes while it is read ends it.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import batched, islice
from typing import Final, NamedTuple

import numpy as np

from icefs.engine.read.workers import Workers
from icefs.engine.write.repository import WritableRepository
from icefs.errors import IcefsError, ObjectNotFoundError, SessionStateError
from icefs.format.chunk_indices import BoolArray, pack_keys
from icefs.format.ids import ChunkId, NodeId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ArrayRefs, ByteArray, ChunkKind
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.ledger import KEPT_S, Ledger, Row
from icefs.transfer.scan import I64, ArrayFiles
from icefs.worktree.upload.packing import packed_below, plan_packs

_MAX_THREADS: Final = 16
_BATCH: Final = 64
_BATCH_BYTES: Final = 8 << 20
_BEAT_S: Final = 0.2
# What is stored is made durable, and remembered, whenever it is as much or as long ago as this. The disk writes it
# while more is copied: to wait for a gibibyte at the end takes as long as to copy it.
_NOTE_BYTES: Final = 128 << 20
_NOTE_EVERY_S: Final = 5.0
# A file that was written this shortly before may be written again without another time.
_SETTLED_NS: Final = 1_000_000_000


@dataclass(slots=True)
class Transferred:
    """How far files have come.

    Attributes:
        files: The files that are done.
        total_files: All files.
        bytes: Their bytes.
        total_bytes: The bytes of all.
        stored_files: Those of `files` that were transferred now.
        stored_bytes: Their bytes.
    """

    files: int = 0
    total_files: int = 0
    bytes: int = 0
    total_bytes: int = 0
    stored_files: int = 0
    stored_bytes: int = 0


type Progress = Callable[[Transferred], None]
"""Is told how far it is, also while nothing happens; what it raises ends the work."""


class ArrayRows:
    """The references to an array's chunks as they come into being: rows in the order of the files.

    Concurrency: threads write to rows of their own.
    """

    def __init__(self, files: ArrayFiles, number: int) -> None:
        count = len(files)
        self.files = files
        self.number = number
        self.sizes: list[int] = files.sizes.tolist()
        self.is_done: BoolArray = np.zeros(count, np.bool_)
        self.kinds: ByteArray = np.full(count, ChunkKind.NATIVE, np.uint8)
        self.offsets = np.zeros(count, np.uint64)
        self.chunk_ids: ByteArray = np.zeros((count, ChunkId.SIZE), np.uint8)
        self.inline: dict[int, bytes] = {}

    def refs(self, node_id: NodeId) -> ArrayRefs:
        """Returns the references, now that all of them are known."""
        self.kinds[list(self.inline)] = ChunkKind.INLINE
        return ArrayRefs.from_columns(
            node_id,
            self.files.coords,
            kinds=self.kinds,
            lengths=self.files.sizes.astype(np.uint64),
            offsets=self.offsets,
            chunk_ids=self.chunk_ids,
            inline=[self.inline[row] for row in sorted(self.inline)],
        )


class _Row(NamedTuple):
    """A chunk to be stored."""

    array: ArrayRows
    row: int

    @property
    def size(self) -> int:
        return self.array.sizes[self.row]


class ChunkStore:
    """Stores the chunk files of a directory; made for one import.

    Concurrency: `run` belongs to one thread, and has others do what waits.

    INVARIANT: a chunk that was stored now is in `_waiting`, or in `_settling` with a `Storage.sync` that began after it
    was stored, or in the ledger, which has nothing that is not durable.
    """

    def __init__(
        self,
        repository: WritableRepository,
        ledger: Ledger,
        pack_bytes: int,
        progress: Progress,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        self._storage = repository.storage
        self._inline_bytes = repository.context.inline_threshold_bytes
        self._pack_bytes = pack_bytes
        self._ledger = ledger
        self._progress = progress
        self._clock_s = clock_s
        self._waiting: list[_Row] = []
        self._waiting_bytes = 0
        self._noted_at = time.monotonic()
        self._settling: tuple[Future[None], list[_Row]] | None = None
        self.done = Transferred()

    # What is there already.

    def reuse(self, arrays: Sequence[ArrayRows], known: Callable[[str], ArrayRefs | None]) -> bool:
        """Takes over what an earlier run has stored, and the store still has.

        Nothing but a reference of the branch keeps garbage collection from an object: every other one is looked up.

        Args:
            arrays: The arrays.
            known: Returns the references that the branch has to an array's chunks: what they name is there.

        Returns:
            Whether it took over chunks that the branch does not refer to.
        """
        found = [taken for array in arrays if (taken := self._matching(array, known)) is not None]
        doubtful = {
            bytes(array.chunk_ids[row]) for array, rows, is_referred in found for row in rows[~is_referred].tolist()
        }
        gone = self._gone(sorted(doubtful))
        for array, rows, _ in found:
            if gone:
                is_there = [bytes(array.chunk_ids[row]) not in gone for row in rows.tolist()]
                rows = rows[np.array(is_there, np.bool_)]
            array.is_done[rows] = True
            self.done.files += len(rows)
            self.done.bytes += int(array.files.sizes[rows].sum())
        return bool(doubtful - gone)

    def _matching(
        self, array: ArrayRows, known: Callable[[str], ArrayRefs | None]
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

    def _gone(self, chunk_ids: Sequence[bytes]) -> set[bytes]:
        """Asks the store which objects it does not have."""
        if not chunk_ids:
            return set()

        def is_there(chunk_id: bytes) -> bool:
            try:
                self._storage.head(chunk_key(ChunkId(chunk_id)))
            except ObjectNotFoundError:
                return False
            return True

        workers = Workers(min(_MAX_THREADS, self._storage.capabilities.concurrency), "icefs-import")
        try:
            there = workers.map(is_there, chunk_ids)
        finally:
            workers.close()
        return {chunk_id for chunk_id, found in zip(chunk_ids, there, strict=True) if not found}

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
        self.done.total_files = sum(len(array.files) for array in arrays)
        self.done.total_bytes = sum(int(array.files.sizes.sum()) for array in arrays)
        self._progress(self.done)
        threads = min(_MAX_THREADS, self._storage.capabilities.concurrency)
        tasks = self._tasks(arrays)
        running: set[Future[Sequence[_Row]]] = set()
        with (
            ThreadPoolExecutor(threads, thread_name_prefix="icefs-import") as pool,
            ThreadPoolExecutor(1, thread_name_prefix="icefs-sync") as disk,
        ):
            try:
                running |= {pool.submit(task) for task in islice(tasks, 2 * threads)}
                while running:
                    finished, running = wait(running, _BEAT_S, FIRST_COMPLETED)
                    for future in finished:
                        self._take(future.result())
                    running |= {pool.submit(task) for task in islice(tasks, len(finished))}
                    self._settle(disk)
                    self._progress(self.done)
                self._note()
            except BaseException:
                self._end_early(running)
                raise

    def _end_early(self, running: set["Future[Sequence[_Row]]"]) -> None:
        """Remembers also what is under way; what fails in it is not what ended the work."""
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                with contextlib.suppress(IcefsError):
                    self._take(future.result())
        with contextlib.suppress(IcefsError):
            self._note()

    def _tasks(self, arrays: Sequence[ArrayRows]) -> Iterator[Callable[[], Sequence[_Row]]]:
        """Yields what threads are to do; each returns the rows that it has stored."""
        is_local = self._storage.capabilities.local_files
        below = packed_below(self._pack_bytes, is_local=is_local)
        packed: list[_Row] = []
        inline: list[_Row] = []
        for array in arrays:
            own: list[_Row] = []
            for row in np.flatnonzero(~array.is_done).tolist():
                size = array.sizes[row]
                if size <= self._inline_bytes:
                    inline.append(_Row(array, row))
                elif size < below:
                    packed.append(_Row(array, row))
                else:
                    own.append(_Row(array, row))
            for rows in _batches(own, _BATCH if is_local else 1):
                yield partial(self._store_own, rows)
        for start, end in plan_packs([row.size for row in packed], self._pack_bytes):
            yield partial(self._store_pack, packed[start:end])
        for some in batched(inline, _BATCH):
            yield partial(self._store_inline, some)

    def _store_own(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        for array, row in rows:
            chunk_id = ChunkId.random()
            path = array.files.file(row)
            self._storage.put_file(chunk_key(chunk_id), path)
            try:
                _check_unchanged(array, row, os.stat(path))
            except OSError as error:
                raise disk_error("read", path, error) from error
            array.chunk_ids[row] = np.frombuffer(chunk_id, np.uint8)
        return rows

    def _store_pack(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        chunk_id = ChunkId.random()
        self._storage.put(chunk_key(chunk_id), b"".join([_read(array, row) for array, row in rows]))
        offset = 0
        for array, row in rows:
            array.chunk_ids[row] = np.frombuffer(chunk_id, np.uint8)
            array.offsets[row] = offset
            offset += array.sizes[row]
        return rows

    def _store_inline(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        for array, row in rows:
            array.inline[row] = _read(array, row)
        return rows

    def _take(self, rows: Sequence[_Row]) -> None:
        """Counts what was stored."""
        for row in rows:
            size = row.size
            self.done.files += 1
            self.done.bytes += size
            if row.row not in row.array.inline:
                self.done.stored_files += 1
                self.done.stored_bytes += size
                self._waiting.append(row)
                self._waiting_bytes += size

    def _settle(self, disk: ThreadPoolExecutor) -> None:
        """Remembers what became durable, and has the disk see to the rest from time to time; waits for nothing."""
        if self._settling is not None:
            if not self._settling[0].done():
                return
            self._note_settling()
        is_due = self._waiting_bytes >= _NOTE_BYTES or time.monotonic() - self._noted_at > _NOTE_EVERY_S
        if self._waiting and is_due:
            self._settling = disk.submit(self._storage.sync), self._take_waiting()

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

    def _take_waiting(self) -> list[_Row]:
        rows, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._noted_at = time.monotonic()
        return rows

    def _ledger_rows(self, rows: Sequence[_Row]) -> Iterator[Row]:
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


def _batches(rows: Sequence[_Row], most: int) -> Iterator[Sequence[_Row]]:
    """Divides chunks of objects of their own among threads' turns."""
    start = filled = 0
    for position, row in enumerate(rows):
        size = row.size
        if position > start and (position - start == most or filled + size > _BATCH_BYTES):
            yield rows[start:position]
            start, filled = position, 0
        filled += size
    if start < len(rows):
        yield rows[start:]


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
            hint="run it again when nobody writes to the directory; what is stored is not stored again",
            path=path,
        )

"""Stores many chunks side by side, and collects the references to them.

    up to the inline threshold    into the manifest
    small                         into objects that they share (see `packing`)
    else                          an object of its own

The bytes come from a `ChunkSource`: the spool of a working tree, or a directory that is imported. The source also
decides how an object of its own comes about (a link, a copy), and remembers the chunks that are stored.

Nothing here makes anything visible; the objects of a commit that fails are garbage.
"""

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import partial
from itertools import accumulate, batched, groupby, islice
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from icefs.engine.write.packing import packed_below, plan_packs
from icefs.errors import IcefsError
from icefs.format.ids import ChunkId, NodeId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ArrayRefs, ByteArray, ChunkKind, ChunkRef, InlineRef, NativeRef, VirtualRef
from icefs.storage.base import Storage

_MAX_THREADS: Final = 16
# How many of them read small files at a time: reading one is three short system calls, after each of which a thread
# waits for the interpreter. With eight it takes half as long again as with four, and with two hardly less.
_READERS: Final = 4
# Where nothing waits for a network, a chunk is a few short system calls, too, and two threads store a thousand in four
# fifths of the time that eight take. One chunk that takes longer than this says that the disk is a slow one.
_LOCAL_THREADS: Final = 2
SLOW_CHUNK_S: Final = 0.002
# What a thread does at a time where it does not wait for a network: enough that handing it over costs little,
# little enough that progress shows.
_BATCH: Final = 64
_BATCH_BYTES: Final = 8 << 20
_BEAT_S: Final = 0.2


class ChunkColumns:
    """The references to chunks of one array as they come into being: rows in the order of the chunks.

    Concurrency: threads write to rows of their own.

    Attributes:
        sizes: The sizes of the chunks in bytes.
        kinds: What kind each reference is.
        offsets: Where each chunk begins in its object.
        chunk_ids: The object of each.
        inline: The bytes of the inline ones, by row.
    """

    def __init__(self, coords: Sequence[npt.ArrayLike], sizes: list[int]) -> None:
        """Begins with rows of which nothing is stored.

        Args:
            coords: The chunk indices, one column for each dimension.
            sizes: The sizes of the chunks in bytes.
        """
        count = len(sizes)
        self.sizes = sizes
        self.kinds: ByteArray = np.full(count, ChunkKind.NATIVE, np.uint8)
        self.offsets = np.zeros(count, np.uint64)
        self.chunk_ids: ByteArray = np.zeros((count, ChunkId.SIZE), np.uint8)
        self.inline: dict[int, bytes] = {}
        self._virtual: dict[int, VirtualRef] = {}
        self._coords = coords

    def set(self, row: int, ref: ChunkRef) -> None:
        """Records a reference that there is already."""
        self.kinds[row] = ref.kind
        self.sizes[row] = ref.length_bytes
        if isinstance(ref, InlineRef):
            self.inline[row] = ref.data
        else:
            self.offsets[row] = ref.offset_bytes
            if isinstance(ref, NativeRef):
                self.chunk_ids[row] = np.frombuffer(ref.chunk_id, np.uint8)
            else:
                self._virtual[row] = ref

    def store_at(self, rows: Sequence[int], chunk_id: bytes, offsets: Sequence[int]) -> None:
        """Records that rows are stored in one object."""
        at = np.array(rows, np.int64)
        self.chunk_ids[at] = np.frombuffer(chunk_id, np.uint8)
        self.offsets[at] = offsets

    def refs(self, node_id: NodeId) -> ArrayRefs:
        """Returns the references, now that all of them are known."""
        virtual = [self._virtual[row] for row in sorted(self._virtual)]
        self.kinds[list(self.inline)] = ChunkKind.INLINE
        return ArrayRefs.from_columns(
            node_id,
            self._coords,
            kinds=self.kinds,
            lengths=np.array(self.sizes, np.uint64),
            offsets=self.offsets,
            chunk_ids=self.chunk_ids,
            inline=[self.inline[row] for row in sorted(self.inline)],
            locations=[ref.location for ref in virtual],
            etags=[ref.etag for ref in virtual],
            last_modified=[ref.last_modified for ref in virtual],
        )


class Row[C: ChunkColumns](NamedTuple):
    """A chunk to be stored.

    Attributes:
        columns: The references to the chunks of its array.
        number: Its row of them.
    """

    columns: C
    number: int

    @property
    def size(self) -> int:
        """The size of the chunk in bytes."""
        return self.columns.sizes[self.number]


class ChunkSource[C: ChunkColumns](Protocol):
    """Has the bytes of chunks, and remembers those that are stored.

    An exception that a method raises ends the writer's work.
    """

    def read(self, row: Row[C]) -> bytes:
        """Returns the bytes of a chunk, as many as its size says; called on any thread."""
        ...

    def store(self, row: Row[C], key: str) -> None:
        """Stores a chunk as the object of a key; called on any thread."""
        ...

    def stored(self, rows: Sequence[Row[C]], offsets: Sequence[int], chunk_id: ChunkId) -> None:
        """Called when rows are stored in one object, each at its offset, on the thread that has stored them."""
        ...

    def done(self, rows: Sequence[Row[C]]) -> None:
        """Called with rows that are stored, inline ones too, on the writer's thread."""
        ...

    def beat(self) -> None:
        """Called on the writer's thread at the beginning, and then several times a second while it works."""
        ...


def store_pack(storage: Storage, parts: Sequence[bytes]) -> tuple[ChunkId, list[int]]:
    """Stores chunks in one object, in their order.

    Args:
        storage: The store.
        parts: The bytes of the chunks; at least one.

    Returns:
        The object, and where in it each chunk begins, in bytes.

    Raises:
        StorageError: the store failed.
    """
    chunk_id = ChunkId.random()
    storage.put(chunk_key(chunk_id), b"".join(parts))
    return chunk_id, list(accumulate(map(len, parts[:-1]), initial=0))


class ChunkWriter[C: ChunkColumns]:
    """Stores the chunks of one source.

    Concurrency: `run` belongs to one thread; threads of its own store.
    """

    def __init__(
        self,
        storage: Storage,
        inline_bytes: int,
        pack_bytes: int,
        source: ChunkSource[C],
        *,
        slow_chunk_s: float = SLOW_CHUNK_S,
    ) -> None:
        """Creates the writer to one store.

        Args:
            storage: The store.
            inline_bytes: The size up to which a chunk is kept in its manifest.
            pack_bytes: How large an object may become that small chunks share; 0 gives each its own.
            source: Where the bytes come from.
            slow_chunk_s: How long a chunk takes on a disk that waits so much that more threads help.
        """
        self._storage = storage
        self._is_local = storage.capabilities.local_files
        self._inline_bytes = inline_bytes
        self._pack_bytes = pack_bytes
        self._source = source
        self._slow_chunk_s = slow_chunk_s
        self._reading = threading.BoundedSemaphore(_READERS)

    def run(self, rows: Iterable[Row[C]]) -> None:
        """Stores chunks; ends early with the first error, after what is under way by then.

        Raises:
            StorageError: the store failed.
        """
        tasks = self._tasks(rows)
        self._source.beat()
        most = min(_MAX_THREADS, self._storage.capabilities.concurrency)
        threads = min(_LOCAL_THREADS, most) if self._is_local else most
        slots = threading.Semaphore(threads)
        with ThreadPoolExecutor(most, thread_name_prefix="icefs-upload") as pool:
            running: set[Future[tuple[Sequence[Row[C]], float]]] = set()
            try:
                while True:
                    # Few are waiting at a time, so that an error, or the caller's end, does not wait for all.
                    running |= {pool.submit(_timed, task, slots) for task in islice(tasks, 2 * threads - len(running))}
                    if not running:
                        return
                    for future in wait(running, _BEAT_S, FIRST_COMPLETED).done:
                        running.remove(future)
                        done, seconds = future.result()
                        self._source.done(done)
                        if threads < most and seconds > self._slow_chunk_s * len(done):
                            # Whatever that waited for, it was not the interpreter.
                            slots.release(most - threads)
                            threads = most
                    self._source.beat()
            except BaseException:
                self._end_early(running)
                raise

    def _end_early(self, running: Iterable[Future[tuple[Sequence[Row[C]], float]]]) -> None:
        """Waits for what is under way, so that the source remembers it; an error in it is not what ended the work."""
        for future in running:
            future.cancel()
        for future in running:
            if not future.cancelled():
                with suppress(IcefsError):
                    self._source.done(future.result()[0])

    def _tasks(self, rows: Iterable[Row[C]]) -> Iterator[Callable[[], Sequence[Row[C]]]]:
        """Yields the threads' tasks; each returns the rows that it has stored."""
        below = packed_below(self._pack_bytes, is_local=self._is_local)
        inline: list[Row[C]] = []
        packed: list[Row[C]] = []
        own: list[Row[C]] = []
        for row in rows:
            (inline if row.size <= self._inline_bytes else packed if row.size < below else own).append(row)
        ids = os.urandom(ChunkId.SIZE * len(own))
        batch = _BATCH if self._is_local else 1
        for start, end in _batches([row.size for row in own], batch):
            yield partial(self._store_own, own[start:end], ids[ChunkId.SIZE * start : ChunkId.SIZE * end])
        for start, end in plan_packs([row.size for row in packed], self._pack_bytes):
            yield partial(self._store_pack, packed[start:end])
        for some in batched(inline, _BATCH):
            yield partial(self._store_inline, some)

    def _store_own(self, rows: Sequence[Row[C]], ids: bytes) -> Sequence[Row[C]]:
        for position, row in enumerate(rows):
            chunk_id = ChunkId(ids[ChunkId.SIZE * position : ChunkId.SIZE * (position + 1)])
            self._source.store(row, chunk_key(chunk_id))
            row.columns.chunk_ids[row.number] = np.frombuffer(chunk_id, np.uint8)
            self._source.stored([row], [0], chunk_id)
        return rows

    def _store_pack(self, rows: Sequence[Row[C]]) -> Sequence[Row[C]]:
        with self._reading:
            parts = list(map(self._source.read, rows))
        chunk_id, offsets = store_pack(self._storage, parts)
        for columns, part in groupby(zip(rows, offsets, strict=True), lambda one: one[0].columns):
            numbers, starts = zip(*((row.number, start) for row, start in part), strict=True)
            columns.store_at(numbers, chunk_id, starts)
        self._source.stored(rows, offsets, chunk_id)
        return rows

    def _store_inline(self, rows: Sequence[Row[C]]) -> Sequence[Row[C]]:
        for row in rows:
            row.columns.inline[row.number] = self._source.read(row)
        return rows


def _timed[T](task: Callable[[], T], slots: threading.Semaphore) -> tuple[T, float]:
    """Runs a task when there is a slot for it; returns its result, and its seconds."""
    with slots:
        start = time.monotonic()
        return task(), time.monotonic() - start


def _batches(sizes: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """Divides chunks of objects of their own among threads' turns; yields half-open ranges."""
    start = filled = 0
    for position, size in enumerate(sizes):
        if position > start and (position - start == most or filled + size > _BATCH_BYTES):
            yield start, position
            start, filled = position, 0
        filled += size
    if start < len(sizes):
        yield start, len(sizes)

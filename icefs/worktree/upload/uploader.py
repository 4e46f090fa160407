"""The bytes of staged chunks on their way into the object store, and the references that come of them.

    bytes that the base has         its own reference
    up to the inline threshold      into the manifest
    small                           into objects that they share (see `packing`)
    else                            an object of its own: on the same disk, the spool file itself (hard link)

Nothing here makes anything visible; what is stored for a commit that fails is garbage.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate, batched, groupby, islice
from typing import Final, NamedTuple

import numpy as np

from icefs.engine.read.session import Session
from icefs.engine.write.session import WritableSession
from icefs.errors import ChunksCollectedError, StorageError
from icefs.format.ids import ChunkId, NodeId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import (
    ArrayRefs,
    ByteArray,
    ChunkKind,
    ChunkRef,
    InlineRef,
    NativeRef,
    Uint64Array,
    VirtualRef,
)
from icefs.worktree.base import BaseEntry
from icefs.worktree.freeze.frozen import FrozenFile, FrozenTree
from icefs.worktree.stage.staged import Source
from icefs.worktree.stage.stager import reused_ref
from icefs.worktree.upload.background import BackgroundUploads
from icefs.worktree.upload.log import Stored
from icefs.worktree.upload.packing import UploadOptions, packed_below, plan_packs
from icefs.zarr.keys import ChunkIndex
from icefs.zarr.reader import KeyReader

logger = logging.getLogger(__name__)

_MAX_THREADS: Final = 16
# How many of them read small files at a time: reading one is three short system calls, after each of which a thread
# waits for the interpreter. With eight it takes half as long again as with four, and with two hardly less.
_READERS: Final = 4
# Where nothing waits for a network, a chunk is a few short system calls, too, and two threads store a thousand in four
# fifths of the time that eight take. One file that takes longer than this says that the disk is a slow one.
_LOCAL_THREADS: Final = 2
_SLOW_FILE_S: Final = 0.002
# What a thread does at a time where it does not wait for a network: enough that handing it over costs little,
# little enough that progress shows.
_BATCH: Final = 64
_BATCH_BYTES: Final = 8 << 20
_BEAT_S: Final = 0.2
_COLLECTED_TRIES: Final = 3


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """How far the chunks of a commit have come.

    Attributes:
        files: The files whose bytes are stored.
        total_files: All that are to be.
        bytes: Their bytes.
        total_bytes: The bytes of all.
    """

    files: int
    total_files: int
    bytes: int
    total_bytes: int


type Progress = Callable[[UploadProgress], None]
"""Is told of progress, from the thread that commits."""


class ArrayUpload(NamedTuple):
    """The chunks of one array that are to be stored.

    Attributes:
        path: The array.
        node_id: Its id.
        chunks: Their files, by index; not empty.
    """

    path: str
    node_id: NodeId
    chunks: Sequence[tuple[ChunkIndex, Source]]


def upload_chunks(
    arrays: Iterable[ArrayUpload],
    frozen: FrozenTree,
    base: Session,
    session: WritableSession,
    progress: Progress,
    options: UploadOptions | None = None,
    background: BackgroundUploads | None = None,
) -> Iterator[tuple[str, ArrayRefs]]:
    """Stores chunks in parallel; bytes that the store has are not stored again.

    Yields:
        Each array's path, and the references to the chunks.

    Raises:
        StorageError: the store, or the disk of the working tree, failed.
    """
    columns = [_Columns(array) for array in arrays]
    uploads = _Uploads(columns, frozen, session, options or UploadOptions(), background)
    if background is None:
        uploads.run(base, {}, progress)
    else:
        with background.paused(lambda: uploads.tell(progress)) as stored:
            trusted = background.trusted(stored)
            # A collection that is under way may take them after they were looked up: the commit copies them then.
            session.draft.holds_chunks_since(background.may_be_taken(trusted))
            uploads.run(base, trusted, progress)
    for column in columns:
        yield column.path, column.refs()


def storing_again[T](background: BackgroundUploads | None, commit: Callable[[], T]) -> T:
    """Commits, and once more where garbage collection took chunks meanwhile: the tree has a copy of each.

    Args:
        background: What remembers uploads, which are forgotten then.
        commit: Stores what is not stored, and commits it; leaves the tree as it was where it fails.

    Raises:
        ChunksCollectedError: it happened every time.
    """
    for _ in range(_COLLECTED_TRIES - 1):
        try:
            return commit()
        except ChunksCollectedError as error:
            logger.warning("%s; they are stored again", error)
            if background is not None:
                background.forget_chunks(error.facts["chunk_ids"])
    return commit()


class _Columns:
    """The references to an array's chunks as they come into being: rows in chunk order.

    Concurrency: threads write to rows of their own.
    """

    def __init__(self, array: ArrayUpload) -> None:
        chunks = sorted(array.chunks, key=_index)
        count, ndim = len(chunks), len(chunks[0][0])
        self.path = array.path
        self.sources = [source for _, source in chunks]
        self.sizes = [_size(source) for source in self.sources]
        self.kinds: ByteArray = np.full(count, ChunkKind.NATIVE, np.uint8)
        self.offsets: Uint64Array = np.zeros(count, np.uint64)
        self.chunk_ids: ByteArray = np.zeros((count, ChunkId.SIZE), np.uint8)
        self.inline: dict[int, bytes] = {}
        self.virtual: dict[int, VirtualRef] = {}
        self._node_id = array.node_id
        self._coords = [np.fromiter((index[axis] for index, _ in chunks), np.int64, count) for axis in range(ndim)]

    def set(self, row: int, ref: ChunkRef) -> None:
        """Takes over a reference that there is already."""
        self.kinds[row] = ref.kind
        self.sizes[row] = ref.length_bytes
        if isinstance(ref, InlineRef):
            self.inline[row] = ref.data
        else:
            self.offsets[row] = ref.offset_bytes
            if isinstance(ref, NativeRef):
                self.chunk_ids[row] = np.frombuffer(ref.chunk_id, np.uint8)
            else:
                self.virtual[row] = ref

    def store_at(self, rows: Sequence[int], chunk_id: bytes, offsets: Sequence[int]) -> None:
        """Says that rows are stored in one object."""
        at = np.array(rows, np.int64)
        self.chunk_ids[at] = np.frombuffer(chunk_id, np.uint8)
        self.offsets[at] = offsets

    def refs(self) -> ArrayRefs:
        """Returns the references, now that all of them are known."""
        inline = [self.inline[row] for row in sorted(self.inline)]
        virtual = [self.virtual[row] for row in sorted(self.virtual)]
        self.kinds[list(self.inline)] = ChunkKind.INLINE
        return ArrayRefs.from_columns(
            self._node_id,
            self._coords,
            kinds=self.kinds,
            lengths=np.array(self.sizes, np.uint64),
            offsets=self.offsets,
            chunk_ids=self.chunk_ids,
            inline=inline,
            locations=[ref.location for ref in virtual],
            etags=[ref.etag for ref in virtual],
            last_modified=[ref.last_modified for ref in virtual],
        )


class _Row(NamedTuple):
    """A chunk to be stored."""

    columns: _Columns
    number: int

    @property
    def source(self) -> Source:
        return self.columns.sources[self.number]

    @property
    def size(self) -> int:
        return self.columns.sizes[self.number]


@dataclass(slots=True)
class _Plan:
    """What is to be done: the rows by what becomes of them."""

    inline: list[_Row] = field(default_factory=list)
    packed: list[_Row] = field(default_factory=list)
    own: list[_Row] = field(default_factory=list)


class _Uploads:
    def __init__(
        self,
        columns: list[_Columns],
        frozen: FrozenTree,
        session: WritableSession,
        options: UploadOptions,
        background: BackgroundUploads | None,
    ) -> None:
        self._columns = columns
        self._frozen = frozen
        self._storage = session.context.storage
        self._inline_bytes = session.context.inline_threshold_bytes
        self._pack_bytes = options.pack_bytes
        self._background = background
        self._mark = session.draft.opened_at
        self._plan = _Plan()
        self._total = sum(len(column.sizes) for column in columns)
        self._total_bytes = sum(sum(column.sizes) for column in columns)
        self._done = self._done_bytes = 0
        self._reading = threading.BoundedSemaphore(_READERS)

    def _make_plan(self, base: Session, stored: Mapping[int, Stored]) -> None:
        """Decides what becomes of each chunk."""
        reader = KeyReader(base)
        plan = self._plan
        packed = packed_below(self._pack_bytes, is_local=self._storage.capabilities.local_files)
        for columns in self._columns:
            for number, (source, size) in enumerate(zip(columns.sources, columns.sizes, strict=True)):
                reused = _stored_ref(stored, source, size) or reused_ref(base, reader, source)
                if reused is not None:
                    columns.set(number, reused)
                    self._done += 1
                    self._done_bytes += size
                elif size <= self._inline_bytes:
                    plan.inline.append(_Row(columns, number))
                elif size < packed:
                    plan.packed.append(_Row(columns, number))
                else:
                    plan.own.append(_Row(columns, number))

    def _tasks(self) -> Iterator[Callable[[], Sequence[_Row]]]:
        """Yields what threads are to do; each returns the rows that it has stored."""
        plan = self._plan
        ids = os.urandom(ChunkId.SIZE * len(plan.own))
        if self._storage.capabilities.local_files or self._background is not None:
            # A file that is linked, or whose upload is remembered, stays as it is.
            sources = [row.source for row in (*plan.own, *plan.packed)]
            self._frozen.keep_final(source.spool_id for source in sources if isinstance(source, FrozenFile))
        batch = _BATCH if self._storage.capabilities.local_files else 1
        for start, end in _batches([row.size for row in plan.own], batch):
            yield partial(self._store_own, plan.own[start:end], ids[ChunkId.SIZE * start : ChunkId.SIZE * end])
        for start, end in plan_packs([row.size for row in plan.packed], self._pack_bytes):
            yield partial(self._store_pack, plan.packed[start:end])
        for rows in batched(plan.inline, _BATCH):
            yield partial(self._store_inline, rows)

    def _store_own(self, rows: Sequence[_Row], ids: bytes) -> Sequence[_Row]:
        for position, row in enumerate(rows):
            chunk_id = ChunkId(ids[ChunkId.SIZE * position : ChunkId.SIZE * (position + 1)])
            path = _spool_path(row.source)
            if path is None:
                self._storage.put(chunk_key(chunk_id), self._read(row))
            else:
                self._check_size(row, _file_size(path))
                self._storage.put_file(chunk_key(chunk_id), path, is_final=True)
            row.columns.chunk_ids[row.number] = np.frombuffer(chunk_id, np.uint8)
            self._remember([row], [0], chunk_id)
        return rows

    def _store_pack(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        chunk_id = ChunkId.random()
        offsets = list(accumulate((row.size for row in rows[:-1]), initial=0))
        with self._reading:
            data = b"".join(map(self._read, rows))
        self._storage.put(chunk_key(chunk_id), data)
        for columns, part in groupby(zip(rows, offsets, strict=True), lambda one: one[0].columns):
            numbers, starts = zip(*((row.number, start) for row, start in part), strict=True)
            columns.store_at(numbers, chunk_id, starts)
        self._remember(rows, offsets, chunk_id)
        return rows

    def _remember(self, rows: Sequence[_Row], offsets: Sequence[int], chunk_id: ChunkId) -> None:
        """Lets the next commit know, should this one fail."""
        if self._background is not None:
            sources = [(row.source, row.size, offset) for row, offset in zip(rows, offsets, strict=True)]
            self._background.remember_files(
                [
                    (source.spool_id, source.spool_path, size, offset)
                    for source, size, offset in sources
                    if isinstance(source, FrozenFile) and source.spool_path is not None and source.base_path is None
                ],
                chunk_id,
                self._mark,
            )

    def _store_inline(self, rows: Sequence[_Row]) -> Sequence[_Row]:
        for row in rows:
            row.columns.inline[row.number] = self._read(row)
        return rows

    def _read(self, row: _Row) -> bytes:
        data = self._frozen.read(row.source)
        self._check_size(row, len(data))
        return data

    def _check_size(self, row: _Row, size: int) -> None:
        if size != row.size:
            path = row.source.path
            raise StorageError(
                f"{path!r} has {size} bytes on the working tree's disk, and had {row.size} when it was written",
                kind="io",
                hint="write the file again, or remove it",
                path=path,
            )

    def run(self, base: Session, stored: Mapping[int, Stored], progress: Progress) -> None:
        """Stores what is not stored; ends early with the first error."""
        self._make_plan(base, stored)
        self.tell(progress)
        most = min(_MAX_THREADS, self._storage.capabilities.concurrency)
        threads = min(_LOCAL_THREADS, most) if self._storage.capabilities.local_files else most
        slots = threading.Semaphore(threads)
        tasks = self._tasks()
        with ThreadPoolExecutor(most, thread_name_prefix="icefs-upload") as pool:
            running: set[Future[tuple[Sequence[_Row], float]]] = set()
            try:
                while True:
                    # Few are waiting at a time, so that an error, or the caller's end, does not wait for all.
                    running |= {pool.submit(_timed, task, slots) for task in islice(tasks, 2 * threads - len(running))}
                    if not running:
                        return
                    done, running = wait(running, _BEAT_S, FIRST_COMPLETED)
                    for future in done:
                        rows, seconds = future.result()
                        self._done += len(rows)
                        self._done_bytes += sum(row.size for row in rows)
                        if threads < most and seconds > _SLOW_FILE_S * len(rows):
                            # Whatever that waited for, it was not the interpreter.
                            slots.release(most - threads)
                            threads = most
                    self.tell(progress)
            except BaseException:
                for future in running:
                    future.cancel()
                raise

    def tell(self, progress: Progress) -> None:
        """Says how far it is; also now and then while nothing happens, so that the caller can end it."""
        progress(UploadProgress(self._done, self._total, self._done_bytes, self._total_bytes))


def _timed(task: Callable[[], Sequence[_Row]], slots: threading.Semaphore) -> tuple[Sequence[_Row], float]:
    """Runs a task when there is a slot for it; returns what it returns, and its seconds."""
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


def _stored_ref(stored: Mapping[int, Stored], source: Source, size: int) -> NativeRef | None:
    """Returns where the bytes of a file were stored before; None if they were not."""
    if not stored or not isinstance(source, FrozenFile) or source.base_path is not None or source.is_lost:
        return None
    found = stored.get(source.spool_id)
    return None if found is None or found.size != size else NativeRef(found.chunk_id, found.offset, size)


def _index(chunk: tuple[ChunkIndex, Source]) -> ChunkIndex:
    return chunk[0]


def _size(source: Source) -> int:
    return source.attr.size if isinstance(source, BaseEntry) else source.size


def _spool_path(source: Source) -> str | None:
    """Returns the file that has exactly a source's bytes, if there is one."""
    if isinstance(source, BaseEntry) or source.base_path is not None or source.is_lost:
        return None
    return source.spool_path


def _file_size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}", kind="io", path=path) from error

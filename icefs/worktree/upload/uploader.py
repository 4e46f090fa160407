"""Stores the staged chunks of a commit, and returns the references to them.

    bytes that the base has       the base's own reference
    uploaded in the background    a reference to that object
    else                          as `ChunkWriter` decides; on the same disk, a large chunk's object is its spool
                                  file (hard link)

Nothing here makes anything visible; the objects of a commit that fails are garbage.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from icefs.engine.read.session import Session
from icefs.engine.write.chunk_writer import ChunkColumns, ChunkWriter, Row
from icefs.engine.write.session import WritableSession
from icefs.errors import ChunksCollectedError, StorageError
from icefs.format.ids import ChunkId, NodeId
from icefs.format.manifest.refs import ArrayRefs, NativeRef
from icefs.worktree.base import BaseEntry
from icefs.worktree.freeze.frozen import FrozenFile, FrozenTree
from icefs.worktree.stage.staged import Source
from icefs.worktree.stage.stager import reused_ref
from icefs.worktree.upload.background import BackgroundUploads
from icefs.worktree.upload.log import Stored
from icefs.worktree.upload.options import UploadOptions
from icefs.zarr.keys import ChunkIndex
from icefs.zarr.reader import KeyReader

logger = logging.getLogger(__name__)

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
"""Called with how far it is, on the thread that commits; what it raises ends the upload."""


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
    chosen, context = options or UploadOptions(), session.context
    inline_bytes = context.inline_threshold_bytes
    source = _FrozenChunks(columns, frozen, session, background, progress)
    writer = ChunkWriter(context.storage, inline_bytes, chosen.pack_bytes, source)
    if background is None:
        writer.run(source.new_rows(columns, base, {}, inline_bytes))
    else:
        with background.paused(source.beat) as stored:
            trusted = background.stored.trusted(stored)
            # A collection that is under way may take them after they were looked up: the commit copies them then.
            session.draft.holds_chunks_since(background.stored.may_be_taken(trusted))
            writer.run(source.new_rows(columns, base, trusted, inline_bytes))
    for column in columns:
        yield column.path, column.refs(column.node_id)


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
                background.stored.forget_chunks(error.facts["chunk_ids"])
    return commit()


class _Columns(ChunkColumns):
    """The chunks of an array, and their files."""

    def __init__(self, array: ArrayUpload) -> None:
        chunks = sorted(array.chunks, key=_index)
        count, ndim = len(chunks), len(chunks[0][0])
        coords = [np.fromiter((index[axis] for index, _ in chunks), np.int64, count) for axis in range(ndim)]
        self.path = array.path
        self.node_id = array.node_id
        self.sources = [source for _, source in chunks]
        super().__init__(coords, [_size(source) for source in self.sources])


class _FrozenChunks:
    """The files of a frozen tree as a source of chunks."""

    def __init__(
        self,
        columns: Sequence[_Columns],
        frozen: FrozenTree,
        session: WritableSession,
        background: BackgroundUploads | None,
        progress: Progress,
    ) -> None:
        self._frozen = frozen
        self._storage = session.context.storage
        self._background = background
        self._mark = session.draft.opened_at
        self._progress = progress
        self._total = sum(len(column.sizes) for column in columns)
        self._total_bytes = sum(sum(column.sizes) for column in columns)
        self._done = self._done_bytes = 0

    def new_rows(
        self, columns: Sequence[_Columns], base: Session, stored: Mapping[int, Stored], inline_bytes: int
    ) -> list[Row[_Columns]]:
        """Returns the chunks that the store does not have; of the others the columns get the references.

        Args:
            columns: The chunks.
            base: What the tree stands on.
            stored: What was uploaded in the background.
            inline_bytes: The size up to which a chunk is kept in its manifest.
        """
        reader = KeyReader(base)
        rows: list[Row[_Columns]] = []
        for one in columns:
            for number, (source, size) in enumerate(zip(one.sources, one.sizes, strict=True)):
                reused = _stored_ref(stored, source, size) or reused_ref(base, reader, source)
                if reused is None:
                    rows.append(Row(one, number))
                else:
                    one.set(number, reused)
                    self._done += 1
                    self._done_bytes += size
        if self._storage.capabilities.local_files or self._background is not None:
            # A file that is linked, or whose upload is remembered, stays as it is.
            sources = [row.columns.sources[row.number] for row in rows if row.size > inline_bytes]
            self._frozen.keep_final(source.spool_id for source in sources if isinstance(source, FrozenFile))
        return rows

    def read(self, row: Row[_Columns]) -> bytes:
        """Reads the bytes of a chunk."""
        data = self._frozen.read(row.columns.sources[row.number])
        _check_size(row, len(data))
        return data

    def store(self, row: Row[_Columns], key: str) -> None:
        """Stores a chunk as an object of its own: on the same disk, the spool file itself (hard link)."""
        path = _spool_path(row.columns.sources[row.number])
        if path is None:
            self._storage.put(key, self.read(row))
        else:
            _check_size(row, _file_size(path))
            self._storage.put_file(key, path, is_final=True)

    def stored(self, rows: Sequence[Row[_Columns]], offsets: Sequence[int], chunk_id: ChunkId) -> None:
        """Records uploads for the next commit, should this one fail."""
        if self._background is not None:
            sources = [
                (row.columns.sources[row.number], row.size, offset) for row, offset in zip(rows, offsets, strict=True)
            ]
            self._background.stored.remember_committed(
                [
                    (source.spool_id, source.spool_path, size, offset)
                    for source, size, offset in sources
                    if isinstance(source, FrozenFile) and source.spool_path is not None and source.base_path is None
                ],
                chunk_id,
                self._mark,
            )

    def done(self, rows: Sequence[Row[_Columns]]) -> None:
        """Counts chunks that are stored."""
        self._done += len(rows)
        self._done_bytes += sum(row.size for row in rows)

    def beat(self) -> None:
        """Reports progress; also now and then while nothing happens, so that the caller can end the upload."""
        self._progress(UploadProgress(self._done, self._total, self._done_bytes, self._total_bytes))


def _check_size(row: Row[_Columns], size: int) -> None:
    if size != row.size:
        path = row.columns.sources[row.number].path
        raise StorageError(
            f"{path!r} has {size} bytes on the working tree's disk, and had {row.size} when it was written",
            kind="io",
            hint="write the file again, or remove it",
            path=path,
        )


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

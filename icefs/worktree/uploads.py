"""The bytes of staged chunks on their way into the object store, and the references that come of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, NamedTuple

from icefs.engine.session import Session
from icefs.engine.writable import WritableSession
from icefs.format.ids import NodeId
from icefs.format.manifest import ArrayRefs, ChunkRef
from icefs.worktree.core import Lowered
from icefs.worktree.frozen import FrozenTree
from icefs.worktree.staging import Source, reused_ref
from icefs.zarr.keys import ChunkIndex
from icefs.zarr.reader import KeyReader

_UPLOADS: Final = 8
_BATCH: Final = 4096


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
    arrays: Iterable[ArrayUpload], frozen: FrozenTree, base: Session, session: WritableSession, progress: Progress
) -> Iterator[tuple[str, ArrayRefs]]:
    """Stores chunks in parallel; bytes that the base has are not stored again.

    Yields:
        Each array's path, and the references to the chunks.

    Raises:
        StorageError: the store, or the disk of the working tree, failed.
    """
    arrays = list(arrays)
    reader = KeyReader(base)
    total = sum(len(array.chunks) for array in arrays)
    total_bytes = sum(_size(source) for array in arrays for _, source in array.chunks)
    done = done_bytes = 0

    def store(source: Source) -> ChunkRef:
        return reused_ref(base, reader, source) or session.store_chunk(frozen.read(source))

    with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="icefs-upload") as pool:
        for array in arrays:
            refs: list[ChunkRef] = []
            for start in range(0, len(array.chunks), _BATCH):
                batch = [source for _, source in array.chunks[start : start + _BATCH]]
                refs += pool.map(store, batch)
                done += len(batch)
                done_bytes += sum(map(_size, batch))
                progress(UploadProgress(done, total, done_bytes, total_bytes))
            indices = [index for index, _ in array.chunks]
            pairs = list(zip(indices, refs, strict=True))
            yield array.path, ArrayRefs.from_refs(array.node_id, len(indices[0]), pairs)


def _size(source: Source) -> int:
    return source.attr.size if isinstance(source, Lowered) else source.size

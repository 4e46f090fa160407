"""The chunks of a session that writes: stored, and their references set and deleted in its draft.

Chunks that are not inline are stored when they are set; a session that is given up leaves them behind for garbage
collection.

Source: spec 2.1 "Manifest files"; upstream icechunk/src/session.rs.
"""

from collections.abc import Sequence

import numpy as np

from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.write.changeset import Change, ChunkChanges
from icefs.engine.write.draft import Draft
from icefs.engine.write.edited_chunks import EditedArrays, EditedChunks
from icefs.errors import InvalidInputError
from icefs.format.chunk_indices import ChunkIndices, Uint64Array
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ArrayRefs, ChunkRef, InlineRef, NativeRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath
from icefs.storage.base import Storage


class ChunkEditor:
    """Changes the chunks of a draft's arrays.

    Concurrency: safe to use from several threads; each change holds the draft's gate, and waits while the draft is
    committed or rebased. Storing a chunk holds nothing.
    """

    def __init__(self, draft: Draft, arrays: EditedArrays, storage: Storage, inline_threshold_bytes: int) -> None:
        """Makes the editor.

        Args:
            draft: The changes.
            arrays: The draft's arrays with the changes.
            storage: Where chunks go.
            inline_threshold_bytes: The length up to which a chunk goes into its manifest.
        """
        self._draft = draft
        self._arrays = arrays
        self._storage = storage
        self._inline_threshold_bytes = inline_threshold_bytes

    def set(self, path: NodePath, chunk_index: Sequence[int], data: bytes | memoryview) -> None:
        """Stores a chunk: in the manifest where it is small, else as an object at once.

        Its size is not compared with the array's codecs: the program that calls has encoded it, and the official
        library takes any bytes. `icefs fsck` names chunks that no reader can decode.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path, or the index is outside of its grid, or
                the chunk is empty.
            ReadOnlyError, SessionStateError: the session does not write.
            StorageError: the chunk cannot be stored.
        """
        with self._draft.gate:
            self.check(path, chunk_index, len(data))
        # Stored before it is referred to, and outside of the lock.
        self.set_ref(path, chunk_index, self.store(data))

    def check(self, path: NodePath, chunk_index: Sequence[int], length_bytes: int) -> None:
        """Refuses what `set` would refuse of a chunk of that length; waits for no commit."""
        with self._draft.lock:
            self._draft.check_edits()
            check_chunk(self._array(path), chunk_index, length_bytes)

    def store(self, data: bytes | memoryview) -> ChunkRef:
        """Puts a chunk's bytes where a reference can name them, and returns the reference; raises StorageError."""
        if len(data) <= self._inline_threshold_bytes:
            return InlineRef(bytes(data))
        chunk_id = ChunkId.random()
        self._storage.put(chunk_key(chunk_id), data)
        return NativeRef(chunk_id, 0, len(data))

    def set_ref(
        self, path: NodePath, chunk_index: Sequence[int], ref: ChunkRef | None, *, overwrite: bool = True
    ) -> None:
        """Sets the reference to a chunk, whose bytes are stored already; None deletes the chunk.

        Args:
            path: The array's.
            chunk_index: The chunk's.
            ref: The reference.
            overwrite: Also where this session set the chunk already; otherwise that one stays as it is.

        Raises:
            NodeNotFoundError, InvalidInputError, ReadOnlyError, SessionStateError: as `set`.
        """
        with self._draft.gate:
            self._draft.check_edits()
            node = self._array(path)
            check_chunk(node, chunk_index, 1 if ref is None else ref.length_bytes)
            changes = self._draft.changes.chunk_changes(node)
            if not overwrite and not isinstance(changes.find(chunk_index), Change):
                return
            self._draft.revision += 1
            changes.set(chunk_index, ref)

    def set_refs(self, path: NodePath, refs: ArrayRefs) -> None:
        """Sets many references at once; those outside of the array's grid are refused together.

        Raises:
            NodeNotFoundError, InvalidInputError, ReadOnlyError, SessionStateError: as `set`.
        """
        with self._draft.gate:
            self._draft.check_edits()
            if not len(refs):
                return
            node = self._array(path)
            check_chunks(node, refs.indices, refs.lengths)
            self._draft.revision += 1
            self._draft.changes.chunk_changes(node).set_many(refs)

    def delete(self, path: NodePath, indices: ChunkIndices) -> None:
        """Deletes many chunks at once; those that do not exist count as deleted.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path, or an index is outside of its grid.
            ReadOnlyError, SessionStateError: the session does not write.
        """
        with self._draft.gate:
            self._draft.check_edits()
            node = self._array(path)
            if not len(indices):
                return
            check_chunks(node, indices, None)
            self._draft.revision += 1
            self._draft.changes.chunk_changes(node).delete_many(indices)

    def delete_below(self, path: NodePath, prefix: Sequence[int]) -> None:
        """Deletes all chunks whose index starts with `prefix`.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path.
            FormatError, StorageError: the chunks that there are cannot be read.
            ReadOnlyError, SessionStateError: the session does not write.
        """
        chunks = self._arrays.chunks(self._draft.node(path))
        if isinstance(chunks, ArrayChunks):
            chunks = EditedChunks(chunks, ChunkChanges(chunks.node.id, chunks.ndim))
        # Fetched before the lock is taken; what others write meanwhile came later than this.
        self.delete(path, chunks.indices_below(prefix))

    def _array(self, path: NodePath) -> NodeSnapshot:
        node = self._draft.node(path)
        if node.array is None:
            raise InvalidInputError(f"{path} is a group, not an array", kind="not-an-array", path=path)
        return node


def check_chunk(node: NodeSnapshot, chunk_index: Sequence[int], length_bytes: int) -> None:
    """Refuses a chunk that an array cannot have.

    Raises:
        InvalidInputError: the index is outside of the array's grid (kind `invalid-chunk-index`), or the length is 0
            (kind `zero-length-chunk`).
    """
    assert node.array is not None
    index = tuple(chunk_index)
    if len(index) != len(node.array.shape) or any(
        not 0 <= position < dimension.num_chunks for position, dimension in zip(index, node.array.shape, strict=True)
    ):
        grid = tuple(dimension.num_chunks for dimension in node.array.shape)
        raise InvalidInputError(
            f"chunk {list(index)} is outside of the grid {list(grid)} of {node.path}",
            kind="invalid-chunk-index",
            path=node.path,
            chunk_index=index,
            index=list(index),
        )
    if length_bytes == 0:
        raise InvalidInputError(
            f"chunk {list(index)} of {node.path} is empty",
            kind="zero-length-chunk",
            path=node.path,
            index=list(index),
            hint="delete the chunk instead: a chunk that does not exist reads as the fill value",
        )


def check_chunks(node: NodeSnapshot, indices: ChunkIndices, lengths: Uint64Array | None) -> None:
    """Refuses chunks of which an array cannot have one; the error names the first such one.

    Args:
        node: The array.
        indices: The chunks; at least one.
        lengths: Their lengths in bytes, or None where these do not matter.

    Raises:
        InvalidInputError: as `check_chunk`.
    """
    assert node.array is not None

    def index_at(row: int) -> tuple[int, ...]:
        return tuple(int(column[row]) for column in indices.coords)

    if indices.ndim != len(node.array.shape):
        check_chunk(node, index_at(0), 1)
    wrong = np.zeros(len(indices), np.bool_) if lengths is None else lengths == 0
    for column, dimension in zip(indices.coords, node.array.shape, strict=True):
        wrong |= column >= dimension.num_chunks
    if wrong.any():
        row = int(wrong.argmax())
        check_chunk(node, index_at(row), 1 if lengths is None else int(lengths[row]))

"""A session that writes: changes to nodes and chunks over a base snapshot, until a commit makes them a snapshot.

Nobody else sees any of it before the commit's last write. Chunks that are not inline are stored when they are set; a
session that is given up leaves them behind for garbage collection.

After a successful commit, amend or flush the session is read-only, on no branch, and stands on the new snapshot
(official behaviour, format notes §2).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from icefs.engine.history.diff import Diff, build_named_diff, ranks
from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.read.session import Session
from icefs.engine.write import transactions
from icefs.engine.write.changeset import Change, ChunkChanges, with_manifests_of
from icefs.engine.write.collection_log import Collections
from icefs.engine.write.conflicts import ConflictSolver
from icefs.engine.write.context import WriteContext
from icefs.engine.write.draft import Draft
from icefs.engine.write.edited_chunks import EditedChunks
from icefs.engine.write.moves import check_path, planned_move, planned_moves
from icefs.errors import AlreadyExistsError, InvalidInputError, InvalidMetadataError
from icefs.format.chunk_indices import ChunkIndices, Uint64Array
from icefs.format.ids import ChunkId, NodeId, SnapshotId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ArrayRefs, ChunkRef, InlineRef, NativeRef
from icefs.format.snapshot.encoding import MAX_U32
from icefs.format.snapshot.nodes import ArrayData, NodeSnapshot, NodeType
from icefs.format.snapshot.reader import Snapshot
from icefs.format.zarr_json import ZarrMetadata, parse_zarr_json
from icefs.paths import ROOT_NODE, NodePath

_MAX_ARRAYS: Final = 256


class WritableSession(Session):
    """One snapshot and changes to it.

    Concurrency: safe to use from several threads. The draft's gate guards the base and the changes together.

    Attributes:
        draft: The base, the changes, and the commits of them that were tried.
    """

    def __init__(
        self,
        context: WriteContext,
        snapshot: Snapshot,
        branch: str | None,
        *,
        is_rearrange: bool = False,
        origin_id: SnapshotId | None = None,
    ) -> None:
        super().__init__(context, snapshot, branch)
        self._write_context = context
        mark = Collections(context).mark()
        self.draft = Draft(snapshot, branch, mark, is_rearrange=is_rearrange, origin_id=origin_id)
        # The sorted paths of one revision of the nodes.
        self._sorted: tuple[int, list[NodePath]] | None = None
        # By node: as long as nothing but chunks changes, an array's chunks need not be put together again.
        self._edited: dict[NodeId, tuple[NodeSnapshot, ArrayChunks, EditedChunks | None]] = {}

    @property
    def context(self) -> WriteContext:
        """The repository that the snapshot is in."""
        return self._write_context

    @property
    def snapshot(self) -> Snapshot:
        """The base snapshot; after a commit, the one that it made."""
        return self.draft.snapshot

    @property
    def branch(self) -> str | None:
        """The branch to commit to; None for a fork, and after a commit."""
        return self.draft.branch

    @property
    def read_only(self) -> bool:
        """Whether the session cannot write, since it was committed."""
        return self.draft.read_only

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        with self.draft.lock:
            return not self.draft.changes.is_empty()

    def discard_changes(self) -> None:
        """Forgets all uncommitted changes.

        Raises:
            ReadOnlyError: the session is read-only.
        """
        self.draft.discard()

    # Reading, with the changes.

    def get_node(self, path: NodePath) -> NodeSnapshot | None:
        """Returns the group or array at an absolute path, or None."""
        return self.draft.get_node(path)

    def node(self, path: NodePath) -> NodeSnapshot:
        """Returns the group or array at an absolute path.

        Raises:
            NodeNotFoundError: there is none.
        """
        return self.draft.node(path)

    def _paths(self) -> list[NodePath]:
        draft = self.draft
        with draft.lock:
            known = self._sorted
            if known is None or known[0] != draft.node_revision:
                known = self._sorted = draft.node_revision, sorted(node.path for node in draft.nodes())
            return known[1]

    def list_nodes(self, path: NodePath = ROOT_NODE) -> Iterator[NodeSnapshot]:
        """Yields the node at `path`, if there is one, and all nodes below it, sorted by path, all of one moment."""
        with self.draft.lock:
            return iter(list(super().list_nodes(path)))

    def array_chunks(self, array: NodePath | NodeSnapshot) -> ArrayChunks | EditedChunks:  # type: ignore[override]
        """Returns the chunk references of an array, with the session's changes.

        Changes made later show in the result only if there were some before; ask again.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the node is a group (kind `not-an-array`).
        """
        with self.draft.lock:
            node = self.node(array) if isinstance(array, str) else array
            changes = self.draft.changes.chunks.get(node.id)
            if changes is not None and changes.ndim != len(node.array.shape if node.array is not None else ()):
                changes = None  # the caller's node is not what stands there now
            known = self._edited.get(node.id)
            if known is None or (known[0] is not node and known[0] != node):
                known = node, ArrayChunks(self.context.assets, node), None
            _, base, edited = known
            if changes and (edited is None or not edited.shows(changes)):
                edited = EditedChunks(base, changes)
            while len(self._edited) >= _MAX_ARRAYS:
                del self._edited[next(iter(self._edited))]
            self._edited[node.id] = node, base, edited
            return edited if changes and edited is not None else base

    # Writing nodes.

    def set_metadata(self, path: NodePath, data: bytes, *, overwrite: bool = True) -> NodeSnapshot:
        """Makes a group or array, or rewrites its zarr.json; the bytes are kept as they are.

        Args:
            path: The node's.
            data: What its zarr.json holds.
            overwrite: Also where a node is at the path already; otherwise that one stays as it is.

        Raises:
            InvalidMetadataError: `data` is no metadata of a Zarr v3 node that Icechunk can hold.
            AlreadyExistsError: an array is to replace a group, or the reverse.
            ReadOnlyError, SessionStateError: the session does not write.
        """
        check_path(path)
        name = f"{path.rstrip('/')}/zarr.json"
        metadata = parse_zarr_json(data, name=name, spec_version=self.context.spec_version)
        array = array_data(metadata, name)
        with self.draft.gate:
            self.draft.check_edits()
            existing = self.get_node(path)
            if existing is not None and not overwrite:
                return existing
            if existing is not None and existing.node_type is not metadata.node_type:
                raise AlreadyExistsError(
                    f"{path} is {_article(existing)} and cannot become another kind of node",
                    path=path,
                    hint="delete the node first",
                )
            if existing is not None and existing.user_data == data:
                return existing
            node_id = NodeId.random() if existing is None else existing.id
            base = None if existing is None else self.snapshot.node_by_id(node_id)
            node = with_manifests_of(NodeSnapshot(node_id, path, bytes(data), array), base)
            self.draft.changes.put_node(node, base)
            self.draft.nodes_changed()
            return node

    def delete_node(self, path: NodePath) -> None:
        """Deletes a node and all below it; nothing happens where there is none.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write.
        """
        with self.draft.gate:
            self.draft.check_edits()
            for node in self.list_nodes(path):
                self.draft.changes.delete_node(node, self.snapshot.node_by_id(node.id))
            self.draft.nodes_changed()

    def delete_nodes(self, paths: Iterable[NodePath]) -> None:
        """Deletes exactly the nodes at some paths, not those below them: Icechunk holds nodes without parents.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write.
        """
        with self.draft.gate:
            self.draft.check_edits()
            for path in paths:
                node = self.get_node(path)
                if node is not None:
                    self.draft.changes.delete_node(node, self.snapshot.node_by_id(node.id))
            self.draft.nodes_changed()

    def move_nodes(self, moves: Mapping[NodePath, NodePath]) -> None:
        """Moves nodes one by one and at once, each without what is below it (rearrange sessions of spec 2 only).

        So two nodes can change places, which a sequence of `move` can say only by way of a third place.

        Args:
            moves: The new path of each node, by the path that it has.

        Raises:
            SessionStateError: the session is no rearrange session; or a node would be left without a group above it.
            NodeNotFoundError: nothing is at one of the paths.
            AlreadyExistsError: something is at a new path, and stays there.
        """
        with self.draft.gate:
            self.draft.check_rearranges()
            self.draft.changes.move_nodes(planned_moves(self.draft, moves))
            self.draft.nodes_changed()

    def move(self, from_path: NodePath, to_path: NodePath) -> None:
        """Moves a node with all below it (rearrange sessions of spec 2 only).

        Raises:
            SessionStateError: the session is no rearrange session; or the target lies below the source, or its
                parent is missing or no group.
            NodeNotFoundError: nothing is at `from_path`.
            AlreadyExistsError: something is at `to_path`.
        """
        with self.draft.gate:
            self.draft.check_rearranges()
            self.draft.changes.move_nodes(planned_move(self.draft, from_path, to_path))
            self.draft.nodes_changed()

    # Writing chunks.

    def set_chunk(self, path: NodePath, chunk_index: Sequence[int], data: bytes | memoryview) -> None:
        """Stores a chunk: in the manifest where it is small, else as an object at once.

        Its size is not compared with the array's codecs: the program that calls has encoded it, and the official
        library takes any bytes. `icefs fsck` names chunks that no reader can decode.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path, or the index is outside of its grid, or
                the chunk is empty.
            StorageError: the chunk cannot be stored.
        """
        with self.draft.gate:
            self.check_chunk(path, chunk_index, len(data))
        # Stored before it is referred to, and outside of the lock.
        self.set_chunk_ref(path, chunk_index, self.store_chunk(data))

    def check_chunk(self, path: NodePath, chunk_index: Sequence[int], length_bytes: int) -> None:
        """Refuses what `set_chunk` would refuse of a chunk of that length; waits for no commit."""
        with self.draft.lock:
            self.draft.check_edits()
            self._array_for(path, chunk_index, length_bytes)

    def store_chunk(self, data: bytes | memoryview) -> ChunkRef:
        """Puts a chunk's bytes where a reference can name them, and returns the reference."""
        if len(data) <= self.context.inline_threshold_bytes:
            return InlineRef(bytes(data))
        chunk_id = ChunkId.random()
        self.context.storage.put(chunk_key(chunk_id), data)
        return NativeRef(chunk_id, 0, len(data))

    def set_chunk_ref(
        self, path: NodePath, chunk_index: Sequence[int], ref: ChunkRef | None, *, overwrite: bool = True
    ) -> None:
        """Sets the reference to a chunk, whose bytes are stored already; None deletes the chunk.

        Args:
            path: The array's.
            chunk_index: The chunk's.
            ref: The reference.
            overwrite: Also where this session set the chunk already; otherwise that one stays as it is.

        Raises:
            NodeNotFoundError, InvalidInputError: as `set_chunk`.
        """
        with self.draft.gate:
            self.draft.check_edits()
            node = self._array_for(path, chunk_index, 1 if ref is None else ref.length_bytes)
            changes = self.draft.changes.chunk_changes(node)
            if not overwrite and not isinstance(changes.find(chunk_index), Change):
                return
            self.draft.revision += 1
            changes.set(chunk_index, ref)

    def set_chunk_refs(self, path: NodePath, refs: ArrayRefs) -> None:
        """Sets many references at once; those outside of the array's grid are refused together.

        Raises:
            NodeNotFoundError, InvalidInputError: as `set_chunk`.
        """
        with self.draft.gate:
            self.draft.check_edits()
            if not len(refs):
                return
            node = self._array_for_all(path, refs.indices, refs.lengths)
            self.draft.revision += 1
            self.draft.changes.chunk_changes(node).set_many(refs)

    def delete_chunks(self, path: NodePath, indices: ChunkIndices) -> None:
        """Deletes many chunks at once; those that do not exist count as deleted.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path.
        """
        with self.draft.gate:
            self.draft.check_edits()
            node = self._array(path)
            if not len(indices):
                return
            self._array_for_all(path, indices, None)
            self.draft.revision += 1
            self.draft.changes.chunk_changes(node).delete_many(indices)

    def delete_chunks_below(self, path: NodePath, prefix: Sequence[int]) -> None:
        """Deletes all chunks whose index starts with `prefix`.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path.
            FormatError, StorageError: the chunks that there are cannot be read.
        """
        chunks = self.array_chunks(path)
        if isinstance(chunks, ArrayChunks):
            chunks = EditedChunks(chunks, ChunkChanges(chunks.node.id, chunks.ndim))
        # Fetched before the lock is taken; what others write meanwhile came later than this.
        self.delete_chunks(path, chunks.indices_below(prefix))

    def _array(self, path: NodePath) -> NodeSnapshot:
        node = self.node(path)
        if node.array is None:
            raise InvalidInputError(f"{path} is a group, not an array", kind="not-an-array", path=path)
        return node

    def _array_for_all(self, path: NodePath, indices: ChunkIndices, lengths: Uint64Array | None) -> NodeSnapshot:
        """Returns the array at a path, if all of some chunks fit it; the error names the first one that does not."""

        def index_at(row: int) -> tuple[int, ...]:
            return tuple(int(column[row]) for column in indices.coords)

        node = self._array(path)
        assert node.array is not None
        if indices.ndim != len(node.array.shape):
            return self._array_for(path, index_at(0), 1)
        wrong = np.zeros(len(indices), np.bool_) if lengths is None else lengths == 0
        for column, dimension in zip(indices.coords, node.array.shape, strict=True):
            wrong |= column >= dimension.num_chunks
        if wrong.any():
            row = int(wrong.argmax())
            self._array_for(path, index_at(row), 1 if lengths is None else int(lengths[row]))
        return node

    def _array_for(self, path: NodePath, chunk_index: Sequence[int], length_bytes: int) -> NodeSnapshot:
        node = self._array(path)
        assert node.array is not None
        index = tuple(chunk_index)
        if len(index) != len(node.array.shape) or any(
            not 0 <= position < dimension.num_chunks
            for position, dimension in zip(index, node.array.shape, strict=True)
        ):
            grid = tuple(dimension.num_chunks for dimension in node.array.shape)
            raise InvalidInputError(
                f"chunk {list(index)} is outside of the grid {list(grid)} of {path}",
                kind="invalid-chunk-index",
                path=path,
                chunk_index=index,
            )
        if length_bytes == 0:
            raise InvalidInputError(
                f"chunk {list(index)} of {path} is empty",
                kind="zero-length-chunk",
                path=path,
                hint="delete the chunk instead: a chunk that does not exist reads as the fill value",
            )
        return node

    # Commits; see `transactions` for arguments and errors.

    def commit(self, message: str, metadata: dict[str, Any] | None = None, **options: Any) -> SnapshotId:
        """Commits the changes to the branch."""
        return self._ended(transactions.commit(self.context, self.draft, message, metadata, **options))

    def amend(self, message: str, metadata: dict[str, Any] | None = None, **options: Any) -> SnapshotId:
        """Replaces the branch's newest commit by one that also has the changes (spec 2)."""
        return self._ended(transactions.amend(self.context, self.draft, message, metadata, **options))

    def flush(self, message: str, *, metadata: dict[str, Any] | None = None) -> SnapshotId:
        """Writes the changes as a snapshot that no branch leads to."""
        return self._ended(transactions.flush(self.context, self.draft, message, metadata=metadata))

    def rebase(self, solver: ConflictSolver) -> None:
        """Puts the changes on top of the branch's present tip."""
        transactions.rebase(self.context, self.draft, solver)

    def _ended(self, snapshot_id: SnapshotId) -> SnapshotId:
        with self.draft.lock:
            self._edited.clear()
        return snapshot_id

    def status(self) -> Diff:
        """Returns the uncommitted changes."""
        with self.draft.lock:
            log = self.draft.changes.transaction_log(self.snapshot_id)
            names = {node.id: node.path for node in self.snapshot.nodes()}
            current = self.draft.nodes()
        return build_named_diff([log], names | {node.id: node.path for node in current}, ranks(current))


def array_data(metadata: ZarrMetadata, name: str) -> ArrayData | None:
    """Turns parsed metadata into what a snapshot says of an array, but for manifests; None for a group.

    Raises:
        InvalidMetadataError: more chunks along an axis than a chunk index can count.
    """
    if metadata.node_type is NodeType.GROUP:
        return None
    most = max(metadata.grid_shape, default=0)
    if most > MAX_U32:
        reason = f"{most} chunks along one dimension are too many"
        raise InvalidMetadataError(f"{name}: {reason}", file=name, reason=reason)
    return ArrayData(metadata.dimensions(), metadata.dimension_names, ())


def _article(node: NodeSnapshot) -> str:
    return "a group" if node.array is None else "an array"

"""A session that writes: changes to nodes and chunks over a base snapshot, until a commit makes them a snapshot.

Nothing of it is visible to anybody else before the commit's last write. Chunks that are not inline are stored when
they are set; a session that is given up leaves them behind for garbage collection.

After a successful commit, amend or flush the session is read-only, on no branch, and stands on the new snapshot
(official behaviour, format notes §2).
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from icefs.engine import transactions
from icefs.engine.changeset import ChangeSet, NodeMove
from icefs.engine.chunks import ArrayChunks
from icefs.engine.conflicts import ConflictSolver
from icefs.engine.diff import Diff, build_named_diff
from icefs.engine.edited_chunks import EditedChunks
from icefs.engine.session import Session
from icefs.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NodeNotFoundError,
    ReadOnlyError,
    SessionStateError,
)
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import ChunkId, NodeId, SnapshotId
from icefs.format.layout import chunk_key
from icefs.format.manifest import ArrayRefs, ChunkRef, InlineRef, NativeRef
from icefs.format.nodes import ArrayData, ManifestRef, NodeSnapshot, NodeType
from icefs.format.snapshot import Snapshot
from icefs.format.zarr_json import ZarrMetadata, parse_zarr_json

if TYPE_CHECKING:
    from icefs.engine.writing import WritableRepository


class WritableSession(Session):
    """One snapshot and changes to it.

    Safe to use from several threads: `_write_lock` guards the change set, and is held across no request.

    Attributes:
        is_rearrange: Whether the session moves nodes, and can do nothing else.
        revision: Counts the changes made to the session.
        in_doubt: A commit whose answer was lost, so that trying again does not commit twice.
    """

    def __init__(
        self, repository: "WritableRepository", snapshot: Snapshot, branch: str, *, is_rearrange: bool = False
    ) -> None:
        super().__init__(repository, snapshot, branch)
        self._writable_repository = repository
        self.read_only = False
        self.is_rearrange = is_rearrange
        self.revision = 0
        self.in_doubt: transactions.InDoubt | None = None
        self._changes = ChangeSet(is_rearrange=is_rearrange)
        self._write_lock = threading.RLock()

    @property
    def repository(self) -> "WritableRepository":
        """Where the snapshot is."""
        return self._writable_repository

    @property
    def changes(self) -> ChangeSet:
        """The uncommitted changes; whoever reads them holds `lock`."""
        return self._changes

    @property
    def lock(self) -> AbstractContextManager[bool]:
        """Keeps other threads from changing the session."""
        return self._write_lock

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        return not self._changes.is_empty()

    def discard_changes(self) -> None:
        """Forgets all uncommitted changes.

        Raises:
            ReadOnlyError: the session is read-only.
        """
        self._check_writable()
        with self._write_lock:
            self._changes = ChangeSet(is_rearrange=self.is_rearrange)
            self._nodes_changed()

    # Reading, with the changes.

    def get_node(self, path: str) -> NodeSnapshot | None:
        """Returns the group or array at an absolute path, or None."""
        changes = self._changes
        if not changes.moves:
            return changes.current(self.snapshot.node(path), path)
        for move in changes.moves.values():
            if move.to_path == path:
                return replace(move.node, path=path)
        node = self.snapshot.node(path)
        return None if node is None or node.id in changes.moves else node

    def node(self, path: str) -> NodeSnapshot:
        """Returns the group or array at an absolute path.

        Raises:
            NodeNotFoundError: there is none.
        """
        node = self.get_node(path)
        if node is None:
            raise NodeNotFoundError(f"no node at {path} in the session on snapshot {self.snapshot_id}", path=path)
        return node

    def current_nodes(self) -> Iterator[NodeSnapshot]:
        """Yields all nodes as they are now, in no promised order."""
        return self._changes.nodes(self.snapshot.nodes())

    def _paths(self) -> Sequence[str]:
        return [node.path for node in self.current_nodes()]

    def array_chunks(self, array: str | NodeSnapshot) -> ArrayChunks | EditedChunks:  # type: ignore[override]
        """Returns the chunk references of an array, with the session's changes.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the node is a group (kind `not-an-array`).
        """
        node = self.node(array) if isinstance(array, str) else array
        base = ArrayChunks(self.repository.assets, node)
        changes = self._changes.chunks.get(node.id)
        return EditedChunks(base, changes) if changes else base

    # Writing nodes.

    def set_metadata(self, path: str, data: bytes) -> NodeSnapshot:
        """Makes a group or array, or rewrites its zarr.json; the bytes are kept as they are.

        Raises:
            InvalidMetadataError: `data` is no metadata of a Zarr v3 node that Icechunk can hold.
            AlreadyExistsError: an array is to replace a group, or the reverse.
            ReadOnlyError, SessionStateError: the session does not write.
        """
        self._check_edits()
        name = f"{path.rstrip('/')}/zarr.json"
        metadata = parse_zarr_json(data, name=name, spec_version=self.repository.spec_version)
        with self._write_lock:
            existing = self.get_node(path)
            if existing is not None and existing.node_type is not metadata.node_type:
                raise AlreadyExistsError(
                    f"{path} is {_article(existing)} and cannot become another kind of node",
                    path=path,
                    hint="delete the node first",
                )
            if existing is not None and existing.user_data == data:
                return existing
            manifests = existing.array.manifests if existing is not None and existing.array is not None else ()
            node = NodeSnapshot(
                NodeId.random() if existing is None else existing.id,
                path,
                data,
                array_data(metadata, manifests),
            )
            if existing is not None and node.array is not None and existing.array is not None:
                node = _forget_other_rank(node, existing.array)
            base = self.snapshot.node_by_id(node.id) if existing is not None else None
            self._changes.put_node(node, base)
            self._nodes_changed()
            return node

    def delete_node(self, path: str) -> None:
        """Deletes a node and all below it; nothing happens where there is none.

        Raises:
            ReadOnlyError, SessionStateError: the session does not write.
        """
        self._check_edits()
        with self._write_lock:
            for node in list(self.list_nodes(path)):
                self._changes.delete_node(node, self.snapshot.node_by_id(node.id))
            self._nodes_changed()

    def move(self, from_path: str, to_path: str) -> None:
        """Moves a node with all below it (rearrange sessions of spec 2 only).

        Raises:
            SessionStateError: the session is no rearrange session; or the target lies below the source, or its
                parent is missing or no group.
            NodeNotFoundError: nothing is at `from_path`.
            AlreadyExistsError: something is at `to_path`.
        """
        self._check_writable()
        if not self.is_rearrange:
            raise SessionStateError(
                "nodes can be moved in a rearrange session only",
                kind="non-rearrange-session",
                hint="open one with `rearrange_session`",
            )
        for path in (from_path, to_path):
            if not path.startswith("/") or path == "/" or path.endswith("/"):
                raise InvalidInputError(f"{path!r} is not the absolute path of a node", kind="invalid-path", path=path)
        with self._write_lock:
            self._check_move(from_path, to_path)
            for node in list(self.list_nodes(from_path)):
                moved_to = to_path + node.path[len(from_path) :]
                base = self.snapshot.node_by_id(node.id)
                assert base is not None
                if base.path == moved_to:
                    self._changes.moves.pop(node.id, None)
                else:
                    self._changes.moves[node.id] = NodeMove(base, moved_to)
            self._nodes_changed()

    def _check_move(self, from_path: str, to_path: str) -> None:
        self.node(from_path)
        if to_path == from_path or to_path.startswith(from_path + "/"):
            raise SessionStateError(
                f"{from_path} cannot be moved into itself ({to_path})", kind="move-into-self-or-descendant"
            )
        if self.get_node(to_path) is not None:
            raise AlreadyExistsError(f"{to_path} exists already", kind="move-wont-overwrite", path=to_path)
        parent_path = to_path.rpartition("/")[0] or "/"
        parent = self.get_node(parent_path)
        if parent is None:
            raise SessionStateError(
                f"{parent_path}, the parent of {to_path}, does not exist", kind="move-destination-parent-missing"
            )
        if parent.array is not None:
            raise SessionStateError(
                f"{parent_path}, the parent of {to_path}, is an array", kind="move-destination-parent-not-group"
            )

    # Writing chunks.

    def set_chunk(self, path: str, chunk_index: Sequence[int], data: bytes | memoryview) -> None:
        """Stores a chunk: in the manifest where it is small, else as an object at once.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path, or the index is outside of its grid, or
                the chunk is empty.
            StorageError: the chunk cannot be stored.
        """
        self._check_edits()
        self._array_for(path, chunk_index, len(data))
        self.set_chunk_ref(path, chunk_index, self.store_chunk(data))

    def store_chunk(self, data: bytes | memoryview) -> ChunkRef:
        """Puts a chunk's bytes where a reference can name them, and returns the reference."""
        if len(data) <= self.repository.inline_threshold_bytes:
            return InlineRef(bytes(data))
        chunk_id = ChunkId.random()
        self.repository.storage.put(chunk_key(chunk_id), data)
        return NativeRef(chunk_id, 0, len(data))

    def set_chunk_ref(self, path: str, chunk_index: Sequence[int], ref: ChunkRef | None) -> None:
        """Sets the reference to a chunk, whose bytes are stored already; None deletes the chunk.

        Raises:
            NodeNotFoundError, InvalidInputError: as `set_chunk`.
        """
        self._check_edits()
        with self._write_lock:
            node = self._array_for(path, chunk_index, 1 if ref is None else ref.length_bytes)
            self.revision += 1
            self._changes.chunk_changes(node).set(chunk_index, ref)

    def set_chunk_refs(self, path: str, refs: ArrayRefs) -> None:
        """Sets many references at once; those outside of the array's grid are refused together.

        Raises:
            NodeNotFoundError, InvalidInputError: as `set_chunk`.
        """
        self._check_edits()
        if not len(refs):
            return
        with self._write_lock:
            last = tuple(high - 1 for _, high in refs.bounding_box())
            node = self._array_for(path, last, int(refs.lengths.min()))
            self.revision += 1
            self._changes.chunk_changes(node).set_many(refs)

    def delete_chunks(self, path: str, indices: ChunkIndices) -> None:
        """Deletes many chunks at once; those that do not exist count as deleted.

        Raises:
            NodeNotFoundError, InvalidInputError: no array is at the path.
        """
        self._check_edits()
        with self._write_lock:
            node = self._array(path)
            if len(indices):
                self.revision += 1
                self._changes.chunk_changes(node).delete_many(indices)

    def delete_chunks_below(self, path: str, prefix: Sequence[int]) -> None:
        """Deletes all chunks whose index starts with `prefix`."""
        self._check_edits()
        with self._write_lock:
            node = self._array(path)
            edited = EditedChunks(ArrayChunks(self.repository.assets, node), self._changes.chunk_changes(node))
            self.delete_chunks(path, edited.indices_below(prefix))

    def _array(self, path: str) -> NodeSnapshot:
        node = self.node(path)
        if node.array is None:
            raise InvalidInputError(f"{path} is a group, not an array", kind="not-an-array", path=path)
        return node

    def _array_for(self, path: str, chunk_index: Sequence[int], length_bytes: int) -> NodeSnapshot:
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
        return transactions.commit(self, message, metadata, **options)

    def amend(self, message: str, *, metadata: dict[str, Any] | None = None, allow_empty: bool = False) -> SnapshotId:
        """Replaces the branch's newest commit by one that also has the changes (spec 2)."""
        return transactions.amend(self, message, metadata=metadata, allow_empty=allow_empty)

    def flush(self, message: str, *, metadata: dict[str, Any] | None = None) -> SnapshotId:
        """Writes the changes as a snapshot that no branch leads to."""
        return transactions.flush(self, message, metadata=metadata)

    def rebase(self, solver: ConflictSolver) -> None:
        """Puts the changes on top of the branch's present tip."""
        transactions.rebase(self, solver)

    def status(self) -> Diff:
        """Returns the uncommitted changes."""
        with self._write_lock:
            log = self._changes.transaction_log(self.snapshot_id)
            names = {node.id: node.path for node in self.snapshot.nodes()}
            names |= {node.id: node.path for node in self.current_nodes()}
        return build_named_diff([log], names)

    # State.

    def _check_writable(self) -> None:
        if self.read_only:
            raise ReadOnlyError(
                "the session is read-only", kind="read-only-session", hint="open a new writable session"
            )

    def _check_edits(self) -> None:
        self._check_writable()
        if self.is_rearrange:
            raise SessionStateError(
                "a rearrange session moves nodes and does nothing else",
                kind="rearrange-session-only",
                hint="make other changes in a writable session",
            )

    def _nodes_changed(self) -> None:
        self.revision += 1
        self._sorted_paths = None

    def rebased(self, snapshot: Snapshot, changes: ChangeSet) -> None:
        """Puts the session's changes on another base."""
        with self._write_lock:
            self.snapshot = snapshot
            self._changes = changes
            self._nodes_changed()

    def committed(self, snapshot_id: SnapshotId) -> None:
        """Turns the session into a read-only one of the snapshot that it has become."""
        snapshot = self.repository.assets.fetch_snapshot(snapshot_id)
        with self._write_lock:
            self.rebased(snapshot, ChangeSet())
            self.read_only = True
            self.branch = None
            self._arrays.clear()


def array_data(metadata: ZarrMetadata, manifests: tuple[ManifestRef, ...]) -> ArrayData | None:
    """Turns parsed metadata into what a snapshot says of an array; None for a group."""
    if metadata.node_type is NodeType.GROUP:
        return None
    return ArrayData(metadata.dimensions(), metadata.dimension_names, manifests)


def _forget_other_rank(node: NodeSnapshot, old: ArrayData) -> NodeSnapshot:
    """Drops the manifests of an array that has another number of dimensions now: none of its chunks is left."""
    assert node.array is not None
    if len(old.shape) == len(node.array.shape):
        return node
    return replace(node, array=replace(node.array, manifests=()))


def _article(node: NodeSnapshot) -> str:
    return "a group" if node.array is None else "an array"

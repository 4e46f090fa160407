"""A view of one snapshot: its nodes, their chunks, and the chunks' bytes."""

import threading
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Final

from icefs.engine.read.assets import snapshot_not_found
from icefs.engine.read.chunks import U32, ArrayChunks
from icefs.engine.read.context import ReadContext
from icefs.errors import FormatError, InvalidInputError, NodeNotFoundError, ObjectNotFoundError
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ChunkId, SnapshotId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ChunkKind, ChunkRef, InlineRef, NativeRef, VirtualRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.snapshot.reader import Snapshot
from icefs.paths import ROOT_NODE, NodePath
from icefs.storage.base import Done, FileOpener, Storage
from icefs.storage.cache.entry import CachedFile

_MAX_ARRAYS: Final = 1024
# Object stores and pread take signed 64-bit offsets.
_MAX_OFFSET: Final = (1 << 63) - 1
# Paths are compared by code point, so what starts with "/a/" ends right before "/a0".
_AFTER_SLASH: Final = chr(ord("/") + 1)
_NOT_NAMES: Final = frozenset(("", ".", ".."))


class Session:
    """One snapshot, read-only.

    Immutable and safe to use from any thread; `_lock` guards the memo of arrays.

    """

    def __init__(self, context: ReadContext, snapshot: Snapshot, branch: str | None = None) -> None:
        self._context = context
        self._snapshot = snapshot
        self._branch = branch
        self._lock = threading.Lock()
        self._arrays: OrderedDict[NodePath, ArrayChunks] = OrderedDict()
        self._sorted_paths: list[NodePath] | None = None
        self._open_chunk = chunk_opener(context.storage)

    @property
    def context(self) -> ReadContext:
        """The repository that the snapshot is in."""
        return self._context

    @property
    def snapshot(self) -> Snapshot:
        """The snapshot's nodes."""
        return self._snapshot

    @property
    def branch(self) -> str | None:
        """The branch that the session was opened on, or None."""
        return self._branch

    @property
    def read_only(self) -> bool:
        """Whether the session cannot write."""
        return True

    @property
    def snapshot_id(self) -> SnapshotId:
        """The id of the snapshot."""
        return self.snapshot.id

    @property
    def config(self) -> RepositoryConfig:
        """The repository's configuration."""
        return self.context.config

    @property
    def has_uncommitted_changes(self) -> bool:
        """Whether there is anything to commit."""
        return False

    # The hierarchy.

    def get_node(self, path: NodePath) -> NodeSnapshot | None:
        """Returns the group or array at an absolute path (`/`, `/a/b`), or None."""
        return self.snapshot.node(path)

    def node(self, path: NodePath) -> NodeSnapshot:
        """Returns the group or array at an absolute path.

        Raises:
            NodeNotFoundError: there is none.
        """
        node = self.snapshot.node(path)
        if node is None:
            raise NodeNotFoundError(f"no node at {path} in snapshot {self.snapshot_id}", path=path)
        return node

    def list_nodes(self, path: NodePath = ROOT_NODE) -> Iterator[NodeSnapshot]:
        """Yields the node at `path`, if there is one, and all nodes below it, in no promised order."""
        node = self.get_node(path)
        if node is not None:
            yield node
        paths, start, end = self._below(path)
        for below in paths[start:end]:
            if below != path:
                yield self.node(below)

    def children(self, path: NodePath) -> list[str]:
        """Returns the sorted names directly below a path, of nodes and of ancestors of nodes alike.

        Icechunk holds nodes whose parents are no nodes; such a parent is listed too, while `get_node` of it
        returns None. Names that no directory can hold (empty, `.`, `..`, with a NUL) are left out. The cost is
        that of two binary searches a name, however much lies further below.
        """
        paths, at, end = self._below(path)
        prefix = len(path) + (not path.endswith("/"))
        names: dict[str, None] = {}
        while at < end:
            found = paths[at]
            cut = found.find("/", prefix)
            if cut < 0:
                names[found[prefix:]] = None
                at += 1
            else:
                names[found[prefix:cut]] = None
                at = bisect_left(paths, found[:cut] + _AFTER_SLASH, at, end)
        return sorted(name for name in names if name not in _NOT_NAMES and "\0" not in name)

    def has_children(self, path: NodePath) -> bool:
        """Tells whether any node lies below a path."""
        paths, start, end = self._below(path)
        return start < end and (path != "/" or paths[end - 1] != "/")

    def _paths(self) -> list[NodePath]:
        """Returns the sorted paths of all nodes."""
        paths = self._sorted_paths
        if paths is None:
            # Threads may do this twice; they get the same. Sorting what is sorted takes one pass.
            paths = self._sorted_paths = sorted(self.snapshot.paths)
        return paths

    def _below(self, path: NodePath) -> tuple[list[NodePath], int, int]:
        """Returns the sorted paths of all nodes, and the range of them that lie below a path (or are the root)."""
        paths = self._paths()
        stem = path.removesuffix("/")
        start = bisect_left(paths, stem + "/")
        return paths, start, bisect_left(paths, stem + _AFTER_SLASH, start)

    # Chunks.

    def array_chunks(self, array: NodePath | NodeSnapshot) -> ArrayChunks:
        """Returns the chunk references of an array, given its absolute path or itself.

        The same array of a session always gives the same object, as long as it is among the last thousand.

        Raises:
            NodeNotFoundError: no node is at the path.
            InvalidInputError: the node is a group (kind `not-an-array`).
        """
        path = array if isinstance(array, str) else array.path
        with self._lock:
            chunks = self._arrays.get(path)
            if chunks is not None:
                self._arrays.move_to_end(path)
                return chunks
        chunks = ArrayChunks(self.context.assets, self.node(path) if isinstance(array, str) else array)
        with self._lock:
            chunks = self._arrays.setdefault(path, chunks)
            while len(self._arrays) > _MAX_ARRAYS:
                self._arrays.popitem(last=False)
            return chunks

    def chunk_ref(self, path: NodePath, chunk_index: Sequence[int]) -> ChunkRef | None:
        """Returns the reference to a chunk, or None where the array has none at the index."""
        return self.array_chunks(path).find(chunk_index)

    def chunk_type(self, path: NodePath, chunk_index: Sequence[int]) -> ChunkKind:
        """Returns what kind of reference stands at an index; UNINITIALIZED where there is none."""
        return self.array_chunks(path).kind(chunk_index)

    def chunk_coordinates(self, path: NodePath, batch_size: int = 1000) -> Iterator[U32]:
        """Yields the indices of all chunks of an array, in batches of shape `(n, ndim)`."""
        for batch in self.array_chunks(path).iter_batches(batch_size):
            yield batch.indices()

    def iter_virtual_chunk_locations(self) -> Iterator[str]:
        """Yields the absolute location of every virtual chunk, one for each chunk, `vcc://` ones expanded.

        Raises:
            InvalidInputError: a `vcc://` location names a container that the configuration does not have.
        """
        for node in self.list_nodes():
            if node.array is None:
                continue
            for batch in self.array_chunks(node).iter_batches():
                for position in (batch.kinds == ChunkKind.VIRTUAL).nonzero()[0].tolist():
                    ref = batch.ref(position)
                    if isinstance(ref, VirtualRef):
                        yield self.context.virtual.expand(ref.location)

    # Bytes.

    def read_chunk(self, ref: ChunkRef, start: int = 0, end: int | None = None) -> bytes:
        """Reads the bytes `[start, end)` of a chunk, all of it by default; a range may go past its end.

        Raises:
            ObjectNotFoundError: the chunk's object is gone.
            InvalidObjectSizeError: the object is shorter than the reference says.
            ObjectModifiedError: the object of a virtual chunk is not the one that was referenced.
            UnauthorizedContainerError: a virtual chunk lies where the user did not allow to follow.
            FormatError: the reference is impossible.
            InvalidInputError: the range starts before the chunk.
        """
        if start < 0:
            raise InvalidInputError(f"a range cannot start at {start}", kind="invalid-byte-range")
        end = ref.length_bytes if end is None else min(end, ref.length_bytes)
        if isinstance(ref, InlineRef):
            return ref.data if start == 0 and end == len(ref.data) else ref.data[start : max(start, end)]
        if ref.offset_bytes + ref.length_bytes > _MAX_OFFSET:
            reason = f"a chunk of {ref.length_bytes} bytes at offset {ref.offset_bytes}"
            name = chunk_key(ref.chunk_id) if isinstance(ref, NativeRef) else ref.location
            raise FormatError(f"{name}: {reason}", file=name, reason=reason)
        if start >= end:
            return b""
        if isinstance(ref, NativeRef):
            offset = ref.offset_bytes
            return self.context.assets.read_chunk_object(ref.chunk_id, offset + start, offset + end)
        return self.context.virtual.read(ref, start, end)

    def read_chunks(self, refs: Sequence[NativeRef]) -> list[bytes]:
        """Reads native chunks that lie in one object, whole; near ones come in one request; raises as `read_chunk`."""
        assert len({ref.chunk_id for ref in refs}) == 1
        for ref in refs:
            if ref.offset_bytes + ref.length_bytes > _MAX_OFFSET:
                self.read_chunk(ref)
        ranges = [(ref.offset_bytes, ref.offset_bytes + ref.length_bytes) for ref in refs]
        return self.context.assets.read_chunk_ranges(refs[0].chunk_id, ranges)

    def start_read(self, ref: ChunkRef, done: Done) -> bool:
        """Begins to read all of a chunk, where that needs no thread; what is not read so, `read_chunk` reads.

        Args:
            ref: The chunk.
            done: See `Storage.start_read`.
        """
        if not isinstance(ref, NativeRef) or not ref.length_bytes:
            return False
        start, end = ref.offset_bytes, ref.offset_bytes + ref.length_bytes
        return end <= _MAX_OFFSET and self.context.assets.start_chunk_read(ref.chunk_id, start, end, done)

    def open_cached(self, ref: NativeRef | VirtualRef) -> CachedFile | None:
        """Opens what the disk cache keeps of a chunk, whose bytes are read when they are wanted.

        Raises:
            UnauthorizedContainerError, InvalidInputError, FormatError: a virtual chunk cannot be followed.
        """
        if isinstance(ref, VirtualRef):
            return self.context.virtual.open_cached(ref)
        start = ref.offset_bytes
        return self.context.assets.open_cached(ref.chunk_id, start, start + ref.length_bytes)

    def is_cached(self, ref: NativeRef) -> bool:
        """Tells whether the disk cache keeps a native chunk; one that is damaged counts as kept."""
        start = ref.offset_bytes
        return self.context.assets.is_cached(ref.chunk_id, start, start + ref.length_bytes)

    def open_chunk_file(self, chunk_id: ChunkId) -> int | None:
        """Opens the local file of a native chunk, for callers that copy it themselves; None where there is no file.

        Returns:
            A descriptor, the caller's to close. The file need not be as long as references say.

        Raises:
            StorageError: as `Storage.get`.
        """
        return None if self._open_chunk is None else self._open_chunk(str(chunk_id))[0]


def session_at(context: ReadContext, snapshot_id: SnapshotId, branch: str | None = None) -> Session:
    """Opens any snapshot that has a file, also one that no ref reaches.

    Raises:
        SnapshotNotFoundError: it has no file, and the repository does not list it.
        ObjectNotFoundError: it has no file, although the repository lists it.
        FormatError: the file is malformed.
    """
    try:
        return Session(context, context.assets.fetch_snapshot(snapshot_id), branch)
    except ObjectNotFoundError as error:
        if _is_known(context, snapshot_id):
            raise  # the repository is damaged
        raise snapshot_not_found(snapshot_id) from error


def _is_known(context: ReadContext, snapshot_id: SnapshotId) -> bool:
    if context.spec_version > 1:
        return snapshot_id in context.assets.fetch_repo_info()[0].snapshots
    refs = context.refs()
    return snapshot_id in refs.branches.values() or snapshot_id in refs.tags.values()


def chunk_opener(storage: Storage) -> FileOpener | None:
    """Returns what opens local chunk files by their chunk's id; None where chunks are no local files."""
    example = ChunkId(bytes(ChunkId.SIZE))
    return storage.local_opener(chunk_key(example).removesuffix(str(example)))

"""The hierarchy of a snapshot.

Times are cheap by default: that of the snapshot, for all nodes. With the history of the repository each node has the
time of the newest commit that changed it or one of its chunks; that takes one walk back through the transaction logs.
"""

import threading
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from functools import partial
from typing import Final, override

import numpy as np

from icefs.clock import NS_PER_US
from icefs.engine.history.changes import Changes, compare
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.engine.read.session import Session
from icefs.errors import NodeNotFoundError
from icefs.format.ids import NodeId
from icefs.format.manifest.refs import InlineRef, NativeRef, VirtualRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath
from icefs.storage.url import redact
from icefs.views.interface import Hierarchy, HierarchyFacts, LastingValue, ViewedNode
from icefs.zarr.keys import ChunkIndex
from icefs.zarr.reader import KeyReader, OpenArray

# Indices become Python numbers in pieces.
_ROWS: Final = 10_000

type NodeTimes = Callable[[NodeId], int]
"""Returns when a node or one of its chunks was changed last, in microseconds since the epoch."""


def times_of_history(lineages: Lineages, session: Session) -> NodeTimes:
    """Returns the times of the nodes of a snapshot, found out from the history when the first is needed.

    Calling the result raises StorageError if the history cannot be read now.
    """
    return KeyTimes(lineages, session.snapshot_id, session.snapshot.flushed_at).newest


class SessionHierarchy(Hierarchy):
    """The nodes and chunks of one snapshot.

    Safe to use from any thread; `_lock` guards `_nodes` and `_changes`, so that each is worked out once.
    """

    def __init__(self, session: Session, *, branch: str = "", times: NodeTimes | None = None) -> None:
        """Takes a session that does not write.

        Args:
            session: The snapshot.
            branch: The branch whose tip it is; empty for a tag or snapshot.
            times: When each node changed last; without, the time of the snapshot holds for all.
        """
        assert session.read_only
        self._session = session
        self._reader = KeyReader(session)
        self._times = times
        self._facts = HierarchyFacts(redact(session.context.storage.url), str(session.snapshot_id), branch)
        self._lock = threading.Lock()
        self._nodes: Sequence[ViewedNode] | None = None
        self._changes: Changes | None = None

    @property
    @override
    def facts(self) -> HierarchyFacts:
        return self._facts

    @property
    @override
    def version(self) -> Hashable:
        """The snapshot's id."""
        return self._session.snapshot_id

    @override
    def nodes(self) -> Sequence[ViewedNode]:
        with self._lock:
            if self._nodes is None:
                nodes = sorted(self._session.list_nodes(), key=lambda node: node.path)
                self._nodes = tuple(
                    ViewedNode(NodePath(node.path), bytes(node.user_data), self._time_ns(node)) for node in nodes
                )
            return self._nodes

    def _time_ns(self, node: NodeSnapshot) -> int:
        time = self._session.snapshot.flushed_at if self._times is None else self._times(node.id)
        return time * NS_PER_US

    @override
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        found = self._reader.find(key)
        if found is None:
            return None
        if isinstance(found, NodeSnapshot | InlineRef):
            data = bytes(found.user_data if isinstance(found, NodeSnapshot) else found.data)
            return data[start:stop]
        return self._read_chunk(found, start, stop)

    def _read_chunk(self, ref: NativeRef | VirtualRef, start: int, stop: int | None) -> bytes:
        return self._session.read_chunk(ref, max(0, ref.length_bytes + start) if start < 0 else start, stop)

    @override
    def lasting(self, key: str) -> LastingValue | None:
        found = self._reader.find(key)
        # An object outside of the repository may change, unless the reference says which state of it is meant.
        if isinstance(found, NativeRef) or (isinstance(found, VirtualRef) and (found.etag or found.last_modified)):
            return LastingValue(found, partial(self._read_chunk, found))
        return None

    @override
    def size(self, key: str) -> int | None:
        found = self._reader.find(key)
        if found is None:
            return None
        return len(found.user_data) if isinstance(found, NodeSnapshot) else found.length_bytes

    @override
    def chunk_indices(self, array: NodePath) -> Iterator[ChunkIndex]:
        chunks = self._opened(array).chunks
        if not chunks.ndim:
            if chunks.find(()) is not None:
                yield ()
            return
        batches = [batch.indices() for batch in chunks.iter_batches()]
        if not batches:
            return
        # Each batch is sorted; those of several manifests need not follow each other.
        indices = np.concatenate(batches)
        if len(batches) > 1:
            indices = indices[np.lexsort(indices.T[::-1])]
        for start in range(0, len(indices), _ROWS):
            yield from map(tuple, indices[start : start + _ROWS].tolist())

    @override
    def has_chunk(self, array: NodePath, index: ChunkIndex) -> bool:
        return self._opened(array).chunks.find(index) is not None

    @override
    def changed_chunks(self, array: NodePath, earlier: Hierarchy) -> Collection[ChunkIndex] | None:
        if not isinstance(earlier, SessionHierarchy):
            return None
        with self._lock:
            if self._changes is None or self._changes.old_id != earlier._session.snapshot_id:
                self._changes = compare(earlier._session, self._session)
            changes = self._changes
        return None if array in changes.new else changes.chunks.get(array, ())

    def _opened(self, array: NodePath) -> OpenArray:
        opened = self._reader.open_array(array)
        if opened is None:
            raise NodeNotFoundError(f"no array at {array} in snapshot {self._session.snapshot_id}", path=array)
        return opened

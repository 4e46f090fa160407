"""When the keys of a tree changed last, before the mount began to look: the times of the commits that did it.

A tag or snapshot has no other times. A branch has them for whatever has not changed since it was first looked at.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from icefs.clock import NS_PER_US
from icefs.engine.history.key_times import ChunkTimes, KeyTimes
from icefs.engine.history.lineage import Lineages
from icefs.format.ids import NodeId, SnapshotId
from icefs.vfs.interface import NotInMemoryError

type I64 = npt.NDArray[np.int64]
type U32 = npt.NDArray[np.uint32]


class FirstTimes:
    """The times of the keys of one snapshot, in nanoseconds; found out per node, when one is asked for.

    Belongs to the event loop's thread; what reads the history runs in another one.
    """

    def __init__(self, lineages: Lineages | None, snapshot_id: SnapshotId, flushed_at: int) -> None:
        """Takes a snapshot and when it was written, in microseconds; without lineages that is the time of all keys."""
        self._times = None if lineages is None else KeyTimes(lineages, snapshot_id, flushed_at)
        self._uniform = ChunkTimes(flushed_at)
        self._origins: dict[NodeId, NodeId] = {}

    def metadata_ns(self, node_id: NodeId) -> int:
        """Returns the time of a node's `zarr.json`.

        Raises:
            NotInMemoryError: the history has to be read.
        """
        times = self._times
        if times is None:
            return self._uniform.uniform * NS_PER_US
        found = times.known_metadata(node_id)
        if found is None:
            raise NotInMemoryError((id(times), "metadata", node_id), lambda: times.metadata(node_id), _kept)
        return found * NS_PER_US

    def chunks(self, node_id: NodeId) -> ChunkTimes:
        """Returns the times of an array's chunks, in microseconds; raises as `metadata_ns`."""
        times = self._times
        if times is None:
            return self._uniform
        node_id = self.origin(node_id)
        found = times.known_chunks(node_id)
        if found is None:
            raise NotInMemoryError((id(times), "chunks", node_id), lambda: times.chunks(node_id), _kept)
        return found

    def chunk_ns(self, node_id: NodeId, chunk_index: Sequence[int]) -> int:
        """Returns the time of a chunk; raises as `metadata_ns`."""
        if self._times is None:
            return self._uniform.uniform * NS_PER_US
        return self.chunks(node_id).of(chunk_index) * NS_PER_US

    def known_chunk_ns(self, node_id: NodeId, chunk_index: Sequence[int]) -> int | None:
        """Returns the time of a chunk if it is known without reading."""
        found = self.known_chunks(node_id)
        return None if found is None else found.of(chunk_index) * NS_PER_US

    def known_chunks(self, node_id: NodeId) -> ChunkTimes | None:
        """Returns the same as `chunks` if it is known without reading."""
        return self._uniform if self._times is None else self._times.known_chunks(self.origin(node_id))

    def origin(self, node_id: NodeId) -> NodeId:
        """Returns the array of the first snapshot that the chunks of an array are from."""
        return self._origins.get(node_id, node_id)

    def rename(self, arrays: Mapping[NodeId, NodeId]) -> None:
        """Records from which arrays (the values) the chunks of others (the keys) are, all at once."""
        self._origins |= {new: self.origin(old) for new, old in arrays.items()}


def _kept(times: object) -> None:
    """Takes what was loaded: it is kept where it was found out."""

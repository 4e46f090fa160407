"""When each key of a snapshot changed last: the time of the commit that did it.

A file's time must change if and only if its content does: then `rsync` and `make` see what changed between two
versions. So the time of a `zarr.json` is that of the commit that wrote it last, a chunk's that of the commit that set
it last, and neither is earlier than the last move of its node, which put other content at its path.

One walk back through the history finds what commits touched, as far back as callers ask; of most arrays one commit
wrote all chunks, which the walk shows already. Only an array whose chunks come from several needs its lineage.

Where the history is unknown (logs are gone, or malformed), the snapshot that stands for them gives its time:
too late perhaps, but never too early.
"""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.engine.history.lineage import Lineages
from icefs.engine.history.lineage_values import Lineage, Touch
from icefs.errors import FormatError, NotAnObjectError, NotFoundError, ObjectNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo

type Times = npt.NDArray[np.int64]

_NONE: Final = np.zeros(0, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkTimes:
    """When the chunks of an array changed last, in microseconds since 1970.

    Attributes:
        uniform: The time of all of them; of the oldest where `lineage` tells more.
        lineage: Which commits changed which chunks; None where all have one time.
        commit_times: The times of the lineage's commits.
    """

    uniform: int
    lineage: Lineage | None = None
    commit_times: Times = field(default_factory=lambda: _NONE)

    @classmethod
    def of_lineage(cls, lineage: Lineage, floor: int) -> "ChunkTimes":
        """Makes the times that a lineage tells, none of them before `floor`."""
        times = np.array([max(flushed_at, floor) for _, flushed_at in lineage.commits], np.int64)
        return cls(int(times[lineage.rest]), lineage, times)

    def of(self, chunk_index: Sequence[int]) -> int:
        """Returns the time of one chunk."""
        if self.lineage is None:
            return self.uniform
        return int(self.commit_times[self.lineage.owner(chunk_index)])

    def of_all(self, columns: Sequence[npt.NDArray[np.uint32]], count: int) -> Times | None:
        """Returns the times of many chunks, given by one column for each dimension; None if all are `uniform`."""
        if self.lineage is None:
            return None
        return self.commit_times[self.lineage.owners_of(ChunkIndices(list(columns), count))]


@dataclass(slots=True)
class _Seen:
    """What the walk has seen of a node so far."""

    metadata: int | None = None
    moved: int = 0
    num_chunk_commits: int = 0
    chunks: int = 0

    def add(self, touch: Touch, time: int) -> bool:
        """Takes what an earlier commit did; returns whether the node came to be then."""
        is_new = "new" in touch.words
        if self.metadata is None and (is_new or "metadata" in touch.words):
            self.metadata = time
        if "moved" in touch.words:
            self.moved = max(self.moved, time)
        if touch.num_chunks:
            self.num_chunk_commits += 1
            self.chunks = self.chunks or time
        return is_new


class KeyTimes:
    """The times of the keys of one snapshot, found out when they are asked for.

    Concurrency: `metadata` and `chunks` may be called from any thread, and wait for each other; `known_metadata` and
    `known_chunks` never wait.
    """

    def __init__(self, lineages: Lineages, snapshot_id: SnapshotId, flushed_at: int) -> None:
        """Takes the snapshot, and when it was written, in microseconds."""
        self._lineages = lineages
        self._snapshot_id = snapshot_id
        self._flushed_at = flushed_at
        self._lock = threading.Lock()
        self._seen: dict[NodeId, _Seen] = {}
        self._walk: Iterator[tuple[SnapshotInfo, dict[NodeId, Touch] | None]] | None = None
        self._next: SnapshotId | None = snapshot_id
        self._is_at_end = False
        self._rest = flushed_at
        self._metadata: dict[NodeId, int] = {}
        self._chunks: dict[NodeId, ChunkTimes] = {}
        self._newest: dict[NodeId, int] = {}
        self._mixed: dict[NodeId, int] = {}  # nodes that need their lineage, and what no time is before

    def known_metadata(self, node_id: NodeId) -> int | None:
        """Returns what `metadata` returns if that is known already."""
        return self._metadata.get(node_id)

    def known_chunks(self, node_id: NodeId) -> ChunkTimes | None:
        """Returns what `chunks` returns if that is known already."""
        return self._chunks.get(node_id)

    def metadata(self, node_id: NodeId) -> int:
        """Returns when the `zarr.json` of a node of the snapshot changed last.

        Raises:
            StorageError: the history cannot be read now.
        """
        with self._lock:
            self._find(node_id)
            return self._metadata[node_id]

    def chunks(self, node_id: NodeId) -> ChunkTimes:
        """Returns when the chunks of an array of the snapshot changed last; raises as `metadata`."""
        with self._lock:
            self._find(node_id)
            known = self._chunks.get(node_id)
            if known is None:
                known = self._chunks[node_id] = self._mixed_times(node_id, self._mixed[node_id])
            return known

    def newest(self, node_id: NodeId) -> int:
        """Returns when a node or one of its chunks changed last, in microseconds; raises as `metadata`.

        That needs no lineage: the walk meets the newest commit first.
        """
        with self._lock:
            self._find(node_id)
            return self._newest[node_id]

    def _mixed_times(self, node_id: NodeId, floor: int) -> ChunkTimes:
        try:
            return ChunkTimes.of_lineage(self._lineages.lineage(self._snapshot_id, node_id), floor)
        except (FormatError, NotFoundError, ObjectNotFoundError, NotAnObjectError):
            return ChunkTimes(self._flushed_at)

    def _find(self, node_id: NodeId) -> None:
        """Goes back through the history until the node came to be; the lock is held."""
        try:
            self._go_back(node_id)
        finally:
            # A walk that waits for the next question keeps the list of all snapshots, as it was when it was begun.
            self._walk = None

    def _go_back(self, node_id: NodeId) -> None:
        while node_id not in self._metadata and not self._is_at_end:
            try:
                self._step()
            except (FormatError, NotFoundError, ObjectNotFoundError, NotAnObjectError):
                self._is_at_end = True
            except BaseException:
                # The store may answer next time; what was seen would be counted twice.
                self._next, self._rest = self._snapshot_id, self._flushed_at
                self._seen.clear()
                raise
        if node_id not in self._metadata:
            self._settle(node_id, self._seen.pop(node_id, _Seen()), self._rest, is_complete=False)

    def _step(self) -> None:
        if self._walk is None:
            self._walk = iter(()) if self._next is None else self._lineages.touches_or_gaps(self._next)
        found = next(self._walk, None)
        if found is None:
            self._is_at_end = True
            return
        info, touched = found
        self._next = info.parent_id
        if info.parent_id is not None:  # the first snapshot has no nodes
            self._rest = info.flushed_at
        if touched is None:
            self._is_at_end = True
            return
        for node_id, touch in touched.items():
            if node_id in self._metadata:
                continue
            seen = self._seen.setdefault(node_id, _Seen())
            if seen.add(touch, info.flushed_at):
                self._settle(node_id, self._seen.pop(node_id), info.flushed_at, is_complete=True)

    def _settle(self, node_id: NodeId, seen: _Seen, rest: int, *, is_complete: bool) -> None:
        """Takes over what is known of a node, now that nothing earlier counts."""
        floor = seen.moved
        self._newest[node_id] = max(rest if seen.metadata is None else seen.metadata, seen.chunks, floor)
        if seen.num_chunk_commits > (1 if is_complete else 0):
            self._mixed[node_id] = floor
        else:
            self._chunks[node_id] = ChunkTimes(max(seen.chunks or rest, floor))
        self._metadata[node_id] = max(rest if seen.metadata is None else seen.metadata, floor)

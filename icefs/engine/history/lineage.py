"""Which commits changed a node, and which one changed each of its chunks last, from transaction logs.

A snapshot never changes, and so neither does what its history says: answers are kept (`lineage_cache`), and an
answer for a later snapshot needs only the logs that came since.

Where a log is gone that a snapshot stands for (expired, and collected), or malformed, whatever no later commit changed
counts as changed by that snapshot: a time that is too late, never one that is too early.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import numpy as np

from icefs.engine.history.ancestry import ancestry
from icefs.engine.history.lineage_cache import LineageCache
from icefs.engine.history.lineage_values import Lineage, OwnerArray, Touch
from icefs.engine.read.context import ReadContext
from icefs.errors import FormatError, NotAnObjectError, ObjectNotFoundError
from icefs.format.chunk_indices import ChunkIndices, pack_keys
from icefs.format.ids import INITIAL_SNAPSHOT_ID, NodeId, SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.transaction_log import TransactionLog

# A lineage this much shorter than the history is not kept: the next one is as quick to find out.
_WORTH_KEEPING: Final = 4
# A search for something recent needs few logs: so many are fetched before all workers are set to it.
_FIRST: Final = 8

type Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class _Part:
    """What one log says of one node: the rest of it need not be kept while earlier logs are fetched."""

    is_new: bool
    is_updated: bool
    chunks: ChunkIndices | None

    @classmethod
    def of(cls, log: TransactionLog, node: NodeId) -> "_Part":
        is_new = node in log.new_arrays or node in log.new_groups
        is_updated = node in log.updated_arrays or node in log.updated_groups
        return cls(is_new, is_updated, log.updated_chunks.get(node))


class Lineages:
    """Finds out what the history of a repository says of its nodes.

    Logs are fetched side by side, as many at a time as the repository has workers, and no more than that is held.

    Concurrency: all methods may be called from any thread.
    """

    def __init__(
        self, context: ReadContext, cache: LineageCache | None = None, progress: Progress | None = None
    ) -> None:
        """Creates the finder of one repository.

        Args:
            context: The repository.
            cache: Keeps answers; closed by its opener.
            progress: Called with the number of commits that have been looked at.
        """
        self._context = context
        self._cache = cache
        self._progress = progress

    def lineage(self, snapshot_id: SnapshotId, node_id: NodeId) -> Lineage:
        """Returns which commits changed a node, up to a snapshot that has it.

        Raises:
            SnapshotNotFoundError: there is no such snapshot.
            FormatError, StorageError: its history cannot be read.
        """
        known = None if self._cache is None else self._cache.lineage(snapshot_id, node_id)
        if known is not None:
            return known
        builder = _Builder()
        steps = 0
        last: SnapshotInfo | None = None
        newer, earlier = self._until_known(snapshot_id, node_id)
        for info, parts in self._side_by_side(lambda one: (one, self._parts_of(one, node_id)), newer):
            if info.parent_id is not None or last is None:
                last = info  # the first snapshot has no nodes
            steps += 1
            if builder.add(info, parts):
                found = builder.result(info)
                break
        else:
            if earlier is not None:
                found = builder.onto(earlier)
            else:
                # No log tells of its making: expiration in spec 1 does not say which logs a snapshot stands for.
                assert last is not None  # a history has a snapshot
                found = builder.result(last, is_complete=False)
        if self._cache is not None and steps > _WORTH_KEEPING:
            self._cache.keep_lineage(snapshot_id, node_id, found)
        return found

    def _until_known(self, snapshot_id: SnapshotId, node_id: NodeId) -> tuple[Iterable[SnapshotInfo], Lineage | None]:
        """Returns a snapshot and its ancestors, newest first, down to one whose answer is kept; and that answer."""
        snapshots = ancestry(self._context, snapshot_id)
        cached = set() if self._cache is None else self._cache.snapshots_of(node_id)
        if self._cache is None or not cached:
            return snapshots, None
        newer: list[SnapshotInfo] = []
        for info in snapshots:
            earlier = self._cache.lineage(info.id, node_id) if info.id in cached else None
            if earlier is not None:
                return newer, earlier
            newer.append(info)
        return newer, None

    def _side_by_side[T, R](self, fetch: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        assets, remaining = self._context.assets, iter(items)
        number = 0
        for part in (
            assets.workers.map_ahead(fetch, islice(remaining, _FIRST)),
            assets.workers.map_ahead(fetch, remaining, window=assets.workers.max_workers),
        ):
            for found in part:
                number += 1
                if self._progress is not None:
                    self._progress("commits looked at", number)
                yield found

    def _parts_of(self, info: SnapshotInfo, node_id: NodeId) -> list[_Part] | None:
        logs = self._logs_of(info)
        return None if logs is None else [_Part.of(log, node_id) for log in logs]

    def _logs_of(self, info: SnapshotInfo) -> list[TransactionLog] | None:
        """Returns the logs that a snapshot stands for, newest first; None if one is gone or malformed."""
        logs = []
        for snapshot_id in (info.id, *reversed(info.pruned_ancestor_tx_logs)):
            try:
                logs.append(self._context.assets.fetch_transaction_log(snapshot_id))
            except (FormatError, NotAnObjectError):
                return None
            except ObjectNotFoundError:
                if snapshot_id != INITIAL_SNAPSHOT_ID:
                    return None
        return logs

    # What commits touched.

    def touches(self, snapshot_id: SnapshotId) -> Iterator[tuple[SnapshotInfo, dict[NodeId, Touch]]]:
        """Yields a snapshot and its ancestors, newest first, each with what it did to which nodes.

        Raises:
            SnapshotNotFoundError: there is no such snapshot (at once).
            FormatError, StorageError: its history cannot be read.
        """
        return ((info, touched or {}) for info, touched in self.touches_or_gaps(snapshot_id))

    def touches_or_gaps(self, snapshot_id: SnapshotId) -> Iterator[tuple[SnapshotInfo, dict[NodeId, Touch] | None]]:
        """Yields what `touches` does, but None for a snapshot whose logs are not all there; raises as that."""
        snapshots = ancestry(self._context, snapshot_id)
        return self._side_by_side(lambda info: (info, self._touched(info)), snapshots)

    def _touched(self, info: SnapshotInfo) -> dict[NodeId, Touch] | None:
        # Expiration lets a snapshot stand for the logs of others, too.
        key = b"".join((info.id, *info.pruned_ancestor_tx_logs))
        known = None if self._cache is None else self._cache.touches(key)
        if known is not None:
            return known
        logs = self._logs_of(info)
        if logs is None:
            return None  # and not kept: they may be put back
        found: dict[NodeId, Touch] = {}
        for log in logs:
            for name, word in _WORDS:
                for node_id in getattr(log, name):
                    found[node_id] = found.get(node_id, Touch()).with_word(word)
            for move in log.moved_nodes:
                found[move.node_id] = found.get(move.node_id, Touch()).with_word("moved")
            for node_id, chunks in log.updated_chunks.items():
                if len(chunks):
                    touch = found.get(node_id, Touch())
                    found[node_id] = Touch(touch.words, touch.num_chunks + len(chunks))
        if self._cache is not None:
            self._cache.keep_touches(key, found)
        return found


_WORDS: Final = (
    ("new_groups", "new"),
    ("new_arrays", "new"),
    ("updated_groups", "metadata"),
    ("updated_arrays", "metadata"),
    ("deleted_groups", "deleted"),
    ("deleted_arrays", "deleted"),
)


class _Builder:
    """Collects what commits did to one node, from the newest on."""

    def __init__(self) -> None:
        self._commits: list[tuple[SnapshotId, int]] = []
        self._metadata: int | None = None
        self._parts: list[tuple[ChunkIndices, OwnerArray]] = []
        self._is_complete = True

    def add(self, info: SnapshotInfo, parts: list[_Part] | None) -> bool:
        """Takes a commit; returns whether nothing earlier counts any more."""
        if parts is None:
            self._is_complete = False
            return True
        number = len(self._commits)
        is_touched = False
        for part in parts:
            if part.is_new or part.is_updated:
                self._metadata = number if self._metadata is None else self._metadata
                is_touched = True
            chunks = part.chunks
            if chunks is not None and len(chunks):
                self._parts.append((chunks, np.full(len(chunks), number, np.uint32)))
                is_touched = True
            if part.is_new:
                return True
        if is_touched:
            self._commits.append((info.id, info.flushed_at))
        return False

    def result(self, last: SnapshotInfo, *, is_complete: bool = True) -> Lineage:
        """Ends at the commit that counts for whatever no later one changed."""
        self._is_complete &= is_complete
        number = len(self._commits)
        self._commits.append((last.id, last.flushed_at))
        return self._build(number if self._metadata is None else self._metadata, number)

    def onto(self, earlier: Lineage) -> Lineage:
        """Ends where an earlier answer goes on."""
        shift = len(self._commits)
        self._commits += earlier.commits
        if len(earlier.chunks):
            self._parts.append((earlier.chunks, earlier.owners + np.uint32(shift)))
        self._is_complete = earlier.is_complete
        metadata = earlier.metadata + shift if self._metadata is None else self._metadata
        return self._build(metadata, earlier.rest + shift)

    def _build(self, metadata: int, rest: int) -> Lineage:
        # Where the number of dimensions changed, the newest counts: indices of another shape are no chunks any more.
        parts = [part for part in self._parts if part[0].ndim == self._parts[0][0].ndim]
        chunks, owners = ChunkIndices([]), np.zeros(0, np.uint32)
        if parts and not parts[0][0].ndim:
            chunks, owners = parts[0][0], parts[0][1][:1]
        elif parts:
            columns = [np.concatenate(column) for column in zip(*(part[0].coords for part in parts), strict=True)]
            # The first of equal ones is the newest.
            _, first = np.unique(pack_keys(columns)[0], return_index=True)
            chunks = ChunkIndices([column[first] for column in columns])
            owners = np.concatenate([part[1] for part in parts])[first]
        return Lineage(tuple(self._commits), metadata, chunks, owners, rest, self._is_complete)

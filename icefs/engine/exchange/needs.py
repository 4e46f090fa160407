"""The objects that a history needs in the target, those that it lacks, and those that a collection could take."""

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from typing import Self

from icefs.engine.exchange.histories import NewHistory
from icefs.engine.exchange.objects import Objects, chunks_of, present
from icefs.engine.read.assets import AssetManager
from icefs.engine.read.workers import Workers
from icefs.errors import ObjectNotFoundError
from icefs.format.ids import ManifestId, SnapshotId
from icefs.format.layout import CHUNKS, MANIFESTS, SNAPSHOTS, TRANSACTIONS, transaction_log_key
from icefs.storage.base import Storage


@dataclass(frozen=True, slots=True)
class Needs:
    """Objects that snapshots need, by directory.

    Attributes:
        chunks: Chunk objects.
        manifests: Manifests.
        logs: Transaction logs.
        snapshots: The snapshots' own files.
    """

    chunks: Objects
    manifests: Objects
    logs: Objects
    snapshots: Objects

    @classmethod
    def of(
        cls,
        source: AssetManager,
        history: NewHistory,
        target: AssetManager | None = None,
        known: AbstractSet[SnapshotId] = frozenset(),
    ) -> Self:
        """Finds out what snapshots need.

        Args:
            source: Where they are.
            history: The snapshots.
            target: Where they come to, if that has snapshots already.
            known: The snapshots that it has; what the newest of them need is left out.

        Raises:
            ObjectNotFoundError, FormatError, StorageError: something cannot be read.
        """
        manifests = _manifests(source, history.snapshots)
        there = Objects.of(CHUNKS, ())
        if target is not None:
            edge = {each.parent_id for each in history.snapshots.values() if each.parent_id in known}
            shared = _manifests(target, {each for each in edge if each is not None})
            manifests -= shared
            if manifests:
                there = chunks_of(target, sorted(shared), CHUNKS)
        return cls(
            chunks_of(source, sorted(manifests), CHUNKS).without(there),
            Objects.of(MANIFESTS, manifests),
            Objects.of(TRANSACTIONS, _logs(source.storage, history)),
            Objects.of(SNAPSHOTS, history.snapshots.keys()),
        )

    def __iter__(self) -> Iterator[Objects]:
        """Yields them in the order in which they are copied: nothing comes before the objects that it needs."""
        return iter((self.chunks, self.manifests, self.logs, self.snapshots))

    def __len__(self) -> int:
        """Returns how many objects there are."""
        return sum(map(len, self))

    def present(self, storage: Storage, workers: Workers) -> Self:
        """Returns those of them that a store has; raises StorageError."""
        chunks, manifests, logs, snapshots = (present(storage, workers, each) for each in self)
        return type(self)(chunks, manifests, logs, snapshots)

    def without(self, others: Self) -> Self:
        """Returns those that are not among others."""
        chunks, manifests, logs, snapshots = (mine.without(theirs) for mine, theirs in zip(self, others, strict=True))
        return type(self)(chunks, manifests, logs, snapshots)

    def without_snapshots(self, snapshots: Iterable[SnapshotId]) -> Self:
        """Returns them without the files of some snapshots."""
        return replace(self, snapshots=self.snapshots.without(Objects.of(SNAPSHOTS, set(snapshots))))

    def unused(self, target: AssetManager, known: AbstractSet[SnapshotId]) -> Self:
        """Returns those that nothing in the target needs, so that a collection of it may take them.

        Raises:
            FormatError, StorageError: something of the target cannot be read.
        """
        manifests = _manifests(target, known)
        return replace(
            self,
            chunks=self.chunks.without(chunks_of(target, sorted(manifests), CHUNKS)),
            manifests=self.manifests.without(Objects.of(MANIFESTS, manifests)),
        )


def _manifests(assets: AssetManager, snapshots: Iterable[SnapshotId]) -> set[ManifestId]:
    fetched = assets.workers.map_ahead(assets.fetch_snapshot, sorted(snapshots))
    return {manifest_id for snapshot in fetched for manifest_id in snapshot.manifest_files}


def _logs(source: Storage, history: NewHistory) -> set[SnapshotId]:
    """Returns the transaction logs; spec version 1 needs none of a first snapshot."""
    logs = history.logs()
    for each in history.snapshots.values():
        if each.parent_id is None:
            try:
                source.head(transaction_log_key(each.id))
            except ObjectNotFoundError:
                logs.discard(each.id)
    return logs

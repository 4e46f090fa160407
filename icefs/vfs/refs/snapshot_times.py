"""When snapshots were written, and which of them refs reach: asked of the repository once, and remembered."""

from collections.abc import Iterable, Sequence

from icefs.engine.read.refs import Refs
from icefs.engine.repository import Repository
from icefs.errors import FormatError, NotFoundError, ObjectNotFoundError, StorageError
from icefs.format.ids import SnapshotId
from icefs.vfs.interface import NotInMemoryError


class SnapshotTimes:
    """The times of the snapshots that trees were made of, in microseconds.

    A time is None where there is no such snapshot, and 0 where it cannot be read. All methods that ask for times raise
    `NotInMemoryError` where the repository has to be read.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._flushed_at: dict[SnapshotId, int | None] = {}
        self._reachable: tuple[str, list[SnapshotId]] | None = None

    def require_one(self, snapshot_id: SnapshotId) -> int | None:
        """Returns the time of a snapshot."""
        if snapshot_id not in self._flushed_at:
            self.require([snapshot_id])
        return self._flushed_at[snapshot_id]

    def require(self, snapshot_ids: Iterable[SnapshotId]) -> None:
        """Makes sure that the times of snapshots are there, all fetched at once."""
        missing = [snapshot_id for snapshot_id in snapshot_ids if snapshot_id not in self._flushed_at]
        if missing:
            repository = self._repository
            raise NotInMemoryError(
                ("times", *missing), lambda: fetch_times(repository, missing), self._flushed_at.update
            )

    def forget(self, snapshot_id: SnapshotId) -> None:
        """Forgets what is known of a snapshot."""
        self._flushed_at.pop(snapshot_id, None)

    def reachable(self, refs: Refs) -> list[SnapshotId]:
        """Returns the snapshots that refs reach; their times are there then."""
        version = refs.version
        if self._reachable is None or self._reachable[0] != version:
            repository = self._repository
            raise NotInMemoryError(
                ("reachable", version),
                lambda: fetch_reachable(repository, refs),
                lambda found: self._take_reachable(version, found),
            )
        return self._reachable[1]

    def _take_reachable(self, version: str, found: dict[SnapshotId, int]) -> None:
        for snapshot_id, flushed_at in found.items():
            self._flushed_at.setdefault(snapshot_id, flushed_at)
        self._reachable = version, list(found)


def fetch_times(repository: Repository, snapshot_ids: Sequence[SnapshotId]) -> dict[SnapshotId, int | None]:
    """Returns the times of snapshots in microseconds: None of one that does not exist, 0 of one that is damaged."""

    def fetch(snapshot_id: SnapshotId) -> int | None:
        try:
            try:
                return repository.snapshot_info(snapshot_id).flushed_at
            except NotFoundError:
                # One that no ref reaches any more may have its file still.
                return repository.assets.fetch_snapshot(snapshot_id).flushed_at
        except (NotFoundError, ObjectNotFoundError):
            return None
        except (FormatError, StorageError):
            return 0

    return dict(zip(snapshot_ids, repository.assets.workers.map(fetch, snapshot_ids), strict=True))


def fetch_reachable(repository: Repository, refs: Refs) -> dict[SnapshotId, int]:
    """Returns every snapshot that a ref reaches, with its time; as far as histories can be read."""
    found: dict[SnapshotId, int] = {}
    for tip in {*refs.branches.values(), *refs.tags.values()}:
        try:
            for info in repository.ancestry(snapshot_id=tip):
                if info.id in found:
                    break
                found[info.id] = info.flushed_at
        except (NotFoundError, FormatError, StorageError):
            continue
    return found

"""Garbage collection: deletes the objects of a repository that nothing needs any more.

    keep    what the history of any ref needs, and what snapshots need that are younger than the cutoff
    delete  every other snapshot, transaction log, manifest and chunk object that was stored before the cutoff

The cutoff protects writers: what a commit has stored and not yet published is younger, provided that no session is
open for longer than that. First `repo` forgets the snapshots that go (spec 2), then objects are deleted; interrupted
in between, the rest is garbage still, and the next run finds it. Backups in `overwritten/` are never touched.

A session that is open for longer than the cutoff may commit at any moment. So all that may go is listed *before* the
entry in the ops log, and what the state with that entry needs is kept:

    list what is old ──► write the entry into `repo` ──► keep what that state needs ──► delete, of the list, the rest

A commit before the entry is in that state. A later commit sees the entry, and refers to new objects only, which are not
in the list (`write.chunk_guard`). The entry counts for `DELETES_FOR_S`; a collection that takes longer writes another
one. Spec 1 has no log: there the refs are read again before each batch, and a commit during one batch can still lose
its chunks.

Source: format notes §5; upstream icechunk/src/ops/gc.rs.
"""

import contextlib
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from itertools import batched, chain
from typing import Any, Final

import numpy as np

from icefs.engine.history.ancestry import walk_v1
from icefs.engine.upkeep.expiration import collapse
from icefs.engine.write import publish
from icefs.engine.write.clocks import check_clock_now
from icefs.engine.write.collection_log import DELETES_FOR_S
from icefs.engine.write.repository import WritableRepository
from icefs.errors import ConflictError, InvalidInputError, ObjectNotFoundError, SessionStateError
from icefs.format.header import HEADER_BYTES, check_known_version
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, ManifestId, ObjectId, SnapshotId
from icefs.format.layout import CHUNKS, MANIFESTS, SNAPSHOTS, TRANSACTIONS
from icefs.format.manifest.reader import Manifest
from icefs.format.manifest.refs import ChunkKind
from icefs.format.repo import update as edits
from icefs.format.repo.info import MAIN_BRANCH, RepoInfo
from icefs.format.repo.ops_log import GCRan
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import Stamp
from icefs.storage.base import ObjectInfo

_MAX_TRIES: Final = 10
_HEADS_AHEAD: Final = 64


@dataclass(frozen=True, slots=True)
class Pace:
    """How a collection deletes.

    Attributes:
        batch: How many objects at once.
        announced_s: For how many seconds after an entry in the ops log; then it writes another one. At most
            `DELETES_FOR_S`, which commits rely on.
    """

    batch: int = 1000
    announced_s: float = DELETES_FOR_S


type Progress = Callable[[str, int], None]
"""Called with the kind of thing that is under way, and how many are done."""


_MOST_NAMED: Final = 10


@dataclass(slots=True)
class GarbageSummary:
    """What a garbage collection deleted, or with a dry run would delete.

    Attributes:
        bytes_deleted: The size of all objects.
        chunks_deleted: Chunk objects; a packed one counts once.
        manifests_deleted: Manifests.
        snapshots_deleted: Snapshots.
        attributes_deleted: Always 0: the format reserves such files, and nobody writes any.
        transaction_logs_deleted: Transaction logs.
        objects_failed_to_delete: Objects that the store would not delete; the next run tries again.
        kept_keys: The first of their keys, at most ten.
    """

    bytes_deleted: int = 0
    chunks_deleted: int = 0
    manifests_deleted: int = 0
    snapshots_deleted: int = 0
    attributes_deleted: int = 0
    transaction_logs_deleted: int = 0
    objects_failed_to_delete: int = 0
    kept_keys: list[str] = field(default_factory=list, repr=False)

    @property
    def delete_errors(self) -> list[str]:
        """A line for each of `kept_keys`; the store's own reasons are in the log."""
        return [f"{key} could not be deleted" for key in self.kept_keys]

    @property
    def skipped_phases(self) -> list[str]:
        """Kinds of objects that were left out since deleting others failed: icefs goes on, and leaves out none."""
        return []

    def to_json(self) -> dict[str, Any]:
        """Returns the numbers by name."""
        return {name: value for name, value in asdict(self).items() if name != "kept_keys"}


class _ChunkIds:
    """The ids of the chunk objects that are kept, as sorted fixed-width strings: 12 bytes for each."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray[Any, np.dtype[np.bytes_]]] = []
        self._sorted: np.ndarray[Any, np.dtype[np.bytes_]] = np.zeros(0, "S12")

    def add(self, manifest: Manifest) -> None:
        for refs in manifest.arrays.values():
            native = refs.chunk_ids[refs.kinds == ChunkKind.NATIVE]
            if len(native):
                self._parts.append(np.unique(np.ascontiguousarray(native).view("S12").reshape(-1)))

    def seal(self) -> None:
        if self._parts:
            self._sorted = np.unique(np.concatenate([self._sorted, *self._parts]))
            self._parts.clear()

    def __contains__(self, chunk_id: object) -> bool:
        # numpy drops trailing zero bytes of fixed-width strings, on both sides alike.
        wanted = np.frombuffer(chunk_id, "S12")[0] if isinstance(chunk_id, bytes) else b""
        row = int(np.searchsorted(self._sorted, wanted))
        return row < len(self._sorted) and bool(self._sorted[row] == wanted)


class _Doomed:
    """The old objects of a directory that nothing needed when they were listed: some 20 bytes for each."""

    def __init__(self, directory: str, kind: type[ObjectId]) -> None:
        self._directory = directory
        self._kind = kind
        self._ids = bytearray()
        self._sizes = array("Q")

    def add(self, object_id: ObjectId, size_bytes: int) -> None:
        self._ids += object_id
        self._sizes.append(size_bytes)

    def __iter__(self) -> Iterator[tuple[ObjectId, str, int]]:
        """Yields the id, key and size of each."""
        width = self._kind.SIZE
        for row, size_bytes in enumerate(self._sizes):
            object_id = self._kind(bytes(self._ids[row * width : (row + 1) * width]))
            yield object_id, f"{self._directory}/{object_id}", size_bytes


class _RepoMoved(Exception):
    """The repository changed in a way that makes what was found out worthless."""


def collect_garbage(
    repository: WritableRepository,
    older_than: int,
    *,
    dry_run: bool = False,
    progress: Progress = lambda what, count: None,
    pace: Pace = Pace(),
) -> GarbageSummary:
    """Deletes what nothing needs and was stored before a cutoff.

    Args:
        repository: Where.
        older_than: The cutoff, in microseconds since the epoch, compared with the store's own times.
        dry_run: Delete nothing.
        progress: See `Progress`.
        pace: How it deletes.

    Raises:
        ReadOnlyError: the repository's status is not online.
        ConflictError: others changed the repository every time.
        SessionStateError: the repository has no branch `main`, so that it is damaged (kind `no-main-branch`).
            Or the clocks of this machine and of the store differ too much (kind `snapshot-timestamp`).
        StaleError: it was upgraded to spec 2 since it was opened; nothing was deleted that it needs.
        UnsupportedSpecVersionError: a newer Icechunk wrote metadata that would be deleted; nothing was changed.
        FormatError, StorageError: something that is needed cannot be read, so that nobody knows what it needs; nothing
            was deleted. Or deleting failed halfway; every object that is needed is still there.
    """
    repository.context.check_online()
    if not dry_run:
        check_clock_now(repository.context)
    for _ in range(_MAX_TRIES):
        try:
            return _Collection(repository, older_than, pace, dry_run=dry_run, progress=progress).run()
        except _RepoMoved:
            continue
    raise ConflictError(
        f"{repository.storage.url} is being changed by others faster than garbage can be found",
        kind="repo-info-updated",
        hint="try again when it is quieter",
    )


class _Collection:
    def __init__(
        self, repository: WritableRepository, older_than: int, pace: Pace, *, dry_run: bool, progress: Progress
    ) -> None:
        self._repository = repository
        self._pace = pace
        self._older_than = older_than
        self._dry_run = dry_run
        self._progress = progress
        self._snapshots: set[SnapshotId] = set()
        self._logs: set[SnapshotId] = set()
        self._announced_at = 0.0
        self._manifests: set[ManifestId] = set()
        self._chunks = _ChunkIds()
        self._summary = GarbageSummary()

    def run(self) -> GarbageSummary:
        info = None
        if self._repository.spec_version == 2:
            info = self._find_snapshots()
        else:
            self._find_snapshots_v1()
        self._keep(self._snapshots)
        self._logs.update(self._snapshots)
        dropped: frozenset[SnapshotId] = frozenset()
        if info is not None:
            dropped = frozenset(info.snapshots.keys() - self._snapshots)
            for each in info.snapshots.values():
                self._logs.update(each.pruned_ancestor_tx_logs)
        doomed = [
            self._doomed(SNAPSHOTS, SnapshotId, self._snapshots),
            self._doomed(TRANSACTIONS, SnapshotId, self._logs),
            self._doomed(MANIFESTS, ManifestId, self._manifests),
        ]
        self._check_versions(doomed)
        doomed.append(self._doomed(CHUNKS, ChunkId, self._chunks))
        if info is not None and not self._dry_run:
            self._announce(dropped)
        snapshots, logs, manifests, chunks = doomed
        summary = self._summary
        summary.snapshots_deleted = self._delete(SNAPSHOTS, snapshots, self._snapshots)
        summary.transaction_logs_deleted = self._delete(TRANSACTIONS, logs, self._logs)
        summary.manifests_deleted = self._delete(MANIFESTS, manifests, self._manifests)
        summary.chunks_deleted = self._delete(CHUNKS, chunks, self._chunks)
        return summary

    # What is needed.

    def _find_snapshots(self) -> RepoInfo:
        # Listed before `repo` is read: a snapshot that is in `repo` and not in the list is newer than the list.
        old = {each for each, info in self._objects(SNAPSHOTS, SnapshotId) if info.last_modified < self._older_than}
        info, _ = self._repository.assets.fetch_repo_info()
        _check_main({*info.branches}, self._repository)
        self._snapshots.update(each for each in info.snapshots if each not in old)
        seen: set[int] = set()
        for tip in {*info.branches.values(), *info.tags.values()}:
            for row in info.snapshots.ancestry_rows(tip):
                if row in seen:
                    break
                seen.add(row)
        self._snapshots.update(info.snapshots.id_at(row) for row in seen)
        return info

    def _find_snapshots_v1(self) -> None:
        refs = self._repository.refs()
        _check_main({*refs.branches, *refs.broken_branches}, self._repository)
        broken = [*refs.broken_branches.values(), *refs.broken_tags.values()]
        if broken:
            raise broken[0]  # it may lead anywhere
        for tip in {*refs.branches.values(), *refs.tags.values()}:
            for each in walk_v1(self._repository.assets, tip):
                if each.id in self._snapshots:
                    break
                self._snapshots.add(each.id)

    def _keep(self, snapshots: "Iterable[SnapshotId]") -> None:
        """Keeps the manifests of snapshots, and their chunks."""
        assets = self._repository.assets
        found: set[ManifestId] = set()
        for count, snapshot in enumerate(assets.workers.map_ahead(assets.fetch_snapshot, sorted(snapshots)), 1):
            found.update(snapshot.manifest_files)
            self._progress("snapshots read", count)
        found -= self._manifests
        for count, manifest in enumerate(assets.workers.map_ahead(assets.fetch_manifest, sorted(found)), 1):
            self._chunks.add(manifest)
            self._progress("manifests read", count)
        self._manifests |= found
        self._chunks.seal()

    # What goes.

    def _announce(self, dropped: frozenset[SnapshotId]) -> None:
        """Writes the entry that makes later commits see to their chunks, and keeps what earlier ones refer to."""
        known = set(self._snapshots)
        began_at = time.monotonic()
        info = self._forget(dropped)
        self._announced_at = began_at
        self._logs |= self._snapshots
        for each in info.snapshots.values():
            self._logs.update(each.pruned_ancestor_tx_logs)
        self._keep(self._snapshots - known)

    def _renew(self) -> None:
        """Makes sure, before a batch is deleted, that no commit that is not known yet can refer to it."""
        if self._repository.spec_version == 1:
            self._repository.context.check_not_upgraded()
            known = set(self._snapshots)
            self._find_snapshots_v1()
            self._logs |= self._snapshots
            self._keep(self._snapshots - known)
        elif time.monotonic() - self._announced_at > self._pace.announced_s:
            self._announce(frozenset())

    def _forget(self, gone: frozenset[SnapshotId]) -> RepoInfo:
        """Takes snapshots out of `repo`; those that came since are kept."""

        def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
            replacements: list[SnapshotInfo] = []
            for snapshot_id in info.snapshots:
                parent = info.snapshots.parent_of(snapshot_id)
                if snapshot_id in gone:
                    continue
                is_new = snapshot_id not in self._snapshots
                if parent in gone:
                    if is_new:
                        raise _RepoMoved
                    replacements.append(self._reparented(info, info.snapshots[snapshot_id]))
                self._snapshots.add(snapshot_id)
            if not gone.isdisjoint((*info.branches.values(), *info.tags.values())):
                raise _RepoMoved
            present = gone & info.snapshots.keys()
            return edits.rewrite_snapshots(info, GCRan(), stamp, drop=present, replacements=replacements)

        return publish.update_repo_info(self._repository.context, change)

    def _reparented(self, info: RepoInfo, edited: SnapshotInfo) -> SnapshotInfo:
        parent, logs = collapse(info, edited, lambda ancestor: ancestor.id in self._snapshots)
        return replace(edited, parent_id=parent or INITIAL_SNAPSHOT_ID, pruned_ancestor_tx_logs=logs)

    def _doomed(self, directory: str, kind: type[ObjectId], kept: "set[Any] | _ChunkIds") -> _Doomed:
        doomed = _Doomed(directory, kind)
        for object_id, listed in self._objects(directory, kind):
            if listed.last_modified < self._older_than and object_id not in kept:
                doomed.add(object_id, listed.size_bytes)
        return doomed

    def _check_versions(self, doomed: Iterable[_Doomed]) -> None:
        """Refuses to delete metadata of a newer Icechunk: nobody here knows what it is good for, or what it needs.

        Raises:
            UnsupportedSpecVersionError: there is some; nothing was changed.
        """
        storage = self._repository.storage

        def check(one: tuple[ObjectId, str, int]) -> None:
            _, key, size_bytes = one
            with contextlib.suppress(ObjectNotFoundError):
                head = storage.get(key, start=0, end=min(HEADER_BYTES, size_bytes)).data
                check_known_version(head, name=key)

        heads = self._repository.assets.workers.map_ahead(check, chain.from_iterable(doomed), window=_HEADS_AHEAD)
        for count, _ in enumerate(heads, 1):
            self._progress("versions checked", count)

    def _objects[Id: ObjectId](self, directory: str, kind: type[Id]) -> Iterator[tuple[Id, ObjectInfo]]:
        """Yields the objects of a directory whose names are ids; others are nobody's business here."""
        for info in self._repository.storage.iter_objects(f"{directory}/"):
            try:
                object_id = kind.parse(info.key.removeprefix(f"{directory}/"))
            except InvalidInputError:
                continue
            yield object_id, info

    def _delete(self, directory: str, doomed: _Doomed, kept: "set[Any] | _ChunkIds") -> int:
        deleted = 0
        for batch in batched(doomed, self._pace.batch):
            if not self._dry_run:
                self._renew()
            deleted += self._delete_batch({key: size for object_id, key, size in batch if object_id not in kept})
            self._progress(f"{directory} deleted", deleted)
        return deleted

    def _delete_batch(self, sizes: dict[str, int]) -> int:
        failed: set[str] = set()
        if sizes and not self._dry_run:
            failed.update(self._repository.storage.delete(sizes))
        self._summary.objects_failed_to_delete += len(failed)
        self._summary.kept_keys = (self._summary.kept_keys + sorted(failed))[:_MOST_NAMED]
        self._summary.bytes_deleted += sum(size for key, size in sizes.items() if key not in failed)
        return len(sizes) - len(failed)


def _check_main(branches: set[str], repository: WritableRepository) -> None:
    """Refuses a repository without the branch that every repository has: nobody knows which objects it needs."""
    if MAIN_BRANCH not in branches:
        raise SessionStateError(
            f"{repository.storage.url} has no branch {MAIN_BRANCH!r}: it is damaged",
            kind="no-main-branch",
            hint="nothing was deleted; check it with 'icefs fsck'",
        )

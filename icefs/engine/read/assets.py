"""Typed reads of a repository's files, each decoded once and kept in bounded caches; and writes of immutable ones.

Everything but `repo` is immutable, so it is cached by id. `repo` is kept with its version and asked for with a
conditional request. A file that cannot be read or decoded raises for that file alone, and is tried again the next
time: nothing remembers an error.
"""

import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from icefs.engine.read.boxes import Box
from icefs.engine.read.cache import WeightedCache
from icefs.engine.read.limits import ReadLimits
from icefs.engine.read.requests import ReadRequests
from icefs.engine.read.workers import Workers
from icefs.engine.read.written import WrittenFiles
from icefs.errors import FormatError, ObjectNotFoundError, RepositoryNotFoundError, SnapshotNotFoundError
from icefs.format.config.values import RepositoryConfig
from icefs.format.ids import ChunkId, ManifestId, NodeId, SnapshotId
from icefs.format.layout import REPO_INFO, backup_key, chunk_key, manifest_key, snapshot_key, transaction_log_key
from icefs.format.manifest.reader import Manifest, parse_manifest
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.repo.info import RepoInfo, parse_repo_info
from icefs.format.snapshot.reader import Snapshot, parse_snapshot
from icefs.format.transaction_log import TransactionLog, parse_transaction_log
from icefs.storage.base import Done, Storage, Version
from icefs.storage.cache.disk import CacheView, DiskCache
from icefs.storage.cache.entry import CachedFile
from icefs.words import command

_log = logging.getLogger(__name__)

_MAX_WORKERS: Final = 32
# Fifteen million references, the official default, are most of a gigabyte. Four million are what one big array has.
_DEFAULT_CACHED_REFS: Final = 4_000_000
_BYTES_PER_REF: Final = 64
_DEFAULT_CACHED_NODES: Final = 500_000
# The official default keeps no transaction log; walking a history twice (log, then diff) wants some.
_DEFAULT_CACHED_CHANGES: Final = 200_000
# What each of them takes whatever is in it, counted in nodes, references and changes: a mount that lives for months
# sees a million small commits.
_SNAPSHOT_NODES: Final = 16
_MANIFEST_REFS: Final = 64
_LOG_CHANGES: Final = 64
# Neighbours in one object are fetched together up to this size, and over a gap of this one.
_MAX_RUN_BYTES: Final = 4 << 20
_MAX_GAP_BYTES: Final = 16 << 10
# Files that were written are mostly read next, by the next commit.
_WRITTEN_BYTES: Final = 16 << 20

type _ClipKey = tuple[ManifestId, NodeId, Box, tuple[Box, ...]]


class AssetManager:
    """Fetches, decodes and caches a repository's files.

    Concurrency: all methods may be called from any thread. `_repo_lock` is held across the conditional request for
    `repo`, so that an answer never replaces a newer one; the caches, and what was written, have locks of their own,
    never held across a request.
    """

    def __init__(self, storage: Storage, workers: Workers | None = None, cache: DiskCache | None = None) -> None:
        """Takes the storage, and a disk cache for what is read from it, which is closed with the manager."""
        self.storage = storage
        self.disk_cache = cache
        # Expiration rewrites the snapshots of spec 1 in place.
        self.snapshots_change = False
        self._view: CacheView | None = None
        self.workers = workers or Workers(min(_MAX_WORKERS, max(2, storage.capabilities.concurrency)))
        self.snapshots: WeightedCache[SnapshotId, Snapshot] = WeightedCache(_DEFAULT_CACHED_NODES)
        self.manifests: WeightedCache[ManifestId, Manifest] = WeightedCache(_DEFAULT_CACHED_REFS)
        self.clipped: WeightedCache[_ClipKey, ArrayRefs] = WeightedCache(_DEFAULT_CACHED_REFS // 4)
        self.transaction_logs: WeightedCache[SnapshotId, TransactionLog] = WeightedCache(_DEFAULT_CACHED_CHANGES)
        self._requests = ReadRequests(storage, self.workers)
        self._repo_lock = threading.Lock()
        self._repo: tuple[RepoInfo, Version] | None = None
        self._written = WrittenFiles(_WRITTEN_BYTES)

    def set_limits(self, config: RepositoryConfig) -> None:
        """Takes over how much to read at once and how much to cache, where a configuration says so itself.

        The file that was read last stays in each cache, however small that is.

        Raises:
            InvalidInputError: a read would be divided into requests of no bytes, or into none.
        """
        limits = ReadLimits.of(config)
        self._requests.obey(limits)
        if limits.snapshot_nodes is not None:
            self.snapshots.max_weight = limits.snapshot_nodes
        if limits.chunk_refs is not None:
            self.manifests.max_weight, self.clipped.max_weight = limits.chunk_refs, limits.chunk_refs // 4
        if limits.changes is not None:
            self.transaction_logs.max_weight = limits.changes

    def use(self, storage: Storage) -> None:
        """Reads and writes through another storage of the same place from now on."""
        self.storage = self._requests.storage = storage

    def fetch_repo_info(self, *, refresh: bool = True) -> tuple[RepoInfo, Version]:
        """Returns the repo info and its version (spec 2 only).

        Args:
            refresh: Ask the store whether it changed. Without, what was last seen will do.

        Raises:
            RepositoryNotFoundError: there is no `repo` file.
            FormatError: it is malformed.
        """
        known = self._repo
        if known is not None and not refresh:
            return known
        with self._repo_lock:
            known = self._repo
            try:
                changed = self._requests.get_if_changed(REPO_INFO, known[1] if known else None)
            except ObjectNotFoundError as error:
                raise repository_not_found(self.storage) from error
            if changed is not None:
                known = self._repo = self._parse_repo_info(changed.data), changed.version
            assert known is not None  # an unconditional request always answers with an object
            return known

    def _parse_repo_info(self, data: bytes) -> RepoInfo:
        try:
            return parse_repo_info(data, name=REPO_INFO)
        except FormatError as error:
            if error.hint is None:
                # Each update leaves a copy of what it replaces.
                error.hint = f"'{command('fsck --repair', self.storage.url)}' restores it if a copy is left"
            raise

    def remember_repo_info(self, info: RepoInfo, version: Version, *, replaces: Version) -> None:
        """Takes over a repo info that was just written, unless another one has been read since."""
        with self._repo_lock:
            if self._repo is not None and self._repo[1] == replaces:
                self._repo = info, version

    def fetch_repo_info_backup(self, name: str) -> RepoInfo:
        """Reads an earlier state of `repo`, by the name that an update's `backup_path` gives.

        Raises:
            ObjectNotFoundError: there is no such backup.
            FormatError: it is malformed, or the name is not one.
        """
        if not name or "/" in name or name in (".", ".."):
            raise FormatError(f"{REPO_INFO}: {name!r} does not name a backup", file=REPO_INFO, reason="bad backup name")
        key = backup_key(name)
        return parse_repo_info(self._read(key), name=key)

    def fetch_snapshot(self, snapshot_id: SnapshotId) -> Snapshot:
        """Returns a snapshot; a warning is logged of one that has several nodes at a path.

        Raises:
            ObjectNotFoundError: there is no such file.
            FormatError: it is malformed.
        """

        def load() -> tuple[Snapshot, int]:
            key = snapshot_key(snapshot_id)
            if self.snapshots_change:
                snapshot = self._requests.decode(parse_snapshot, self._read(key), key)
            else:
                snapshot = self._load_immutable(key, parse_snapshot)
            for path in snapshot.shadowed:
                _log.warning("%s has several nodes at %s; the newest is read", key, path)
            return snapshot, len(snapshot) + _SNAPSHOT_NODES

        return self.snapshots.get(snapshot_id, load)

    def refetch_snapshot(self, snapshot_id: SnapshotId) -> Snapshot:
        """Reads a snapshot's file again: in spec 1 expiration rewrites them in place; raises as `fetch_snapshot`."""
        self.snapshots.discard(snapshot_id)
        return self.fetch_snapshot(snapshot_id)

    def fetch_manifest(self, manifest_id: ManifestId) -> Manifest:
        """Returns a manifest.

        Raises:
            ObjectNotFoundError: there is no such file.
            FormatError: it is malformed.
        """

        def load() -> tuple[Manifest, int]:
            manifest = self._load_immutable(manifest_key(manifest_id), parse_manifest)
            # Inline data and locations take memory too, which counts as so many native references.
            return manifest, max(manifest.num_chunk_refs, manifest.nbytes // _BYTES_PER_REF) + _MANIFEST_REFS

        return self.manifests.get(manifest_id, load)

    def fetch_transaction_log(self, snapshot_id: SnapshotId) -> TransactionLog:
        """Returns the transaction log of a snapshot.

        Raises:
            ObjectNotFoundError: there is no such file; the first snapshot of a spec 1 repository has none.
            FormatError: it is malformed.
        """

        def load() -> tuple[TransactionLog, int]:
            log = self._load_immutable(transaction_log_key(snapshot_id), parse_transaction_log)
            return log, _LOG_CHANGES + sum(len(chunks) for chunks in log.updated_chunks.values())

        return self.transaction_logs.get(snapshot_id, load)

    def read_chunk_object(self, chunk_id: ChunkId, start: int, end: int) -> bytes:
        """Reads the bytes `[start, end)` of a chunk object, exactly.

        Raises:
            ObjectNotFoundError: there is no such object.
            InvalidObjectSizeError: it is shorter than `end`.
        """
        key = chunk_key(chunk_id)
        return self._requests.remembered(key, start, end, lambda: self._read_range(key, start, end))

    def _read_range(self, key: str, start: int, end: int) -> bytes:
        view = self._cache_view()
        if view is None:
            return self._requests.fetch_range(key, start, end)
        data = view.get(key, start, end)
        if data is None:
            data = self._requests.fetch_range(key, start, end)
            view.put(key, data, start, end)
        return data

    def start_chunk_read(self, chunk_id: ChunkId, start: int, end: int, done: Done) -> bool:
        """Begins to read what `read_chunk_object` reads, where that needs no thread; see `Storage.start_read`.

        The disk cache is not looked into.
        """
        view = self._view
        if view is None and self.disk_cache is not None:
            return False
        key = chunk_key(chunk_id)

        def keep(data: bytes | bytearray | None) -> None:
            if data is not None and view is not None:
                view.put(key, data, start, end)
            done(data)

        return self._requests.start_read(key, start, end, keep)

    def read_chunk_ranges(self, chunk_id: ChunkId, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Reads several ranges `[start, end)` of a chunk object; near ones come in one request.

        Raises:
            ObjectNotFoundError: there is no such object.
            InvalidObjectSizeError: it is shorter than the end of one of them.
        """
        key, view = chunk_key(chunk_id), self._cache_view()
        found: dict[tuple[int, int], bytes] = {}
        for start, end in () if view is None else ranges:
            data = view.get(key, start, end) if view is not None else None
            if data is not None:
                found[start, end] = data
        runs = coalesce([span for span in ranges if span not in found])
        fetched = self.workers.map_ahead(
            lambda run: self._requests.fetch_range(key, run[0][0], max(end for _, end in run)), runs
        )
        for run, data in zip(runs, fetched, strict=True):
            base = run[0][0]
            for start, end in run:
                part = found[start, end] = data[start - base : end - base]
                if view is not None:
                    view.put(key, part, start, end)
        return [found[span] for span in ranges]

    def open_cached(self, chunk_id: ChunkId, start: int, end: int) -> CachedFile | None:
        """Opens what the disk cache keeps of a range; never waits for anything but a directory."""
        view = self._view  # made by the first fetch
        return None if view is None else view.open(chunk_key(chunk_id), start, end)

    def is_cached(self, chunk_id: ChunkId, start: int, end: int) -> bool:
        """Tells whether the disk cache keeps a range."""
        view = self._cache_view()
        return view is not None and view.has(chunk_key(chunk_id), start, end)

    def _read(self, key: str) -> bytes:
        return self._requests.get(key).data

    def _load_immutable[T](self, key: str, parse: Callable[..., T]) -> T:
        """Reads and decodes a file that never changes; the disk cache keeps it only if it could be decoded."""
        written, view = self._written.take(key), self._cache_view()
        decode = self._requests.decode
        if view is None:
            return decode(parse, self._read(key) if written is None else written, key)
        kept = view.get(key) if written is None else None
        if kept is not None:
            try:
                return decode(parse, kept, key)
            except FormatError:
                view.drop(key)  # what something else answered in the store's place
        data = self._read(key) if written is None else written
        parsed = decode(parse, data, key)
        view.put(key, data)
        return parsed

    def put_immutable(self, key: str, data: bytes) -> None:
        """Stores a file that never changes. The first reader gets these bytes, if it reads soon."""
        self._requests.put(key, data)
        self._written.put(key, data)

    def _cache_view(self) -> CacheView | None:
        # What lies on this machine needs no copy; the cache is for the virtual chunks then.
        if self._view is None and self.disk_cache is not None and not self.storage.capabilities.local_files:
            self._view = self.disk_cache.view(self.storage.identity)
        return self._view

    def close(self) -> None:
        """Ends the workers and forgets what is cached; the storage is its opener's to close."""
        self.workers.close()
        for cache in (self.snapshots, self.manifests, self.clipped, self.transaction_logs):
            cache.clear()
        self._written.clear()
        self._requests.close()
        if self.disk_cache is not None:
            self.disk_cache.close()


def coalesce(ranges: Iterable[tuple[int, int]]) -> list[list[tuple[int, int]]]:
    """Groups ranges that are worth one request, in order."""
    runs: list[list[tuple[int, int]]] = []
    reach = 0
    for start, end in sorted(set(ranges)):
        if runs and start - reach <= _MAX_GAP_BYTES and max(reach, end) - runs[-1][0][0] <= _MAX_RUN_BYTES:
            runs[-1].append((start, end))
            reach = max(reach, end)
        else:
            runs.append([(start, end)])
            reach = end
    return runs


def repository_not_found(storage: Storage) -> RepositoryNotFoundError:
    """Makes the error for a location that holds no repository."""
    return RepositoryNotFoundError(
        f"no Icechunk repository at {storage.url}", hint="check the location, or make one with 'icefs init'"
    )


def snapshot_not_found(snapshot_id: SnapshotId) -> SnapshotNotFoundError:
    """Makes the error for an id that no snapshot has."""
    return SnapshotNotFoundError(f"no snapshot {snapshot_id}", snapshot_id=str(snapshot_id))

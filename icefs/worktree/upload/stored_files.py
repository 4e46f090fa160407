"""The spool files that are in the object store though no snapshot refers to them: in memory, and in `uploads.db`."""

import os
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from icefs.engine.read.workers import Workers
from icefs.engine.write.chunk_guard import missing_chunks
from icefs.engine.write.collection_log import Collections, Mark
from icefs.errors import StorageError
from icefs.format.ids import ChunkId
from icefs.storage.base import Storage
from icefs.worktree.upload.log import Stored, UploadLog

_HEADS: Final = 16
_STALE_S: Final = 12 * 3600


class StoredFiles:
    """The uploads that are remembered, by spool id.

    Concurrency: any thread may call it. It takes the lock that it is given, which its owner may hold already, and makes
    no request while it holds it.
    """

    def __init__(
        self,
        log: UploadLog,
        lock: threading.RLock,
        storage: Storage,
        collections: Collections,
        *,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Begins with what is in the record.

        Args:
            log: The record; closed with this.
            lock: Protects the uploads.
            storage: Where they are.
            collections: The garbage collections of the repository.
            clock_s: The time, in seconds since 1970.
        """
        self._log = log
        self._lock = lock
        self._storage = storage
        self._collections = collections
        self._clock_s = clock_s
        self._is_closed = False
        self._stored: dict[int, Stored] = {row.spool: row for row in log.load()}

    def __contains__(self, spool_id: int) -> bool:
        return spool_id in self._stored

    @property
    def highest_id(self) -> int:
        """The largest spool id of all; 0 if there is none."""
        return max(self._stored, default=0)

    def is_stored(self, spool_id: int, stamp: int, size: int) -> bool:
        """Tells whether a spool file is stored that has this modification time and size."""
        row = self._stored.get(spool_id)
        return row is not None and (row.stamp, row.size) == (stamp, size)

    def all(self) -> dict[int, Stored]:
        """Returns a copy of all uploads."""
        with self._lock:
            return dict(self._stored)

    def mark(self) -> Mark:
        """Returns where the repository's log ends; to be asked before an upload."""
        return self._collections.mark()

    def remember(self, files: Iterable[tuple[int, int, int, int]], chunk_id: ChunkId, mark: Mark) -> None:
        """Records files that were stored in one object; durable when it returns.

        Args:
            files: The spool id of each, its modification time, its size and its offset in the object.
            chunk_id: The object.
            mark: What `mark` returned before it was stored.

        Raises:
            StorageError: the record cannot be written.
        """
        now_s = int(self._clock_s())
        rows = [Stored(spool_id, stamp, size, chunk_id, offset, now_s, mark) for spool_id, stamp, size, offset in files]
        with self._lock:
            if self._is_closed:
                return
            self._log.add(rows)
            self._stored.update((row.spool, row) for row in rows)

    def remember_committed(self, files: Iterable[tuple[int, str, int, int]], chunk_id: ChunkId, mark: Mark) -> None:
        """Records files that a commit has stored in one object, so that it need not store them again if it fails.

        Args:
            files: The spool id of each, its path on the disk, its size and its offset in the object.
            chunk_id: The object.
            mark: Where the repository's log ended before it was stored.

        Raises:
            StorageError: the record cannot be written.
        """
        found = []
        for spool_id, path, size, offset in files:
            with suppress(FileNotFoundError):
                found.append((spool_id, os.stat(path).st_mtime_ns, size, offset))
        self.remember(found, chunk_id, mark)

    def trusted(self, stored: Mapping[int, Stored]) -> Mapping[int, Stored]:
        """Returns the uploads that a commit may refer to.

        Nothing refers to them yet, so a garbage collection takes those that are older than its cutoff. Where none ran
        since an upload, as the repository was last seen, the object is there. Otherwise it is looked up; where it is so
        old that the collection, which may be under way, is likely to take it, the file is stored again. A collection
        that runs later is found out by the commit itself.

        Raises:
            StorageError: the store cannot be asked.
        """
        now_s = self._clock_s()
        may_have_run = {mark: self._collections.may_have_run(mark) for mark in {row.mark for row in stored.values()}}
        doubtful = {row.chunk_id: row.stored_at for row in stored.values() if may_have_run[row.mark]}
        gone = {bytes(chunk_id) for chunk_id, stored_at in doubtful.items() if now_s - stored_at > _STALE_S}
        asked = [chunk_id for chunk_id in doubtful if chunk_id not in gone]
        if asked:
            workers = Workers(_HEADS, "icefs-upload")
            try:
                gone |= missing_chunks(self._storage, workers, asked)
            finally:
                workers.close()
        if not gone:
            return stored
        self.forget([row.spool for row in stored.values() if row.chunk_id in gone])
        return {spool_id: row for spool_id, row in stored.items() if row.chunk_id not in gone}

    def may_be_taken(self, stored: Mapping[int, Stored]) -> Sequence[Mark]:
        """Returns where the repository's log ended before the uploads that a collection may still take."""
        return [mark for mark in {row.mark for row in stored.values()} if self._collections.may_delete(mark)]

    def forget_chunks(self, chunk_ids: Iterable[bytes]) -> None:
        """Forgets uploads by the objects that they became."""
        gone = set(chunk_ids)
        with self._lock:
            self.forget([row.spool for row in self._stored.values() if bytes(row.chunk_id) in gone])

    def forget_others(self, spool_ids: Collection[int]) -> None:
        """Forgets the uploads of all but some spool files."""
        with self._lock:
            gone = [spool_id for spool_id in self._stored if spool_id not in spool_ids]
            if gone:
                self.forget(gone)

    def forget(self, spool_ids: Iterable[int]) -> None:
        """Forgets uploads that are not in the store, or whose files are gone."""
        chosen = list(spool_ids)
        with self._lock:
            if not self._is_closed:
                self._log.remove(chosen)
            for spool_id in chosen:
                self._stored.pop(spool_id, None)

    def close(self) -> None:
        """Closes the record; nothing is remembered any more."""
        with self._lock:
            self._is_closed = True
            with suppress(StorageError):
                self._log.close()

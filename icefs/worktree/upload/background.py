"""Uploads in the background: chunks go into a remote store while nobody waits for them.

    closed ──quiet for a while──► taken ──► uploading ──► remembered ──► a commit refers to it
       ▲                            │           │
       └── closed again             └───────────┴ the store is away: tried again, later and later

A file is *taken* when nobody has it open and its bytes have been the same for some seconds (`quiet_files`). From then
on its spool file belongs to the store: a later writer gets a spool file of its own (`TreeCore.final`), and an upload is
never wrong, only of no use. Small chunks wait until there are enough of their neighbours for an object (`queue`); the
rest of them goes with the commit. `stored_files` remembers the uploads.

Nothing that goes wrong here is lost or reported to a program: the commit uploads what is missing, and says why it
cannot.

Concurrency: `_scheduler` and a few workers are threads of their own; they die with the process, and nobody waits for
them at its end. No request is made under a lock; `worktree/CONCURRENCY.md` has the order of locks.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final

from icefs.engine.write.chunk_writer import store_pack
from icefs.engine.write.collection_log import Collections
from icefs.errors import IcefsError
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.locks import Rank, new_rlock
from icefs.storage.base import Storage, read_file
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import LOST, FileNode
from icefs.worktree.upload.log import Stored, UploadLog
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.queue import Upload, UploadBatch, UploadQueue
from icefs.worktree.upload.quiet_files import QuietFiles
from icefs.worktree.upload.stored_files import StoredFiles

logger = logging.getLogger(__name__)

_WORKERS: Final = 4
_MAX_BACKOFF_S: Final = 60.0
_CLOSE_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class UploadState:
    """How background uploads stand.

    Attributes:
        pending: Files that were taken and are not stored yet.
        pending_bytes: Their bytes.
        stored: Files of the working tree that are stored.
        stored_bytes: Their bytes.
        error: Why the last upload failed; None if it did not.
    """

    pending: int
    pending_bytes: int
    stored: int
    stored_bytes: int
    error: str | None


class BackgroundUploads:
    """The uploads of one working tree. Made while nobody else has the tree.

    INVARIANT: every spool file in `stored` or in the queue is in `TreeCore.final`, unless it was removed since.

    Attributes:
        stored: The uploads that are remembered, also those of commits.
    """

    def __init__(
        self,
        core: TreeCore,
        storage: Storage,
        inline_bytes: int,
        options: UploadOptions,
        log: UploadLog,
        collections: Collections,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        clock_s: Callable[[], float] = time.time,
    ) -> None:
        """Takes over what an earlier process has uploaded, and begins.

        Args:
            core: The tree.
            storage: The store.
            inline_bytes: The size up to which chunks are not uploaded.
            options: How.
            log: The record of uploads.
            collections: The garbage collections of the repository.
            monotonic: The clock that tells how long a file has been quiet, in seconds.
            clock_s: The time, in seconds since 1970.

        Raises:
            StorageError: the record of uploads cannot be written.
        """
        self._core = core
        self._storage = storage
        self._monotonic = monotonic
        self._first_backoff_s = options.first_backoff_s
        self._wake = threading.Event()
        lock = new_rlock(Rank.LEAF, "uploads")
        self._lock = threading.Condition(lock)
        self.stored = StoredFiles(log, lock, storage, collections, clock_s=clock_s)
        self._quiet = QuietFiles(core, options.quiet_s or 0.0, inline_bytes, monotonic, self._wake_up)
        self._queue = UploadQueue(options.pack_bytes)
        self._workers = 0
        self._pauses = 0
        self._failures = 0
        self._not_before = 0.0
        self._error: str | None = None
        self._is_closed = False
        self._recover()
        with core.lock:
            core.on_closed = self._quiet.note
        # In a context like this one, which says for the log what branch it is.
        run = copy_context().run
        self._scheduler = threading.Thread(target=run, args=(self._schedule,), name="icefs-uploads", daemon=True)
        self._scheduler.start()

    def _recover(self) -> None:
        """Keeps the uploads of files that are as they were, and notes all other files."""
        core, valid = self._core, set()
        with core.lock:
            core.next_id = max(core.next_id, self.stored.highest_id + 1)
            for node in core.by_ino.values():
                if not isinstance(node, FileNode) or not node.spool_id or node.flags & LOST:
                    continue
                found = core.spool.stat(node.spool_id) if node.spool_id in self.stored else None
                if found is not None and self.stored.is_stored(node.spool_id, found.st_mtime_ns, found.st_size):
                    valid.add(node.spool_id)
                else:
                    self._quiet.note(node)
            core.final |= valid
        self.stored.forget_others(valid)

    # Scheduling

    def _wake_up(self) -> None:
        if not self._wake.is_set():
            self._wake.set()

    def _schedule(self) -> None:
        while True:
            self._wake.wait()
            due_s = self._collect()
            with self._lock:
                if self._is_closed:
                    return
                due_s = self._start(due_s)
                if due_s is not None:
                    self._lock.wait(due_s)
                    continue
                # Nothing to look at before somebody closes a file: no mount that is idle wakes up. A file that was
                # closed since `_collect` looked has set `_wake`, and nobody notifies `_lock` of it.
                self._wake.clear()
                if self._quiet and not self._core.is_closed:
                    self._wake.set()

    def _collect(self) -> float | None:
        """Queues the files that have been quiet for long enough; returns when the next may be, in seconds."""
        while True:
            uploads, due_s = self._quiet.take()
            with self._lock:
                self._queue.add(upload for upload in uploads if upload.spool_id not in self.stored)
            if due_s != 0:
                return due_s

    def _start(self, due_s: float | None) -> float | None:
        """Gives the workers something to do; `_lock` is held. Returns when to look again, in seconds."""
        if not self._queue.num_waiting or self._pauses:
            return due_s
        left_s = self._not_before - self._monotonic()
        if left_s > 0:
            return left_s if due_s is None else min(left_s, due_s)
        while self._workers < min(_WORKERS, self._queue.num_waiting + self._queue.num_running):
            self._workers += 1
            run = copy_context().run
            threading.Thread(target=run, args=(self._work,), name="icefs-upload-bg", daemon=True).start()
        return due_s

    # Uploading

    def _next(self) -> UploadBatch | None:
        with self._lock:
            is_over = self._is_closed or bool(self._pauses) or self._monotonic() < self._not_before
            batch = None if is_over else self._queue.begin()
            if batch is None:
                self._workers -= 1
                self._lock.notify_all()
            return batch

    def _work(self) -> None:
        while (batch := self._next()) is not None:
            error = None
            try:
                # A commit may have stored them since they were planned.
                self._upload([upload for upload in batch if self._is_wanted(upload)])
            except IcefsError as failure:
                error = failure
            with self._lock:
                if error is None:
                    self._queue.end(batch)
                    self._failures, self._error = 0, None
                else:
                    self._fail(batch, error)
                self._lock.notify_all()

    def _is_wanted(self, upload: Upload) -> bool:
        """Tells whether a file is still there, and is not stored yet."""
        return upload.spool_id in self._core.final and upload.spool_id not in self.stored

    def _upload(self, batch: UploadBatch) -> None:
        """Stores files in one object, and remembers it.

        Raises:
            IcefsError: the store, or the disk, failed.
        """
        if not batch:
            return
        mark = self.stored.mark()
        if len(batch) == 1:
            chunk_id, offsets = ChunkId.random(), [0]
            self._storage.put_file(chunk_key(chunk_id), batch[0].spool_path)
        else:
            parts = [read_file(upload.spool_path, 0, upload.size) for upload in batch]
            chunk_id, offsets = store_pack(self._storage, parts)
        files = [(one.spool_id, one.stamp, one.size, offset) for one, offset in zip(batch, offsets, strict=True)]
        self.stored.remember(files, chunk_id, mark)

    def _fail(self, batch: UploadBatch, error: IcefsError) -> None:
        """Plans another try; `_lock` is held."""
        final = self._core.final
        is_whole = all(upload.spool_id in final for upload in batch)
        self._queue.put_back(batch, lambda upload: upload.spool_id in final)
        if not is_whole:
            return  # some of them were removed meanwhile, which may be all that is wrong
        self._failures += 1
        backoff_s = min(_MAX_BACKOFF_S, self._first_backoff_s * 2.0 ** min(self._failures - 1, 16))
        self._not_before = self._monotonic() + backoff_s
        if self._error is None and not self._is_closed:
            logger.info("an upload in the background failed, and will be tried again: %s", error)
        self._error = error.own_message
        self._wake.set()

    # For commits, and for people

    @contextmanager
    def paused(self, beat: Callable[[], None]) -> Iterator[Mapping[int, Stored]]:
        """Lets what is under way come to its end, and begins nothing new; yields what is stored, by spool id.

        Args:
            beat: Called while waiting; what it raises ends that.
        """
        with self._lock:
            self._pauses += 1
        try:
            with self._lock:
                while self._queue.num_running and not self._is_closed:
                    self._lock.wait(0.1)
                    beat()
                self._tidy()
                known = self.stored.all()
            yield known
        finally:
            with self._lock:
                self._pauses -= 1
                # The store may be back, and nobody waits for committed files any more.
                self._not_before = 0.0
                self._lock.notify_all()
            self._wake.set()

    def _tidy(self) -> None:
        """Forgets spool files that are gone; `_lock` is held."""
        self.stored.forget_others(self._core.final)
        self._queue.keep(self._is_wanted)

    @property
    def state(self) -> UploadState:
        """How things stand."""
        with self._lock:
            self._tidy()
            pending = [upload.size for upload in self._queue]
            stored = [row.size for row in self.stored.all().values()]
            return UploadState(len(pending), sum(pending), len(stored), sum(stored), self._error)

    def close(self) -> None:
        """Ends: begins nothing new, and does not wait for what is under way; that is done again next time."""
        with self._core.lock:
            self._core.on_closed = None
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
            self.stored.close()
        self._wake.set()
        self._scheduler.join(_CLOSE_S)

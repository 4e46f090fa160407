"""Uploads in the background: chunks go into a remote store while nobody waits for them.

    closed ──quiet for a while──► taken ──► uploading ──► remembered ──► a commit refers to it
       ▲                            │           │
       └── closed again             └───────────┴ the store is away: tried again, later and later

A file is *taken* when nobody has it open and its bytes have been the same for some seconds. From then on its spool
file belongs to the store: a later writer gets a spool file of its own (`TreeCore.final`), and an upload is
never wrong, only of no use. Small chunks wait until there are enough of their neighbours for an object
(`engine.write.packing`); the rest of them goes with the commit.

Nothing that goes wrong here is lost or reported to a program: the commit uploads what is missing, and says why it
cannot.

Concurrency: `_scheduler` and a few workers are threads of their own; they die with the process, and nobody waits for
them at its end. No request is made under a lock; `worktree/CONCURRENCY.md` has the order of locks.
"""

import logging
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Final, NamedTuple

from icefs.engine.read.workers import Workers
from icefs.engine.write.chunk_guard import missing_chunks
from icefs.engine.write.collection_log import Collections, Mark
from icefs.engine.write.packing import packed_below, plan_packs
from icefs.errors import IcefsError, StorageError
from icefs.format.ids import ChunkId
from icefs.format.layout import chunk_key
from icefs.locks import Rank, new_rlock
from icefs.storage.base import Storage, read_file
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import CUT, DIRTY, FROM_BASE, LOST, FileNode
from icefs.worktree.upload.log import Stored, UploadLog
from icefs.worktree.upload.options import UploadOptions
from icefs.zarr.keys import METADATA_NAME, is_zarr_key

logger = logging.getLogger(__name__)

_WORKERS: Final = 4
_AT_ONCE: Final = 256
_FIRST_BACKOFF_S: Final = 1.0
_MAX_BACKOFF_S: Final = 60.0
_CLOSE_S: Final = 0.5
_HEADS: Final = 16
_STALE_S: Final = 12 * 3600
_NUMBERS: Final = re.compile(r"[0-9]+")


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


class _Closed(NamedTuple):
    """A file that was closed, and what its bytes were then."""

    at: float
    node: FileNode
    spool_id: int
    stamp: int


class _Item(NamedTuple):
    """A spool file to be uploaded."""

    spool_id: int
    stamp: int
    size: int
    path: str
    spool_path: str


class BackgroundUploads:
    """The uploads of one working tree. Made while nobody else has the tree.

    INVARIANT: every spool file in `_stored`, `_waiting`, `_small` or under way is in `TreeCore.final`, unless it was
        removed since.
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
        """Takes over what an earlier process has uploaded, and begins."""
        self._collections = collections
        self._core = core
        self._storage = storage
        self._inline_bytes = inline_bytes
        self._quiet_s = options.quiet_s or 0.0
        self._pack_bytes = options.pack_bytes
        self._log = log
        self._monotonic = monotonic
        self._clock_s = clock_s
        self._packed_below = packed_below(options.pack_bytes, is_local=False)
        self._closed: deque[_Closed] = deque()
        self._wake = threading.Event()
        self._lock = threading.Condition(new_rlock(Rank.LEAF, "uploads"))
        self._stored: dict[int, Stored] = {}
        self._small: dict[str, dict[int, _Item]] = {}
        self._waiting: deque[Sequence[_Item]] = deque()
        self._running: dict[int, Sequence[_Item]] = {}
        self._workers = 0
        self._pauses = 0
        self._failures = 0
        self._not_before = 0.0
        self._error: str | None = None
        self._is_closed = False
        self._recover()
        with core.lock:
            core.on_closed = self._note
        # In a context like this one, which says for the log what branch it is.
        run = copy_context().run
        self._scheduler = threading.Thread(target=run, args=(self._schedule,), name="icefs-uploads", daemon=True)
        self._scheduler.start()

    # What there is to do

    def _recover(self) -> None:
        core = self._core
        known = {row.spool: row for row in self._log.load()}
        gone = set(known)
        with core.lock:
            core.next_id = max(core.next_id, max(known, default=0) + 1)
            for node in core.by_ino.values():
                if not isinstance(node, FileNode) or not node.spool_id or node.flags & LOST:
                    continue
                row = known.get(node.spool_id)
                found = core.spool.stat(node.spool_id) if row is not None else None
                if row is not None and found is not None and (found.st_mtime_ns, found.st_size) == row[1:3]:
                    gone.discard(node.spool_id)
                    self._stored[node.spool_id] = row
                    core.final.add(node.spool_id)
                else:
                    self._note(node)
        if gone:
            self._log.remove(gone)

    def _note(self, node: FileNode) -> None:
        """Records a file that nobody has open any more. The tree's lock is held."""
        self._closed.append(_Closed(self._monotonic(), node, node.spool_id, node.stamp))
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
                if self._closed and not self._core.is_closed:
                    self._wake.set()

    def _collect(self) -> float | None:
        """Takes the files that have been quiet for long enough; returns when the next may be, in seconds."""
        core = self._core
        while self._closed:
            taken: list[_Item] = []
            with core.lock:
                if core.is_closed:
                    return None
                for _ in range(_AT_ONCE):
                    if not self._closed:
                        break
                    left_s = self._closed[0].at + self._quiet_s - self._monotonic()
                    if left_s > 0:
                        self._take(taken)
                        return left_s
                    item = self._item(self._closed.popleft())
                    if item is not None:
                        core.final.add(item.spool_id)
                        taken.append(item)
            self._take(taken)
        return None

    def _item(self, closed: _Closed) -> _Item | None:
        """Returns what is to be uploaded of a file, None if nothing is. The tree's lock is held."""
        core, node = self._core, closed.node
        if node.parent is None or node.spool_id != closed.spool_id or node.stamp != closed.stamp or not node.stamp:
            return None  # written to since: it will be closed again
        if node.flags & (DIRTY | FROM_BASE | LOST | CUT) or node.size <= self._inline_bytes:
            return None
        if node.io is not None:
            return None  # somebody has it open, and will close it
        path = core.path_of(node)
        if node.name == METADATA_NAME or not is_zarr_key(path):
            return None
        return _Item(node.spool_id, node.stamp, node.size, path, core.spool.path(node.spool_id))

    def _take(self, items: Iterable[_Item]) -> None:
        """Plans uploads: large chunks one by one, small ones as soon as they fill an object."""
        groups = set()
        with self._lock:
            for item in items:
                if item.spool_id in self._stored:
                    continue
                if item.size >= self._packed_below:
                    self._waiting.append((item,))
                    continue
                group = _group(item.path)
                self._small.setdefault(group, {})[item.spool_id] = item
                groups.add(group)
            for group in groups:
                small = self._small[group]
                if sum(one.size for one in small.values()) >= 2 * self._pack_bytes:
                    ordered = sorted(small.values(), key=_place)
                    packs = list(plan_packs([one.size for one in ordered], self._pack_bytes))
                    self._waiting.extend(ordered[start:end] for start, end in packs[:-1])
                    self._small[group] = {one.spool_id: one for one in ordered[packs[-1][0] :]}

    # Uploading

    def _start(self, due_s: float | None) -> float | None:
        """Gives the workers something to do; `_lock` is held. Returns when to look again, in seconds."""
        if not self._waiting or self._pauses:
            return due_s
        left_s = self._not_before - self._monotonic()
        if left_s > 0:
            return left_s if due_s is None else min(left_s, due_s)
        while self._workers < min(_WORKERS, len(self._waiting) + len(self._running)):
            self._workers += 1
            run = copy_context().run
            threading.Thread(target=run, args=(self._work,), name="icefs-upload-bg", daemon=True).start()
        return due_s

    def _next(self) -> Sequence[_Item] | None:
        with self._lock:
            is_over = self._is_closed or bool(self._pauses) or self._monotonic() < self._not_before
            if is_over or not self._waiting:
                self._workers -= 1
                self._lock.notify_all()
                return None
            items = self._waiting.popleft()
            self._running[id(items)] = items
            return items

    def _work(self) -> None:
        while (items := self._next()) is not None:
            error = None
            try:
                # A commit may have stored them since they were planned.
                final, stored = self._core.final, self._stored
                self._upload([item for item in items if item.spool_id in final and item.spool_id not in stored])
            except IcefsError as failure:
                error = failure
            with self._lock:
                del self._running[id(items)]
                if error is None:
                    self._failures, self._error = 0, None
                else:
                    self._fail(items, error)
                self._lock.notify_all()

    def _upload(self, items: Sequence[_Item]) -> None:
        """Stores files in one object, and remembers it.

        Raises:
            IcefsError: the store, or the disk, failed.
        """
        if not items:
            return
        chunk_id = ChunkId.random()
        mark = self._collections.mark()
        if len(items) == 1:
            self._storage.put_file(chunk_key(chunk_id), items[0].spool_path)
        else:
            parts = [read_file(item.spool_path, 0, item.size) for item in items]
            self._storage.put(chunk_key(chunk_id), b"".join(parts))
        offset, rows = 0, []
        now_s = int(self._clock_s())
        for item in items:
            rows.append(Stored(item.spool_id, item.stamp, item.size, chunk_id, offset, now_s, mark))
            offset += item.size
        self.remember(rows)

    def _fail(self, items: Sequence[_Item], error: IcefsError) -> None:
        """Plans another try; `_lock` is held."""
        left = [item for item in items if item.spool_id in self._core.final]
        if len(left) < len(items):
            # Some of them were removed meanwhile, which may be all that is wrong.
            if left:
                self._waiting.append(left)
            return
        self._waiting.append(items)
        self._failures += 1
        backoff_s = min(_MAX_BACKOFF_S, _FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 16))
        self._not_before = self._monotonic() + backoff_s
        if self._error is None and not self._is_closed:
            logger.info("an upload in the background failed, and will be tried again: %s", error)
        self._error = error.message
        self._wake.set()

    def remember(self, rows: Sequence[Stored]) -> None:
        """Notes what was uploaded, durably; by a commit, too, so that it need not be done again if that fails."""
        with self._lock:
            if self._is_closed:
                return
            self._log.add(rows)
            self._stored.update((row.spool, row) for row in rows)

    def remember_files(self, files: Iterable[tuple[int, str, int, int]], chunk_id: ChunkId, mark: Mark) -> None:
        """Records (spool id, spool file, size, offset) of files that a commit has stored in one object.

        Args:
            files: The files.
            chunk_id: The object.
            mark: Where the repository's log ended before it was stored.
        """
        now_s = int(self._clock_s())
        rows = []
        for spool_id, path, size, offset in files:
            try:
                stamp = os.stat(path).st_mtime_ns
            except FileNotFoundError:
                continue
            rows.append(Stored(spool_id, stamp, size, chunk_id, offset, now_s, mark))
        self.remember(rows)

    # For commits, and for people

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
                while self._running and not self._is_closed:
                    self._lock.wait(0.1)
                    beat()
                self._prune()
                known = dict(self._stored)
            yield known
        finally:
            with self._lock:
                self._pauses -= 1
                # The store may be back, and nobody waits for committed files any more.
                self._not_before = 0.0
                self._lock.notify_all()
            self._wake.set()

    def _prune(self) -> None:
        """Forgets spool files that are gone; `_lock` is held."""
        final = self._core.final
        gone = [spool_id for spool_id in self._stored if spool_id not in final]
        if gone:
            self._log.remove(gone)
            for spool_id in gone:
                del self._stored[spool_id]

        def is_wanted(item: _Item) -> bool:
            return item.spool_id in final and item.spool_id not in self._stored

        groups = {group: [*filter(is_wanted, small.values())] for group, small in self._small.items()}
        self._small = {group: {one.spool_id: one for one in items} for group, items in groups.items() if items}
        waiting = [[*filter(is_wanted, items)] for items in self._waiting]
        self._waiting = deque(items for items in waiting if items)

    def forget_chunks(self, chunk_ids: Iterable[bytes]) -> None:
        """Forgets uploads by the objects that they became."""
        gone = set(chunk_ids)
        with self._lock:
            spool_ids = [row.spool for row in self._stored.values() if bytes(row.chunk_id) in gone]
        self.forget(spool_ids)

    def forget(self, spool_ids: Iterable[int]) -> None:
        """Forgets uploads that are not in the store any more."""
        chosen = list(spool_ids)
        with self._lock:
            if not self._is_closed:
                self._log.remove(chosen)
            for spool_id in chosen:
                self._stored.pop(spool_id, None)

    @property
    def state(self) -> UploadState:
        """How things stand."""
        with self._lock:
            self._prune()
            groups = [
                *self._waiting,
                *self._running.values(),
                *(list(small.values()) for small in self._small.values()),
            ]
            sizes = [item.size for items in groups for item in items]
            stored = [row.size for row in self._stored.values()]
            return UploadState(len(sizes), sum(sizes), len(stored), sum(stored), self._error)

    def close(self) -> None:
        """Ends: begins nothing new, and does not wait for what is under way; that is done again next time."""
        with self._core.lock:
            self._core.on_closed = None
        with self._lock:
            self._is_closed = True
            self._lock.notify_all()
            with suppress(StorageError):
                self._log.close()
        self._wake.set()
        self._scheduler.join(_CLOSE_S)


def _group(path: str) -> str:
    """Returns what the chunks of one array have in common, as far as their names tell."""
    above, is_nested, _ = path.rpartition("/c/")
    return above if is_nested else os.path.dirname(path)


def _place(item: _Item) -> tuple[str, list[int]]:
    """Orders the chunks of an array as its indices are."""
    group = _group(item.path)
    return group, [int(number) for number in _NUMBERS.findall(item.path[len(group) :])]

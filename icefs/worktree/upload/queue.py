"""Which files are uploaded next: those that wait for neighbours, those that wait for a worker, those under way.

Large chunks are uploaded one by one. Small ones wait until the chunks of their array fill an object; the rest of them
goes with the commit.
"""

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from icefs.engine.write.packing import packed_below, plan_packs
from icefs.paths import TreePath

_NUMBERS: Final = re.compile(r"[0-9]+")


class Upload(NamedTuple):
    """A spool file to be uploaded.

    Attributes:
        spool_id: The file.
        stamp: Its modification time when it was closed, in nanoseconds.
        size: Its size in bytes.
        path: Where the working tree shows it.
        spool_path: Where it is on the disk.
    """

    spool_id: int
    stamp: int
    size: int
    path: TreePath
    spool_path: str


type UploadBatch = Sequence[Upload]
"""Files that become one object."""


class UploadQueue:
    """The files of one working tree that are to be uploaded, or are being uploaded.

    INVARIANT: a spool file is in the queue once, whether it waits or is under way.

    Concurrency: its owner lets one thread at a time call it.
    """

    def __init__(self, pack_bytes: int) -> None:
        """Creates an empty queue; `pack_bytes` is how large an object may become that small chunks share."""
        self._pack_bytes = pack_bytes
        self._packed_below = packed_below(pack_bytes, is_local=False)
        self._known: set[int] = set()
        self._small: dict[str, dict[int, Upload]] = {}
        self._waiting: deque[UploadBatch] = deque()
        self._running: list[UploadBatch] = []

    @property
    def num_waiting(self) -> int:
        """How many batches wait for a worker."""
        return len(self._waiting)

    @property
    def num_running(self) -> int:
        """How many batches are under way."""
        return len(self._running)

    def __iter__(self) -> Iterator[Upload]:
        """Yields every file that is not stored yet."""
        for batch in (*self._waiting, *self._running):
            yield from batch
        for small in self._small.values():
            yield from small.values()

    def add(self, uploads: Iterable[Upload]) -> None:
        """Adds files, but for those that are in the queue already: a file that is read is closed again."""
        groups = set()
        for upload in uploads:
            if upload.spool_id in self._known:
                continue
            self._known.add(upload.spool_id)
            if upload.size >= self._packed_below:
                self._waiting.append((upload,))
                continue
            group = _group(upload.path)
            self._small.setdefault(group, {})[upload.spool_id] = upload
            groups.add(group)
        for group in groups:
            self._pack(group)

    def _pack(self, group: str) -> None:
        """Makes batches of the small chunks of an array as soon as they fill two objects, but for the last."""
        small = self._small[group]
        if sum(one.size for one in small.values()) < 2 * self._pack_bytes:
            return
        ordered = sorted(small.values(), key=_place)
        packs = list(plan_packs([one.size for one in ordered], self._pack_bytes))
        self._waiting.extend(ordered[start:end] for start, end in packs[:-1])
        self._small[group] = {one.spool_id: one for one in ordered[packs[-1][0] :]}

    def begin(self) -> UploadBatch | None:
        """Returns the next batch, which is under way from now on; None if none waits."""
        if not self._waiting:
            return None
        batch = self._waiting.popleft()
        self._running.append(batch)
        return batch

    def end(self, batch: UploadBatch) -> None:
        """Takes out a batch that was under way."""
        self._running = [one for one in self._running if one is not batch]
        self._known.difference_update(upload.spool_id for upload in batch)

    def put_back(self, batch: UploadBatch, is_wanted: Callable[[Upload], bool]) -> None:
        """Has the files of a batch that failed wait once more, if they are still wanted."""
        self.end(batch)
        left = [upload for upload in batch if is_wanted(upload)]
        if left:
            self._known.update(upload.spool_id for upload in left)
            self._waiting.append(left)

    def keep(self, is_wanted: Callable[[Upload], bool]) -> None:
        """Drops the waiting files that are not wanted any more."""
        for group, small in list(self._small.items()):
            left = {spool_id: one for spool_id, one in small.items() if is_wanted(one)}
            if left:
                self._small[group] = left
            else:
                del self._small[group]
        batches = ([one for one in batch if is_wanted(one)] for batch in self._waiting)
        self._waiting = deque(batch for batch in batches if batch)
        self._known = {upload.spool_id for upload in self}


def _group(path: TreePath) -> str:
    """Returns what the chunks of one array have in common, as far as their names tell."""
    above, is_nested, _ = path.rpartition("/c/")
    return above if is_nested else os.path.dirname(path)


def _place(upload: Upload) -> tuple[str, list[int]]:
    """Orders the chunks of an array as its indices are."""
    group = _group(upload.path)
    return group, [int(number) for number in _NUMBERS.findall(upload.path[len(group) :])]

"""Copies objects from the store of one repository to that of another.

An object goes as it is, under the key that it has: by the service or the kernel itself where both ends allow
(`Storage.copy_from`), and otherwise through the memory of this process, or through a temporary file where it is large.
"""

import tempfile
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from icefs.engine.exchange.needs import Needs
from icefs.engine.exchange.objects import Objects
from icefs.engine.read.workers import Workers
from icefs.errors import ConflictError, FormatError, ObjectNotFoundError
from icefs.format.ids import SnapshotId
from icefs.storage.base import Storage

_PART_BYTES: Final = 8 << 20
_IN_MEMORY_BYTES: Final = 64 << 20
_BUDGET_BYTES: Final = 256 << 20


@dataclass(slots=True)
class Copied:
    """How far an exchange has come.

    Attributes:
        objects: The objects that are there now.
        total_objects: All objects that are needed.
        copied_objects: Those of `objects` that were copied now.
        copied_bytes: Their bytes.
        compared_objects: Those that were read at both ends, and are the same.
    """

    objects: int = 0
    total_objects: int = 0
    copied_objects: int = 0
    copied_bytes: int = 0
    compared_objects: int = 0


type Progress = Callable[[Copied], None]
"""Called with how far the exchange is; an exception that it raises ends the work."""


class _Budget:
    """Bounds the bytes of objects that are in memory at once; one object is always let in."""

    def __init__(self, max_bytes: int) -> None:
        self._max = max_bytes
        self._held = 0
        self._freed = threading.Condition()

    @contextmanager
    def of(self, size_bytes: int) -> Iterator[None]:
        with self._freed:
            self._freed.wait_for(lambda: not self._held or self._held + size_bytes <= self._max)
            self._held += size_bytes
        try:
            yield
        finally:
            with self._freed:
                self._held -= size_bytes
                self._freed.notify_all()


class Copier:
    """Copies objects between two stores."""

    def __init__(self, source: Storage, target: Storage, workers: Workers, progress: Progress) -> None:
        """Takes the stores, the threads that copy, and a function that learns how far it is."""
        self._source = source
        self._target = target
        self._workers = workers
        self._progress = progress
        self._budget = _Budget(_BUDGET_BYTES)
        self.done = Copied()

    def begin(self, needed: int, present: int) -> None:
        """Takes how many objects are needed, and how many of them are there."""
        self.done.total_objects, self.done.objects = needed, present
        self._progress(self.done)

    def copy(self, needs: Needs, there: Needs, *, cut: Collection[SnapshotId] = (), verify: bool = False) -> None:
        """Copies the objects that are not there, each after those that it needs.

        Args:
            needs: All of them.
            there: Those that are there.
            cut: Snapshots whose files are about to be replaced (`histories.write_cut_v1`).
            verify: Read all of them at both ends afterwards, and compare.

        Raises:
            ConflictError, FormatError, StorageError: as `copy_all` and `compare_all`.
        """
        for objects in needs.without(there.without_snapshots(cut)):
            self.copy_all(objects)
        for objects in needs.without_snapshots(cut) if verify else ():
            self.compare_all(objects)

    def copy_all(self, missing: Objects) -> None:
        """Copies objects.

        Raises:
            ConflictError: the source has one no more (kind `object-gone`).
            FormatError: one is shorter than its references say.
            StorageError: an object cannot be read or written.
        """
        done = self.done
        for size in self._workers.map_ahead(self._copy, missing, window=4 * self._workers.max_workers):
            done.objects += 1
            done.copied_objects += 1
            done.copied_bytes += size
            self._progress(done)

    def compare_all(self, objects: Objects) -> None:
        """Reads objects at both ends.

        Raises:
            FormatError: one has other bytes there.
            ConflictError, StorageError: as `copy_all`.
        """
        for _ in self._workers.map_ahead(self._compare, objects, window=4 * self._workers.max_workers):
            self.done.compared_objects += 1
            self._progress(self.done)

    def _copy(self, one: tuple[str, int]) -> int:
        key, least = one
        try:
            size = self._source.head(key).size_bytes
            if size < least:
                raise FormatError(
                    f"{key} of {self._source.url} has {size} bytes, and at least {least} are referred to",
                    hint="'icefs fsck' says what is damaged; name the branches and tags that do without it",
                    file=key,
                )
            if self._target.copy_from(self._source, key):
                return size
            if size <= _IN_MEMORY_BYTES:
                with self._budget.of(size):
                    self._target.put(key, self._source.get(key).data)
            else:
                self._copy_large(key, size)
        except ObjectNotFoundError as error:
            raise self._gone(key) from error
        return size

    def _copy_large(self, key: str, size: int) -> None:
        with tempfile.NamedTemporaryFile(prefix="icefs-", suffix=".part") as file:
            for start in range(0, size, _PART_BYTES):
                file.write(self._source.get(key, start=start, end=min(start + _PART_BYTES, size)).data)
            file.flush()
            self._target.put_file(key, file.name)

    def _compare(self, one: tuple[str, int]) -> None:
        key, _ = one
        try:
            size = self._source.head(key).size_bytes
            is_same = self._target.head(key).size_bytes == size
            for start in range(0, size if is_same else 0, _PART_BYTES):
                end = min(start + _PART_BYTES, size)
                with self._budget.of(2 * (end - start)):
                    theirs = self._source.get(key, start=start, end=end).data
                    is_same = theirs == self._target.get(key, start=start, end=end).data
                if not is_same:
                    break
        except ObjectNotFoundError as error:
            raise self._gone(key) from error
        if not is_same:
            raise FormatError(
                f"{key} is not the same in {self._source.url} and in {self._target.url}",
                hint="one of the two is damaged: 'icefs fsck --deep' of each may tell which; delete the damaged object,"
                " and run the command again",
                file=key,
            )

    def _gone(self, key: str) -> ConflictError:
        return ConflictError(
            f"{key} is not in {self._source.url} any more, or not yet again in {self._target.url}",
            kind="object-gone",
            hint="a garbage collection may have run meanwhile: run the command again, which goes on where it was; if"
            " that fails too, 'icefs fsck' says whether the repository is damaged",
            file=key,
        )

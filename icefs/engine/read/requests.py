"""The requests that read a repository's objects, within the limits of its configuration."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

from icefs.engine.read.cache import WeightedCache
from icefs.engine.read.limits import ReadLimits
from icefs.engine.read.workers import Workers
from icefs.storage.base import Done, Object, Storage, Version


class ReadRequests:
    """Reads objects: large ones in parts, side by side, and no more at once than the configuration allows.

    Concurrency: all methods may be called from any thread. A permit is held for one request of the storage, which
    makes no other.

    Attributes:
        storage: Where the objects are.
    """

    def __init__(self, storage: Storage, workers: Workers) -> None:
        self.storage = storage
        self._workers = workers
        self._limits = ReadLimits()
        self._permits: threading.Semaphore | None = None
        self._decoding: AbstractContextManager[object] = nullcontext()
        self._chunks: WeightedCache[tuple[str, int, int], bytes] | None = None

    def obey(self, limits: ReadLimits) -> None:
        """Takes limits over, before the first request that they are for."""
        self._limits = limits
        if limits.requests is not None:
            self._workers.max_workers = min(self._workers.max_workers, limits.requests)
            self._permits = threading.Semaphore(limits.requests)
        if limits.decodes is not None:
            self._decoding = threading.Semaphore(limits.decodes)
        self._chunks = WeightedCache(limits.chunk_bytes) if limits.chunk_bytes else None

    def get(self, key: str, start: int = 0, end: int | None = None) -> Object:
        """Reads bytes of an object; raises as `Storage.get`."""
        permits = self._permits
        if permits is None:
            return self.storage.get(key, start=start, end=end)
        with permits:
            return self.storage.get(key, start=start, end=end)

    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        """Reads an object unless it is known; raises as `Storage.get_if_changed`."""
        with self._permits or nullcontext():
            return self.storage.get_if_changed(key, known)

    def put(self, key: str, data: bytes) -> None:
        """Stores an object; raises as `Storage.put`."""
        with self._permits or nullcontext():
            self.storage.put(key, data)

    def decode[T](self, parse: Callable[..., T], data: bytes, name: str) -> T:
        """Decodes a file of that name."""
        with self._decoding:
            return parse(data, name=name)

    def fetch_range(self, key: str, start: int, end: int) -> bytes:
        """Reads the bytes `[start, end)` of an object; raises as `Storage.get`."""
        if end - start <= self._limits.undivided_bytes:
            return self.get(key, start, end).data
        parts = self._limits.cuts(start, end)
        if len(parts) < 2 or self.storage.capabilities.local_files:
            return self.get(key, start, end).data
        # The length is what a manifest claims: parts are asked for in a window, so that the first one that the object
        # does not have ends it.
        fetched = self._workers.map_ahead(lambda at: self.get(key, at, min(at + parts.step, end)).data, parts)
        return b"".join(fetched)

    def start_read(self, key: str, start: int, end: int, done: Done) -> bool:
        """Begins to read a range that takes one request, if that needs no thread and no wait."""
        permits = self._permits
        if len(self._limits.cuts(start, end)) > 1 or self._recall(key, start, end) is not None:
            return False
        if permits is None and self._chunks is None:
            return self.storage.start_read(key, start, end, done)
        if permits is not None and not permits.acquire(blocking=False):
            return False
        begins = False

        def finished(data: bytes | bytearray | None) -> None:
            if permits is not None:
                permits.release()
            if data is not None:
                self._keep(key, start, end, data)
            done(data)

        try:
            begins = self.storage.start_read(key, start, end, finished)
        finally:
            if not begins and permits is not None:
                permits.release()
        return begins

    def remembered(self, key: str, start: int, end: int, read: Callable[[], bytes]) -> bytes:
        """Returns bytes of a chunk from memory, or from `read`, whose answer stays in memory if there is room."""
        chunks = self._chunks
        if chunks is None or end - start > chunks.max_weight:
            return read()

        def load() -> tuple[bytes, int]:
            data = read()
            return data, len(data)

        return chunks.get((key, start, end), load)

    def _recall(self, key: str, start: int, end: int) -> bytes | None:
        return None if self._chunks is None else self._chunks.peek((key, start, end))

    def _keep(self, key: str, start: int, end: int, data: bytes | bytearray) -> None:
        chunks = self._chunks
        if chunks is not None and len(data) <= chunks.max_weight:
            chunks.put((key, start, end), bytes(data), len(data))

    def close(self) -> None:
        """Forgets the chunks that are in memory."""
        if self._chunks is not None:
            self._chunks.clear()

"""Decoded chunks in memory, with a limit; one decode for each, however many threads want it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Final
from weakref import WeakValueDictionary

import numpy as np

DEFAULT_BYTES: Final = 256 << 20
"""What decoded chunks may take by default."""

# What an entry counts as at least, so that their number has a limit, too.
_ENTRY_BYTES: Final = 512


class ChunkCache:
    """The decoded chunks that were used last.

    The last one stays even if it is larger than the limit: neighbouring reads need it again.

    Safe to use from any thread; `_lock` guards all fields, and is not held while anything is decoded.

    Attributes:
        max_bytes: The limit.
    """

    def __init__(self, max_bytes: int = DEFAULT_BYTES) -> None:
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._entries: OrderedDict[Hashable, tuple[np.ndarray, int]] = OrderedDict()
        self._pending: dict[Hashable, Future[np.ndarray]] = {}
        self._bytes = 0
        self._by_content: WeakValueDictionary[Hashable, np.ndarray] = WeakValueDictionary()

    @property
    def used_bytes(self) -> int:
        """What the entries take."""
        return self._bytes

    def has(self, key: Hashable) -> bool:
        """Tells whether a chunk is there or being decoded."""
        with self._lock:
            return key in self._entries or key in self._pending

    def get(self, key: Hashable, decode: Callable[[], np.ndarray]) -> np.ndarray:
        """Returns a chunk; decodes it in this thread, or waits for another thread that does.

        Raises whatever `decode` raises, in all threads that wait for it; a later call tries again.
        """
        found = self._claim(key)
        if isinstance(found, np.ndarray):
            return found
        future, is_mine = found
        return self._decode(key, decode, future) if is_mine else future.result()

    def load(self, key: Hashable, decode: Callable[[], np.ndarray]) -> None:
        """Decodes a chunk, unless it is there or another thread does; raises whatever `decode` raises."""
        found = self._claim(key)
        if not isinstance(found, np.ndarray) and found[1]:
            self._decode(key, decode, found[0])

    def peek(self, key: Hashable) -> np.ndarray | None:
        """Returns a chunk if it is there."""
        with self._lock:
            found = self._entries.get(key)
            if found is None:
                return None
            self._entries.move_to_end(key)
            return found[0]

    def of_content(self, content: Hashable) -> np.ndarray | None:
        """Returns a chunk that was noted with equal content, if it is still there under whatever key."""
        with self._lock:
            return self._by_content.get(content)

    def note_content(self, content: Hashable, chunk: np.ndarray) -> None:
        """Notes what a chunk was decoded from, for as long as it is in memory."""
        with self._lock:
            self._by_content[content] = chunk

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0

    def _claim(self, key: Hashable) -> np.ndarray | tuple[Future[np.ndarray], bool]:
        """Returns a chunk, or the future of it and whether the caller has to decode it."""
        with self._lock:
            found = self._entries.get(key)
            if found is not None:
                self._entries.move_to_end(key)
                return found[0]
            future = self._pending.get(key)
            if future is not None:
                return future, False
            future = self._pending[key] = Future()
            return future, True

    def _decode(self, key: Hashable, decode: Callable[[], np.ndarray], future: Future[np.ndarray]) -> np.ndarray:
        try:
            value = decode()
            size = max(size_of(value), _ENTRY_BYTES)
        except BaseException as error:
            with self._lock:
                del self._pending[key]
            future.set_exception(error)
            raise
        with self._lock:
            del self._pending[key]
            self._entries[key] = value, size
            self._bytes += size
            while self._bytes > self.max_bytes and len(self._entries) > 1:
                _, (_, freed) = self._entries.popitem(last=False)
                self._bytes -= freed
        future.set_result(value)
        return value


def size_of(values: np.ndarray) -> int:
    """Returns the bytes that an array takes in memory, about; one value repeated takes next to nothing."""
    size = sum(
        abs(stride) * (length - 1) for stride, length in zip(values.strides, values.shape, strict=True) if length
    )
    size = int(min(values.nbytes, size + values.itemsize))
    if values.dtype.kind == "T":
        size += 4 * int(np.strings.str_len(values).sum())
    elif values.dtype.kind == "O":
        size += sum(len(value) + 50 for value in values.flat)
    return size


class Gate:
    """Limits the bytes that are being decoded at once; a single larger decode may pass alone.

    Safe to use from any thread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._free = threading.Condition()
        self._bytes = 0

    @contextmanager
    def passing(self, size: int) -> Iterator[None]:
        """Waits until so many bytes more may be decoded, and counts them meanwhile."""
        with self._free:
            self._free.wait_for(lambda: not self._bytes or self._bytes + size <= self._max_bytes)
            self._bytes += size
        try:
            yield
        finally:
            with self._free:
                self._bytes -= size
                self._free.notify_all()

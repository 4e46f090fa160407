"""Files that were just written, kept for their first reader: mostly the next commit."""

import threading


class WrittenFiles:
    """The last files that were written, up to a number of bytes.

    Concurrency: safe for use from several threads.
    """

    def __init__(self, max_bytes: int) -> None:
        """Takes how many bytes are kept; a larger file is not."""
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._files: dict[str, bytes] = {}
        self._bytes = 0

    def put(self, key: str, data: bytes) -> None:
        """Keeps a file, and drops the oldest ones that there is no more room for."""
        if len(data) > self._max_bytes:
            return
        with self._lock:
            self._bytes += len(data) - len(self._files.pop(key, b""))
            self._files[key] = data
            while self._bytes > self._max_bytes:
                oldest = next(iter(self._files))
                self._bytes -= len(self._files.pop(oldest))

    def take(self, key: str) -> bytes | None:
        """Returns a file, and keeps it no longer; None where it is not kept."""
        with self._lock:
            data = self._files.pop(key, None)
            self._bytes -= 0 if data is None else len(data)
            return data

    def clear(self) -> None:
        """Keeps nothing any more."""
        with self._lock:
            self._files.clear()
            self._bytes = 0

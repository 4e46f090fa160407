"""The layouts of a view's files, each worked out once while an export plans and writes."""

import contextlib
import threading
from collections.abc import Iterator
from typing import Final

from icefs.views.interface import Layout, ViewFile

type Named = tuple[str, ViewFile]
"""A file of a view, with its path."""

_KEPT_BYTES: Final = 128 << 20


class Layouts:
    """Keeps layouts that have bytes in memory until their files are written; others are made again.

    Safe to use from any thread; `_lock` guards everything.
    """

    def __init__(self, max_bytes: int = _KEPT_BYTES) -> None:
        """Takes the most bytes of headers to keep."""
        self._lock = threading.Lock()
        self._left = max_bytes
        self._kept: dict[str, tuple[Layout, int]] = {}

    def of(self, path: str, file: ViewFile) -> Layout:
        """Returns the layout of a file; raises as `ViewFile.layout`."""
        with self._lock:
            found = self._kept.get(path)
        if found is not None:
            return found[0]
        layout = file.layout()
        size = sum(len(data) for _, data in layout.known())
        with self._lock:
            # A layout without known bytes is made at once.
            if 0 < size <= self._left and path not in self._kept:
                self._left -= size
                self._kept[path] = layout, size
        return layout

    @contextlib.contextmanager
    def taken(self, path: str, file: ViewFile) -> Iterator[Layout]:
        """Yields the layout of a file that is dealt with for the last time; raises as `ViewFile.layout`."""
        layout = self.of(path, file)
        try:
            yield layout
        finally:
            with self._lock:
                _, size = self._kept.pop(path, (None, 0))
                self._left += size

"""Which files of a directory are those of a version of a view.

A file is that of a version if it has its length and its time, and if the bytes of it that are known without reading
elements are those of the version. Headers and metadata name the snapshot, so no two versions have the same; files
without such bytes have the time of the array's last change, and the same content where that is equal. A file that
somebody wrote to has another time.
"""

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from icefs.errors import IcefsError, NotAnObjectError
from icefs.storage.local.beneath import Beneath
from icefs.views.interface import Layout, Stretch, ViewDirectory, ViewFile
from icefs.views.ranges import joined


class Kept(NamedTuple):
    """A file of the earlier version: its layout, and the open file."""

    layout: Layout
    fd: int


class FilesThere:
    """The files of a directory, as far as earlier exports of the same view wrote them."""

    def __init__(self, target: Beneath, earlier: ViewDirectory | None, *, is_trusted: bool) -> None:
        """Takes the directory.

        Args:
            target: The directory.
            earlier: The view of the version that some of its files may be of; None if there is none.
            is_trusted: Whether files in it may be those of earlier exports; else none is.
        """
        self._target = target
        self._earlier = earlier if is_trusted else None
        self._is_trusted = is_trusted

    def is_current(self, path: str, layout: Layout, time_ns: int) -> bool:
        """Tells whether the file at a path is just that of the version to be written."""
        if not self._is_trusted:
            return False
        with self._opened(path, layout, time_ns) as fd:
            return fd is not None

    @contextlib.contextmanager
    def kept(self, path: str) -> Iterator[Kept | None]:
        """Yields the file at a path if it is just that of the earlier version; else None."""
        file = self._find(path)
        layout = None
        if file is not None:
            with contextlib.suppress(IcefsError):  # then nobody knows which file is that version's
                layout = file.layout()
        if file is None or layout is None:
            yield None
            return
        with self._opened(path, layout, file.time_ns) as fd:
            yield None if fd is None else Kept(layout, fd)

    def _find(self, path: str) -> ViewFile | None:
        found: ViewDirectory | ViewFile | None = self._earlier
        try:
            for name in path.split("/"):
                found = found.find(name) if isinstance(found, ViewDirectory) else None
        except IcefsError:
            return None  # as above
        return found if isinstance(found, ViewFile) else None

    @contextlib.contextmanager
    def _opened(self, path: str, layout: Layout, time_ns: int) -> Iterator[int | None]:
        """Yields the file at a path, open, if it is the one that a layout describes; follows no link."""
        try:
            fd, found = self._target.open_file(path)
        except (OSError, NotAnObjectError):
            yield None
            return
        try:
            is_it = (
                stat.S_ISREG(found.st_mode)
                and found.st_size == layout.size
                and found.st_mtime_ns == time_ns
                and all(os.pread(fd, len(data), offset) == data for offset, data in layout.known())
            )
            yield fd if is_it else None
        finally:
            os.close(fd)


def is_same(layout: Layout, stretches: Sequence[Stretch], earlier: Layout) -> bool:
    """Tells whether a file has the bytes of another version's.

    Args:
        layout: The file.
        stretches: Its stretches, with the other version's file to keep bytes of.
        earlier: The other version's file.
    """
    known = {offset: bytes(data) for offset, data in layout.known()}
    if layout.size != earlier.size or known != {offset: bytes(data) for offset, data in earlier.known()}:
        return False
    for one in stretches:
        is_known = one.start in known and one.stop - one.start == len(known[one.start])
        if one.kept_at != one.start and not is_known:
            return False
    return _ranges(stretches) == _ranges(earlier.stretches())


def _ranges(stretches: Iterable[Stretch]) -> list[tuple[int, int]]:
    return list(joined((one.start, one.stop) for one in stretches))

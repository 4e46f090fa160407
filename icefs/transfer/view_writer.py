"""How an export of a view writes its files, from many threads.

Each file is made in the staging directory, and comes to its place when it is whole. Bytes that the earlier version's
file has are copied from it; bytes of missing chunks that are zeros become holes, and so do long runs of zeros in large
files.

INVARIANT: a directory has a `.zarray` only while all chunks of the array that the view has are there. Before the first
chunk of an array is written or deleted, its `.zarray` is taken away, and the `.zmetadata` that names it.
"""

import contextlib
import os
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import numpy as np

from icefs.errors import NotAnObjectError
from icefs.storage.local.beneath import Beneath
from icefs.transfer.copying import copy_range, data_ranges, write_at
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.export_files import (
    IN_THE_WAY,
    NEW_FILE,
    OF_ONE_FILE,
    Outcome,
    Problem,
    discard,
    in_directory,
    move,
)
from icefs.transfer.progress import Transferred
from icefs.transfer.view_layouts import Layouts, Named
from icefs.transfer.view_versions import FilesThere, is_same
from icefs.views.interface import Layout, Stretch

_PIECE_BYTES: Final = 8 << 20
_HOLE_BYTES: Final = 64 << 10
# Files that are not larger have no holes where zeros were read.
_DENSE_BYTES: Final = 8 << 20


class StoppedError(Exception):
    """The export ends for another reason."""


class Placed(NamedTuple):
    """What the directory and the files that are on their way to it are.

    Attributes:
        target: The directory.
        staging: Where files are made.
        there: What is in the directory.
        has_arrays: Whether arrays of Zarr v2 may be in it.
    """

    target: Beneath
    staging: str
    there: FilesThere
    has_arrays: bool


class FileWriter:
    """Writes files of a view, from any number of threads.

    Concurrency: `_lock` guards the numbers of temporary names, the bytes that are done, and `_hidden`.
    """

    def __init__(self, placed: Placed, layouts: Layouts, done: Transferred) -> None:
        """Takes the directory, the layouts of the files, and where progress is counted."""
        self._target, self._staging, self._there, self._has_arrays = placed
        self._layouts = layouts
        self._done = done
        self._lock = threading.Lock()
        self._number = 0
        self._hidden: set[str] = set()
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """Has files that are being written end early, and stay away."""
        self._is_stopped.set()

    def write(self, files: Sequence[Named]) -> Outcome:
        """Writes files that are not there."""
        outcome = Outcome()
        for named in files:
            if self._is_stopped.is_set():
                break
            try:
                self._write(named, outcome)
            except OF_ONE_FILE as error:
                outcome.failed.append(Problem(named[0], error.own_message))
                self.hide_above(named[0])
                unlink(self._target, named[0])  # another version's is not to stand for it
            except StoppedError:
                break
        return outcome

    def hide_above(self, path: str) -> None:
        """Takes away the metadata of the array of Zarr v2 that a file is of, and that of all arrays together."""
        if not self._has_arrays:
            return
        directory = path.rpartition("/")[0]
        with self._lock:
            for name in (f"{directory}/.zarray".lstrip("/"), ".zmetadata"):
                if name not in self._hidden:
                    self._hidden.add(name)
                    if name != path:
                        unlink(self._target, name)

    def _write(self, named: Named, outcome: Outcome) -> None:
        path, file = named
        with self._layouts.taken(path, file) as layout:
            if self._there.is_current(path, layout, file.time_ns):
                outcome.add(layout.size, is_written=False)
                self._count(layout.size)
                return
            with self._there.kept(path) as kept:
                stretches = list(layout.stretches(None if kept is None else kept.layout))
                if kept is not None and is_same(layout, stretches, kept.layout):
                    with contextlib.suppress(PermissionError):  # another user's file is replaced
                        os.utime(kept.fd, ns=(file.time_ns, file.time_ns))
                        outcome.add(layout.size, is_written=False)
                        self._count(layout.size)
                        return
                self._replace(named, layout, _Content(layout, stretches, None if kept is None else kept.fd), outcome)

    def _replace(self, named: Named, layout: Layout, content: "_Content", outcome: Outcome) -> None:
        path, file = named
        self.hide_above(path)
        staged = self._staged()
        try:
            fd = os.open(staged, NEW_FILE, 0o666)
            try:
                self._fill(fd, content)
                os.utime(fd, ns=(file.time_ns, file.time_ns))
            finally:
                os.close(fd)
            in_directory(self._target, path, partial(move, staged))
        except NotAnObjectError as error:
            discard(staged)
            found = f"{error.facts['path']} is {error.facts['what']}"
            outcome.failed.append(Problem(path, f"something else is in its place: {found}"))
        except OSError as error:
            discard(staged)
            if error.errno not in IN_THE_WAY:
                raise disk_error("write", self._target.path(path), error) from error
            outcome.failed.append(Problem(path, f"something else is in its place: {error.strerror}"))
        except BaseException:
            discard(staged)
            raise
        else:
            outcome.add(layout.size, is_written=True)

    def _fill(self, fd: int, content: "_Content") -> None:
        written = position = 0
        for stretch in content.pieces():
            if self._is_stopped.is_set():
                raise StoppedError
            written += content.write(fd, stretch)
            self._count(stretch.stop - position)
            position = stretch.stop
        size = content.layout.size
        self._count(size - position)
        if written < size:
            os.ftruncate(fd, size)
            # Else a file may have its length, and the time that it gets, on a disk that has not got all of its bytes.
            os.fsync(fd)

    def _count(self, size: int) -> None:
        with self._lock:
            self._done.bytes += size

    def _staged(self) -> str:
        with self._lock:
            self._number += 1
            return f"{self._staging}/{self._number}"


class _Content:
    """The bytes of a file that is being made."""

    def __init__(self, layout: Layout, stretches: Sequence[Stretch], kept: int | None) -> None:
        """Takes the file's layout and stretches, and the open file of the earlier version, if there is one."""
        self.layout = layout
        self._stretches = stretches
        self._kept = kept

    def pieces(self) -> Iterator[Stretch]:
        """Yields the stretches in pieces: an export may be ended between two."""
        for one in self._stretches:
            for start in range(one.start, one.stop, _PIECE_BYTES):
                kept_at = None if one.kept_at is None else one.kept_at + start - one.start
                yield Stretch(start, min(start + _PIECE_BYTES, one.stop), kept_at)

    def write(self, fd: int, piece: Stretch) -> int:
        """Writes a piece; returns how many bytes of it are no hole."""
        written = 0
        if self._kept is not None and piece.kept_at is not None:
            shift = piece.start - piece.kept_at
            for low, high in data_ranges(self._kept, piece.kept_at, piece.kept_at + piece.stop - piece.start):
                written += copy_range(self._kept, fd, low, low + shift, high - low)
            return written
        data = self.layout.read(piece.start, piece.stop - piece.start)
        runs = _runs(data) if self.layout.size > _DENSE_BYTES else [(0, len(data))]
        for low, high in runs:
            write_at(memoryview(data)[low:high], fd, piece.start + low)
            written += high - low
        return written


def unlink(target: Beneath, path: str) -> bool:
    """Removes a file below a directory; tells whether there was one.

    Raises:
        StorageError: it cannot be removed.
    """
    try:
        with target.parent(path) as parent:
            os.unlink(parent.name, dir_fd=parent.fd)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotAnObjectError):
        return False
    except OSError as error:
        raise disk_error("write", target.path(path), error) from error
    return True


def _runs(data: bytes | memoryview) -> Iterator[tuple[int, int]]:
    """Yields the parts of a piece that are not zeros for long, as ranges."""
    values = np.frombuffer(data, np.uint8)
    if not values.any():
        return
    start = None
    for low in range(0, len(values), _HOLE_BYTES):
        if values[low : low + _HOLE_BYTES].any():
            start = low if start is None else start
        elif start is not None:
            yield start, low
            start = None
    if start is not None:
        yield start, len(values)

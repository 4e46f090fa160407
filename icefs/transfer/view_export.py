"""A view of a version as real files, with the bytes that a mount's view shows.

    plan     the files of the view, and how long each is; what the format leaves out
    delete   on request, files of the format that the view does not have
    write    what is not there, in parallel: each file whole under a temporary name, then moved to its place; the
             metadata of Zarr v2 last, the topmost at the very end

A file of the same version that has its length and its time is there already, so an interrupted export goes on. In a
directory with another version of the view every file is written again: files of a view name the version in themselves,
and may have the same length and time in two.

INVARIANT: a directory has a `.zarray` only while all chunks of the array that the view has, and can be read, are there:
those of another version are taken away before anything is written.
"""

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

import numpy as np

from icefs.errors import IcefsError, NotAnObjectError
from icefs.storage.local.beneath import Beneath
from icefs.transfer.directory_export import Exported, ExportRequest
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.export_files import (
    IN_THE_WAY,
    NEW_FILE,
    OF_ONE_FILE,
    Outcome,
    Problem,
    discard,
    in_directory,
    is_there,
    move,
)
from icefs.transfer.marker import RESERVED, Marker, Target
from icefs.transfer.progress import Progress, Transferred
from icefs.transfer.similar_names import check_names
from icefs.transfer.tasks import carry_out
from icefs.views.interface import HierarchyFacts, Layout, ViewDirectory, ViewFile
from icefs.zarr.keys import V2_METADATA_NAMES, is_zarr_key

_MAX_THREADS: Final = 4
_PIECE_BYTES: Final = 8 << 20
_HOLE_BYTES: Final = 64 << 10
_FEW: Final = 1000
_BATCH: Final = 32
_MAX_CHECKED_NAMES: Final = 100_000
_ENDINGS: Final = {"netcdf": (".nc",), "netcdf3": (".nc",), "npy": (".npy", ".json")}

type Named = tuple[str, ViewFile]


def export_view(
    view: ViewDirectory,
    facts: HierarchyFacts,
    view_format: str,
    request: ExportRequest,
    progress: Progress = lambda done: None,
) -> Exported:
    """Writes a view as files.

    Args:
        view: The view of the node that the directory becomes.
        facts: Where it comes from.
        view_format: The format's name, with options.
        request: What, and how.
        progress: See `Progress`; an export that it ends can be resumed.

    Raises:
        NotEmptyError, NotADirectoryTreeError, SessionStateError: as `Target`.
        InvalidInputError: the directory's file system takes two names for one (kind `invalid-path`).
        StorageError: the store does not answer, or the directory cannot be written.
        NoSpaceError: the disk is full.
    """
    wanted = Marker(facts.repository, request.node, facts.snapshot, format=view_format)
    target = Target(request.target, request.state_dir)
    marker, has_files = target.look(wanted, force=request.force)
    with Beneath(os.path.abspath(request.target)) as directory:
        export = _ViewExport(view, view_format, request, directory, may_be_there=has_files and not marker.is_mixed)
        export.plan()
        check_names(request.target, export.names, always=())
        if has_files and marker.is_mixed:
            export.find_gone()
        if request.dry_run:
            export.count()
            return export.result
        target.begin(marker)
        with target:
            if has_files and marker.is_mixed:
                export.hide()
            if request.delete:
                export.delete_gone()
            export.write(target.staging, progress)
            if not export.result.failed:
                target.write(marker.finished(is_mixed=bool(export.result.left)))
        return export.result


class _ViewExport:
    def __init__(
        self, view: ViewDirectory, view_format: str, request: ExportRequest, directory: Beneath, *, may_be_there: bool
    ) -> None:
        self.result = Exported()
        self.names: list[str] = []
        self._view = view
        self._format = view_format.partition(",")[0]
        self._request = request
        self._root = request.target
        self._target = directory
        self._may_be_there = may_be_there
        self._metadata: list[Named] = []
        self._empty: list[str] = []
        self._not_planned: set[str] = set()

    # What there is.

    def plan(self) -> None:
        """Counts files and bytes; a file whose layout cannot be worked out is noted, and left."""
        self.result.left_out = sorted(Problem(one.path, one.reason) for one in self._view.left_out())
        for path, file in self._walk(self._view, ""):
            layout = self._layout(path, file)
            if layout is None:
                continue
            self.result.files += 1
            self.result.bytes += layout.size
            name = path.rpartition("/")[2]
            if name in V2_METADATA_NAMES:
                self._metadata.append((path, file))
            # The names of chunks are digits.
            if not is_zarr_key(name) and len(self.names) < _MAX_CHECKED_NAMES:
                self.names.append(path)
        # The topmost last, and of each array or group the file that makes it one; `.zmetadata` names all of them.
        self._metadata.sort(key=lambda named: (-named[0].count("/"), _ORDER[named[0].rpartition("/")[2]]))

    def _walk(self, directory: ViewDirectory, above: str) -> Iterator[Named]:
        is_empty = True
        for name, entry in directory.list():
            is_empty = False
            path = above + name
            if not above and name in RESERVED:
                self._note(Problem(path, "its name is one that exports use themselves"))
            elif isinstance(entry, ViewFile):
                yield path, entry
            else:
                yield from self._walk(entry, f"{path}/")
        if is_empty and above:
            self._empty.append(above.rstrip("/"))

    def _layout(self, path: str, file: ViewFile) -> Layout | None:
        try:
            return file.layout()
        except OF_ONE_FILE as error:
            self._note(Problem(path, error.message))
            return None

    def _note(self, problem: Problem) -> None:
        if problem.path not in self._not_planned:
            self._not_planned.add(problem.path)
            self.result.failed.append(problem)

    def count(self) -> None:
        """Counts what would be written."""
        if self._request.delete:
            self.result.deleted, self.result.left = self.result.left, []
        for path, file in self._planned():
            size = file.layout().size
            if not self._is_there(path, size, file.time_ns):
                self.result.written_files += 1
                self.result.written_bytes += size

    def _planned(self) -> Iterator[Named]:
        return (named for named in self._walk(self._view, "") if named[0] not in self._not_planned)

    def _is_there(self, path: str, size: int, time_ns: int) -> bool:
        return self._may_be_there and is_there(self._target, path, size, time_ns)

    # What there should not be.

    def find_gone(self) -> None:
        """Finds files of the format in the directory that the view does not have."""
        for directory, names, files in os.walk(self._root, followlinks=False):
            relative = os.path.relpath(directory, self._root)
            above = "" if relative == "." else f"{relative}/"
            if not above:
                names[:] = [name for name in names if name not in RESERVED]
            self.result.left += [
                above + name for name in files if self._is_of_format(name) and not self._has(above + name)
            ]
        self.result.left.sort()

    def _is_of_format(self, name: str) -> bool:
        if self._format in _ENDINGS:
            return name.endswith(_ENDINGS[self._format])
        return name in V2_METADATA_NAMES or is_zarr_key(name)

    def _has(self, path: str) -> bool:
        found: ViewDirectory | ViewFile | None = self._view
        try:
            for name in path.split("/"):
                found = found.find(name) if isinstance(found, ViewDirectory) else None
        except IcefsError:
            return True  # nobody knows now
        return isinstance(found, ViewFile)

    def hide(self) -> None:
        """Takes away the metadata of another version of the view, the topmost first."""
        for path, _ in reversed(self._metadata):
            self._unlink(path)

    def _unlink(self, path: str) -> bool:
        try:
            with self._target.parent(path) as parent:
                os.unlink(parent.name, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, NotAnObjectError):
            return False
        except OSError as error:
            raise disk_error("write", self._target.path(path), error) from error
        return True

    def delete_gone(self) -> None:
        """Deletes what `find_gone` found, metadata first, and the directories that become empty."""
        gone, self.result.left = self.result.left, []
        for path in sorted(gone, key=lambda path: (path.rpartition("/")[2] not in V2_METADATA_NAMES, path)):
            if self._unlink(path):
                self.result.deleted.append(path)
                above = path.rpartition("/")[0]
                with contextlib.suppress(OSError, NotAnObjectError):  # it is not empty
                    while above:
                        with self._target.parent(above) as parent:
                            os.rmdir(parent.name, dir_fd=parent.fd)
                        above = above.rpartition("/")[0]
        self.result.deleted.sort()

    # Writing.

    def write(self, staging: str, progress: Progress) -> None:
        """Writes what is not there; ends early with the first error that is not of one file alone."""
        done = Transferred(0, self.result.files, 0, self.result.bytes)
        progress(done)
        writer = _FileWriter(self._target, staging, self._is_there, done)
        threads = min(_MAX_THREADS, max(2, os.cpu_count() or 2))
        with ThreadPoolExecutor(threads, thread_name_prefix="icefs-export") as pool:
            try:
                for tasks in self._phases(writer):
                    carry_out(pool, tasks, 2 * threads, partial(self._take, done), partial(progress, done))
            except BaseException:
                writer.stop()
                raise
            finally:
                self.result.written_files, self.result.written_bytes = done.stored_files, done.stored_bytes
        for path in self._empty:
            with contextlib.suppress(NotAnObjectError):
                self._target.make_directory(path)
        self.result.failed.sort()

    def _phases(self, writer: "_FileWriter") -> Iterator[Iterator[Callable[[], Outcome]]]:
        """Yields what can be done at the same time; each when all before it has been done."""
        data = (named for named in self._planned() if named[0].rpartition("/")[2] not in V2_METADATA_NAMES)
        batch = 1 if self.result.files <= _FEW else _BATCH
        yield (partial(writer.write, files) for files in itertools.batched(data, batch))
        for _, files in itertools.groupby(self._metadata, key=lambda named: (named[0].count("/"), _rank(named[0]))):
            yield (partial(writer.write, some) for some in itertools.batched(list(files), _BATCH))

    def _take(self, done: Transferred, outcome: Outcome) -> None:
        done.files += outcome.files
        done.stored_files += outcome.written_files
        done.stored_bytes += outcome.written_bytes
        self.result.failed += outcome.failed


_ORDER: Final = {".zattrs": 0, ".zarray": 1, ".zgroup": 1, ".zmetadata": 2}


def _rank(path: str) -> int:
    return _ORDER[path.rpartition("/")[2]]


class _StoppedError(Exception):
    """The export ends for another reason."""


class _FileWriter:
    """Writes files of a view, from any number of threads.

    Concurrency: `_lock` guards the numbers of temporary names and the bytes that are done.
    """

    def __init__(
        self, target: Beneath, staging: str, is_there: Callable[[str, int, int], bool], done: Transferred
    ) -> None:
        self._target = target
        self._staging = staging
        self._is_there = is_there
        self._done = done
        self._lock = threading.Lock()
        self._number = 0
        self._is_stopped = threading.Event()

    def stop(self) -> None:
        """Has files that are being written end early, and stay away."""
        self._is_stopped.set()

    def write(self, files: Sequence[Named]) -> Outcome:
        """Writes files that are not there."""
        outcome = Outcome()
        for path, file in files:
            if self._is_stopped.is_set():
                break
            try:
                self._write(path, file, outcome)
            except OF_ONE_FILE as error:
                outcome.failed.append(Problem(path, error.message))
                self._not_old(path)
            except _StoppedError:
                break
        return outcome

    def _write(self, path: str, file: ViewFile, outcome: Outcome) -> None:
        layout = file.layout()
        if self._is_there(path, layout.size, file.time_ns):
            outcome.add(layout.size, is_written=False)
            self._count(layout.size)
            return
        staged = self._staged()
        try:
            fd = os.open(staged, NEW_FILE, 0o666)
            try:
                self._fill(fd, layout)
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

    def _fill(self, fd: int, layout: Layout) -> None:
        """Writes the bytes of a file, and nothing where they are zeros for long: that becomes a hole."""
        os.ftruncate(fd, layout.size)
        for start in range(0, layout.size, _PIECE_BYTES):
            if self._is_stopped.is_set():
                raise _StoppedError
            data = layout.read(start, _PIECE_BYTES)
            for low, high in _runs(data):
                _write_at(fd, memoryview(data)[low:high], start + low)
            self._count(len(data))

    def _count(self, size: int) -> None:
        with self._lock:
            self._done.bytes += size

    def _staged(self) -> str:
        with self._lock:
            self._number += 1
            return f"{self._staging}/{self._number}"

    def _not_old(self, path: str) -> None:
        """Leaves no file of another version in the place of one that cannot be had."""
        with contextlib.suppress(OSError, NotAnObjectError), self._target.parent(path) as parent:
            os.unlink(parent.name, dir_fd=parent.fd)


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


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(fd, data, offset)
        data, offset = data[written:], offset + written

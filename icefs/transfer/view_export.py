"""A view of a version as real files, with the bytes that a mount's view shows.

    plan     the files of the view, and how long each is; what the format leaves out
    delete   on request, files of the format that the view does not have
    write    what is not there, in parallel: each file whole under a temporary name, then moved to its place; the
             metadata of Zarr v2 last, the topmost at the very end (see `transfer.view_writer`)

A file of the same version is there already, so an interrupted export goes on. Over another version of the view only
differences are decoded: a record says which version the directory was an export of, and a file that is just that
version's (`transfer.view_versions`) gives the new one the bytes that did not change, or is the new one but for its
time. Every other file is written again.

An array of Zarr v2 of which a chunk cannot be read gets no `.zarray`: programs would take the chunk for a missing one,
and read fill values. Then there is no `.zmetadata` either, as it names all arrays.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final

from icefs.errors import IcefsError, NotAnObjectError
from icefs.storage.local.beneath import Beneath
from icefs.transfer.directory_export import Exported, ExportRequest
from icefs.transfer.export_files import OF_ONE_FILE, Outcome, Problem
from icefs.transfer.marker import RESERVED, Marker, Target
from icefs.transfer.progress import Progress, Transferred
from icefs.transfer.similar_names import check_names
from icefs.transfer.tasks import carry_out
from icefs.transfer.view_layouts import Layouts, Named
from icefs.transfer.view_versions import FilesThere, is_same
from icefs.transfer.view_writer import FileWriter, Placed, unlink
from icefs.views.interface import HierarchyFacts, Layout, ViewDirectory, ViewFile
from icefs.views.walk import walk
from icefs.zarr.keys import V2_METADATA_NAMES, is_zarr_key

_MAX_THREADS: Final = 4
_FEW: Final = 1000
_BATCH: Final = 32
_MAX_CHECKED_NAMES: Final = 100_000
_ENDINGS: Final = {"netcdf": (".nc",), "netcdf3": (".nc",), "npy": (".npy", ".json")}

type OpenEarlier = Callable[[str, str], ViewDirectory | None]
"""Opens the view of another version, given its snapshot and the branch that its files name; None if it is gone."""


def no_earlier(_snapshot: str, _branch: str) -> None:
    """Opens no other version: all files are written over one."""


def export_view(
    view: ViewDirectory,
    facts: HierarchyFacts,
    view_format: str,
    request: ExportRequest,
    progress: Progress = lambda done: None,
    open_earlier: OpenEarlier = no_earlier,
) -> Exported:
    """Writes a view as files.

    Args:
        view: The view of the node that the directory becomes.
        facts: Where it comes from.
        view_format: The format's name, with options.
        request: What, and how.
        progress: See `Progress`; an export that it ends can be resumed.
        open_earlier: Opens the version that the directory has.

    Raises:
        NotEmptyError, NotADirectoryTreeError, SessionStateError: as `Target`.
        InvalidInputError: the directory's file system takes two names for one (kind `invalid-path`).
        StorageError: the store does not answer, or the directory cannot be written.
        NoSpaceError: the disk is full.
    """
    wanted = Marker(facts.repository, request.node, facts.snapshot, format=view_format, branch=facts.branch)
    target = Target(request.target, request.state_dir)
    marker, has_files = target.look(wanted, force=request.force)
    with Beneath(os.path.abspath(request.target)) as directory:
        is_trusted = has_files and not marker.is_foreign
        earlier = None
        if is_trusted and marker.earlier_snapshot:
            earlier = open_earlier(marker.earlier_snapshot, marker.earlier_branch)
        there = FilesThere(directory, earlier, is_trusted=is_trusted)
        export = _ViewExport(view, view_format, request, directory, there)
        export.plan()
        check_names(request.target, export.names, always=())
        if has_files and marker.is_mixed:
            export.find_gone()
        if request.dry_run:
            export.count()
            return export.result
        target.begin(marker)
        with target:
            done = Transferred(0, export.result.files, 0, export.result.bytes)
            has_arrays = has_files and export.is_zarr
            writer = FileWriter(Placed(directory, target.staging, there, has_arrays), export.layouts, done)
            if request.delete:
                export.delete_gone(writer)
            export.write(writer, done, progress)
            if not export.result.failed:
                target.write(marker.finished(is_mixed=bool(export.result.left)))
        return export.result


class _ViewExport:
    def __init__(
        self, view: ViewDirectory, view_format: str, request: ExportRequest, directory: Beneath, there: FilesThere
    ) -> None:
        self.result = Exported()
        self.names: list[str] = []
        self.layouts = Layouts()
        self._view = view
        self._format = view_format.partition(",")[0]
        self.is_zarr = self._format == "zarr2"
        self._request = request
        self._root = request.target
        self._target = directory
        self._there = there
        self._metadata: list[Named] = []
        self._empty: list[str] = []
        self._not_planned: set[str] = set()

    # What there is.

    def plan(self) -> None:
        """Counts files and bytes; a file whose layout cannot be worked out is noted, and left."""
        for path, file in self._files():
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
        self._metadata.sort(key=lambda named: (-named[0].count("/"), _rank(named[0])))
        # Files whose layouts are known need not be described for this.
        self.result.left_out = sorted(Problem(one.path, one.reason) for one in self._view.left_out())

    def _files(self) -> Iterator[Named]:
        for name, entry in self._view.list():
            if name in RESERVED:
                self._note(Problem(name, "its name is one that exports use themselves"))
                continue
            for path, file in walk(entry, name):
                if file is None:
                    self._empty.append(path)
                else:
                    yield path, file

    def _layout(self, path: str, file: ViewFile) -> Layout | None:
        try:
            return self.layouts.of(path, file)
        except OF_ONE_FILE as error:
            self._note(Problem(path, error.own_message))
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
            with self.layouts.taken(path, file) as layout:
                if not self._is_there(path, file, layout):
                    self.result.written_files += 1
                    self.result.written_bytes += layout.size

    def _is_there(self, path: str, file: ViewFile, layout: Layout) -> bool:
        """Tells whether a file is there, but for its time perhaps."""
        if self._there.is_current(path, layout, file.time_ns):
            return True
        with self._there.kept(path) as kept:
            return kept is not None and is_same(layout, list(layout.stretches(kept.layout)), kept.layout)

    def _planned(self) -> Iterator[Named]:
        return (named for named in self._files() if named[0] not in self._not_planned)

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

    def delete_gone(self, writer: FileWriter) -> None:
        """Deletes what `find_gone` found, metadata first, and the directories that become empty."""
        gone, self.result.left = self.result.left, []
        for path in sorted(gone, key=lambda path: (path.rpartition("/")[2] not in V2_METADATA_NAMES, path)):
            writer.hide_above(path)
            if unlink(self._target, path):
                self.result.deleted.append(path)
                above = path.rpartition("/")[0]
                with contextlib.suppress(OSError, NotAnObjectError):  # it is not empty
                    while above:
                        with self._target.parent(above) as parent:
                            os.rmdir(parent.name, dir_fd=parent.fd)
                        above = above.rpartition("/")[0]
        self.result.deleted.sort()

    # Writing.

    def write(self, writer: FileWriter, done: Transferred, progress: Progress) -> None:
        """Writes what is not there; ends early with the first error that is not of one file alone."""
        progress(done)
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

    def _phases(self, writer: FileWriter) -> Iterator[Iterator[Callable[[], Outcome]]]:
        """Yields what can be done at the same time; each when all before it has been done."""
        data = (named for named in self._planned() if named[0].rpartition("/")[2] not in V2_METADATA_NAMES)
        batch = 1 if self.result.files <= _FEW else _BATCH
        yield (partial(writer.write, files) for files in itertools.batched(data, batch))
        metadata = self._without_damaged()
        for _, files in itertools.groupby(metadata, key=lambda named: (named[0].count("/"), _rank(named[0]))):
            yield (partial(writer.write, some) for some in itertools.batched(list(files), _BATCH))

    def _without_damaged(self) -> list[Named]:
        """Returns the metadata that is written now that all chunks are there that can be."""
        if not self.is_zarr:
            return self._metadata
        damaged: dict[str, str] = {}
        for path, _ in self.result.failed:
            directory, _, name = path.rpartition("/")
            if name not in V2_METADATA_NAMES:
                damaged.setdefault(directory, name)
        reasons = {path: reason for path, _ in self._metadata if (reason := _why_not(path, damaged))}
        self.result.failed += [Problem(path, reason) for path, reason in reasons.items()]
        return [named for named in self._metadata if named[0] not in reasons]

    def _take(self, done: Transferred, outcome: Outcome) -> None:
        done.files += outcome.files
        done.stored_files += outcome.written_files
        done.stored_bytes += outcome.written_bytes
        self.result.failed += outcome.failed


_ORDER: Final = {".zattrs": 0, ".zarray": 1, ".zgroup": 1, ".zmetadata": 2}


def _rank(path: str) -> int:
    return _ORDER[path.rpartition("/")[2]]


def _why_not(path: str, damaged: Mapping[str, str]) -> str:
    """Returns why metadata is not written where chunks, by the directories of their arrays, are not; or nothing."""
    directory, _, name = path.rpartition("/")
    if name == ".zarray" and directory in damaged:
        return (
            f"not written, as programs would read fill values in place of the chunk {damaged[directory]}; write that "
            "chunk again or delete it, and repeat the export"
        )
    if name == ".zmetadata" and damaged:
        return "not written, as it would name arrays that are not there, or not wholly"
    return ""

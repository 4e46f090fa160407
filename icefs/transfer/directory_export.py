"""A version of a repository, or of one of its groups or arrays, as plain files of Zarr v3.

    plan     the files that the version has, and how long and how old each is
    delete   on request, what earlier exports left that it does not have
    write    what is not there, in parallel (see `transfer.export_files`): chunks, then the zarr.json of arrays, then
             those of groups, the topmost last

A file that has its length and its time is there already: a key's time changes whenever its content does (see
`engine.history.key_times`). So an export that was interrupted goes on, and one of another version writes what differs.

INVARIANT: an array has its zarr.json only while all of its chunks are there: before the first chunk of an array that is
there already is written or deleted, its zarr.json is taken away. So what an interrupted export leaves never opens as an
array with fill values in place of data.
"""

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np

from icefs.clock import NS_PER_US
from icefs.engine.history.key_times import KeyTimes
from icefs.engine.read.session import Session
from icefs.errors import FormatError, IcefsError, InvalidInputError, NodeNotFoundError
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.zarr_json import chunk_key_encoding_of
from icefs.paths import ROOT_NODE, NodePath
from icefs.storage.local.beneath import Beneath
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.export_files import OF_ONE_FILE, WINDOW_BYTES, Outcome, Part, Problem, Writer, is_there
from icefs.transfer.marker import RESERVED, Marker, Target
from icefs.transfer.progress import Progress, Transferred
from icefs.transfer.scan import I64
from icefs.transfer.similar_names import check_names
from icefs.transfer.tasks import carry_out
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout, is_zarr_key, node_prefix
from icefs.zarr.reader import KeyReader

_MAX_THREADS: Final = 32
_BATCH: Final = 64
_BATCH_BYTES: Final = 8 << 20
_MAX_NAME_BYTES: Final = 255


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, where to, and how.

    Attributes:
        target: The directory.
        node: The path of the group or array that the directory becomes.
        force: Write also into a directory with other files.
        delete: Delete keys that the version does not have.
        dry_run: Only find out what would be done.
        state_dir: Where it is recorded what the directory is an export of, so that a further one may write into it;
            None records nothing.
        window_bytes: How much of a large chunk each thread has in memory at a time.
    """

    target: str
    node: NodePath = ROOT_NODE
    force: bool = False
    delete: bool = False
    dry_run: bool = False
    state_dir: Path | None = None
    window_bytes: int = WINDOW_BYTES


@dataclass(slots=True)
class Exported:
    """What an export did, or would do.

    Attributes:
        files: How many files the version has.
        bytes: How many bytes they have.
        written_files: How many of them were not there, or others.
        written_bytes: Their bytes.
        deleted: Keys that the version does not have, and that were deleted.
        left: The same, that were left.
        failed: Files that could not be exported.
        left_out: Groups and arrays that the format of a view does not show.
    """

    files: int = 0
    bytes: int = 0
    written_files: int = 0
    written_bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)
    left_out: list[Problem] = field(default_factory=list)


def export_session(
    session: Session, times: KeyTimes, request: ExportRequest, progress: Progress = lambda done: None
) -> Exported:
    """Writes a version, or a part of it, as files.

    Args:
        session: The version.
        times: When its keys changed last.
        request: What, and how.
        progress: See `Progress`; an export that it ends can be resumed.

    Raises:
        NodeNotFoundError: there is no such node.
        NotEmptyError, NotADirectoryTreeError, SessionStateError: as `Target`.
        InvalidInputError: the directory's file system takes two names for one (kind `invalid-path`).
        StorageError: the store does not answer, or the directory cannot be written.
        NoSpaceError: the disk is full.
    """
    check_node(session, request.node)
    wanted = Marker(session.context.storage.url, request.node, str(session.snapshot_id))
    target = Target(request.target, request.state_dir)
    marker, has_files = target.look(wanted, force=request.force)
    with Beneath(os.path.abspath(request.target)) as directory:
        export = _Export(session, times, request, directory)
        export.plan()
        check_names(request.target, export.directories)
        if has_files and marker.is_mixed:
            export.find_gone()
        if request.dry_run:
            export.count(has_files=has_files)
            return export.result
        target.begin(marker)
        with target:
            writer = Writer(session, directory, target.staging, has_files=has_files, window_bytes=request.window_bytes)
            if request.delete:
                export.delete_gone(writer)
            export.write(writer, progress, has_files=has_files)
            if not export.result.failed:
                target.write(marker.finished(is_mixed=bool(export.result.left)))
        return export.result


def check_node(session: Session, node: NodePath) -> None:
    """Raises NodeNotFoundError if a version has no node at a path, nor below it."""
    if node != ROOT_NODE and session.get_node(node) is None and not session.has_children(node):
        raise NodeNotFoundError(f"no group or array at {node} in {session.snapshot_id}", path=node)


class _Export:
    def __init__(self, session: Session, times: KeyTimes, request: ExportRequest, directory: Beneath) -> None:
        self.result = Exported()
        self._session = session
        self._times = times
        self._request = request
        self._root = request.target
        self._target = directory
        self._reader = KeyReader(session)
        self.directories: list[str] = []
        self._metadata: list[tuple[str, bytes, int]] = []
        self._groups: list[tuple[str, bytes, int]] = []
        self._parts: list[Part] = []
        self._has_files = False

    # What there is.

    def plan(self) -> None:
        """Finds out which files the version has; damage that concerns one array is noted, and that array left out."""
        below = node_prefix(self._request.node)
        for node in sorted(self._nodes(), key=lambda node: node.path):
            prefix = node_prefix(node.path)[len(below) :]
            if not self._is_possible(prefix):
                continue
            file = prefix + METADATA_NAME, node.user_data, self._times.metadata(node.id)
            self.directories.append(prefix.rstrip("/"))
            if node.array is None:
                self._groups.append(file)
                continue
            layout = self._layout(node, prefix)
            if layout is None:
                continue
            self._metadata.append(file)
            try:
                self._plan_chunks(node, prefix, layout)
            except OF_ONE_FILE as error:
                self.result.failed.append(Problem(prefix or node.path, error.own_message))
        # The groups come last, and those above others after them.
        self._groups.sort(key=lambda file: -file[0].count("/"))
        self._metadata += self._groups
        self.result.files = len(self._metadata) + sum(len(part.rows) for part in self._parts)
        self.result.bytes = sum(len(data) for _, data, _ in self._metadata) + sum(
            int(part.refs.lengths[part.rows].sum()) for part in self._parts
        )

    def _nodes(self) -> Iterator[NodeSnapshot]:
        session, top = self._session, self._request.node
        stem = top.rstrip("/") + "/"
        for path in session.snapshot.paths:
            if path != top and not path.startswith(stem):
                continue
            try:
                node = session.get_node(path)
            except FormatError as error:
                self.result.failed.append(Problem(path, error.own_message))
                continue
            if node is not None:
                yield node

    def _is_possible(self, prefix: str) -> bool:
        """Tells whether a directory can have a node's name; a hostile one may lead out of the directory."""
        names = prefix.split("/")[:-1]
        reason = None
        if any(name in {"", ".", ".."} or "\0" in name for name in names):
            reason = "no directory can have this name"
        elif any(len(name.encode(errors="surrogatepass")) > _MAX_NAME_BYTES for name in names):
            reason = "its name is too long for a directory"
        elif names and names[0] in RESERVED:
            reason = "its name is one that exports use themselves"
        elif METADATA_NAME in names:
            reason = "its name is that of the metadata of the group that it is in"
        if reason is not None:
            self.result.failed.append(Problem(prefix, reason))
        return reason is None

    def _layout(self, node: NodeSnapshot, prefix: str) -> ChunkKeyLayout | None:
        """Returns how an array's chunk keys are written; None, and the array left out, where nobody knows."""
        assert node.array is not None  # the caller looked
        try:
            return ChunkKeyLayout.of(chunk_key_encoding_of(node.user_data), len(node.array.shape))
        except InvalidInputError as error:
            self.result.failed.append(Problem(prefix or node.path, error.own_message))
            return None

    def _plan_chunks(self, node: NodeSnapshot, prefix: str, layout: ChunkKeyLayout) -> None:
        times = None
        for refs in self._all_refs(node, prefix):
            times = times or self._times.chunks(node.id)
            rows = np.arange(len(refs))
            if self._session.has_children(node.path):
                rows = self._not_hidden(node, layout, refs)
            each = times.of_all(refs.coords, len(refs))
            self._parts.append(Part(prefix, layout, refs, each, times.uniform, rows))

    def _all_refs(self, node: NodeSnapshot, prefix: str) -> list[ArrayRefs]:
        """Returns an array's references; those in a damaged manifest are noted, and left out."""
        chunks = self._session.array_chunks(node)
        numbers = range(len(chunks.manifest_ids))
        with contextlib.suppress(*OF_ONE_FILE):  # one by one it shows which of them it is
            return [refs for refs in chunks.manifest_refs(numbers) if refs is not None]
        found: list[ArrayRefs] = []
        for number in numbers:
            try:
                found += [refs for refs in chunks.manifest_refs([number]) if refs is not None]
            except OF_ONE_FILE as error:
                self.result.failed.append(Problem(prefix or node.path, error.own_message))
        return found

    def _not_hidden(self, node: NodeSnapshot, layout: ChunkKeyLayout, refs: ArrayRefs) -> I64:
        """Leaves out chunks whose names are those of nodes below the array, or of their chunks, as a mount does."""
        stem = node_prefix(node.path)
        kept = []
        for row in range(len(refs)):
            key = stem + layout.format(refs.index(row))
            found = self._reader.locate(key)
            is_own = isinstance(found, tuple) and found[0].path == node.path
            below = NodePath(f"/{key}")
            if is_own and not self._session.has_children(below) and self._session.get_node(below) is None:
                kept.append(row)
        return np.array(kept, np.int64)

    # What there should not be.

    def find_gone(self) -> None:
        """Finds keys in the directory that the version does not have."""
        for directory, names, files in os.walk(self._root, followlinks=False):
            relative = os.path.relpath(directory, self._root)
            above = "" if relative == "." else f"{relative}/"
            if not above:
                names[:] = [name for name in names if name not in RESERVED]
            self.result.left += [above + name for name in files if is_zarr_key(name) and not self._has(above + name)]
        self.result.left.sort()

    def _has(self, path: str) -> bool:
        try:
            return self._reader.find(node_prefix(self._request.node) + path) is not None
        except InvalidInputError:
            return False
        except IcefsError:
            return True  # nobody knows now

    def delete_gone(self, writer: Writer) -> None:
        """Deletes what `find_gone` found, and the directories that become empty."""
        gone, self.result.left = self.result.left, []
        # An array that goes stops being one before its chunks go.
        for path in sorted(gone, key=lambda path: (not path.endswith(METADATA_NAME), path)):
            writer.hide_above(path.removesuffix(f"/{METADATA_NAME}"))
            file = os.path.join(self._root, path)
            try:
                os.unlink(file)
                above = os.path.dirname(file)
                with contextlib.suppress(OSError):  # it is not empty
                    while above != self._root:
                        os.rmdir(above)
                        above = os.path.dirname(above)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise disk_error("write", file, error) from error
            self.result.deleted.append(path)
        self.result.deleted.sort()

    def count(self, *, has_files: bool) -> None:
        """Counts what would be written."""
        self._has_files = has_files
        if self._request.delete:
            self.result.deleted, self.result.left = self.result.left, []
        for path, data, time in self._metadata:
            self._count(not self._is_there(path, len(data), time * NS_PER_US), len(data))
        for part in self._parts:
            for _, path, size, time_ns in part.files(part.rows):
                self._count(not self._is_there(path, size, time_ns), size)

    def _count(self, is_written: bool, size: int) -> None:
        if is_written:
            self.result.written_files += 1
            self.result.written_bytes += size

    # Writing.

    def write(self, writer: Writer, progress: Progress, *, has_files: bool) -> None:
        """Writes what is not there; ends early with the first error that is not of one file alone."""
        self._has_files = has_files
        done = Transferred(0, self.result.files, 0, self.result.bytes)
        progress(done)
        capabilities = self._session.context.storage.capabilities
        threads = min(_MAX_THREADS, capabilities.concurrency)
        if capabilities.local_files:  # nothing is waited for, and more threads than processors take longer
            threads = min(threads, max(2, os.cpu_count() or 2))
        with ThreadPoolExecutor(threads, thread_name_prefix="icefs-export") as pool:
            try:
                for tasks in self._phases(writer):
                    carry_out(pool, tasks, 2 * threads, partial(self._take, done), partial(progress, done))
            finally:
                self.result.written_files, self.result.written_bytes = done.stored_files, done.stored_bytes
        self.result.failed.sort()

    def _take(self, done: Transferred, outcome: Outcome) -> None:
        done.files += outcome.files
        done.bytes += outcome.bytes
        done.stored_files += outcome.written_files
        done.stored_bytes += outcome.written_bytes
        self.result.failed += outcome.failed

    def _phases(self, writer: Writer) -> Iterator[Iterator[Callable[[], Outcome]]]:
        """Yields what can be done at the same time; each when all before it has been done."""
        yield (partial(writer.write_chunks, part, rows) for part in self._parts for rows in _neighbours(part))
        arrays = self._metadata[: len(self._metadata) - len(self._groups)]
        yield (partial(writer.write_metadata, some) for some in itertools.batched(arrays, _BATCH))
        for some in itertools.batched(self._groups, _BATCH):
            yield iter([partial(writer.write_metadata, some)])

    def _is_there(self, path: str, size: int, time_ns: int) -> bool:
        return self._has_files and is_there(self._target, path, size, time_ns)


def _neighbours(part: Part) -> Iterator[I64]:
    """Divides chunks among threads' turns, so that those in one object come together, in the order of their bytes."""
    refs, rows = part.refs, part.rows
    ids = np.ascontiguousarray(refs.chunk_ids[rows]).view("V12").ravel() if len(rows) else rows
    if len(rows) and (refs.offsets[rows] > 0).any():
        # Chunks that are alone in their objects stay in the order of their indices.
        _, group = np.unique(ids, return_inverse=True)
        first = np.full(int(group.max()) + 1, len(rows))
        np.minimum.at(first, group, np.arange(len(rows)))
        rows = rows[np.lexsort((refs.offsets[rows], first[group]))]
    start = filled = 0
    sizes = refs.lengths[rows].tolist()
    for position, size in enumerate(sizes):
        if position > start and (position - start == _BATCH or filled + size > _BATCH_BYTES):
            yield rows[start:position]
            start, filled = position, 0
        filled += size
    if start < len(sizes):
        yield rows[start:]

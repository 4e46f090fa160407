"""A version of a repository, or of one of its groups or arrays, as plain files of Zarr v3.

    plan     the files that the version has, and how long and how old each is
    delete   on request, what earlier exports left that it does not have
    write    what is not there: each file under a temporary name first, in parallel

A file that has its length and its time is there already: a key's time changes whenever its content does (see
`engine.key_times`). So an export that was interrupted goes on, and one of another version writes what differs.
"""

import contextlib
import errno
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final, NamedTuple

import numpy as np

from icefs.engine.key_times import KeyTimes
from icefs.engine.session import Session
from icefs.errors import (
    ChunkNotFoundError,
    FormatError,
    IcefsError,
    InvalidInputError,
    InvalidObjectSizeError,
    NodeNotFoundError,
    NoSpaceError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
)
from icefs.format.chunk_refs import ChunkKind
from icefs.format.manifest import ArrayRefs, NativeRef
from icefs.format.nodes import NodeSnapshot
from icefs.transfer.marker import RESERVED, Marker, Target, failed
from icefs.transfer.scan import I64
from icefs.transfer.storing import Progress, Transferred
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout, is_zarr_key, node_prefix
from icefs.zarr.reader import KeyReader

_MAX_THREADS: Final = 16
_BATCH: Final = 64
_BATCH_BYTES: Final = 8 << 20
_WINDOW_BYTES: Final = 32 << 20
_BEAT_S: Final = 0.2
_NANOSECONDS: Final = 1000
_MAX_NAME_BYTES: Final = 255

# What is wrong with one file alone; anything else ends the export.
_OF_ONE_FILE: Final = (
    ObjectNotFoundError,
    ChunkNotFoundError,
    InvalidObjectSizeError,
    ObjectModifiedError,
    UnauthorizedContainerError,
    FormatError,
    InvalidInputError,
)
_IN_THE_WAY: Final = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG})


class Problem(NamedTuple):
    """A file that could not be exported, and why."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, where to, and how.

    Attributes:
        target: The directory.
        node: The path of the group or array that the directory becomes.
        force: Write also into a directory with other files.
        delete: Delete keys that the version does not have.
        dry_run: Only find out what would be done.
    """

    target: str
    node: str = "/"
    force: bool = False
    delete: bool = False
    dry_run: bool = False


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
    """

    files: int = 0
    bytes: int = 0
    written_files: int = 0
    written_bytes: int = 0
    deleted: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    failed: list[Problem] = field(default_factory=list)


def export_session(
    session: Session, times: KeyTimes, request: ExportRequest, progress: Progress = lambda done: None
) -> Exported:
    """Writes a version, or a part of it, as files.

    Args:
        session: The version.
        times: When its keys changed last.
        request: What, and how.
        progress: Is told how far it is; what it raises ends the export, which can be gone on with.

    Raises:
        NodeNotFoundError: there is no such node.
        NotEmptyError, NotADirectoryTreeError, SessionStateError: as `Target`.
        StorageError: the store does not answer, or the directory cannot be written.
        NoSpaceError: the disk is full.
    """
    top = request.node
    if top != "/" and session.get_node(top) is None and not session.has_children(top):
        raise NodeNotFoundError(f"no group or array at {request.node} in {session.snapshot_id}", path=request.node)
    wanted = Marker(session.repository.storage.url, request.node, str(session.snapshot_id))
    target = Target(request.target)
    marker, has_files = target.look(wanted, force=request.force)
    export = _Export(session, times, request)
    export.plan()
    if has_files and marker.is_mixed:
        export.find_gone()
    if request.dry_run:
        export.count(has_files=has_files)
        return export.result
    target.begin(marker)
    with target:
        if request.delete:
            export.delete_gone()
        export.write(target.staging, progress, has_files=has_files)
        if not export.result.failed:
            target.write(marker.finished(is_mixed=bool(export.result.left)))
    return export.result


@dataclass(slots=True)
class _Part:
    """Chunks of one array: what is written of a set of references."""

    prefix: str
    layout: ChunkKeyLayout
    refs: ArrayRefs
    times: I64 | None
    uniform_time: int
    rows: I64

    def path(self, row: int) -> str:
        return self.prefix + self.layout.format(self.refs.index(row))

    def time_ns(self, row: int) -> int:
        return (self.uniform_time if self.times is None else int(self.times[row])) * _NANOSECONDS


class _Export:
    def __init__(self, session: Session, times: KeyTimes, request: ExportRequest) -> None:
        self.result = Exported()
        self._session = session
        self._times = times
        self._request = request
        self._root = request.target
        self._reader = KeyReader(session)
        self._metadata: list[tuple[str, bytes, int]] = []
        self._parts: list[_Part] = []
        self._made: set[str] = set()
        self._numbers = itertools.count()
        self._has_files = False

    # What there is.

    def plan(self) -> None:
        """Finds out which files the version has; damage that concerns one array is noted, and that array left out."""
        below = node_prefix(self._request.node)
        for node in sorted(self._nodes(), key=lambda node: node.path):
            prefix = node_prefix(node.path)[len(below) :]
            if not self._is_possible(prefix):
                continue
            self._metadata.append((prefix + METADATA_NAME, node.user_data, self._times.metadata(node.id)))
            if node.array is not None:
                try:
                    self._plan_chunks(node, prefix)
                except _OF_ONE_FILE as error:
                    self.result.failed.append(Problem(prefix or node.path, error.message))
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
                self.result.failed.append(Problem(path, error.message))
                continue
            if node is not None:
                yield node

    def _is_possible(self, prefix: str) -> bool:
        """Tells whether a directory can have a node's name; a hostile one may lead out of the directory."""
        names = prefix.split("/")[:-1]
        reason = None
        if any(name in {"", ".", ".."} or "\0" in name for name in names):
            reason = "no directory can be called so"
        elif any(len(name.encode(errors="surrogatepass")) > _MAX_NAME_BYTES for name in names):
            reason = "its name is too long for a directory"
        elif names and names[0] in RESERVED:
            reason = "its name is one that exports use themselves"
        elif METADATA_NAME in names:
            reason = "its name is that of the metadata of the group that it is in"
        if reason is not None:
            self.result.failed.append(Problem(prefix, reason))
        return reason is None

    def _plan_chunks(self, node: NodeSnapshot, prefix: str) -> None:
        assert node.array is not None  # the caller looked
        layout = ChunkKeyLayout.of_metadata(node.user_data, len(node.array.shape))
        times = None
        for refs in self._all_refs(node, prefix):
            times = times or self._times.chunks(node.id)
            rows = np.arange(len(refs))
            if self._session.has_children(node.path):
                rows = self._not_hidden(node, layout, refs)
            each = times.of_all(refs.coords, len(refs))
            self._parts.append(_Part(prefix, layout, refs, each, times.uniform, rows))

    def _all_refs(self, node: NodeSnapshot, prefix: str) -> list[ArrayRefs]:
        """Returns an array's references; those in a damaged manifest are noted, and left out."""
        chunks = self._session.array_chunks(node)
        numbers = range(len(chunks.manifest_ids))
        with contextlib.suppress(*_OF_ONE_FILE):  # one by one it shows which of them it is
            return [refs for refs in chunks.manifest_refs(numbers) if refs is not None]
        found: list[ArrayRefs] = []
        for number in numbers:
            try:
                found += [refs for refs in chunks.manifest_refs([number]) if refs is not None]
            except _OF_ONE_FILE as error:
                self.result.failed.append(Problem(prefix or node.path, error.message))
        return found

    def _not_hidden(self, node: NodeSnapshot, layout: ChunkKeyLayout, refs: ArrayRefs) -> I64:
        """Leaves out chunks whose names are those of nodes below the array, or of their chunks, as a mount does."""
        stem = node_prefix(node.path)
        kept = []
        for row in range(len(refs)):
            key = stem + layout.format(refs.index(row))
            found = self._reader.locate(key)
            is_own = isinstance(found, tuple) and found[0].path == node.path
            if is_own and not self._session.has_children(f"/{key}") and self._session.get_node(f"/{key}") is None:
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
            return True  # it cannot be told now

    def delete_gone(self) -> None:
        """Deletes what `find_gone` found, and the directories that become empty."""
        gone, self.result.left = self.result.left, []
        for path in gone:
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
                raise failed(file, error) from error
            self.result.deleted.append(path)

    def count(self, *, has_files: bool) -> None:
        """Counts what would be written."""
        self._has_files = has_files
        if self._request.delete:
            self.result.deleted, self.result.left = self.result.left, []
        for path, data, time in self._metadata:
            self._count(not self._is_there(path, len(data), time * _NANOSECONDS), len(data))
        for part in self._parts:
            lengths = part.refs.lengths
            for row in part.rows.tolist():
                size = int(lengths[row])
                self._count(not self._is_there(part.path(row), size, part.time_ns(row)), size)

    def _count(self, is_written: bool, size: int) -> None:
        if is_written:
            self.result.written_files += 1
            self.result.written_bytes += size

    # Writing.

    def write(self, staging: str, progress: Progress, *, has_files: bool) -> None:
        """Writes what is not there; ends early with the first error that is not of one file alone."""
        self._has_files = has_files
        writer = _Writer(self._session, self._root, staging, has_files=has_files)
        done = Transferred(0, self.result.files, 0, self.result.bytes)
        progress(done)
        capabilities = self._session.repository.storage.capabilities
        threads = min(_MAX_THREADS, capabilities.concurrency)
        if capabilities.local_files:  # nothing is waited for, and more threads than processors take longer
            threads = min(threads, max(2, os.cpu_count() or 2))
        tasks = self._tasks(writer)
        running: set[Future[_Outcome]] = set()
        with ThreadPoolExecutor(threads, thread_name_prefix="icefs-export") as pool:
            try:
                running |= {pool.submit(task) for task in islice(tasks, 2 * threads)}
                while running:
                    finished, running = wait(running, _BEAT_S, FIRST_COMPLETED)
                    for future in finished:
                        self._take(future.result(), done)
                    running |= {pool.submit(task) for task in islice(tasks, len(finished))}
                    progress(done)
            except BaseException:
                for future in running:
                    future.cancel()
                raise
            finally:
                self.result.written_files, self.result.written_bytes = done.stored_files, done.stored_bytes
        self.result.failed.sort()

    def _take(self, outcome: "_Outcome", done: Transferred) -> None:
        done.files += outcome.files
        done.bytes += outcome.bytes
        done.stored_files += outcome.written_files
        done.stored_bytes += outcome.written_bytes
        self.result.failed += outcome.failed

    def _tasks(self, writer: "_Writer") -> Iterator[Callable[[], "_Outcome"]]:
        for some in itertools.batched(self._metadata, _BATCH):
            yield partial(writer.write_metadata, some)
        for part in self._parts:
            for rows in _neighbours(part):
                yield partial(writer.write_chunks, part, rows)

    def _is_there(self, path: str, size: int, time_ns: int) -> bool:
        return self._has_files and is_there(os.path.join(self._root, path), size, time_ns)


def is_there(path: str, size: int, time_ns: int) -> bool:
    """Tells whether a file has just the length and time that it should have."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return found.st_size == size and found.st_mtime_ns == time_ns


def _neighbours(part: _Part) -> Iterator[Sequence[int]]:
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
            yield rows[start:position].tolist()
            start, filled = position, 0
        filled += size
    if start < len(sizes):
        yield rows[start:].tolist()


@dataclass(slots=True)
class _Outcome:
    """What became of some files."""

    files: int = 0
    bytes: int = 0
    written_files: int = 0
    written_bytes: int = 0
    failed: list[Problem] = field(default_factory=list)

    def add(self, size: int, *, is_written: bool) -> None:
        self.files += 1
        self.bytes += size
        self.written_files += is_written
        self.written_bytes += size if is_written else 0


class _Writer:
    """Writes files; from any number of threads."""

    def __init__(self, session: Session, root: str, staging: str, *, has_files: bool) -> None:
        self._session = session
        self._root = root
        self._staging = staging
        self._has_files = has_files
        self._numbers = itertools.count()
        self._is_local = session.repository.storage.capabilities.local_files

    def write_metadata(self, files: Sequence[tuple[str, bytes, int]]) -> _Outcome:
        """Writes zarr.json files."""
        outcome = _Outcome()
        for path, data, time in files:
            self._write_one(path, len(data), time * _NANOSECONDS, partial(_write_all, data), outcome)
        return outcome

    def write_chunks(self, part: _Part, rows: Sequence[int]) -> _Outcome:
        """Writes chunks of one array."""
        outcome = _Outcome()
        fetched = {} if self._is_local else self._fetch_shared(part, rows)
        for row in rows:
            size = int(part.refs.lengths[row])
            fill = partial(_write_all, fetched[row]) if row in fetched else partial(self._fill, part, row)
            self._write_one(part.path(row), size, part.time_ns(row), fill, outcome)
        return outcome

    def _fetch_shared(self, part: _Part, rows: Sequence[int]) -> dict[int, bytes]:
        """Fetches chunks that lie in one object together, in few requests."""
        found: dict[int, bytes] = {}
        refs = part.refs
        native = [row for row in rows if refs.kinds[row] == ChunkKind.NATIVE]
        for _, group in itertools.groupby(native, key=lambda row: refs.chunk_ids[row].tobytes()):
            wanted = [
                (row, ref)
                for row in group
                if isinstance(ref := refs.ref(row), NativeRef)
                and not self._is_there(part.path(row), ref.length_bytes, part.time_ns(row))
            ]
            if len(wanted) > 1:
                with contextlib.suppress(*_OF_ONE_FILE):  # one by one it shows which of them it is
                    data = self._session.read_chunks([ref for _, ref in wanted])
                    found |= zip([row for row, _ in wanted], data, strict=True)
        return found

    def _is_there(self, path: str, size: int, time_ns: int) -> bool:
        return self._has_files and is_there(os.path.join(self._root, path), size, time_ns)

    def _write_one(self, path: str, size: int, time_ns: int, fill: Callable[[int], None], outcome: _Outcome) -> None:
        if self._is_there(path, size, time_ns):
            outcome.add(size, is_written=False)
            return
        target = os.path.join(self._root, path)
        staged = os.path.join(self._staging, str(next(self._numbers)))
        try:
            fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            try:
                fill(fd)
                os.utime(fd, ns=(time_ns, time_ns))
            finally:
                os.close(fd)
            self._rename(staged, target)
        except _OF_ONE_FILE as error:
            _discard(staged)
            self._not_old(target)
            outcome.failed.append(Problem(path, error.message))
        except OSError as error:
            _discard(staged)
            if error.errno in _IN_THE_WAY:
                outcome.failed.append(Problem(path, f"something else is in its place: {error.strerror}"))
            elif error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise NoSpaceError(f"no space left for {target}", kind="io", path=target) from error
            else:
                raise failed(target, error) from error
        except BaseException:
            _discard(staged)
            raise
        else:
            outcome.add(size, is_written=True)

    def _rename(self, staged: str, target: str) -> None:
        try:
            os.rename(staged, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(staged, target)

    def _not_old(self, target: str) -> None:
        """Leaves no file of another version in the place of one that cannot be had."""
        if self._has_files:
            with contextlib.suppress(OSError):
                os.unlink(target)

    def _fill(self, part: _Part, row: int, fd: int) -> None:
        ref = part.refs.ref(row)
        local = self._session.chunk_file(ref) if self._is_local else None
        if local is not None:
            file, offset, length = local
            try:
                source = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError as error:
                raise ObjectNotFoundError(f"the chunk's object {file} is gone", path=str(file)) from error
            try:
                copied = _copy(source, fd, offset, length)
            finally:
                os.close(source)
            if copied != length:
                raise InvalidObjectSizeError(f"{file} is too short for the chunk in it", path=str(file))
            return
        for start in range(0, ref.length_bytes, _WINDOW_BYTES):
            _write_all(self._session.read_chunk(ref, start, start + _WINDOW_BYTES), fd)


def _copy(source: int, fd: int, offset: int, length: int) -> int:
    """Copies bytes from one file to another, within the kernel where that is possible; returns how many there were."""
    done = 0
    in_kernel = True
    while done < length:
        if in_kernel:
            try:
                some = os.copy_file_range(source, fd, length - done, offset + done)
            except OSError as error:
                if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP}:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(_BATCH_BYTES, length - done), offset + done)
            _write_all(data, fd)
            some = len(data)
        if not some:
            break
        done += some
    return done


def _write_all(data: bytes, fd: int) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def _discard(staged: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(staged)

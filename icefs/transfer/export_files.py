"""How an export writes its files, from many threads.

Each file is made in the staging directory, and comes to its place when it is whole. Files of one directory come there
together if nothing is there yet: the directory itself is moved. To move each file takes as long as to make it, and
wherever two threads make files in one directory, they wait for each other.
"""

import contextlib
import errno
import itertools
import os
import stat
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType
from typing import Final, NamedTuple, Self

from icefs.clock import NS_PER_US
from icefs.engine.read.session import Session
from icefs.errors import (
    ChunkNotFoundError,
    FormatError,
    InvalidInputError,
    InvalidObjectSizeError,
    NotAnObjectError,
    NotShownError,
    ObjectModifiedError,
    ObjectNotFoundError,
    UnauthorizedContainerError,
)
from icefs.format.ids import ChunkId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind, NativeRef
from icefs.format.zarr_json import document_of
from icefs.storage.local.beneath import Beneath, Parent
from icefs.transfer.copying import copy_range, write_all
from icefs.transfer.disk_errors import disk_error
from icefs.transfer.scan import I64
from icefs.zarr.keys import METADATA_NAME, ChunkKeyLayout

WINDOW_BYTES: Final = 32 << 20
"""How much of a large chunk is in memory at a time."""
NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC

OF_ONE_FILE: Final = (
    NotAnObjectError,
    ObjectNotFoundError,
    ChunkNotFoundError,
    InvalidObjectSizeError,
    ObjectModifiedError,
    UnauthorizedContainerError,
    FormatError,
    InvalidInputError,
    NotShownError,
)
"""What is wrong with one file alone; anything else ends the export."""
IN_THE_WAY: Final = frozenset({errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ENAMETOOLONG})


class Problem(NamedTuple):
    """A file that could not be exported, and why."""

    path: str
    reason: str


class File(NamedTuple):
    """A chunk's file as it should be: the row of its reference, its path, its size in bytes and its time."""

    row: int
    path: str
    size: int
    time_ns: int


@dataclass(slots=True)
class Part:
    """Chunks of one array: what is written of a set of references.

    Attributes:
        prefix: What the paths of the array's files begin with.
        layout: How its keys are written.
        refs: The references.
        times: When each of them changed last, in microseconds; None if all did at `uniform_time`.
        uniform_time: That.
        rows: The rows of `refs` that are written.
    """

    prefix: str
    layout: ChunkKeyLayout
    refs: ArrayRefs
    times: I64 | None
    uniform_time: int
    rows: I64

    def files(self, rows: I64) -> list[File]:
        """Returns the files of some rows."""
        numbers = rows.tolist()
        columns = [column[rows].tolist() for column in self.refs.coords]
        indices = zip(*columns, strict=True) if columns else itertools.repeat((), len(numbers))
        times = itertools.repeat(self.uniform_time) if self.times is None else self.times[rows].tolist()
        sizes = self.refs.lengths[rows].tolist()
        prefix, key = self.prefix, self.layout.format
        return [
            File(row, prefix + key(index), size, time * NS_PER_US)
            for row, index, size, time in zip(numbers, indices, sizes, times, strict=False)
        ]


@dataclass(slots=True)
class Outcome:
    """What became of some files."""

    files: int = 0
    bytes: int = 0
    written_files: int = 0
    written_bytes: int = 0
    failed: list[Problem] = field(default_factory=list)

    def add(self, size: int, *, is_written: bool) -> None:
        """Counts a file that is there now."""
        self.files += 1
        self.bytes += size
        self.written_files += is_written
        self.written_bytes += size if is_written else 0


def is_there(directory: Beneath, path: str, size: int, time_ns: int) -> bool:
    """Tells whether a file below a directory has just the length and time that it should have; through no link."""
    try:
        found = directory.status(path)
    except (OSError, NotAnObjectError):
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size == size and found.st_mtime_ns == time_ns


class _Objects:
    """The object of the repository that was read last, kept open: the next chunk may be in it too."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._chunk: ChunkId | None = None
        self._fd: int | None = None

    def open(self, chunk: ChunkId) -> int | None:
        """Opens the local file of a chunk object; None where there are no local files."""
        if chunk != self._chunk:
            self.close()
            self._fd = self._session.open_chunk_file(chunk)
            self._chunk = chunk
        return self._fd

    def close(self) -> None:
        self._chunk = None
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _New(NamedTuple):
    """A file to be written."""

    path: str
    size: int
    time_ns: int
    fill: Callable[[int], None]

    @property
    def directory(self) -> str:
        return self.path.rpartition("/")[0]


class Writer:
    """Writes files; from any number of threads.

    Concurrency: each call works below a directory of its own in the staging directory; two threads that made files in
    one directory would wait for each other.
    """

    def __init__(
        self, session: Session, target: Beneath, staging: str, *, has_files: bool, window_bytes: int = WINDOW_BYTES
    ) -> None:
        """Makes the writer.

        Args:
            session: The version.
            target: The directory.
            staging: Where temporary names go.
            has_files: Whether anything else is in the directory.
            window_bytes: How much of a large chunk is in memory at a time.
        """
        self._window_bytes = window_bytes
        self._session = session
        self._above = target.path("").rstrip("/") + "/"
        self._target = target
        self._staging = staging
        self._has_files = has_files
        self._lock = threading.Lock()
        # The directories whose zarr.json has been taken away if need be; and the files that were, as they were.
        self._hidden_above: set[str] = set()
        self._hidden: dict[str, tuple[int, int]] = {}
        self._numbers = itertools.count()
        self._is_local = session.context.storage.capabilities.local_files

    def hide_above(self, path: str) -> None:
        """Takes away the zarr.json of the array that a chunk is of, before the chunk is written or deleted.

        Those of groups above it go too where they have the array's metadata in themselves (consolidated metadata).
        `write_metadata` brings all of them back.
        """
        if not self._has_files:
            return
        directory = path.rpartition("/")[0]
        with self._lock:
            while directory not in self._hidden_above:
                self._hidden_above.add(directory)
                self._hide(f"{directory}/{METADATA_NAME}".lstrip("/"))
                directory = directory.rpartition("/")[0]

    def _hide(self, path: str) -> None:
        try:
            fd, found = self._target.open_file(path)
            with open(fd, "rb") as opened:
                told = document_of(opened.read()) or {}
            if told.get("node_type") == "group" and "consolidated_metadata" not in told:
                return
            with self._target.parent(path) as parent:
                os.unlink(parent.name, dir_fd=parent.fd)
        except (FileNotFoundError, NotADirectoryError, NotAnObjectError):
            return  # there is none, or something else in its place
        except OSError as error:
            raise disk_error("write", self._above + path, error) from error
        self._hidden[path] = found.st_size, found.st_mtime_ns

    def write_metadata(self, files: Sequence[tuple[str, bytes, int]]) -> Outcome:
        """Writes zarr.json files, each given by its path, its bytes and its time in microseconds."""
        outcome = Outcome()
        self._write(
            [_New(path, len(data), time * NS_PER_US, partial(write_all, data)) for path, data, time in files],
            outcome,
        )
        return outcome

    def write_chunks(self, part: Part, rows: I64) -> Outcome:
        """Writes chunks of one array."""
        outcome = Outcome()
        files = part.files(rows)
        fetched = {} if self._is_local else self._fetch_shared(part, files)
        with _Objects(self._session) as objects:
            new = [
                _New(
                    path,
                    size,
                    time_ns,
                    partial(write_all, fetched[row]) if row in fetched else partial(self._fill, part, row, objects),
                )
                for row, path, size, time_ns in files
            ]
            self._write(new, outcome)
        return outcome

    def _fetch_shared(self, part: Part, files: Sequence[File]) -> dict[int, bytes]:
        """Fetches chunks that lie in one object together, in few requests."""
        found: dict[int, bytes] = {}
        refs = part.refs
        native = [file for file in files if refs.kinds[file.row] == ChunkKind.NATIVE]
        for _, group in itertools.groupby(native, key=lambda file: refs.chunk_ids[file.row].tobytes()):
            wanted = [
                (file.row, ref)
                for file in group
                if isinstance(ref := refs.ref(file.row), NativeRef) and not self._is_there(*file[1:])
            ]
            if len(wanted) > 1:
                with contextlib.suppress(*OF_ONE_FILE):  # one by one it shows which of them it is
                    data = self._session.read_chunks([ref for _, ref in wanted])
                    found |= zip([row for row, _ in wanted], data, strict=True)
        return found

    def _is_there(self, path: str, size: int, time_ns: int) -> bool:
        return self._has_files and is_there(self._target, path, size, time_ns)

    def _write(self, files: Sequence[_New], outcome: Outcome) -> None:
        """Writes files that are not there."""
        missing = []
        for file in files:
            if self._is_there(file.path, file.size, file.time_ns):
                outcome.add(file.size, is_written=False)
            else:
                if not file.path.endswith(METADATA_NAME):
                    self.hide_above(file.path)
                missing.append(file)
        stage = self._new_stage()
        for directory, group in itertools.groupby(missing, key=lambda file: file.directory):
            together = list(group)
            # The directory of the export itself is not replaced: somebody may have it open.
            if len(together) > 1 and directory and not self._has_files:
                self._write_directory(directory, together, outcome)
            else:
                for number, file in enumerate(together):
                    staged = f"{stage}/{number}"
                    if self._make(staged, file, outcome):
                        self._place(staged, file, outcome)
        _remove(stage)

    def _new_stage(self) -> str:
        stage = f"{self._staging}/{next(self._numbers)}"
        try:
            os.mkdir(stage)
        except OSError as error:
            raise disk_error("write", stage, error) from error
        return stage

    def _write_directory(self, directory: str, files: Sequence[_New], outcome: Outcome) -> None:
        """Writes files of one directory; all of them come to their places at once if nothing is there yet."""
        stage = self._new_stage()
        made = []
        for file in files:
            staged = f"{stage}/{file.path[len(directory) :].lstrip('/')}"
            if self._make(staged, file, outcome):
                made.append((staged, file))
        try:
            in_directory(self._target, directory, partial(move, stage))
        except (OSError, NotAnObjectError):  # some of them are there, or something else; file by file it shows
            for staged, file in made:
                self._place(staged, file, outcome)
            _remove(stage)
        else:
            for _, file in made:
                outcome.add(file.size, is_written=True)

    def _make(self, staged: str, file: _New, outcome: Outcome) -> bool:
        """Makes a file whole under a temporary name; tells whether it could be."""
        try:
            fd = os.open(staged, NEW_FILE, 0o666)
            try:
                file.fill(fd)
                os.utime(fd, ns=(file.time_ns, file.time_ns))
            finally:
                os.close(fd)
        except OF_ONE_FILE as error:
            discard(staged)
            self._not_old(file.path)
            outcome.failed.append(Problem(file.path, error.own_message))
            return False
        except OSError as error:
            discard(staged)
            return self._in_the_way(error, file, outcome)
        except BaseException:
            discard(staged)
            raise
        return True

    def _place(self, staged: str, file: _New, outcome: Outcome) -> None:
        """Moves a file that is whole to its place."""
        try:
            in_directory(self._target, file.path, partial(move, staged))
        except OSError as error:
            discard(staged)
            self._in_the_way(error, file, outcome)
        except NotAnObjectError as error:
            discard(staged)
            found = f"{error.facts['path']} is {error.facts['what']}"
            outcome.failed.append(Problem(file.path, f"something else is in its place: {found}"))
        else:
            was = self._hidden.get(file.path)
            outcome.add(file.size, is_written=was != (file.size, file.time_ns))

    def _in_the_way(self, error: OSError, file: _New, outcome: Outcome) -> bool:
        """Notes that something else is where a file should be; raises any other error."""
        if error.errno not in IN_THE_WAY:
            raise disk_error("write", self._above + file.path, error) from error
        outcome.failed.append(Problem(file.path, f"something else is in its place: {error.strerror}"))
        return False

    def _not_old(self, path: str) -> None:
        """Leaves no file of another version in the place of one that cannot be had."""
        if self._has_files:
            with contextlib.suppress(OSError, NotAnObjectError), self._target.parent(path) as parent:
                os.unlink(parent.name, dir_fd=parent.fd)

    def _fill(self, part: Part, row: int, objects: _Objects, fd: int) -> None:
        ref = part.refs.ref(row)
        local = objects.open(ref.chunk_id) if self._is_local and isinstance(ref, NativeRef) else None
        if local is not None:
            assert isinstance(ref, NativeRef)
            if copy_range(local, fd, ref.offset_bytes, 0, ref.length_bytes) != ref.length_bytes:
                file = str(ref.chunk_id)
                raise InvalidObjectSizeError(f"chunk object {file} is too short for the chunk in it", path=file)
            return
        for start in range(0, ref.length_bytes, self._window_bytes):
            write_all(self._session.read_chunk(ref, start, start + self._window_bytes), fd)


def in_directory[T](target: Beneath, path: str, make: Callable[[Parent], T]) -> T:
    """Makes something at a path below a directory, and the directory that it is in if that is not there yet.

    No link on the way is followed.

    Each directory above may be found missing once more after it was made: while it is empty, another thread may move
    one that is full into its place, and a program that had looked up the empty one finds nothing there.
    """
    for _ in range(path.count("/") + 1):
        try:
            with target.parent(path) as parent:
                return make(parent)
        except FileNotFoundError:
            with contextlib.suppress(FileNotFoundError):
                target.make_directory(path.rpartition("/")[0])
    with target.parent(path) as parent:
        return make(parent)


def move(staged: str, parent: Parent) -> None:
    """Moves a file or directory to a place."""
    os.rename(staged, parent.name, dst_dir_fd=parent.fd)


def discard(staged: str) -> None:
    """Removes a file that is not going to its place."""
    with contextlib.suppress(OSError):
        os.unlink(staged)


def _remove(stage: str) -> None:
    # A directory that is not empty is removed at the end of the export.
    with contextlib.suppress(OSError):
        os.rmdir(stage)

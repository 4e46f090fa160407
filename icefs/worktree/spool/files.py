"""The bytes of a working tree: one spool file for each file that somebody wrote.

    <state>/spool/<id >> 12>/<id>          both in hexadecimal
    <state>/spool.lost/<id>                found when the tree was opened, and named by no row (`recovery`)

Ids count upwards and are never used twice, so a spool file's id also tells whether it existed when the tree was
frozen. Directories of 4096 consecutive files keep the file system's work local: on ext4, spreading the same files
over 256 directories by their low bits made creation six times slower (290 µs instead of 45 µs).

ext4 does not use an inode again for minutes after its file was removed, and looks at all of these first when it
makes one in the same block group: 1000 µs where some thousand spool files were removed before. So each directory
asks for a block group of its own (the flag T of chattr(1)), which ext4 chooses by the directory's name and by how few
directories there are; working trees therefore begin to count at different places (`TreeOptions.first_id`). As the
groups with the fewest are few, and were chosen before, it is also watched how long making a file takes: by the time
that this thread is at work for it, since to wait for a disk, or for the interpreter, says nothing of the place. Where
it is long another directory is begun.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import struct
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Final

from icefs.errors import (
    OPEN_FILES_HINT,
    FileTooLargeError,
    IcefsError,
    NoSpaceError,
    StorageError,
    TooManyFilesError,
    UnsupportedError,
)
from icefs.worktree.model.open_state import SpoolFile

_libc = ctypes.CDLL(None, use_errno=True)
_BUCKET_BITS = 12
_FICLONE = 0x40049409
_GET_FLAGS, _SET_FLAGS, _TOP_DIRECTORY = 0x80086601, 0x40086602, 0x20000
_COPY_BYTES = 1 << 20
_NEW_FILE = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
_MODE = 0o600
_LOST_MODE = 0o600 | stat.S_ISVTX
_SLOW_NS = 250_000
_SLOW_FILES = 16
_PLACES = 6
_NOT_TRIED_NS = 1 << 62
_TRIED = "."
_NO_REFLINK = frozenset({errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS})


def is_marked(status: os.stat_result) -> bool:
    """Tells whether the mode of a spool file says that bytes of it are lost."""
    return bool(status.st_mode & stat.S_ISVTX)


FULL_DISK_HINT: Final = "free some space; what is committed leaves the working tree"


def disk_error(error: OSError, what: str) -> IcefsError:
    """Returns the error to raise where the state directory's disk failed."""
    place = f" at {error.filename}" if isinstance(error.filename, str) else ""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return NoSpaceError(f"no space left on the disk of the working tree{place} ({what})", hint=FULL_DISK_HINT)
    if error.errno == errno.EFBIG:
        return FileTooLargeError(f"the file would be too large ({what})")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return TooManyFilesError(f"too many open files ({what})", hint=OPEN_FILES_HINT)
    return StorageError(
        f"the working tree's disk failed{place} ({what}): {error.strerror or error}",
        kind="io",
        hint="see what the disk says (dmesg), then try again: all changes are kept",
    )


class DiskIo:
    """The system calls on spool files, in one place so that tests can make them fail."""

    def create(self, path: str) -> int:
        """Opens a file that must not exist yet, for reading and writing."""
        return os.open(path, _NEW_FILE, _MODE)

    def try_place(self, path: str) -> None:
        """Makes a file in a directory, and removes it, to see how long that takes."""
        file = f"{path}/0"
        os.close(os.open(file, _NEW_FILE, 0o600))
        os.unlink(file)

    def open(self, path: str) -> int:
        """Opens a file for reading and writing."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def mkdir(self, path: str) -> None:
        """Makes a directory."""
        os.mkdir(path, 0o700)

    def spread(self, path: str) -> bool:
        """Has the directories in a directory lie far from each other on the disk; False where that is not chosen."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            flags = struct.unpack("l", fcntl.ioctl(fd, _GET_FLAGS, bytes(8)))[0]
            fcntl.ioctl(fd, _SET_FLAGS, struct.pack("l", flags | _TOP_DIRECTORY))
        except OSError:
            return False  # this file system has its own ways
        finally:
            os.close(fd)
        return True

    def pread(self, fd: int, size: int, offset: int) -> bytes:
        """Reads at an offset."""
        return os.pread(fd, size, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
        """Writes at an offset; may write less."""
        return os.pwrite(fd, data, offset)

    def truncate(self, fd: int, size: int) -> None:
        """Sets a file's size."""
        os.ftruncate(fd, size)

    def fallocate(self, fd: int, offset: int, length: int, mode: int) -> None:
        """Gives a part of a file its place, or takes it away."""
        if _libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def clone(self, source: int, target: int) -> bool:
        """Makes an empty file share the blocks of another; False if the file system cannot."""
        try:
            fcntl.ioctl(target, _FICLONE, source)
        except OSError as error:
            if error.errno in _NO_REFLINK:
                return False
            raise
        return True

    def copy_range(self, source: int, target: int, size: int, offset: int) -> int:
        """Copies bytes inside the kernel, to the same offset; may copy less."""
        return os.copy_file_range(source, target, size, offset, offset)

    def sync(self, fd: int) -> None:
        """Waits until a file's bytes are on the disk."""
        os.fdatasync(fd)

    def sync_dir(self, path: str) -> None:
        """Waits until a directory's entries are on the disk."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def chmod(self, path: str, mode: int) -> None:
        """Sets a file's permission bits."""
        os.chmod(path, mode)

    def unlink(self, path: str) -> None:
        """Removes a file."""
        os.unlink(path)

    def rmdir(self, path: str) -> None:
        """Removes a directory."""
        os.rmdir(path)

    def rename(self, old: str, new: str) -> None:
        """Renames a file or directory."""
        os.rename(old, new)


def spool_path(base: str, spool_id: int) -> str:
    """Returns where a spool file of the directory `base` is."""
    return f"{base}/{spool_id >> _BUCKET_BITS:x}/{spool_id:x}"


class Spool:
    """The spool files of one state directory.

    Concurrency: methods may be called from any thread; each concerns one id that its caller owns.
    """

    def __init__(self, directory: Path, io: DiskIo, clock_ns: Callable[[], int] = time.thread_time_ns) -> None:
        self.directory = directory
        self.io = io
        self._clock_ns = clock_ns
        self._base = os.fspath(directory)
        self.lost_directory = f"{self._base}.lost"
        self._new_buckets: set[int] = set()
        self._tried = count()
        self._is_spread = io.spread(self._base)
        self._is_choosy = self._is_spread
        self._slow_files = 0
        self._worn = -1

    def path(self, spool_id: int) -> str:
        """Returns where a spool file is."""
        return spool_path(self._base, spool_id)

    def create(self, spool_id: int) -> SpoolFile:
        """Makes an empty spool file.

        Raises:
            NoSpaceError: the disk is full.
        """
        path, bucket = self.path(spool_id), spool_id >> _BUCKET_BITS
        try:
            began = self._clock_ns()
            try:
                file = SpoolFile(spool_id, self.io.create(path))
            except FileNotFoundError:
                # The first of 4096: its bucket does not exist yet.
                self._make_bucket(bucket)
                return SpoolFile(spool_id, self.io.create(path))
        except OSError as error:
            raise disk_error(error, "creating a spool file") from error
        if self._is_choosy:
            if self._clock_ns() - began < _SLOW_NS:
                self._slow_files = 0
            else:
                self._slow_files += 1
                if self._slow_files == _SLOW_FILES:
                    self._worn = bucket
        return file

    def first_id(self, next_id: int) -> int:
        """Returns the id to go on with for spool files, `next_id` or later: not in a place that has become slow."""
        bucket = next_id >> _BUCKET_BITS
        return next_id if bucket != self._worn else (bucket + 1) << _BUCKET_BITS

    def _make_bucket(self, bucket: int) -> None:
        """Makes the directory of a bucket where files are made quickly; another thread may do so, too."""
        path = f"{self._base}/{bucket:x}"
        if self._is_spread:
            places: list[tuple[int, str]] = []
            try:
                self._try_places(f"{path}{_TRIED}", places)
                quickest, place = min(places)
                # Where all places are slow, one is as good as another.
                self._is_choosy, self._slow_files = quickest < _SLOW_NS, 0
                self._name_bucket(place, path)
            finally:
                for _, place in places:
                    with contextlib.suppress(OSError):  # it has its name, or opening the tree removes it
                        self.io.rmdir(place)
        else:
            with contextlib.suppress(FileExistsError):
                self.io.mkdir(path)
        self._new_buckets.add(bucket)

    def _try_places(self, prefix: str, places: list[tuple[int, str]]) -> None:
        """Makes directories until files are made quickly in one; notes how long that takes, in nanoseconds."""
        while not places or (len(places) < _PLACES and places[-1][0] >= _SLOW_NS):
            place = f"{prefix}{next(self._tried)}"
            self.io.mkdir(place)
            places.append((_NOT_TRIED_NS, place))
            began = self._clock_ns()
            self.io.try_place(place)
            places[-1] = self._clock_ns() - began, place

    def _name_bucket(self, place: str, path: str) -> None:
        try:
            self.io.rename(place, path)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
            # Another thread was faster, and files are there already.

    def rename(self, file: SpoolFile, spool_id: int) -> None:
        """Gives a spool file another id."""
        try:
            with contextlib.suppress(FileExistsError):
                self.io.mkdir(os.path.dirname(self.path(spool_id)))
                self._new_buckets.add(spool_id >> _BUCKET_BITS)
            self.io.rename(self.path(file.id), self.path(spool_id))
        except OSError as error:
            raise disk_error(error, "renaming a spool file") from error
        file.id = spool_id

    def open(self, spool_id: int) -> SpoolFile:
        """Opens a spool file."""
        try:
            return SpoolFile(spool_id, self.io.open(self.path(spool_id)))
        except OSError as error:
            raise disk_error(error, "opening a spool file") from error

    def remove(self, spool_id: int) -> None:
        """Removes a spool file; one that cannot be removed stays until the tree is opened again."""
        try:
            self.io.unlink(self.path(spool_id))
        except OSError:
            # Nothing refers to it any more; opening the tree sweeps it.
            return

    def mark(self, spool_id: int, *, is_lost: bool) -> None:
        """Has a file's mode tell whether bytes of it are lost; takes no space.

        Raises:
            OSError: the file is gone, or the disk refuses.
        """
        self.io.chmod(self.path(spool_id), _LOST_MODE if is_lost else _MODE)

    def stat(self, spool_id: int) -> os.stat_result | None:
        """Returns the file's size and times, None if it does not exist."""
        try:
            return os.stat(self.path(spool_id))
        except FileNotFoundError:
            return None

    def set_aside(self, spool_id: int) -> None:
        """Moves a file that nothing refers to out of the spool, where it is kept."""
        try:
            with contextlib.suppress(FileExistsError):
                self.io.mkdir(self.lost_directory)
            target, number = f"{self.lost_directory}/{spool_id:x}", 0
            while os.path.lexists(target):
                number += 1
                target = f"{self.lost_directory}/{spool_id:x}.{number}"
            self.io.rename(self.path(spool_id), target)
        except OSError as error:
            raise disk_error(error, f"moving a spool file to {self.lost_directory}") from error

    def bring_back(self, spool_id: int) -> os.stat_result | None:
        """Moves a file that was set aside back, because a row names it; returns what `stat` does then."""
        aside = f"{self.lost_directory}/{spool_id:x}"
        if not os.path.exists(aside):
            return None
        try:
            with contextlib.suppress(FileExistsError):
                self.io.mkdir(os.path.dirname(self.path(spool_id)))
            self.io.rename(aside, self.path(spool_id))
        except OSError as error:
            raise disk_error(error, f"moving a spool file from {self.lost_directory}") from error
        return self.stat(spool_id)

    def fallocate(self, file: SpoolFile, offset: int, length: int, mode: int) -> None:
        """Gives a part of a spool file its place on the disk, or takes it away.

        Raises:
            UnsupportedError: the disk does not know the mode.
        """
        try:
            self.io.fallocate(file.fd, offset, length, mode)
        except OSError as error:
            if error.errno in {errno.EOPNOTSUPP, errno.ENOSYS}:
                raise UnsupportedError("the disk of the working tree does not support this fallocate") from error
            raise disk_error(error, "fallocate") from error

    def copy(self, source: SpoolFile, target: SpoolFile, size: int) -> None:
        """Fills a new spool file with the first `size` bytes of another one; shares blocks where possible.

        Raises:
            NoSpaceError: the disk is full; the target's content is undefined.
        """
        try:
            if self.io.clone(source.fd, target.fd):
                self.io.truncate(target.fd, size)
                return
            done = 0
            while done < size:
                count = self._copy_some(source.fd, target.fd, min(_COPY_BYTES, size - done), done)
                if not count:
                    break
                done += count
            self.io.truncate(target.fd, size)
        except OSError as error:
            raise disk_error(error, "copying a spool file") from error

    def _copy_some(self, source: int, target: int, size: int, offset: int) -> int:
        try:
            return self.io.copy_range(source, target, size, offset)
        except OSError as error:
            if error.errno not in _NO_REFLINK:
                raise
        data = self.io.pread(source, size, offset)
        done = 0
        while done < len(data):
            done += self.io.pwrite(target, memoryview(data)[done:], offset + done)
        return done

    def sync(self, file: SpoolFile) -> None:
        """Returns when the bytes of a spool file are on the disk, and its size.

        Raises:
            NoSpaceError, StorageError: bytes are lost. The system says so once, and calls the file clean afterwards.
        """
        try:
            self.io.sync(file.fd)
        except OSError as error:
            raise disk_error(error, "fsync") from error

    def sync_entry(self, file: SpoolFile) -> None:
        """Returns when the directory entry of a spool file is on the disk.

        Its directory is synced once, and for a new bucket the spool directory.
        """
        try:
            if not file.is_entry_synced:
                bucket = file.id >> _BUCKET_BITS
                self.io.sync_dir(f"{self._base}/{bucket:x}")
                if bucket in self._new_buckets:
                    self.io.sync_dir(self._base)
                    self._new_buckets.discard(bucket)
                file.is_entry_synced = True
        except OSError as error:
            raise disk_error(error, "fsync") from error

    def scan(self) -> Iterator[int]:
        """Yields the ids of all spool files there are; passes over names that are none.

        Directories that an earlier try left are removed.
        """
        with os.scandir(self._base) as buckets:
            names = [entry.name for entry in buckets if entry.is_dir(follow_symlinks=False)]
        for name in names:
            if _TRIED in name:
                shutil.rmtree(f"{self._base}/{name}", ignore_errors=True)
                continue
            with os.scandir(f"{self._base}/{name}") as files:
                for entry in files:
                    spool_id = _parse_id(entry.name)
                    if spool_id is not None and f"{spool_id >> _BUCKET_BITS:x}" == name:
                        yield spool_id


def read_bytes(io: DiskIo, fd: int, offset: int, size: int) -> bytes:
    """Reads `size` bytes of an open spool file, fewer only where it ends.

    Raises:
        StorageError: the disk failed.
    """
    try:
        data = io.pread(fd, size, offset)
        if len(data) == size or not data:
            return data
        parts = [data]
        done = len(data)
        while done < size and (data := io.pread(fd, size - done, offset + done)):
            parts.append(data)
            done += len(data)
        return b"".join(parts)
    except OSError as error:
        raise disk_error(error, "reading a spool file") from error


def write_bytes(io: DiskIo, fd: int, data: bytes | bytearray | memoryview, offset: int) -> int:
    """Writes bytes to an open spool file.

    Returns:
        How many were written; fewer than given only if the disk became full on the way.

    Raises:
        NoSpaceError: the disk is full; nothing was written.
        StorageError: the disk failed.
    """
    done = 0
    try:
        done = io.pwrite(fd, data, offset)
        while done < len(data):
            count = io.pwrite(fd, memoryview(data)[done:], offset + done)
            if not count:
                break
            done += count
    except OSError as error:
        if not done:
            raise disk_error(error, "writing a spool file") from error
    return done


def _parse_id(name: str) -> int | None:
    try:
        value = int(name, 16)
    except ValueError:
        return None
    return value if f"{value:x}" == name else None

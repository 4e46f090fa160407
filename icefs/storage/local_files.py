r"""How objects lie in a local directory: names, staging, durability, the lock, and what errors of the disk mean.

The official library keeps local repositories through the `object_store` crate; both must be able to use one
directory at the same time. Its conventions, which hold here too:

- Certain characters of each path segment are percent-encoded on disk: everything outside printable ASCII and
  `" # % * < > ? [ \ ] ^ ` { | } ~`.
- A file whose name ends in `#` and digits is no object. New contents are written to such a name beside the final
  one, and renamed (create-only: linked) when whole. Objects are never changed in place: a backup is a hard link.

Source: format notes §7.1.
"""

import ctypes
import errno
import fcntl
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import quote, unquote

from icefs.errors import (
    AccessDeniedError,
    InvalidInputError,
    NameTooLongError,
    NoSpaceError,
    ObjectNotFoundError,
    ReadOnlyError,
    StorageError,
    UnreachableError,
)
from icefs.storage.base import Version

LOCK_NAME = "icefs.lock#0"
"""The file in a repository's root that icefs processes lock (flock) while they replace `repo`.

It ends in `#` and a digit, so the official library neither lists it nor finds the root "not clean" because of it.
It is made by the first update of an existing object, never by reading.
"""

_ENCODED = '"#%*<>?[\\]^`{|}~'
_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in _ENCODED)
_PLAIN = re.compile(f"[{re.escape(_SAFE)}]*", re.ASCII)
# What is kept of a long name in front of `#<digits>`: a file name has at most 255 bytes.
_STAGED_NAME_MAX = 200
_READ_CHUNK = 1 << 30
_COPY_CHUNK = 1 << 20

# File systems without hard links; a file that may not be linked (fs.protected_hardlinks); too many links.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)

_libc = ctypes.CDLL(None, use_errno=True)


def encode_name(text: str) -> str:
    """Encodes a key or one of its segments as it stands on disk."""
    # quote() takes "~" for safe whatever it is told.
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE).replace("~", "%7E")


def decode_name(name: str) -> str | None:
    """Returns the key segment that a name on disk stands for; None where it stands for none."""
    if _PLAIN.fullmatch(name):
        return name
    segment = unquote(name)
    try:
        return segment if encode_name(segment) == name and segment not in (".", "..") else None
    except UnicodeEncodeError:
        return None  # The name is not UTF-8.


_MISSING = (errno.ENOENT, errno.ENOTDIR)
_CLASSES: dict[int, type[StorageError]] = {
    **dict.fromkeys(_MISSING, ObjectNotFoundError),
    errno.EACCES: AccessDeniedError,
    errno.EPERM: AccessDeniedError,
    errno.ENOSPC: NoSpaceError,
    errno.EDQUOT: NoSpaceError,
    errno.EFBIG: NoSpaceError,
    errno.ETIMEDOUT: UnreachableError,  # network file systems
    errno.EHOSTDOWN: UnreachableError,
    errno.ENOTCONN: UnreachableError,
}


def storage_error(
    error: OSError, action: str, path: str, *, writing: bool = False
) -> StorageError | ReadOnlyError | InvalidInputError:
    """Translates what the operating system said about a file of the repository.

    Args:
        error: What was raised.
        action: What was tried, as "cannot … PATH".
        path: The file.
        writing: Whether a new file was being made: a missing path is then no missing object.
    """
    reason = os.strerror(error.errno) if error.errno else str(error)
    message = f"cannot {action} {path}: {reason}"
    if error.errno == errno.EROFS:
        return ReadOnlyError(message, kind="object-store", path=path)
    if error.errno == errno.ENAMETOOLONG:
        return NameTooLongError(message, path=path)
    cls = StorageError if writing and error.errno in _MISSING else _CLASSES.get(error.errno or 0, StorageError)
    return cls(message, path=path, errno=error.errno)


def version_of(status: os.stat_result) -> Version:
    """Returns the version of an object from its file's status.

    Objects are replaced by rename, so a version has an inode of its own; `stage` gives it a modification time of
    its own too, for the inode number may come back.
    """
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def open_object(path: str) -> tuple[int, os.stat_result]:
    """Opens an object's file for reading.

    Raises:
        OSError: as open(2); ENOENT also for what is not a regular file.
    """
    # O_NONBLOCK: a FIFO that somebody put there must not block; it means nothing for regular files.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a regular file", path)
    except BaseException:
        os.close(fd)
        raise
    return fd, status


def read_exactly(fd: int, start: int, end: int) -> bytes:
    """Reads `[start, end)` of a file that is at least that long.

    Raises:
        OSError: as pread(2); EIO if the file ended early all the same.
    """
    data = os.pread(fd, min(end - start, _READ_CHUNK), start)
    if len(data) == end - start:
        return data
    parts = [data]
    position = start + len(data)
    while position < end:
        data = os.pread(fd, min(end - position, _READ_CHUNK), position)
        if not data:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        parts.append(data)
        position += len(data)
    return b"".join(parts)


def staged_name(path: str) -> str:
    """Returns a new name beside `path` for a file that is no object."""
    directory, _, name = path.rpartition("/")
    return f"{directory}/{name[:_STAGED_NAME_MAX]}#{int.from_bytes(os.urandom(7))}"


def stage(path: str, data: bytes | memoryview, *, durable: bool) -> tuple[str, Version]:
    """Writes contents to a new file beside `path` that is no object yet.

    Returns:
        Its path, and the version that it will be once it is renamed or linked to `path`.

    Raises:
        OSError: as open(2), write(2), fsync(2); nothing is left behind.
    """

    def fill(fd: int) -> None:
        view = memoryview(data).cast("B")
        while len(view):
            view = view[os.write(fd, view[:_READ_CHUNK]) :]

    return _stage(path, fill, durable=durable)


def stage_file(path: str, source: str) -> tuple[str, Version]:
    """Copies a file to a new file beside `path`, inside the kernel where that can be; else as `stage`."""

    def fill(fd: int) -> None:
        from_fd = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        try:
            left = os.fstat(from_fd).st_size
            while left:
                copied = _copy_some(from_fd, fd, min(left, _READ_CHUNK))
                if not copied:
                    raise OSError(errno.EIO, "the file became shorter while it was read", source)
                left -= copied
        finally:
            os.close(from_fd)

    return _stage(path, fill, durable=False)


def _copy_some(source: int, target: int, size: int) -> int:
    """Copies bytes from where one file stands to where the other does; returns how many."""
    try:
        return os.copy_file_range(source, target, size)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
            raise
    data = memoryview(os.read(source, min(size, _COPY_CHUNK)))
    done = 0
    while done < len(data):
        done += os.write(target, data[done:])
    return done


def _stage(path: str, fill: Callable[[int], None], *, durable: bool) -> tuple[str, Version]:
    staged = staged_name(path)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        try:
            fill(fd)
            # The kernel's own time stamps are several milliseconds apart: two versions could share one.
            now_ns = time.time_ns()
            os.utime(fd, ns=(now_ns, now_ns))
            if durable:
                os.fsync(fd)
            version = version_of(os.fstat(fd))
        finally:
            os.close(fd)
    except BaseException:
        discard(staged)
        raise
    return staged, version


class Adoption:
    """Takes files over as objects by a second name (hard link), where that makes the same of them as a copy would.

    It does not in a directory that gives new files a group or access rights of its own, on another file system, or
    for a file that is somebody else's. Safe for threads: what is known of a directory is only ever added.
    """

    def __init__(self) -> None:
        self._devices: dict[str, int] = {}
        self._mode: int | None = None

    def adopt(self, source: str, path: str) -> Version | None:
        """Links `source` to `path`, over what is there; None if it has to be copied.

        Raises:
            OSError: as stat(2), link(2); ENOENT also where the directory of `path` is missing.
        """
        directory = path.rpartition("/")[0]
        device = self._devices.get(directory)
        if device is None:
            device = self._devices[directory] = _linkable_device(directory)
        status = os.stat(source)
        if status.st_dev != device:
            return None
        if self._mode is None:
            self._mode = 0o666 & ~_umask()
        try:
            now_ns = time.time_ns()
            os.utime(source, ns=(now_ns, now_ns))
            os.chmod(source, self._mode)
            try:
                os.link(source, path)
            except FileExistsError:
                staged = staged_name(path)
                os.link(source, staged)
                os.rename(staged, path)
                discard(staged)  # renaming one link over another does nothing
        except OSError as error:
            if error.errno in NO_LINKS:
                return None
            raise
        return version_of(os.stat(path))


def _linkable_device(directory: str) -> int:
    """Returns the device of a directory, -1 if files that are linked into it differ from new ones."""
    status = os.stat(directory)
    if status.st_mode & stat.S_ISGID and status.st_gid != os.getegid():
        return -1
    try:
        os.getxattr(directory, "system.posix_acl_default")
    except OSError as error:
        return status.st_dev if error.errno in (errno.ENODATA, errno.EOPNOTSUPP) else -1
    return -1


def _umask() -> int:
    # The system call that tells the mask also sets it, for all threads.
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o077  # unknown: only the owner may read


def discard(staged: str) -> None:
    """Removes a staged file; one that cannot be removed is no object and does no harm."""
    with suppress(OSError):
        os.unlink(staged)


def fsync_path(path: str) -> None:
    """Makes a file's contents, or a directory's entries, durable; one that is gone needs nothing.

    Raises:
        OSError: as open(2) and fsync(2).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# What a disk says when it lost data; anything else (too many open files, …) can pass.
_LOST = (errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENXIO, errno.ESTALE)


class PendingWrites:
    """What was written and may not be on the disk yet.

    Few files are synced one by one. Beyond `MAX_FILES`, one syncfs(2) is cheaper (10 000 files of 10 KiB: 0.15 s
    where one by one takes 1.5 s), although it also waits for what other programs wrote to the file system.

    A flush that failed is never followed by one that succeeds: the kernel reports a lost page once, and afterwards
    calls the file clean.

    Threads may add while another one flushes. INVARIANT: a path that `add` took is in `_files` or `_directories`,
    or `_too_many` or `_failure` is set, or a flush that began later succeeded or is under way under `_flushing`.
    """

    MAX_FILES = 64

    def __init__(self, root: str) -> None:
        self._root = root
        self._lock = threading.Lock()
        # Held while the disk works: who asks for durability must wait for a flush that took its files already.
        self._flushing = threading.Lock()
        self._files: set[str] = set()
        self._directories: set[str] = set()
        self._too_many = False
        self._failure = 0

    def add(self, path: str) -> None:
        """Notes that an object was written at `path`."""
        with self._lock:
            if not self._too_many:
                self._files.add(path)
                self._directories.add(path.rpartition("/")[0])
                self._too_many = len(self._files) > self.MAX_FILES
                if self._too_many:
                    self._files.clear()
                    self._directories.clear()

    def add_directory(self, path: str) -> None:
        """Notes that an entry was made in the directory `path`."""
        with self._lock:
            if not self._too_many:
                self._directories.add(path)

    def flush(self) -> None:
        """Makes durable all that was added before the call.

        Raises:
            OSError: it could not be, or an earlier flush could not.
        """
        with self._flushing:
            if self._failure:
                raise OSError(self._failure, "an earlier write was lost")
            with self._lock:
                files, directories, too_many = self._files, self._directories, self._too_many
                self._files, self._directories, self._too_many = set(), set(), False
            try:
                if too_many:
                    _syncfs(self._root)
                else:
                    for path in (*files, *directories):
                        fsync_path(path)
            except BaseException as error:
                with self._lock:
                    self._files |= files
                    self._directories |= directories
                    self._too_many |= too_many
                if isinstance(error, OSError) and error.errno in _LOST:
                    self._failure = error.errno
                raise


def _syncfs(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), path)
    finally:
        os.close(fd)


@contextmanager
def exclusive(root: str, *, timeout_s: float) -> Iterator[None]:
    """Holds the lock under which icefs replaces objects of the repository at `root`.

    flock(2) belongs to the open file, and every caller opens its own: threads exclude each other too.

    Raises:
        StorageError: another process kept the lock for longer than `timeout_s`.
        OSError: as open(2), flock(2).
    """
    path = f"{root}/{LOCK_NAME}"
    deadline = time.monotonic() + timeout_s
    pause_s = 0.0002
    while True:
        fd = _open_lock(path)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                break
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                raise StorageError(
                    f"another process has held the lock {path} for {timeout_s:g} s",
                    hint="find it with `fuser` or `lslocks`; the lock ends with the process",
                    path=path,
                ) from None
        except BaseException:
            os.close(fd)
            raise
        # Not blocking in flock(2), which has no timeout: a stopped process must not hang us.
        os.close(fd)
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.005)
    try:
        yield
    finally:
        os.close(fd)


def _open_lock(path: str) -> int:
    # For reading only: a file that another user of the repository made may not be writable for us.
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)


def _is_at(fd: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False

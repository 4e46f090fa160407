r"""How objects lie in a local directory: names, staging, durability, and what errors of the disk mean.

The official library keeps local repositories through the `object_store` crate; both must be able to use one
directory at the same time. Its conventions, which hold here too:

- Certain characters of each path segment are percent-encoded on disk: everything outside printable ASCII and
  `" # % * < > ? [ \ ] ^ ` { | } ~`.
- A file whose name ends in `#` and digits is no object. New contents are written to such a name next to the final
  one, and renamed (create-only: linked) when whole. Objects are never changed in place: a backup is a hard link.

Source: format notes §7.1.
"""

import errno
import os
import re
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote, unquote

from icefs.errors import (
    OPEN_FILES_HINT,
    AccessDeniedError,
    InvalidInputError,
    NameTooLongError,
    NoSpaceError,
    ObjectNotFoundError,
    ReadOnlyError,
    StorageError,
    TooManyFilesError,
    UnreachableError,
)
from icefs.storage.base import Version
from icefs.storage.local.beneath import Beneath, Parent

_ENCODED = '"#%*<>?[\\]^`{|}~'
_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in _ENCODED)
_PLAIN = re.compile(f"[{re.escape(_SAFE)}]*", re.ASCII)
# What is kept of a long name in front of `#<digits>`: a file name has at most 255 bytes.
_STAGED_NAME_MAX = 200
_READ_CHUNK = 1 << 30
_COPY_CHUNK = 1 << 20

# File systems without hard links; a file that may not be linked (fs.protected_hardlinks); too many links.
NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV)


def encode_name(text: str) -> str:
    """Encodes a key or one of its segments as it stands on disk."""
    # quote() takes "~" for safe whatever its arguments.
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
    errno.EMFILE: TooManyFilesError,
    errno.ENFILE: TooManyFilesError,
    errno.ETIMEDOUT: UnreachableError,  # network file systems
    errno.EHOSTDOWN: UnreachableError,
    errno.ENOTCONN: UnreachableError,
}

_HINTS: dict[type[StorageError], str] = {
    AccessDeniedError: "change its permissions, or ask its owner",
    TooManyFilesError: OPEN_FILES_HINT,
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
    return cls(message, hint=_HINTS.get(cls), path=path, errno=error.errno)


def version_of(status: os.stat_result) -> Version:
    """Returns the version of an object from its file's status.

    Objects are replaced by rename, so a version has an inode of its own; `stage` gives it a modification time of
    its own too, for the inode number may come back.
    """
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


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


def staged_name(name: str) -> str:
    """Returns a new name for a file next to an object, which is no object itself."""
    return f"{name[:_STAGED_NAME_MAX]}#{int.from_bytes(os.urandom(7))}"


def stage(parent: Parent, data: bytes | memoryview, *, durable: bool) -> tuple[str, Version]:
    """Writes contents to a new file next to an object's place that is no object yet.

    Returns:
        Its name there, and the version that it will be once it is renamed or linked to the object's.

    Raises:
        OSError: as open(2), write(2), fsync(2); nothing is left behind.
    """

    def fill(fd: int) -> None:
        view = memoryview(data).cast("B")
        while len(view):
            view = view[os.write(fd, view[:_READ_CHUNK]) :]

    return _stage(parent, fill, durable=durable)


def stage_file(parent: Parent, source: str) -> tuple[str, Version]:
    """Copies a file to a new one next to an object's place, inside the kernel where that can be; else as `stage`."""
    from_fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return stage_open(parent, from_fd, source)
    finally:
        os.close(from_fd)


def stage_open(parent: Parent, from_fd: int, source: str) -> tuple[str, Version]:
    """Does as `stage_file` with a file that is open at its start; `source` names it in errors."""

    def fill(fd: int) -> None:
        left = os.fstat(from_fd).st_size
        while left:
            copied = _copy_some(from_fd, fd, min(left, _READ_CHUNK))
            if not copied:
                raise OSError(errno.EIO, "the file became shorter while it was read", source)
            left -= copied

    return _stage(parent, fill, durable=False)


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


def _stage(parent: Parent, fill: Callable[[int], None], *, durable: bool) -> tuple[str, Version]:
    staged = staged_name(parent.name)
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666, dir_fd=parent.fd)
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
        discard(parent, staged)
        raise
    return staged, version


class Adoption:
    """Takes files over as objects by a second name (hard link), where that makes the same of them as a copy would.

    It does not in a directory that gives new files a group or access rights of its own, on another file system, or
    for a file that is somebody else's. Safe for threads: facts about a directory are only ever added.
    """

    def __init__(self) -> None:
        self._devices: dict[str, int] = {}
        self._mode: int | None = None

    def adopt(self, source: str, directory: str, parent: Parent) -> Version | None:
        """Links `source` to an object's place, over what is there; None if it has to be copied.

        Args:
            source: Path of the file.
            directory: What names the directory of the object.
            parent: The same, open, and the object's name.

        Raises:
            OSError: as stat(2), link(2).
        """
        device = self._devices.get(directory)
        if device is None:
            device = self._devices[directory] = _linkable_device(parent.fd)
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
                os.link(source, parent.name, dst_dir_fd=parent.fd, follow_symlinks=False)
            except FileExistsError:
                staged = staged_name(parent.name)
                os.link(source, staged, dst_dir_fd=parent.fd, follow_symlinks=False)
                move(parent, staged)
        except OSError as error:
            if error.errno in NO_LINKS:
                return None
            raise
        return version_of(parent.status())


def _linkable_device(directory: int) -> int:
    """Returns the device of an open directory, -1 if files that are linked into it differ from new ones."""
    status = os.fstat(directory)
    if status.st_mode & stat.S_ISGID and status.st_gid != os.getegid():
        return -1
    try:
        os.getxattr(f"/proc/self/fd/{directory}", "system.posix_acl_default")
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


def move(parent: Parent, staged: str) -> None:
    """Renames a staged file to its object's name; takes it away if it cannot be."""
    try:
        os.rename(staged, parent.name, src_dir_fd=parent.fd, dst_dir_fd=parent.fd)
    except BaseException:
        discard(parent, staged)
        raise


def discard(parent: Parent, staged: str) -> None:
    """Removes a staged file; one that cannot be removed is no object and does no harm."""
    with suppress(OSError):
        os.unlink(staged, dir_fd=parent.fd)


def fsync_path(path: str) -> None:
    """Makes the entries of a directory above the repository durable; one that is gone needs nothing.

    Raises:
        OSError: as open(2) and fsync(2).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
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

    def __init__(self, files: Beneath) -> None:
        """Starts with nothing written.

        Args:
            files: The directory that relative paths are below; absolute ones are those above it.
        """
        self._files_below = files
        self._lock = threading.Lock()
        # Held while the disk works: a writer that asks for durability waits for a flush that took its files already.
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
                    self._files_below.sync_all()
                else:
                    for path in (*files, *directories):
                        self._sync(path)
            except BaseException as error:
                with self._lock:
                    self._files |= files
                    self._directories |= directories
                    self._too_many |= too_many
                if isinstance(error, OSError) and error.errno in _LOST:
                    self._failure = error.errno
                raise

    def _sync(self, path: str) -> None:
        if path.startswith("/"):
            fsync_path(path)
        else:
            self._files_below.sync(path)

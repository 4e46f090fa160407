"""The lock under which icefs processes replace objects of one local repository.

It is a file in the repository's root, locked with flock(2). Only users who may write to the root can open it, so that
nobody else can hold it: its mode, group and access list are the root's, with reading for writers alone. The lock is
held by an open file, and each caller opens its own: threads exclude each other too.
"""

import errno
import fcntl
import os
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from icefs.errors import AccessDeniedError, StorageError
from icefs.storage.local.beneath import Beneath, Parent, refuse
from icefs.storage.local.files import discard, move, staged_name

LOCK_NAME: Final = "icefs.lock#0"
"""The file in a repository's root that icefs processes lock (flock) while they replace `repo`.

It ends in `#` and a digit, so the official library neither lists it nor finds the root "not clean" because of it.
It is made by the first update of an existing object, never by reading.
"""

_OPEN: Final = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_ACL: Final = "system.posix_acl_access"
_ACL_HEADER: Final = struct.Struct("<I")
_ACL_ENTRY: Final = struct.Struct("<HHI")
_WRITE: Final = 2
_READ_AND_WRITE: Final = 6
# For so long a lock file may be there and not open to the users who share the repository: it is just being made.
_MAKING_S: Final = 1.0
_CANNOT_LOCK: Final = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL)


@contextmanager
def exclusive(files: Beneath, *, timeout_s: float) -> Iterator[None]:
    """Holds the lock of the repository at `files`.

    Raises:
        StorageError: another process kept the lock for longer than `timeout_s`, or the file system has no locks.
        AccessDeniedError: this user may not open the lock.
        NotAnObjectError: something that is no file is in its place.
        OSError: as open(2).
    """
    with files.parent(LOCK_NAME) as parent:
        held = _acquire(parent, files.path(LOCK_NAME), timeout_s)
        try:
            yield
        finally:
            for fd in held:
                os.close(fd)


def _acquire(parent: Parent, path: str, timeout_s: float) -> list[int]:
    """Waits for the lock, and returns the descriptors that hold it."""
    began = time.monotonic()
    patience_s = min(_MAKING_S, timeout_s / 2)
    pause_s = 0.0002
    while True:
        fd = _open_lock(parent, path, is_patient=time.monotonic() - began < patience_s)
        if fd is not None:
            held = [fd]
            try:
                if _lock(fd, path) and _is_at(fd, parent):
                    renewed = _renew(parent, fd)
                    return held if renewed is None else [*held, renewed]
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        if time.monotonic() - began > timeout_s:
            raise StorageError(
                f"another process has held the lock {path} for {timeout_s:g} s",
                hint="find it with `fuser` or `lslocks`; the lock ends with the process",
                path=path,
            )
        # Not blocking in flock(2), which has no timeout: a stopped process must not hang us.
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.005)


def _open_lock(parent: Parent, path: str, *, is_patient: bool) -> int | None:
    """Opens the lock file, and makes it if there is none; None where that has to be tried again."""
    try:
        fd = _open(parent)
    except FileNotFoundError:
        try:
            return _make(parent, parent.name)
        except FileExistsError:
            return None
    except PermissionError as error:
        if is_patient:
            return None
        raise AccessDeniedError(
            f"the lock of the repository may not be opened for writing: {path}",
            hint="its group and mode should be those of the repository's directory, as chgrp and chmod set them",
            path=path,
        ) from error
    except OSError as error:
        with suppress(FileNotFoundError):
            _check_kind(parent.status(), path)
        if error.errno == errno.ELOOP:
            return None  # it was a link a moment ago
        raise
    try:
        _check_kind(os.fstat(fd), path)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _open(parent: Parent) -> int:
    try:
        return os.open(parent.name, os.O_RDWR | _OPEN, dir_fd=parent.fd)
    except PermissionError:
        # An earlier icefs made it, for another user: the users who share the repository can read it.
        return os.open(parent.name, os.O_RDONLY | _OPEN, dir_fd=parent.fd)


def _check_kind(status: os.stat_result, path: str) -> None:
    refuse(status, path)
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(
            f"the lock of the repository is no file: {path}", hint="remove it", path=path, errno=errno.EISDIR
        )


def _lock(fd: int, path: str) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        raise StorageError(
            f"the file system has no locks, which changing a repository needs: {path}: {error.strerror}",
            hint="mount the file system with locks, or keep the repository elsewhere",
            path=path,
            errno=error.errno,
        ) from error
    return True


def _is_at(fd: int, parent: Parent) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), parent.status())
    except FileNotFoundError:
        return False


# Rights to open it.


def _make(parent: Parent, name: str) -> int:
    """Makes a lock file that the users who may write to the directory can open, and nobody else.

    Raises:
        OSError: as open(2) and fchmod(2); EEXIST if there is one.
    """
    fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=parent.fd)
    try:
        directory = os.fstat(parent.fd)
        for owner in (directory.st_uid, -1):  # only root can give it to the directory's owner
            with suppress(PermissionError):
                os.fchown(fd, owner, directory.st_gid)
                break
        with suppress(PermissionError):  # the file system gives all files one mode
            os.fchmod(fd, _mode_of(directory))
        _copy_access_list(parent, fd)
    except BaseException:
        os.close(fd)
        discard(parent, name)
        raise
    return fd


def _mode_of(directory: os.stat_result) -> int:
    """Returns the mode of a lock file: reading and writing for the users who may write to the directory."""
    mode = 0o600
    if directory.st_mode & stat.S_IWGRP:
        mode |= 0o060
    if directory.st_mode & stat.S_IWOTH:
        mode |= 0o006
    return mode


def _copy_access_list(parent: Parent, fd: int) -> None:
    try:
        access = os.getxattr(f"/proc/self/fd/{parent.fd}", _ACL)
    except OSError:
        return  # there is none, or the file system has no such lists
    entries = bytearray(access[: _ACL_HEADER.size])
    for tag, permissions, who in _ACL_ENTRY.iter_unpack(access[_ACL_HEADER.size :]):
        entries += _ACL_ENTRY.pack(tag, _READ_AND_WRITE if permissions & _WRITE else 0, who)
    with suppress(OSError):
        os.setxattr(fd, _ACL, bytes(entries))


def _renew(parent: Parent, fd: int) -> int | None:
    """Replaces a lock file that users who may only read the repository can open; the lock on it is held.

    Such users may have it open already, so another mode would not be enough. All waiters for the old file find that
    it is no longer there, and open the new one.

    Returns:
        A descriptor that holds the new lock as well, or None where the old one is right, or cannot be replaced.
    """
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode == _mode_of(os.fstat(parent.fd)):
        return None
    new = staged_name(parent.name)
    try:
        replacement = _make(parent, new)
    except OSError:
        return None
    try:
        if stat.S_IMODE(os.fstat(replacement).st_mode) != mode:
            fcntl.flock(replacement, fcntl.LOCK_EX | fcntl.LOCK_NB)
            move(parent, new)
            return replacement
    except OSError:
        pass  # another user's directory: only the lock's owner may replace it there
    discard(parent, new)
    os.close(replacement)
    return None

"""Opens what lies below a directory, and follows no link on the way.

Anybody may have made a repository, and a symbolic link in it could lead to any file that the mounting user may read
or replace. So every file of a local repository is reached from one descriptor of its root, name by name, each with
O_NOFOLLOW: what is opened lies below the root, whatever somebody renames meanwhile. The root itself may be reached
through links: its user named it.

The descriptor of the root is kept, so that the root's own name cannot be led elsewhere either. The directories below
are opened again for each file; that takes 2 µs, and no descriptor can go stale.

FIFOs, sockets and devices are never objects, and none is waited for.
"""

import ctypes
import errno
import os
import stat
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from icefs.errors import NotAnObjectError, StorageError

_STEP: Final = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LIST: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# What a system call says where a name is a link, a socket, or leads through something that is no directory.
_MISLED: Final = frozenset((errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV, errno.EACCES, errno.EEXIST))
_libc = ctypes.CDLL(None, use_errno=True)
_KINDS: Final = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class _Descriptor:
    """An open directory, which is closed when nobody uses it any more."""

    __slots__ = ("fd",)
    _close = staticmethod(os.close)  # the module may be gone before the last descriptor

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        self._close(self.fd)


class Parent:
    """The directory that an entry is in, open, and the entry's name there.

    Attributes:
        fd: The directory, for the `dir_fd` arguments of `os`; valid inside the `with` block.
        name: The entry.
    """

    __slots__ = ("_root", "fd", "name")

    def __init__(self, root: _Descriptor, fd: int, name: str) -> None:
        self._root = root
        self.fd = fd
        self.name = name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.fd != self._root.fd:
            os.close(self.fd)

    def status(self, name: str | None = None) -> os.stat_result:
        """Describes an entry of the directory, by default the one that it was opened for; a link itself."""
        return os.stat(self.name if name is None else name, dir_fd=self.fd, follow_symlinks=False)


class Beneath:
    """A directory whose content is reached through no link.

    Paths are relative to the root and have no `.`, `..` or empty component. Safe for threads.
    """

    def __init__(self, root: str) -> None:
        """Opens nothing yet.

        Args:
            root: Absolute path of the directory; need not exist.
        """
        self.root = root.rstrip("/") or "/"
        self._prefix = root.rstrip("/")
        self._lock = threading.Lock()
        self._pin: _Descriptor | None = None
        self._real = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def path(self, relative: str) -> str:
        """Returns the absolute path of an entry, for messages only."""
        return f"{self._prefix}/{relative}" if relative else self.root

    def release(self) -> None:
        """Gives the root's descriptor back; it is opened again if it is needed."""
        with self._lock:
            self._pin = None

    def parent(self, relative: str) -> Parent:
        """Opens the directory that an entry is in.

        Raises:
            OSError: as open(2).
            NotAnObjectError: the path leads through a link, or another thing that is no directory and no file.
        """
        head, _, name = relative.rpartition("/")
        root = self._root()
        try:
            return Parent(root, self._walk(root, head), name)
        except OSError as error:
            self._explain(error, relative)
            raise

    def open_file(self, relative: str, flags: int = 0) -> tuple[int, os.stat_result]:
        """Opens a regular file for reading.

        Args:
            relative: Where.
            flags: More flags of open(2).

        Raises:
            OSError: as open(2); ENOENT also for a directory.
            NotAnObjectError: it is, or leads through, a link, a FIFO, a socket or a device.
        """
        head, _, name = relative.rpartition("/")
        root = self._root()
        try:
            directory = self._walk(root, head)
            try:
                fd = os.open(name, _READ | flags, dir_fd=directory)
            finally:
                if directory != root.fd:
                    os.close(directory)
        except OSError as error:
            self._explain(error, relative)
            raise
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                refuse(status, self.path(relative))
                raise FileNotFoundError(errno.ENOENT, "not a regular file", self.path(relative))
        except BaseException:
            os.close(fd)
            raise
        return fd, status

    def status(self, relative: str) -> os.stat_result:
        """Describes a regular file or a directory.

        Raises:
            OSError: as stat(2).
            NotAnObjectError: it is, or leads through, something else.
        """
        with self.parent(relative) as parent:
            status = parent.status()
        refuse(status, self.path(relative))
        return status

    def scan(self, relative: str) -> Iterator["os.DirEntry[str]"]:
        """Yields a directory's entries; they may be asked what they are, without following links, until the next.

        Raises:
            OSError: as open(2).
            NotAnObjectError: it is, or leads through, something that is no directory and no file.
        """
        root = self._root()
        head, _, name = relative.rpartition("/")
        try:
            directory = self._walk(root, head)
            try:
                fd = os.open(name or ".", _LIST, dir_fd=directory)
            finally:
                if directory != root.fd:
                    os.close(directory)
        except OSError as error:
            self._explain(error, relative)
            raise
        try:
            with os.scandir(fd) as entries:
                yield from entries
        finally:
            os.close(fd)

    def sync(self, relative: str) -> None:
        """Makes a file's contents, or a directory's entries, durable; what is gone needs nothing.

        Raises:
            OSError: as open(2) and fsync(2).
            NotAnObjectError: as `open_file`.
        """
        try:
            with self.parent(relative) as parent:
                fd = os.open(parent.name or ".", _READ, dir_fd=parent.fd)
        except FileNotFoundError:
            return
        except OSError as error:
            self._explain(error, relative)
            raise
        try:
            refuse(os.fstat(fd), self.path(relative))
            os.fsync(fd)
        finally:
            os.close(fd)

    def sync_all(self) -> None:
        """Makes everything durable that was written to the file system that the root is on.

        Raises:
            OSError: as open(2) and syncfs(2).
        """
        root = self._root()
        fd = os.open(".", _LIST, dir_fd=root.fd)
        try:
            _syncfs(fd)
        finally:
            os.close(fd)

    def make_directory(self, relative: str) -> list[str]:
        """Makes a directory and those above it, of the root's own path too.

        Returns:
            Those that were made: relative paths, absolute ones where they are above the root.

        Raises:
            OSError: as mkdir(2).
            NotAnObjectError: the path leads through a link, or another thing that is no directory and no file.
        """
        self._forget_removed_root()
        made: list[str] = []
        if not relative:
            _make_outside(self.root, made)
            return made
        for is_last_try in (False, True):
            try:
                with self.parent(relative) as parent:
                    os.mkdir(parent.name, dir_fd=parent.fd)
            except FileNotFoundError:
                if is_last_try:
                    raise
                made += self.make_directory(relative.rpartition("/")[0])
            except FileExistsError:
                return made
            else:
                break
        return [*made, relative]

    # The way there.

    def _root(self) -> _Descriptor:
        pin = self._pin
        if pin is None:
            with self._lock:
                pin = self._pin or self._open_root()
        return pin

    def _open_root(self) -> _Descriptor:
        pin = _Descriptor(os.open(self.root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        real = os.readlink(f"/proc/self/fd/{pin.fd}")
        if self._real and real != self._real:
            raise StorageError(
                f"{self.root} was {self._real}, which is gone, and is {real} now",
                hint="open the repository again if that is meant",
                path=self.root,
            )
        self._real = real
        self._pin = pin
        return pin

    def _walk(self, root: _Descriptor, directory: str) -> int:
        """Opens a directory below the root; the root's own descriptor where it is the root."""
        if not directory:
            return root.fd
        fd = root.fd
        for name in directory.split("/"):
            try:
                deeper = os.open(name, _STEP, dir_fd=fd)
            finally:
                if fd != root.fd:
                    os.close(fd)
            fd = deeper
        return fd

    def _explain(self, error: OSError, relative: str) -> None:
        """Raises another error in place of one that something in the way accounts for."""
        if error.errno in (errno.ENOENT, errno.ESTALE):
            self._forget_removed_root()
        if error.errno in _MISLED:
            found = self._find_alien(relative)
            if found is not None:
                raise found from error

    def _find_alien(self, relative: str) -> NotAnObjectError | None:
        """Finds what on the way to an entry is neither a directory nor a file."""
        root = self._root()
        names = relative.split("/")
        for count in range(len(names)):
            try:
                directory = self._walk(root, "/".join(names[:count]))
                try:
                    status = os.stat(names[count], dir_fd=directory, follow_symlinks=False)
                finally:
                    if directory != root.fd:
                        os.close(directory)
            except OSError:
                return None
            try:
                refuse(status, self.path("/".join(names[: count + 1])))
            except NotAnObjectError as error:
                return error
        return None

    def _forget_removed_root(self) -> None:
        """Lets the next call open the root again where it was removed; another process may have made it again."""
        with self._lock:
            if self._pin is not None and _is_removed(self._pin.fd):
                self._pin = None


def kind_of(mode: int) -> str | None:
    """Names what is neither a file nor a directory: "a symbolic link", …; None for those two."""
    return _KINDS.get(stat.S_IFMT(mode))


def refuse(status: os.stat_result, path: str) -> None:
    """Refuses what is neither a file nor a directory.

    Raises:
        NotAnObjectError: it is not.
    """
    kind = kind_of(status.st_mode)
    if kind is not None:
        is_link = stat.S_ISLNK(status.st_mode)
        raise NotAnObjectError(
            f"{path} is {kind}: in a repository nothing is followed or opened but files and directories",
            hint="put the file there itself; a directory of another disk can be mounted there with 'mount --bind'"
            if is_link
            else "find out what put it there, and remove it",
            path=path,
            what=kind,
        )


def _syncfs(fd: int) -> None:
    if _libc.syncfs(fd) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _is_removed(directory: int) -> bool:
    try:
        return not os.fstat(directory).st_nlink
    except OSError as error:
        return error.errno == errno.ESTALE  # a network file system has another directory there now


def _make_outside(path: str, made: list[str]) -> None:
    """Makes the repository's own directory and those above it."""
    try:
        try:
            os.mkdir(path)
        except FileNotFoundError:
            _make_outside(os.path.dirname(path), made)
            os.mkdir(path)
    except FileExistsError:
        return  # perhaps made by another writer a moment ago
    made.append(path)

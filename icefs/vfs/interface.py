"""What stands between the layers of the file system: files, directories, trees, and the whole.

    fuse.requests ── Vfs ── Tree (one per mounted tree) ── FileHandle, DirHandle

A `Tree` answers for the inodes of one branch, tag or snapshot, or of the mount's own directories; another tree
can stand in front of it and pass on what it does not answer itself. None of this knows the kernel's protocol: names are
`str`, errors are those of `icefs.errors`.

Concurrency: everything here belongs to the event loop's thread and is never touched from another. Work that may
block runs in a worker thread, on values that are immutable or lock for themselves, and hands its result back. A method
that is not a coroutine never waits: where it would have to, it raises `NotInMemoryError`, which says what to run
in a thread before asking again.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple, Protocol

from icefs.errors import BadHandleError, NotADirectoryTreeError, ReadOnlyError, TreeError, UnsupportedError
from icefs.inode import Ino, Invalidations
from icefs.vfs.attrs import Attr, EntryRun, FsStats


class NotInMemoryError(Exception):
    """Something must be fetched before the same question can be answered; never leaves the VFS.

    Attributes:
        key: Names what is missing; it is fetched once for all waiters.
        load: Fetches it, in a worker thread; what it raises answers the request.
        store: Takes the result, on the event loop's thread.
        is_for_asker: The result is for the caller that stores it and asks again at once; it is dropped if that caller
            has gone.
        by: Fetches it; None for the fetches of the mount.
        again: Is asked afterwards in place of the same question; None for the question itself.
    """

    def __init__(
        self,
        key: Hashable,
        load: Callable[[], Any],
        store: Callable[[Any], None],
        *,
        is_for_asker: bool = False,
        by: "Bringer | None" = None,
        again: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__(key)
        self.key = key
        self.load = load
        self.store = store
        self.is_for_asker = is_for_asker
        self.by = by
        self.again = again

    def stored_under(self, lock: threading.RLock) -> "NotInMemoryError":
        """Returns the same, but that the result is taken with a lock held."""

        def store(value: Any) -> None:
            with lock:
                self.store(value)

        return NotInMemoryError(self.key, self.load, store, is_for_asker=self.is_for_asker)

    def loaded_by(self, load: Callable[[], Any]) -> "NotInMemoryError":
        """Returns the same, but that another function fetches it."""
        return NotInMemoryError(self.key, load, self.store, is_for_asker=self.is_for_asker)


class Bringer(Protocol):
    """Brings into memory what `NotInMemoryError` asks for."""

    async def bring(self, missing: NotInMemoryError) -> None:
        """Returns when the missing value was loaded and stored; raises the exceptions of that."""


class Caller(Protocol):
    """The caller: the process behind a request."""

    @property
    def uid(self) -> int:
        """Its user."""

    @property
    def gid(self) -> int:
        """Its group."""

    @property
    def pid(self) -> int:
        """Its process id, in the daemon's namespace; 0 if it has none there."""

    @property
    def umask(self) -> int:
        """Its umask, for what it creates."""


class AttrChanges(NamedTuple):
    """What `setattr` shall change; None leaves a field as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    mtime_ns: int | None = None
    atime_ns: int | None = None


type Detail = str | int | tuple[str, int] | None
type Subject = tuple[int, Detail, int]
"""What a request was about: an inode or a handle; a name in that directory, or the handle that was opened, or both; and
how many bytes were read or written."""


class FileHandle(ABC):
    """An open file.

    Attributes:
        ino: The inode that was opened.
        direct_io: The kernel shall not cache the content, nor believe `st_size`.
        nonseekable: The file is a stream: offsets mean nothing.
        wants_flush: `flush` does something.
        reading_acts: To read carries something out, so that a program that began to wait for it waits to the end.
    """

    __slots__ = ("ino",)

    direct_io: bool = False
    nonseekable: bool = False
    wants_flush: bool = False
    reading_acts: bool = False

    def __init__(self, ino: Ino) -> None:
        self.ino = ino

    @property
    def size(self) -> int:
        """The size of the file that was opened; 0 for a stream."""
        return 0

    @abstractmethod
    def read_nowait(self, offset: int, size: int) -> bytes | bytearray | memoryview | None:
        """Reads bytes without waiting.

        Args:
            offset: Where to begin, in bytes from the beginning of the file.
            size: How many bytes; fewer are returned at the end of the file alone.

        Returns:
            The bytes, empty behind the end; None if that would have to wait.

        Raises:
            StorageError: the disk cannot be read.
        """

    async def read(self, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads like `read_nowait`, and waits.

        Raises:
            ObjectNotFoundError, InvalidObjectSizeError, StorageError: the bytes are gone, or cannot be fetched.
        """
        data = self.read_nowait(offset, size)
        if data is None:
            raise NotImplementedError(type(self).__name__)
        return data

    async def write(self, offset: int, data: bytes | memoryview) -> int:
        """Writes bytes and returns how many; they are the caller's again when it has returned.

        Raises:
            BadHandleError: the file is not open for writing.
            NoSpaceError: the disk is full.
            StorageError: the disk cannot be written.
        """
        raise BadHandleError("the file is not open for writing", ino=self.ino)

    async def fallocate(self, offset: int, length: int, mode: int) -> None:
        """Does what `fallocate(2)` does, from `offset` for `length` bytes; `mode` has its flags.

        Raises:
            BadHandleError: the file is not open for writing.
            UnsupportedError: the disk does not know the mode.
        """
        raise BadHandleError("the file is not open for writing", ino=self.ino)

    async def take_request(self, data: bytes) -> None:
        """Takes a request, or a part of one, through a descriptor that may only read.

        Raises:
            UnsupportedError: the file takes none.
        """
        raise UnsupportedError("the file takes no requests", ino=self.ino)

    async def write_back(self, offset: int, data: bytes | memoryview) -> int:
        """Writes bytes that the kernel had cached: the program that wrote them does not wait for this.

        Returns and raises as `write`, but for a short count: what cannot be written at all is an error.
        """
        return await self.write(offset, data)

    async def flush(self) -> None:  # noqa: B027  (nothing to do for a file that is only read)
        """Is called at every `close(2)` of a descriptor of the handle; its error is what `close` fails with.

        Raises:
            InvalidMetadataError: the file is a `zarr.json` whose content is none.
            NoSpaceError, StorageError: what was written cannot be kept.
        """

    async def fsync(self) -> None:  # noqa: B027
        """Makes what was written durable, as `fsync(2)` does; raises as `flush`."""

    def release(self) -> None:  # noqa: B027
        """Gives back what the handle holds; it is not used again."""


class DirHandle(ABC):
    """An open directory: a listing as it was when it was begun, with positions that stay valid.

    Attributes:
        ino: The directory's inode.
    """

    __slots__ = ("ino",)

    def __init__(self, ino: Ino) -> None:
        self.ino = ino

    @abstractmethod
    def run_at(self, position: int) -> EntryRun | None:
        """Returns a run of entries that holds the one at `position`, or None after the last.

        Position 0 begins a fresh listing.
        """

    def entered(self, run: EntryRun, first: int, end: int) -> None:  # noqa: B027
        """Records that the kernel now knows the run's entries `[first, end)`, each once more."""

    def release(self) -> None:  # noqa: B027
        """Gives back what the handle holds; it is not used again."""


def _read_only(what: str) -> ReadOnlyError:
    return ReadOnlyError(f"{what} cannot be changed", kind="read-only-store")


class TreeChanges:
    """What changes a tree; these methods refuse, and a tree that can be written to implements them."""

    def __init__(self, path_of: Callable[[Ino], str]) -> None:
        """Takes what returns the path of an inode, for messages."""
        self._path_of = path_of

    async def setattr(self, ino: Ino, changes: AttrChanges, handle: FileHandle | None, caller: Caller) -> Attr:
        """Changes attributes, as `chmod(2)`, `chown(2)`, `truncate(2)` and `utimensat(2)` do.

        Raises:
            StaleError: the inode is gone.
            IsADirectoryTreeError: a directory has no size to change.
            NoSpaceError, StorageError: the disk is full, or cannot be written. The other methods raise these, too.
        """
        raise _read_only(self._path_of(ino))

    async def create(self, parent: Ino, name: str, mode: int, flags: int, caller: Caller) -> tuple[FileHandle, Attr]:
        """Creates and opens a regular file, as `open(2)` with `O_CREAT` does.

        Args:
            parent: The directory.
            name: The file's name.
            mode: Its permissions, from which the caller's umask has been taken away.
            flags: Those of `open(2)`.
            caller: Its owner.

        Raises:
            AlreadyExistsError: the name is taken, and the flags have `O_EXCL`.
            ReservedNameError: the name is one that an Icechunk repository cannot hold.
        """
        raise _read_only(self._path_of(parent))

    async def mknod(self, parent: Ino, name: str, mode: int, rdev: int, caller: Caller) -> Attr:
        """Creates a regular file or a special one."""
        raise _read_only(self._path_of(parent))

    async def mkdir(self, parent: Ino, name: str, mode: int, caller: Caller) -> Attr:
        """Creates a directory."""
        raise _read_only(self._path_of(parent))

    async def unlink(self, parent: Ino, name: str) -> None:
        """Removes a file."""
        raise _read_only(self._path_of(parent))

    async def rmdir(self, parent: Ino, name: str) -> None:
        """Removes an empty directory; raises NotEmptyError for any other."""
        raise _read_only(self._path_of(parent))

    async def symlink(self, parent: Ino, name: str, target: str, caller: Caller) -> Attr:
        """Creates a symbolic link."""
        raise _read_only(self._path_of(parent))

    async def rename(self, old_parent: Ino, old_name: str, new_parent: Ino, new_name: str, flags: int) -> None:
        """Renames within the tree; `flags` are those of `renameat2(2)`.

        Raises:
            EntryNotFoundError: there is no such name.
            AlreadyExistsError: the flags are `RENAME_NOREPLACE`, and the new name is taken.
            InvalidInputError: a directory would go into itself, or the flags are unknown.
        """
        raise _read_only(self._path_of(old_parent))

    async def link(self, ino: Ino, new_parent: Ino, new_name: str) -> Attr:
        """Gives a file of the tree another name."""
        raise _read_only(self._path_of(new_parent))

    async def setxattr(self, ino: Ino, name: str, value: bytes) -> None:
        """Sets an extended attribute."""
        if name.startswith("system.posix_acl_"):
            raise UnsupportedError("access control lists are not supported", name=name)
        raise _read_only(self._path_of(ino))

    async def removexattr(self, ino: Ino, name: str) -> None:
        """Removes an extended attribute."""
        await self.setxattr(ino, name, b"")

    async def fsyncdir(self, ino: Ino) -> None:
        """Makes a directory's entries durable."""


class Tree(ABC):
    """What answers for a set of inodes.

    Its methods never wait: they raise `NotInMemoryError`.
    """

    @property
    @abstractmethod
    def changes(self) -> TreeChanges:
        """What changes the tree, as far as it can be changed."""

    @property
    @abstractmethod
    def label(self) -> str:
        """The tree's place in the mount, for log lines: `branches/main`; empty for the root."""

    @abstractmethod
    def path_of(self, ino: Ino) -> str:
        """Returns the path of an inode below the tree's root, for log lines; never raises."""

    @abstractmethod
    def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a name in a directory and counts one more reference of the kernel to what it leads to.

        Returns:
            `ABSENT` or `ABSENT_FOREVER` where there is no such name.

        Raises:
            NotADirectoryTreeError: the parent is a file.
            StaleError: the parent is gone.
        """

    @abstractmethod
    def getattr(self, ino: Ino) -> Attr:
        """Returns an inode's attributes.

        Raises:
            StaleError: the inode is gone.
        """

    def getattr_open(self, file: FileHandle) -> Attr:
        """Returns the attributes of a file that is open, and whose inode nothing else leads to any more.

        Raises:
            StaleError: they are not known.
        """
        return self.getattr(file.ino)

    def forget(self, ino: Ino, count: int) -> None:  # noqa: B027
        """Records that the kernel dropped `count` references to an inode."""

    def readlink(self, ino: Ino) -> str:
        """Returns where a symbolic link leads.

        Raises:
            TreeError: the inode is none.
        """
        raise TreeError("not a symbolic link", ino=ino)

    @abstractmethod
    def open(self, ino: Ino, flags: int) -> FileHandle:
        """Opens a file with the flags of `open(2)`.

        Raises:
            ReadOnlyError: the flags ask to write.
            IsADirectoryTreeError: the inode is a directory.
            StaleError: the inode is gone.
        """

    @abstractmethod
    def opendir(self, ino: Ino) -> DirHandle:
        """Opens a directory.

        Raises:
            NotADirectoryTreeError: the inode is a file.
        """

    def listxattr(self, ino: Ino) -> Sequence[str]:
        """Returns the names of the inode's extended attributes."""
        return ()

    def getxattr(self, ino: Ino, name: str) -> bytes | None:
        """Returns an extended attribute, or None if the inode has none of that name."""
        return None


class Vfs(Protocol):
    """The file system as the adapter to the kernel sees it; see `Tree` for what the methods do and raise.

    Attributes:
        wants_flush: Whether the file system needs to see each `close(2)`. Where nothing is ever written, the kernel
            is asked not to send it, which saves a request for every file that is read.
    """

    wants_flush: bool

    async def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a name in a directory."""

    async def getattr(self, ino: Ino) -> Attr:
        """Returns attributes."""

    async def setattr(self, ino: Ino, changes: AttrChanges, fh: int | None, caller: Caller) -> Attr:
        """Changes attributes; `fh` is the open file that it is done through, if any."""

    async def readlink(self, ino: Ino) -> str:
        """Returns where a symbolic link leads."""

    async def mknod(self, parent: Ino, name: str, mode: int, rdev: int, caller: Caller) -> Attr:
        """Creates a file."""

    async def mkdir(self, parent: Ino, name: str, mode: int, caller: Caller) -> Attr:
        """Creates a directory."""

    async def unlink(self, parent: Ino, name: str) -> None:
        """Removes a file."""

    async def rmdir(self, parent: Ino, name: str) -> None:
        """Removes a directory."""

    async def symlink(self, parent: Ino, name: str, target: str, caller: Caller) -> Attr:
        """Creates a symbolic link."""

    async def rename(self, old_parent: Ino, old_name: str, new_parent: Ino, new_name: str, flags: int) -> None:
        """Renames; raises CrossTreeError from one tree to another."""

    async def link(self, ino: Ino, new_parent: Ino, new_name: str) -> Attr:
        """Makes a hard link; raises CrossTreeError from one tree to another."""

    async def open(self, ino: Ino, flags: int) -> tuple[int, FileHandle]:
        """Opens a file and returns its handle with the handle's number."""

    async def create(
        self, parent: Ino, name: str, mode: int, flags: int, caller: Caller
    ) -> tuple[int, FileHandle, Attr]:
        """Creates and opens a file."""

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads from an open file."""

    async def write(self, fh: int, offset: int, data: bytes | memoryview, is_write_back: bool = False) -> int:
        """Writes to an open file; `is_write_back` if the bytes were cached and no program waits for them."""

    async def fallocate(self, fh: int, offset: int, length: int, mode: int) -> None:
        """Gives a part of an open file its place on the disk, or takes it away."""

    async def ioctl(self, fh: int, request: bytes) -> None:
        """Hands a request, or a part of one, to an open file."""

    async def flush(self, fh: int) -> None:
        """Answers a `close(2)`."""

    async def release(self, fh: int) -> None:
        """Takes an open file back."""

    async def fsync(self, fh: int) -> None:
        """Makes an open file durable."""

    async def opendir(self, ino: Ino) -> int:
        """Opens a directory and returns its handle's number."""

    async def readdir(self, fh: int, position: int) -> EntryRun | None:
        """Returns the run of entries that holds a position, or None after the last."""

    def entered(self, fh: int, run: EntryRun, first: int, end: int) -> None:
        """Records the entries of a run that the kernel was sent."""

    async def releasedir(self, fh: int) -> None:
        """Takes an open directory back."""

    async def fsyncdir(self, fh: int) -> None:
        """Makes an open directory durable."""

    async def statfs(self) -> FsStats:
        """Describes the file system as a whole."""

    async def setxattr(self, ino: Ino, name: str, value: bytes) -> None:
        """Sets an extended attribute."""

    async def getxattr(self, ino: Ino, name: str) -> bytes | None:
        """Returns an extended attribute, or None."""

    async def listxattr(self, ino: Ino) -> Sequence[str]:
        """Returns the names of extended attributes."""

    async def removexattr(self, ino: Ino, name: str) -> None:
        """Removes an extended attribute."""

    def forget(self, ino: Ino, count: int) -> None:
        """Drops references of the kernel to an inode."""

    def takes_ioctl(self, command: int) -> bool:
        """Tells whether `ioctl` is asked for requests of a command; any other fails with ENOTTY."""

    def only_reads(self, fh: int) -> bool:
        """Tells whether to read from what is open changes nothing; also of what is not open. Never raises."""

    def describe_inode(self, ino: Ino) -> str:
        """Returns the path of an inode below the mountpoint, for log lines; never raises."""

    def describe_handle(self, fh: int) -> str:
        """Returns the path of what is open, for log lines; never raises."""


class Notifier(Protocol):
    """Has the kernel drop what it caches, once that is no longer so.

    Sends nothing from the caller's stack: invalidating a name waits for the requests in flight on its directory,
    which only the caller's event loop can finish.
    """

    @property
    def pending(self) -> int:
        """How many invalidations wait to be sent."""

    @property
    def sent(self) -> int:
        """How many the kernel took, as it knew the name or inode."""

    @property
    def failed(self) -> int:
        """How many the kernel refused."""

    def invalidate(self, changed: Invalidations) -> None:
        """Makes the kernel look names up and ask for attributes again; open files stay open."""

    async def drop_pages(self, inos: Iterable[Ino]) -> None:
        """Returns when the kernel has dropped what it cached of files' content; requests are answered meanwhile."""

    async def drain(self) -> None:
        """Returns when all that was asked for has been sent."""


def not_a_directory(path: str) -> NotADirectoryTreeError:
    """Makes the error for a path that goes through a file."""
    return NotADirectoryTreeError(f"not a directory: {path}", path=path)

"""Open files and directories: the table of handles, and the handles that need nothing but memory."""

from collections.abc import Iterator

from icefs.errors import BadHandleError
from icefs.inode import Ino
from icefs.vfs.interface import DirHandle, FileHandle


class BytesHandle(FileHandle):
    """An open file whose whole content is in memory: metadata, an inline chunk."""

    __slots__ = ("_data",)

    def __init__(self, ino: Ino, data: bytes) -> None:
        super().__init__(ino)
        self._data = data

    @property
    def size(self) -> int:
        """The file's size."""
        return len(self._data)

    def read_nowait(self, offset: int, size: int) -> bytes | memoryview:
        """Returns the bytes, copied only where a part is wanted of something long."""
        data = self._data
        if offset == 0 and size >= len(data):
            return data
        return memoryview(data)[offset : offset + size]


class DirectBytesHandle(BytesHandle):
    """An open file whose content was made when it was opened, and whose size nobody knew before."""

    __slots__ = ()

    direct_io = True


class HandleTable:
    """What is open, by the number that the kernel refers to it by.

    INVARIANT: a number is never used twice in the life of a mount, so a late request finds nothing, and never
        another file.
    """

    def __init__(self) -> None:
        self._files: dict[int, FileHandle] = {}
        self._dirs: dict[int, DirHandle] = {}
        self._next = 1

    def __len__(self) -> int:
        return len(self._files) + len(self._dirs)

    @property
    def open_files(self) -> int:
        """How many files are open."""
        return len(self._files)

    @property
    def open_dirs(self) -> int:
        """How many directories are open."""
        return len(self._dirs)

    def add_file(self, file: FileHandle) -> int:
        """Takes an open file and returns its number."""
        fh = self._next
        self._next = fh + 1
        self._files[fh] = file
        return fh

    def add_dir(self, directory: DirHandle) -> int:
        """Takes an open directory and returns its number."""
        fh = self._next
        self._next = fh + 1
        self._dirs[fh] = directory
        return fh

    def file(self, fh: int) -> FileHandle:
        """Returns an open file.

        Raises:
            BadHandleError: the number is not one.
        """
        try:
            return self._files[fh]
        except KeyError:
            raise BadHandleError(f"no file is open as {fh}") from None

    def reading_acts(self, fh: int) -> bool:
        """Tells whether to read from an open file carries something out; False if it is not open."""
        file = self._files.get(fh)
        return file is not None and file.reading_acts

    def dir(self, fh: int) -> DirHandle:
        """Returns an open directory; raises as `file`."""
        try:
            return self._dirs[fh]
        except KeyError:
            raise BadHandleError(f"no directory is open as {fh}") from None

    def pop_file(self, fh: int) -> FileHandle:
        """Takes an open file out of the table; raises as `file`."""
        try:
            return self._files.pop(fh)
        except KeyError:
            raise BadHandleError(f"no file is open as {fh}") from None

    def pop_dir(self, fh: int) -> DirHandle:
        """Takes an open directory out of the table; raises as `file`."""
        try:
            return self._dirs.pop(fh)
        except KeyError:
            raise BadHandleError(f"no directory is open as {fh}") from None

    def ino_of(self, fh: int) -> Ino | None:
        """Returns the inode behind a number, for log lines; None if nothing is open so."""
        handle = self._files.get(fh) or self._dirs.get(fh)
        return None if handle is None else handle.ino

    def file_of(self, ino: Ino) -> FileHandle | None:
        """Returns an open file of an inode, if there is one; looks through all of them."""
        return next((file for file in self._files.values() if file.ino == ino), None)

    def open_inos(self) -> list[Ino]:
        """Returns the inode numbers of the open files."""
        return [file.ino for file in self._files.values()]

    def everything(self) -> Iterator[FileHandle | DirHandle]:
        """Yields the open files and directories."""
        yield from self._files.values()
        yield from self._dirs.values()

    def release_all(self) -> None:
        """Gives everything back, at the end of the mount."""
        for file in self._files.values():
            file.release()
        for directory in self._dirs.values():
            directory.release()
        self._files.clear()
        self._dirs.clear()

"""The control directory `.icefs`: a table of files whose content is made when they are opened.

It is found by name and never listed by the directory that it is in, so that `cp -r` and Zarr listers pass it by.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from icefs.errors import ReadOnlyError, StaleError, TreeError
from icefs.inode import Ino
from icefs.vfs.attrs import ABSENT_FOREVER, Attr, Ownership
from icefs.vfs.handles import DirectBytesHandle
from icefs.vfs.inodes.numbers import CONTROL_SLOT, FixedNumbers
from icefs.vfs.interface import FileHandle, NotInMemoryError
from icefs.vfs.trees.listing import NamedEntries, Section, dots

CONTROL_NAME: Final = ".icefs"

_FIRST_FILE: Final = CONTROL_SLOT + 1
_S_IFREG: Final = 0o100000
_S_IFLNK: Final = 0o120000
_S_IFDIR: Final = 0o040000


@dataclass(frozen=True, slots=True)
class ControlFile:
    """One entry of a control directory; exactly one of `make`, `connect`, `target` and `enter` is given.

    Attributes:
        name: Its name.
        make: Called on the event loop's thread when the file is opened; returns what makes the content, in a worker
            thread.
        connect: Opens a file that is read and written, given its inode number and the flags of `open(2)`.
        target: Returns where a symbolic link leads.
        enter: Finds a directory of another tree, given the number of the control directory, and counts a reference of
            the kernel to it.
        is_private: Whether only the owner of the mount's files may read it.
    """

    name: str
    make: Callable[[], Callable[[], bytes]] | None = None
    connect: Callable[[Ino, int], FileHandle] | None = None
    target: Callable[[], str] | None = None
    enter: Callable[[Ino], Attr] | None = None
    is_private: bool = False

    @property
    def mode(self) -> int:
        """Type and permissions."""
        if self.target is not None:
            return _S_IFLNK | 0o777
        if self.enter is not None:
            return _S_IFDIR | 0o555
        return _S_IFREG | (0o600 if self.connect is not None or self.is_private else 0o444)


class ControlDir:
    """A control directory.

    Concurrency: on the event loop's thread; what `ControlFile.make` returns runs in a worker thread.
    """

    def __init__(
        self, fixed: FixedNumbers, files: Sequence[ControlFile], ownership: Ownership, started_ns: int
    ) -> None:
        """Takes the numbers of its tree, its files, whose they are, and the time they have."""
        self._fixed = fixed
        self._files = list(files)
        self._slots = {file.name: _FIRST_FILE + number for number, file in enumerate(self._files)}
        self._ownership = ownership
        self._started_ns = started_ns
        self._made: dict[int, bytes] = {}

    def _attr(self, slot: int, mode: int, size: int = 0) -> Attr:
        nlink = 2 if slot == CONTROL_SLOT else 1
        return self._ownership.attr(self._fixed.ino(slot), mode, nlink, size, self._started_ns)

    def dir_attr(self) -> Attr:
        """Returns the attributes of the directory itself."""
        return self._attr(CONTROL_SLOT, _S_IFDIR | 0o555)

    def lookup(self, name: str) -> Attr:
        """Finds a file by name."""
        slot = self._slots.get(name)
        if slot is None:
            return ABSENT_FOREVER
        enter = self._file(slot).enter
        return self.getattr(slot) if enter is None else enter(self._fixed.ino(CONTROL_SLOT))

    def getattr(self, slot: int) -> Attr:
        """Returns a file's attributes; sizes are 0, since contents are made at open, as in `/proc`."""
        return self.dir_attr() if slot == CONTROL_SLOT else self._attr(slot, self._file(slot).mode)

    def path_of(self, slot: int) -> str:
        """Returns the path of a file below the tree's root; never raises."""
        number = slot - _FIRST_FILE
        name = f"/{self._files[number].name}" if 0 <= number < len(self._files) else ""
        return f"/{CONTROL_NAME}{name}"

    def _file(self, slot: int) -> ControlFile:
        number = slot - _FIRST_FILE
        if not 0 <= number < len(self._files):
            raise StaleError(f"no control file has number {slot}")
        return self._files[number]

    def readlink(self, slot: int) -> str:
        """Returns where a link leads."""
        target = self._file(slot).target if slot > CONTROL_SLOT else None
        if target is None:
            raise TreeError(f"not a symbolic link: {self.path_of(slot)}")
        return target()

    def open(self, slot: int, flags: int) -> FileHandle:
        """Opens a file.

        Raises:
            NotInMemoryError: its content is made in a thread.
            ReadOnlyError: it is not for writing.
        """
        file = self._file(slot)
        ino = self._fixed.ino(slot)
        if file.connect is not None:
            return file.connect(ino, flags)
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_TRUNC):
            raise ReadOnlyError(f"{self.path_of(slot)} cannot be written in a read-only tree", kind="read-only-store")
        data = self._made.pop(slot, None)
        if data is not None:
            return DirectBytesHandle(ino, data)
        if file.make is None:
            raise TreeError(f"cannot be opened: {self.path_of(slot)}")
        keep = partial(self._made.__setitem__, slot)
        raise NotInMemoryError((id(self), slot), file.make(), keep, is_for_asker=True)

    def listing(self, parent_ino: Ino) -> Sequence[Section]:
        """Lists the directory, beginning with the two dots; `parent_ino` is the directory that it is in."""
        return [dots(self.dir_attr(), parent_ino), *map(self._listed, self._files)]

    def _listed(self, file: ControlFile) -> Section:
        attr = self.getattr(self._slots[file.name])
        if file.enter is not None:
            # Its number is another tree's: where the kernel gets attributes nonetheless, it asks again at once.
            attr = attr._replace(entry_timeout_s=0.0, attr_timeout_s=0.0)
        entry = file.name.encode(), attr.ino, 0, attr.mtime_ns
        return NamedEntries(attr, [entry], has_attributes=file.enter is None)

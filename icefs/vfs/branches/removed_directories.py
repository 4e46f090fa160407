"""Directories that were removed or replaced while a program stands in them, or has them open."""

import stat

from icefs.errors import IsADirectoryTreeError, StaleError
from icefs.inode import Ino
from icefs.vfs.attrs import Attr
from icefs.vfs.interface import AttrChanges


class RemovedDirectories:
    """The attributes of removed directories, until the kernel forgets them."""

    def __init__(self) -> None:
        self._attrs: dict[int, Attr] = {}

    def __contains__(self, ino: object) -> bool:
        return ino in self._attrs

    def add(self, attr: Attr) -> None:
        """Keeps the attributes of a directory that has no name any more."""
        self._attrs[attr.ino] = attr._replace(nlink=0)

    def forget(self, ino: Ino) -> None:
        """Drops a directory that the kernel has forgotten; any other number is none."""
        self._attrs.pop(ino, None)

    def get(self, ino: Ino) -> Attr:
        """Returns the attributes of a directory.

        Raises:
            StaleError: it is not one of these.
        """
        attr = self._attrs.get(ino)
        if attr is None:
            raise StaleError(f"inode {ino} is gone", ino=ino)
        return attr

    def change(self, ino: Ino, changes: AttrChanges) -> Attr:
        """Changes the attributes of a directory, and returns them; raises as `get`.

        Raises:
            IsADirectoryTreeError: its size is to be changed.
        """
        attr = self.get(ino)
        if changes.size is not None:
            raise IsADirectoryTreeError("a directory has no size to be set", ino=ino)
        self._attrs[ino] = changed = attr._replace(
            mode=attr.mode if changes.mode is None else stat.S_IFMT(attr.mode) | stat.S_IMODE(changes.mode),
            uid=attr.uid if changes.uid is None else changes.uid,
            gid=attr.gid if changes.gid is None else changes.gid,
            mtime_ns=attr.mtime_ns if changes.mtime_ns is None else changes.mtime_ns,
            atime_ns=attr.atime_ns if changes.atime_ns is None else changes.atime_ns,
        )
        return changed

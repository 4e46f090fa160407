"""The answer about a name: attributes, and for how long the kernel may keep them."""

import stat
from dataclasses import dataclass
from typing import Final, NamedTuple

from icefs.inode import NO_INO, Ino

FOREVER_S: Final = 1e9
"""A timeout of thirty years: the kernel asks again only after an invalidation, or when it has forgotten."""

BLOCK_SIZE: Final = 128 * 1024
"""The preferred I/O size (`st_blksize`)."""


class Attr(NamedTuple):
    """The attributes of one inode, as `stat(2)` shows them. A tuple, because one is made for every request.

    Attributes:
        ino: The inode number; 0 says that the name does not exist, and that the kernel may remember that.
        mode: File type and permission bits.
        nlink: The number of links.
        uid: The owner.
        gid: The group.
        size: The exact size in bytes.
        mtime_ns: When the content changed last, in nanoseconds since the epoch.
        ctime_ns: When the inode changed last.
        atime_ns: When it was read last.
        entry_timeout_s: How long the name may be taken to lead to this inode.
        attr_timeout_s: How long the other fields may be believed.
    """

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    entry_timeout_s: float
    attr_timeout_s: float

    @property
    def is_dir(self) -> bool:
        """Whether the inode is a directory."""
        return stat.S_ISDIR(self.mode)


_new_tuple: Final = tuple.__new__

ABSENT: Final = Attr(
    ino=NO_INO, mode=0, nlink=0, uid=0, gid=0, size=0, mtime_ns=0, ctime_ns=0, atime_ns=0, entry_timeout_s=0.0,
    attr_timeout_s=0.0,
)  # fmt: skip
"""The name does not exist now; the kernel asks again the next time."""

ABSENT_FOREVER: Final = ABSENT._replace(entry_timeout_s=FOREVER_S)
"""The name does not exist and never will."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """The owner of everything in a mount, and the permission bits that are taken away.

    Attributes:
        uid: The owner of all files.
        gid: The group of all files.
        umask: Permission bits that no file or directory gets.
    """

    uid: int
    gid: int
    umask: int = 0o022

    def attr(self, ino: Ino, mode: int, nlink: int, size: int, time_ns: int) -> Attr:
        """Returns the attributes of a file or directory that has one time, and that the kernel may always believe."""
        # As `Attr(…)` does, but for a frame of Python: a twentieth of a `getattr`.
        return _new_tuple(
            Attr, (ino, mode, nlink, self.uid, self.gid, size, time_ns, time_ns, time_ns, FOREVER_S, FOREVER_S)
        )

    def file_mode(self, *, writable: bool) -> int:
        """Returns type and permissions of a regular file."""
        return stat.S_IFREG | (0o666 if writable else 0o444) & ~self.umask

    def dir_mode(self, *, writable: bool) -> int:
        """Returns type and permissions of a directory."""
        return stat.S_IFDIR | (0o777 if writable else 0o555) & ~self.umask


class EntryRun(NamedTuple):
    """Consecutive entries of a directory that differ in name, inode number, size and time only, as columns.

    The names are bytes already: they come from columns of coordinates, and making a million `str` to encode
    them again would be most of the cost of a listing.

    Attributes:
        start: The position of the first entry in the directory; positions count from 0.
        template: What all entries share.
        names: The entries' names.
        inos: Their inode numbers.
        sizes: Their sizes, or None if all have the template's.
        mtimes_ns: Their times of last change, or None if all have the template's.
        has_attributes: Whether the columns are attributes; otherwise the kernel has to look each entry up.
    """

    start: int
    template: Attr
    names: list[bytes]
    inos: list[Ino]
    sizes: list[int] | None = None
    mtimes_ns: list[int] | None = None
    has_attributes: bool = True


class FsStats(NamedTuple):
    """What `statfs(2)` tells, in blocks of `BLOCK_SIZE` bytes; the superuser alone may fill all that are free."""

    blocks: int
    free_blocks: int
    available_blocks: int
    files: int
    free_files: int

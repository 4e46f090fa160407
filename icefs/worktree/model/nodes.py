"""The nodes of a working tree, as they are in memory: files, directories, and the whiteouts between them.

A node exists only where the tree differs from its base, or has to be able to: everything else is *untouched* and has
no object here. Nodes are plain records; their users change them, under the tree's lock.
"""

import stat
from enum import Enum, IntFlag
from typing import Final, Literal, NamedTuple

from icefs.inode import Ino
from icefs.paths import TreePath
from icefs.worktree.model.lost import Ranges
from icefs.worktree.model.open_state import OpenState


class _Whiteout(Enum):
    WHITEOUT = 0


WHITEOUT: Final = _Whiteout.WHITEOUT
"""The directory entry that hides an entry of the base directory."""

type Whiteout = Literal[_Whiteout.WHITEOUT]
type Node = FileNode | DirNode
type Entry = Node | Whiteout


class Flag(IntFlag):
    """The states of a node. `ATTRS`, `LOST`, `CUT` and `CHANGED` are kept in the database as they are."""

    FROM_BASE = 1
    """The bytes are those of the base file at `origin`."""
    STORED = 2
    """The database has a row of the node."""
    DIRTY = 4
    """The content changed after the row was written."""
    ATTRS = 8
    """Mode, owner or times were set by somebody, so they are worth keeping."""
    LOST = 16
    """Bytes are gone: those in `FileNode.lost`, or all; see `lost`."""
    CUT = 64
    """The spool file had another size than the file when the tree was opened: no commit takes such bytes. Truncating
    to nothing heals."""
    CHANGED = 128
    """The spool file was changed after the file's last close, as the opening of the tree found. Truncating to nothing
    heals."""


# IntFlag's operators cost a microsecond each; the hot paths use these.
FROM_BASE: Final = int(Flag.FROM_BASE)
STORED: Final = int(Flag.STORED)
DIRTY: Final = int(Flag.DIRTY)
ATTRS: Final = int(Flag.ATTRS)
LOST: Final = int(Flag.LOST)
CUT: Final = int(Flag.CUT)
CHANGED: Final = int(Flag.CHANGED)
DOUBTFUL: Final = LOST | CUT | CHANGED
PERSISTENT: Final = ATTRS | DOUBTFUL


class Perm(NamedTuple):
    """Permission bits and owner; interned, since whole trees share a few."""

    mode: int
    uid: int
    gid: int


class Attr(NamedTuple):
    """What `stat` says. `mode` has the type bits; a directory's `nlink` is 1, so that `find` draws no conclusions."""

    ino: Ino
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def is_dir(self) -> bool:
        """Whether this is a directory."""
        return stat.S_ISDIR(self.mode)


type NodeRef = Ino | TreePath
"""How a caller refers to a node: by the inode number of one that exists, or by the base path of an untouched one.

Both stay valid when the node passes from one state to the other, except a base path over a change of base."""


class TreeEntry(NamedTuple):
    """A directory entry: how to name what it refers to, and its attributes."""

    where: NodeRef
    attr: Attr


class FileState(NamedTuple):
    """Every field of a file node that operations change; for undoing them and for frozen trees."""

    perm: Perm
    size: int
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    spool_id: int
    stamp: int
    origin: TreePath | None
    parent: "DirNode | None"
    name: str
    extra: "dict[tuple[DirNode, str], None] | None"
    flags: int
    lost: Ranges = ()


class FileNode:
    """A file.

    INVARIANT: `parent is None` exactly when no entry refers to the node; it is then open, or forgotten.
    INVARIANT: `parent.entries[name] is self`, and the same for every pair in `extra`.
    INVARIANT: `flags & FROM_BASE` implies `origin is not None and spool_id == 0`.
    INVARIANT: `spool_id == 0` without FROM_BASE means `size == 0`.
    INVARIANT: `lost` has ranges only with LOST, and none of them ends behind `size`.

    Attributes:
        id: The key of the database row; never reused.
        ino: The inode number; of this mount only.
        stamp: The spool file's own mtime when the row was written, 0 while DIRTY; recovery compares it.
        spool_id: The spool file with the bytes, 0 for none.
        origin: The base path whose identity (and, with FROM_BASE, content) the node has.
        parent: The directory of the first link.
        name: The name of the first link.
        extra: The further links; None if there are none.
        lost: Which bytes of a LOST file are gone; without a range all are.
        io: Present while open.
    """

    __slots__ = (
        "atime_ns",
        "ctime_ns",
        "extra",
        "flags",
        "id",
        "ino",
        "io",
        "lost",
        "mtime_ns",
        "name",
        "origin",
        "parent",
        "perm",
        "size",
        "spool_id",
        "stamp",
    )

    def __init__(self, node_id: int, ino: Ino, perm: Perm, size: int, time_ns: int) -> None:
        self.id = node_id
        self.ino = ino
        self.perm = perm
        self.size = size
        self.mtime_ns = self.ctime_ns = self.atime_ns = time_ns
        self.spool_id = 0
        self.stamp = 0
        self.origin: TreePath | None = None
        self.parent: DirNode | None = None
        self.name = ""
        self.extra: dict[tuple[DirNode, str], None] | None = None
        self.io: OpenState | None = None
        self.flags = 0
        self.lost: Ranges = ()

    def state(self) -> FileState:
        """Returns a copy of all that operations change."""
        return FileState(
            self.perm,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
            self.atime_ns,
            self.spool_id,
            self.stamp,
            self.origin,
            self.parent,
            self.name,
            None if self.extra is None else dict(self.extra),
            self.flags,
            self.lost,
        )

    def restore(self, state: FileState) -> None:
        """Goes back to what `state` returned."""
        (
            self.perm,
            self.size,
            self.mtime_ns,
            self.ctime_ns,
            self.atime_ns,
            self.spool_id,
            self.stamp,
            self.origin,
            self.parent,
            self.name,
            self.extra,
            self.flags,
            self.lost,
        ) = state

    @property
    def nlink(self) -> int:
        """The number of entries that refer to the node."""
        if self.parent is None:
            return 0
        return 1 if self.extra is None else 1 + len(self.extra)

    @property
    def is_all_lost(self) -> bool:
        """Whether no byte is left, as the spool file is gone."""
        return bool(self.flags & LOST) and not self.lost

    def links(self) -> "list[tuple[DirNode, str]]":
        """Returns every (directory, name) that refers to the node, the first link first."""
        if self.parent is None:
            return []
        first = [(self.parent, self.name)]
        return first if self.extra is None else [*first, *self.extra]

    def drop_link(self, directory: "DirNode", name: str) -> None:
        """Takes one of several names from the file; the directory's entry is the caller's."""
        assert self.extra is not None
        extra = dict(self.extra)
        if (self.parent, self.name) == (directory, name):
            self.parent, self.name = first = next(iter(extra))
            del extra[first]
        else:
            del extra[directory, name]
        self.extra = extra or None

    @property
    def is_natural(self) -> bool:
        """Whether its only name is the place that the base file at `origin` has."""
        parent = self.parent
        if parent is None or parent.base_path is None or self.extra is not None:
            return False
        above = parent.base_path
        return self.origin == (f"{above}/{self.name}" if above else self.name)

    def attr(self) -> Attr:
        """Returns what `stat` says."""
        return _attr(self, stat.S_IFREG, self.nlink, self.size)

    def __repr__(self) -> str:
        return f"<file {self.id} {self.name!r} spool={self.spool_id} origin={self.origin!r} flags={self.flags}>"


class DirState(NamedTuple):
    """Every field of a directory node, except its entries, that operations change."""

    perm: Perm
    mtime_ns: int
    ctime_ns: int
    atime_ns: int
    parent: "DirNode | None"
    name: str
    base_path: TreePath | None
    flags: int


class DirNode:
    """A directory: its own entries, laid over those of a base directory if it has one.

    INVARIANT: `parent.entries[name] is self`, except for the root (`parent is None`, id 1) and removed directories.
    INVARIANT: `base_path is None` implies that `entries` has no whiteout.
    INVARIANT: no two directories of a tree have the same `base_path`.

    Attributes:
        id: The key of the database row; never reused.
        ino: The inode number; of this mount only.
        entries: The upper entries by name.
        hidden: The names of `entries` that the base directory has as well, if that is known; None if not.
        base_path: The base directory whose other entries shine through; None if nothing does.
    """

    __slots__ = (
        "atime_ns",
        "base_path",
        "ctime_ns",
        "entries",
        "flags",
        "hidden",
        "id",
        "ino",
        "mtime_ns",
        "name",
        "parent",
        "perm",
    )

    def __init__(self, node_id: int, ino: Ino, perm: Perm, time_ns: int, base_path: TreePath | None) -> None:
        self.id = node_id
        self.ino = ino
        self.perm = perm
        self.mtime_ns = self.ctime_ns = self.atime_ns = time_ns
        self.parent: DirNode | None = None
        self.name = ""
        self.entries: dict[str, Entry] = {}
        self.hidden: set[str] | None = set()
        self.base_path = base_path
        self.flags = 0

    def state(self) -> DirState:
        """Returns a copy of all that operations change, except the entries."""
        return DirState(
            self.perm,
            self.mtime_ns,
            self.ctime_ns,
            self.atime_ns,
            self.parent,
            self.name,
            self.base_path,
            self.flags,
        )

    def restore(self, state: DirState) -> None:
        """Goes back to what `state` returned."""
        (
            self.perm,
            self.mtime_ns,
            self.ctime_ns,
            self.atime_ns,
            self.parent,
            self.name,
            self.base_path,
            self.flags,
        ) = state

    @property
    def is_natural(self) -> bool:
        """Whether the base directory is at the very place where this one is."""
        if self.parent is None:
            return True
        above = self.parent.base_path
        if above is None or self.base_path is None:
            return False
        return self.base_path == (f"{above}/{self.name}" if above else self.name)

    def path(self) -> TreePath:
        """Returns where the directory is in the merged tree."""
        names: list[str] = []
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return TreePath("/".join(reversed(names)))

    def attr(self) -> Attr:
        """Returns what `stat` says."""
        return _attr(self, stat.S_IFDIR, 1, 0)

    def __repr__(self) -> str:
        return f"<dir {self.id} {self.name!r} base={self.base_path!r} entries={len(self.entries)}>"


def _attr(node: Node, file_type: int, nlink: int, size: int) -> Attr:
    perm = node.perm
    return Attr(
        node.ino,
        file_type | perm.mode,
        nlink,
        perm.uid,
        perm.gid,
        size,
        node.atime_ns,
        node.mtime_ns,
        node.ctime_ns,
    )

"""The attributes of a snapshot's directories and files."""

from dataclasses import dataclass

from icefs.clock import NS_PER_US
from icefs.engine.history.key_times import ChunkTimes
from icefs.format.manifest.refs import ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import NO_INO, Ino
from icefs.paths import NodePath
from icefs.vfs.attrs import Attr, Ownership
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.inodes.numbers import Prefix
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.trees.listing import MAX_SIZE


@dataclass(frozen=True, slots=True)
class Look:
    """What the files and directories of a tree have in common.

    Attributes:
        label: The tree's place in the mount, for messages; empty where it is the mount's root.
        ownership: Whose the files are.
        file_mode: Type and permissions of a file.
        dir_mode: Type and permissions of a directory.
        absent: What is said of a name that leads nowhere.
        parent_ino: The directory that the tree's root is in.
    """

    label: str
    ownership: Ownership
    file_mode: int
    dir_mode: int
    absent: Attr
    parent_ino: Ino


class Attributes:
    """Makes the attributes of what is in a snapshot, from its number and time and the look of its tree.

    One is made for every request, so these methods call as few others as they can.
    """

    def __init__(self, inodes: TreeInodes, look: Look) -> None:
        self._inodes = inodes
        self._attr = look.ownership.attr
        self._file_mode = look.file_mode
        self._dir_mode = look.dir_mode

    def file(self, ino: Ino, size: int, time_ns: int) -> Attr:
        """Returns the attributes of a file of a number, size and time."""
        return self._attr(ino, self._file_mode, 1, size, time_ns)

    def directory(self, path: NodePath) -> Attr:
        """Returns the attributes of a directory of nodes, which must be one."""
        ino, time_ns = self._inodes.directory(path)
        return self._attr(ino, self._dir_mode, 2, 0, time_ns)

    def metadata(self, path: NodePath, node: NodeSnapshot) -> Attr:
        """Returns the attributes of a node's `zarr.json`; raises `NotInMemoryError` as the others of files."""
        ino, time_ns = self._inodes.metadata_file(path, node.id)
        return self._attr(ino, self._file_mode, 1, len(node.user_data), time_ns)

    def chunk(self, view: ArrayView, chunk_index: Prefix, ref: ChunkRef) -> Attr:
        """Returns the attributes of a chunk."""
        ino, time_ns = self._inodes.chunk(view.numbers, view.node.id, chunk_index)
        return self._attr(ino, self._file_mode, 1, min(ref.length_bytes, MAX_SIZE), time_ns)

    def chunk_directory(self, view: ArrayView, prefix: Prefix) -> Attr:
        """Returns the attributes of a directory above chunks."""
        ino, time_ns = self._inodes.chunk_directory(view.numbers, view.node.id, prefix)
        return self._attr(ino, self._dir_mode, 2, 0, time_ns)

    # What the entries of a listing share.

    def directories(self) -> Attr:
        """Returns what directories have in common that never changed."""
        return self._attr(NO_INO, self._dir_mode, 2, 0, self._inodes.history.time_ns(0))

    def chunks(self, first: ChunkTimes | None) -> Attr:
        """Returns what chunks have in common; `first` has the times of those that never changed, if known."""
        time_ns = self._inodes.history.time_ns(0) if first is None else first.uniform * NS_PER_US
        return self._attr(NO_INO, self._file_mode, 1, 0, time_ns)

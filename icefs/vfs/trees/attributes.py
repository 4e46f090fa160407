"""The attributes of a snapshot's directories and files."""

from dataclasses import dataclass

from icefs.clock import NS_PER_US
from icefs.engine.history.key_times import ChunkTimes
from icefs.format.manifest.refs import ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import Ino
from icefs.paths import NodePath
from icefs.vfs.attrs import Attr, Ownership
from icefs.vfs.chunks.array_view import ArrayView
from icefs.vfs.inodes.numbers import Prefix
from icefs.vfs.inodes.tree_inodes import Numbered, TreeInodes
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
    """Makes the attributes of what is in a snapshot, from its number and time and the look of its tree."""

    def __init__(self, inodes: TreeInodes, look: Look) -> None:
        self._inodes = inodes
        self._look = look

    def _directory(self, numbered: Numbered) -> Attr:
        look = self._look
        return look.ownership.attr(numbered.ino, look.dir_mode, nlink=2, size=0, time_ns=numbered.time_ns)

    def file(self, numbered: Numbered, size: int) -> Attr:
        """Returns the attributes of a file of a number, time and size."""
        look = self._look
        return look.ownership.attr(numbered.ino, look.file_mode, nlink=1, size=size, time_ns=numbered.time_ns)

    def directory(self, path: NodePath) -> Attr:
        """Returns the attributes of a directory of nodes, which must be one."""
        return self._directory(self._inodes.directory(path))

    def metadata(self, path: NodePath, node: NodeSnapshot) -> Attr:
        """Returns the attributes of a node's `zarr.json`; raises `NotInMemoryError` as the others of files."""
        return self.file(self._inodes.metadata_file(path, node.id), len(node.user_data))

    def chunk(self, view: ArrayView, chunk_index: Prefix, ref: ChunkRef) -> Attr:
        """Returns the attributes of a chunk."""
        numbered = self._inodes.chunk(view.numbers, view.node.id, chunk_index)
        return self.file(numbered, min(ref.length_bytes, MAX_SIZE))

    def chunk_directory(self, view: ArrayView, prefix: Prefix) -> Attr:
        """Returns the attributes of a directory above chunks."""
        return self._directory(self._inodes.chunk_directory(view.numbers, view.node.id, prefix))

    # What the entries of a listing share.

    def directories(self) -> Attr:
        """Returns what directories have in common that never changed."""
        return self._directory(Numbered(Ino(0), self._inodes.history.time_ns(0)))

    def chunks(self, first: ChunkTimes | None) -> Attr:
        """Returns what chunks have in common; `first` has the times of those that never changed, if known."""
        time_ns = self._inodes.history.time_ns(0) if first is None else first.uniform * NS_PER_US
        return self.file(Numbered(Ino(0), time_ns), 0)

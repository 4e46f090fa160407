"""What all trees of a mount share, and what tells one from another."""

from dataclasses import dataclass
from typing import Final

from icefs.engine.history.lineage import Lineages
from icefs.engine.repository import Repository
from icefs.inode import Ino
from icefs.vfs.attrs import Ownership
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.inodes.table import InodeSpace

_NO_INO: Final = Ino(0)


@dataclass(frozen=True, slots=True)
class TreeContext:
    """What all trees of a mount share.

    Attributes:
        space: Where inode numbers come from.
        ownership: Whose the files are.
        repository: Where sessions come from.
        opener: Opens chunks.
        lineages: Tells when keys changed last; None gives them the times of their snapshots.
    """

    space: InodeSpace
    ownership: Ownership
    repository: Repository
    opener: ChunkOpener
    lineages: Lineages | None = None


@dataclass(frozen=True, slots=True)
class TreeIdentity:
    """Which tree it is.

    Attributes:
        kind: `branch`, `tag` or `snapshot`.
        name: The name of the ref; empty for a snapshot.
        label: The tree's place in the mount: `branches/main`; empty where the tree is all that is mounted.
        parent_ino: The directory that its root is in; its own root's where the tree is all that is mounted.
    """

    kind: str
    name: str
    label: str = ""
    parent_ino: Ino = _NO_INO

    @property
    def is_whole_mount(self) -> bool:
        """Whether the tree is all that is mounted."""
        return not self.label

    @property
    def shown(self) -> str:
        """The tree as messages call it."""
        return self.label or "the mount"

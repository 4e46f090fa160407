"""A snapshot as a tree of directories and files, with its control directory.

a tag, a snapshot    nothing ever changes, so the kernel remembers everything
a branch             shows another snapshot whenever its tip moves (see `branch_tree`)
"""

import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from icefs.clock import NS_PER_US
from icefs.engine.read.session import Session
from icefs.errors import IsADirectoryTreeError, ReadOnlyError, StaleError, TreeError
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.paths import ROOT_NODE, TreePath
from icefs.vfs import xattrs
from icefs.vfs.attrs import ABSENT, ABSENT_FOREVER, Attr, EntryRun
from icefs.vfs.inodes.numbers import CONTROL_SLOT
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.interface import DirHandle, FileHandle, NotInMemoryError, Tree, TreeChanges, not_a_directory
from icefs.vfs.trees.attributes import Look
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.control_dir import CONTROL_NAME, ControlDir
from icefs.vfs.trees.finder import Finder, stale, target_path
from icefs.vfs.trees.listing import Listing, Section
from icefs.vfs.trees.snapshot_files import SnapshotFiles

WRITING: Final = os.O_WRONLY | os.O_RDWR | os.O_TRUNC
"""The flags of `open(2)` that ask for more than to read."""


class Keeper(Protocol):
    """Bounds how many trees that never change are in memory."""

    def note_loaded(self, tree: "SnapshotTree") -> None:
        """Is called when the snapshot of a tree has been loaded."""

    def note_unused(self, tree: "SnapshotTree") -> None:
        """Is called when the kernel has forgotten a tree altogether."""


class SnapshotTree(Tree):
    """A tree over one snapshot at a time.

    Attributes:
        identity: Which tree it is.
        snapshot_id: What is shown.
        inodes: Its numbers and times, which outlive a snapshot.
        files: What is in the snapshot.
        kernel_refs: How many references to inodes of this tree the kernel holds.
        is_immutable: Whether it shows the same snapshot for ever.
        is_gone: Whether the ref that led here is no more; everything in the tree is stale then.
    """

    def __init__(
        self,
        context: TreeContext,
        identity: TreeIdentity,
        snapshot_id: SnapshotId,
        flushed_at: int,
        make_control: Callable[[], ControlDir],
        *,
        keeper: Keeper | None = None,
        owner: Tree | None = None,
        is_immutable: bool = True,
        is_writable: bool = False,
    ) -> None:
        """Shows a snapshot, which is loaded when something is first looked for.

        Args:
            context: What all trees of the mount share.
            identity: Which tree it is.
            snapshot_id: The snapshot.
            flushed_at: When it was written, in microseconds.
            make_control: Makes the control directory, at the first look.
            keeper: Bounds how many such trees are in memory.
            owner: The tree that answers for the numbers, where that is not this one.
            is_immutable: Whether the same snapshot is shown for ever.
            is_writable: Whether the files look as if they could be written to.
        """
        self.identity = identity
        self.snapshot_id = snapshot_id
        self.kernel_refs = 0
        self.is_immutable = is_immutable
        self.is_gone = False
        self.inodes = TreeInodes(
            context.space,
            self if owner is None else owner,
            context.lineages,
            snapshot_id,
            flushed_at,
            is_root=identity.is_whole_mount,
            may_grow=not is_immutable,
        )
        self._fixed = self.inodes.fixed
        self._control_inos = self._fixed.control_inos
        self._context = context
        self._keeper = keeper
        self._make_control = make_control
        self._control: ControlDir | None = None
        self.look = Look(
            identity.label,
            context.ownership,
            context.ownership.file_mode(writable=is_writable),
            context.ownership.dir_mode(writable=is_writable),
            ABSENT_FOREVER if is_immutable else ABSENT,
            self.inodes.root_ino if identity.is_whole_mount else identity.parent_ino,
        )
        self.files = self._files_of(None)

    def _files_of(self, session: Session | None) -> SnapshotFiles:
        finder = Finder(self.inodes, self._context.repository, self.snapshot_id, session, self._note_loaded)
        return SnapshotFiles(finder, self.inodes, self.look, self._context.opener)

    def _note_loaded(self) -> None:
        if self._keeper is not None:
            self._keeper.note_loaded(self)

    @property
    def label(self) -> str:
        """The tree's place in the mount."""
        return self.identity.label

    @property
    def changes(self) -> TreeChanges:
        """Nothing changes the tree: these refuse."""
        return TreeChanges(self.path_of)

    @property
    def session(self) -> Session | None:
        """The snapshot, if it is loaded."""
        return self.files.session

    @property
    def control(self) -> ControlDir:
        """The control directory."""
        if self._control is None:
            self._control = self._make_control()
        return self._control

    # What is shown.

    def show(self, session: Session) -> None:
        """Shows another snapshot from now on; the caller has begun an epoch for the differences."""
        self.snapshot_id = session.snapshot_id
        self.files = self._files_of(session)

    def restart(self, snapshot_id: SnapshotId, flushed_at: int, session: Session | None = None) -> None:
        """Shows another snapshot from now on, where nobody has looked at the tree yet."""
        self.snapshot_id = snapshot_id
        self.inodes.begin(snapshot_id, flushed_at)
        self.files = self._files_of(session)

    def unload(self) -> None:
        """Drops what can be loaded again; numbers stay.

        Times of an immutable tree go, too: the kernel remembers trees that nobody looks at any more.
        """
        self.files = self._files_of(None)
        if self.is_immutable and not self.is_gone:  # an open file of one that is gone keeps its time
            self.inodes.begin(self.snapshot_id, self.inodes.history.time_ns(0) // NS_PER_US)

    def retire(self) -> None:
        """Ends the tree: what led here is no more."""
        self.is_gone = True
        self.unload()

    # The interface.

    def _control_slot(self, ino: Ino) -> int:
        """Returns the slot of the control directory or a file in it, 0 for what is the snapshot's.

        Raises:
            StaleError: the tree is gone.
        """
        if self.is_gone:
            raise stale(ino, self.identity.label)
        return self._fixed.control_slot(ino)

    def path_of(self, ino: Ino) -> str:
        """Returns the path of an inode below the tree's root, for log lines."""
        try:
            slot = self._control_slot(ino)
            return self.control.path_of(slot) if slot else f"/{target_path(self.files.locate(ino))}"
        except (NotInMemoryError, StaleError):
            return f"inode {ino}"

    def root_attr(self) -> Attr:
        """Returns the attributes of the root directory; needs no snapshot."""
        return self.files.attributes.directory(ROOT_NODE)

    def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a name in a directory."""
        # As `_control_slot`, but for two calls: here, and in `getattr`, which programs wait for most often.
        if self.is_gone:
            raise stale(parent, self.identity.label)
        if parent in self._control_inos:
            attr = self._lookup_in_control(parent, name)
            if not self._fixed.control_slot(attr.ino):
                return attr  # another tree's, which counts its references itself
        elif name == CONTROL_NAME and parent == self.inodes.root_ino:
            attr = self.control.dir_attr()
        else:
            attr = self.files.lookup(parent, name)
        if attr.ino:
            self.kernel_refs += 1
        return attr

    def _lookup_in_control(self, parent: Ino, name: str) -> Attr:
        slot = self._fixed.control_slot(parent)
        if slot != CONTROL_SLOT:
            raise not_a_directory(self.control.path_of(slot))
        return self.control.lookup(name)

    def getattr(self, ino: Ino) -> Attr:
        """Returns attributes."""
        if self.is_gone:
            raise stale(ino, self.identity.label)
        if ino in self._control_inos:
            return self.control.getattr(self._fixed.control_slot(ino))
        return self.files.getattr(ino)

    def getattr_open(self, file: FileHandle) -> Attr:
        """Returns the attributes of an open file that has been replaced: what they were in its epoch."""
        return self.files.attr_of_open(file)

    def forget(self, ino: Ino, count: int) -> None:
        """Counts the kernel's references down; a tree that it knows nothing of any more keeps nothing either."""
        self.kernel_refs -= count
        if self.kernel_refs <= 0 and self._keeper is not None:
            self._keeper.note_unused(self)

    def readlink(self, ino: Ino) -> str:
        """Returns where a link in the control directory leads."""
        slot = self._control_slot(ino)
        if slot:
            return self.control.readlink(slot)
        raise TreeError("not a symbolic link", ino=ino)

    def open(self, ino: Ino, flags: int) -> FileHandle:
        """Opens a file for reading."""
        slot = self._control_slot(ino)
        if slot > CONTROL_SLOT:
            return self.control.open(slot, flags)
        if not slot:
            if flags & WRITING and not self.files.locate(ino).is_dir:
                raise ReadOnlyError(f"{self.label}{self.path_of(ino)} cannot be written", kind="read-only-store")
            file = self.files.open(ino)
            if file is not None:
                return file
        raise IsADirectoryTreeError(f"{self.label}{self.path_of(ino)} is a directory", ino=ino)

    def opendir(self, ino: Ino) -> DirHandle:
        """Opens a directory."""
        slot = self._control_slot(ino)
        if slot > CONTROL_SLOT or (not slot and not self.files.locate(ino).is_dir):
            raise not_a_directory(f"{self.label}{self.path_of(ino)}")
        return Listing(ino, lambda: self._sections(ino), self._note_entered)

    def _sections(self, ino: Ino) -> Sequence[Section]:
        """Lists a directory as it is now."""
        if self._control_slot(ino):
            return self.control.listing(self.inodes.root_ino)
        return self.files.sections(self.files.locate(ino))

    def _note_entered(self, run: EntryRun, first: int, end: int) -> None:
        if not run.has_attributes:
            return
        of_dots = sum(name in (b".", b"..") for name in run.names[first : min(end, 2)]) if run.start == 0 else 0
        self.kernel_refs += end - first - of_dots

    def listxattr(self, ino: Ino) -> Sequence[str]:
        """Lists no extended attribute: what icefs tells of a file is none that a copy of it should have."""
        self.getattr(ino)
        return []

    def getxattr(self, ino: Ino, name: str) -> bytes | None:
        """Returns an extended attribute."""
        if not name.startswith(xattrs.PREFIX) or self._control_slot(ino):
            return None
        return self.xattrs(ino).get(name)

    def xattrs(self, ino: Ino) -> dict[str, bytes]:
        """Returns the extended attributes of a file or directory of the snapshot, by name."""
        return xattrs.describe(self._context.repository, self.snapshot_id, self.files.reference(ino))

    # By path, for a working tree that stands on the snapshot.

    def attr_at(self, path: TreePath) -> Attr | None:
        """Returns the attributes of what is at a path; None if nothing is."""
        return self.files.attr_at(path)

    def sections_at(self, path: TreePath) -> list[Section]:
        """Lists the directory at a path, without the two dots."""
        return self.files.sections_at(path)

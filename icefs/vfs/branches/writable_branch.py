"""A branch that can be written to: the snapshot tree below, with a working tree over it from the first write on.

    nothing was ever written    the snapshot tree answers
    a working tree is open      it answers, and asks the snapshot tree for what nobody changed

The working tree's life is in `working_life`, what it stands on in `branch_base`.

Concurrency: requests run on the event loop's thread, operations of the working tree mostly too. They hold its lock
for as long as it takes to write a row to the database; what may take longer runs in a thread.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final

import trio

from icefs.errors import (
    EntryNotFoundError,
    StaleError,
)
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.paths import TreePath, split
from icefs.vfs import xattrs
from icefs.vfs.attrs import ABSENT, Attr, EntryRun
from icefs.vfs.branches.branch_base import BranchBase
from icefs.vfs.branches.branch_changes import BranchChanges
from icefs.vfs.branches.in_doubt import recover
from icefs.vfs.branches.metadata_checks import MetadataChecks
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.removed_directories import RemovedDirectories
from icefs.vfs.branches.session_base import Guarded
from icefs.vfs.branches.settings import WorkingSettings
from icefs.vfs.branches.working_attrs import kernel_attr, list_working
from icefs.vfs.branches.working_handles import EarlyHandle, EarlyHandles, WorkingHandle, WorkingHandles
from icefs.vfs.branches.working_life import WorkingLife
from icefs.vfs.interface import DirHandle, FileHandle, NotInMemoryError, Tree, TreeChanges
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.control_dir import CONTROL_NAME, ControlDir
from icefs.vfs.trees.listing import Listing, NamedEntries, Section, dots
from icefs.vfs.trees.snapshot_tree import WRITING, SnapshotTree
from icefs.worktree.tree import WorkTree

_MAPPED_S: Final = 5.0


class WritableBranch(Tree):
    """A branch that can be written to.

    Attributes:
        settings: What it shares with the mount's other branches.
        below: The snapshot tree.
        life: Opens and closes the working tree.
        operations: Runs what the working tree does.
        base: What it stands on, and how that changes.
        checks: What a `zarr.json` must be.
    """

    def __init__(
        self,
        context: TreeContext,
        settings: WorkingSettings,
        identity: TreeIdentity,
        tip: SnapshotId,
        flushed_at: int,
        make_control: Callable[[], ControlDir],
    ) -> None:
        """Shows a branch at its tip, or at the base of the working tree that was left for it; see `BranchTree`."""
        guarded = Guarded()
        self.settings = settings
        self.below = below = SnapshotTree(
            context, identity, tip, flushed_at, make_control, owner=self, is_immutable=False, is_writable=True
        )
        self.life = WorkingLife(settings, below, guarded, self)
        self.operations = Operations(identity.name, self.life, settings.fetches, settings.threads)
        self.base = BranchBase(settings, below, self.life, self.operations, guarded)
        self.checks = MetadataChecks(settings.repository.spec_version)
        self._lock = guarded.lock
        self._control_inos = below.inodes.fixed.control_inos
        self._handles = WorkingHandles(self.operations, self.checks, settings.notifier)
        self._early = EarlyHandles(guarded, self.base.path_of, self._handles)
        self._removed = RemovedDirectories()
        self._changes = BranchChanges(
            self.base, self.operations, self._handles, self.checks, self._removed, self.path_of
        )

    @property
    def label(self) -> str:
        """The branch's place in the mount."""
        return self.below.label

    @property
    def changes(self) -> TreeChanges:
        """What changes the branch."""
        return self._changes

    @property
    def work(self) -> WorkTree | None:
        """The working tree; None while it is not open."""
        return self.life.work

    # The working tree's life.

    def opened(self, work: WorkTree) -> None:
        """Brings a working tree that was just opened to where it can be worked with; in a worker thread."""
        recover(self.base, work, self.settings.repository)
        self._early.adopt(work)

    def taken(self, work: WorkTree) -> None:
        """Has a working tree answer for files that were opened before it was there."""
        self._early.finish(work, is_gone=self.below.is_gone)
        work.removed.keep()

    def close(self) -> None:
        """Closes the working tree, at the end of the mount or of the branch."""
        self.life.close()

    async def take_mapped_pages(self) -> None:
        """Has the kernel write what programs have changed through mappings, as far as it does so in a few seconds.

        Until then nobody knows that these files have changed. A mapping keeps its file open after the descriptor is
        closed, and writes at its end come before the file's release.
        """
        if self.work is not None:
            with trio.move_on_after(_MAPPED_S):
                await self.settings.notifier.drop_pages(self.work.files.mappable())

    # Reading.

    def path_of(self, ino: Ino) -> str:
        """Returns the path of an inode below the tree's root, for log lines."""
        work = self.work
        if work is None or ino in self._control_inos:
            return self.below.path_of(ino)
        try:
            return f"/{work.entries.path_of(self.base.where(ino))}"
        except (NotInMemoryError, StaleError, EntryNotFoundError):
            return f"inode {ino}"

    def lookup(self, parent: Ino, name: str) -> Attr:
        """Finds a name in a directory."""
        is_control = parent in self._control_inos or (name == CONTROL_NAME and parent == self.below.inodes.root_ino)
        if self.life.work is None and not is_control:
            self.life.open_left()
        work = self.life.work
        if work is None or is_control:
            with self._lock:
                return self.below.lookup(parent, name)
        entry = work.entries.lookup(self.base.where(parent), name)
        return ABSENT if entry is None else kernel_attr(entry.attr)

    def getattr(self, ino: Ino) -> Attr:
        """Returns attributes."""
        work = self.life.work
        if work is None or ino in self._control_inos:
            with self._lock:
                return self.below.getattr(ino)
        try:
            return kernel_attr(work.entries.attr(self.base.where(ino)))
        except StaleError:
            # A program stands in it, or has it open.
            if ino not in self._removed:
                raise
            return self._removed.get(ino)

    def forget(self, ino: Ino, count: int) -> None:
        """Drops references of the kernel to an inode."""
        self._removed.forget(ino)
        if self.work is not None:
            self.work.removed.forget(ino)

    def root_attr(self) -> Attr:
        """Returns the attributes of the root directory."""
        return self.below.root_attr() if self.work is None else self.getattr(self.below.inodes.root_ino)

    def getattr_open(self, file: FileHandle) -> Attr:
        """Returns the attributes of an open file that nothing else leads to any more."""
        if isinstance(file, EarlyHandle) and file.adopted is not None:
            file = file.adopted
        if isinstance(file, WorkingHandle) and self.work is not None:
            return kernel_attr(self.work.files.getattr(file.fh))
        return self.below.getattr_open(file)

    def readlink(self, ino: Ino) -> str:
        """Returns where a link in the control directory leads."""
        return self.below.readlink(ino)

    def open(self, ino: Ino, flags: int) -> FileHandle:
        """Opens a file."""
        if ino in self._control_inos:
            # Without the branch's lock: to make the content of `accesslog` takes the lock of a working tree.
            return self.below.open(ino, flags)
        if self.work is None and not flags & WRITING:
            with self._lock:
                return self._early.add(self.below.open(ino, flags))
        work = self.life.require()
        where = self.base.where(ino)
        base_handle = None
        if isinstance(where, str) and not flags & WRITING:
            path = TreePath(where)
            base_handle = self.base.ask(lambda below: below.files.open_at(path))
        try:
            number = work.files.open(where, flags & ~os.O_APPEND)
        except BaseException:
            if base_handle is not None:
                base_handle.release()
            raise
        self._handles.direct.opened(ino)
        return self._handles.make(work, ino, number, flags & ~os.O_CREAT, base_handle)

    def opendir(self, ino: Ino) -> DirHandle:
        """Opens a directory."""
        is_control = ino in self._control_inos
        if not is_control:
            self.life.open_left()
        if self.work is None or is_control:
            with self._lock:
                return self.below.opendir(ino)
        try:
            self.work.entries.view(self.base.where(ino))  # refuses what is no directory
        except StaleError:
            if ino not in self._removed:
                raise
            removed = self._removed.get(ino)
            # The kernel lists nothing in it. It may be opened all the same, as a name led to it a moment ago.
            return Listing(ino, lambda: [NamedEntries(removed, [])], _note_nothing)
        return Listing(ino, lambda: self._sections(ino), _note_nothing)

    def _sections(self, ino: Ino) -> Sequence[Section]:
        """Lists a directory as it is now."""
        work = self.life.require()
        where = self.base.where(ino)
        own = kernel_attr(work.entries.attr(where))
        parent = self.below.look.parent_ino
        if own.ino != self.below.inodes.root_ino:
            above = work.entries.find(split(work.entries.path_of(where))[0])
            parent = own.ino if above is None else work.entries.attr(above).ino
        view = work.entries.view(where)
        if not view.hides and view.base_path is not None and not work.entries.has_retained_in(view.base_path):
            path = TreePath(view.base_path)
            return [dots(own, parent), *self.base.ask(lambda below: below.sections_at(path))]
        hidden = CONTROL_NAME if own.ino == self.below.inodes.root_ino else None
        return [dots(own, parent), *list_working(work.entries.list(where), own, hidden)]

    def listxattr(self, ino: Ino) -> Sequence[str]:
        """Lists no extended attribute: what icefs tells of a file is none that a copy of it should have."""
        self.getattr(ino)
        return []

    def getxattr(self, ino: Ino, name: str) -> bytes | None:
        """Returns an extended attribute; what programs have written has none."""
        work = self.work
        if work is None or ino in self._control_inos:
            return self.below.getxattr(ino, name)
        if not name.startswith(xattrs.PREFIX):
            return None
        try:
            where = self.base.where(ino)
        except StaleError:
            if ino in self._removed:
                return None
            raise
        if not isinstance(where, str):
            return None
        path = TreePath(where)
        return self.base.ask(lambda below: _xattrs_at(below, path)).get(name)


def _note_nothing(run: EntryRun, first: int, end: int) -> None:
    """Is for listings of a branch, which keeps its inodes whatever the kernel knows of them."""


def _xattrs_at(below: SnapshotTree, path: TreePath) -> dict[str, bytes]:
    attr = below.attr_at(path)
    return {} if attr is None else below.xattrs(attr.ino)

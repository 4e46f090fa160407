"""What a writable branch stands on, and how that changes: the branch follows its tip, or a commit or rebase leads on.

While there are changes over the base the branch stays there; without, it follows its tip. Both at once, the snapshot
tree below and the working tree over it, change under the locks of both.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress

from icefs.engine.read.session import Session
from icefs.errors import SessionStateError, StaleError
from icefs.inode import Ino, Invalidations
from icefs.paths import TreePath
from icefs.vfs.branches.base_change import change_base, plan_following
from icefs.vfs.branches.in_doubt import resolve, take_over_late
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.session_base import Guarded
from icefs.vfs.branches.settings import WorkingSettings
from icefs.vfs.branches.working_life import WorkingLife
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.notes.consolidated import groups_changed
from icefs.vfs.trees.advance import Advance, Advanced
from icefs.vfs.trees.advancer import Advancer
from icefs.vfs.trees.finder import target_path
from icefs.vfs.trees.renames import Renaming
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.worktree.model.nodes import NodeRef
from icefs.worktree.tree import WorkTree


class BranchBase:
    """The base of one writable branch; implements `base_change.ChangingBranch`.

    Attributes:
        settings: What the branch shares with the mount's other branches.
        below: The snapshot tree.
        is_committing: Whether a commit, discard or rebase is under way.
        followed_groups: Groups with consolidated metadata below which advances of the branch changed something.
    """

    def __init__(
        self,
        settings: WorkingSettings,
        below: SnapshotTree,
        life: WorkingLife,
        operations: Operations,
        guarded: Guarded,
    ) -> None:
        self.settings = settings
        self.below = below
        self.is_committing = False
        self.followed_groups: set[str] = set()
        self._life = life
        self._operations = operations
        self._guarded = guarded
        self._advancer = Advancer(below)

    @property
    def work(self) -> WorkTree | None:
        """The working tree over the base; None while it is not open."""
        return self._life.work

    # What a change of base asks.

    @property
    def name(self) -> str:
        """The branch."""
        return self.below.identity.name

    @property
    def label(self) -> str:
        """The branch's place in the mount."""
        return self.below.label

    @property
    def session(self) -> Session | None:
        """The snapshot that is shown."""
        return self.below.session

    @property
    def inodes(self) -> TreeInodes:
        """The numbers and times of what the snapshot has."""
        return self.below.inodes

    @property
    def inodes_lock(self) -> threading.RLock:
        """Protects `inodes`."""
        return self._guarded.lock

    def advance(self, advance: Advance, open_inos: Iterable[Ino], renaming: Renaming | None = None) -> Advanced:
        """Shows another snapshot; where there is a working tree, only from within a change of its base."""
        self.followed_groups |= groups_changed(advance.session, advance.changes)
        with self._guarded.lock:
            return self._advancer.advance(advance, open_inos, renaming)

    # Following the tip.

    @property
    def is_pinned(self) -> bool:
        """Whether the branch stays where it is, because there are changes over it, or may be at any moment."""
        # Busy: a working tree that is being opened will stand on what the branch shows now.
        if self._life.is_left or self._operations.is_busy:
            return True
        work = self._life.work
        return work is not None and (
            self.is_committing or work.pending_intent is not None or work.files.has_writers() or work.has_changes()
        )

    def used_numbers(self) -> list[Ino] | None:
        """Returns the numbers that files kept over commits; None while they may change."""
        if self.is_committing or self._operations.is_moving:
            return None
        work = self._life.work
        return [] if work is None else work.used_numbers()

    async def follow(self, advance: Advance, open_inos: Iterable[Ino]) -> Invalidations | None:
        """Carries out what was planned; None if there are changes meanwhile, and the branch stays."""
        if self.is_pinned or self._operations.is_moving:
            return None
        work = self._life.work
        if work is None:
            return self.advance(advance, open_inos).changed
        plan, inos = plan_following(advance), list(open_inos)
        with self._operations.moving():
            try:
                outcome = await self.settings.jobs.run(lambda: change_base(self, work, plan, inos))
            except SessionStateError:
                return None  # a commit has begun meanwhile
        return outcome.changed

    async def find_out(self, open_inos: Iterable[Ino]) -> Invalidations | None:
        """Finds out what became of a commit that is in doubt, or was given up; None where nothing changes by that.

        Raises:
            StorageError: the store does not tell.
        """
        work = self._life.work
        if work is None or self.is_committing or (work.pending_intent is None and not work.attempts):
            return None
        self.is_committing = True
        inos = list(open_inos)
        try:
            return await self._operations.in_thread(lambda: self._find_out(work, inos), self.settings.jobs)
        finally:
            self.is_committing = False

    def _find_out(self, work: WorkTree, open_inos: list[Ino]) -> Invalidations:
        repository = self.settings.repository
        found = Invalidations()
        if work.pending_intent is not None:
            found = resolve(self, work, repository, open_inos)
        late = take_over_late(self, work, repository, open_inos)
        return found if late is None else found + late.changed

    # The base's paths and numbers.

    def path_of(self, ino: Ino) -> TreePath:
        """Returns the path of what the base has under a number; with the lock held.

        Raises:
            StaleError: nothing any more.
            NotInMemoryError: the snapshot has to be loaded.
        """
        return target_path(self.below.files.locate(ino))

    def find_path(self, ino: Ino) -> TreePath:
        """Returns the same, and takes the lock itself; in a worker thread it also fetches what is missing."""
        return self._guarded.call(lambda: self.path_of(ino))

    def where(self, ino: Ino) -> NodeRef:
        """Returns how the working tree names what the kernel knows by a number.

        Raises:
            StaleError: it is no longer there.
        """
        work = self._life.work
        return ino if work is None or work.entries.knows(ino) else self.find_path(ino)

    def ask[T](self, question: Callable[[SnapshotTree], T]) -> T:
        """Asks the snapshot tree with the lock held; in a worker thread it also fetches what is missing."""
        return self._guarded.call(lambda: question(self.below))

    def paths_of(self, inos: Iterable[Ino]) -> list[TreePath]:
        """Returns the paths of those inodes that are the base's and have no other number in the working tree."""
        paths = []
        for ino in inos:
            found = self.inodes.space.find(ino)
            if found is None or found.tree is not self.inodes.owner or self.inodes.fixed.control_slot(ino):
                continue
            with suppress(StaleError, NotInMemoryError):
                paths.append(self.find_path(ino))
        return paths

    def translated(self, changed: Invalidations) -> Invalidations:
        """Gives directories the numbers by which the kernel knows them, where those are not the base's."""
        work = self._life.work
        if work is None:
            return changed
        known: dict[Ino, Ino] = {}
        for ino, _ in changed.entries:
            if ino not in known:
                known[ino] = ino
                with suppress(StaleError, NotInMemoryError):
                    where = work.entries.find(self.find_path(ino))
                    if where is not None:
                        known[ino] = work.entries.attr(where).ino
        return Invalidations([(known[ino], name) for ino, name in changed.entries], changed.inodes)

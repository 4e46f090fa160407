"""Trees that can be viewed, each at its present version."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple, override

from icefs.engine.history.lineage import Lineages
from icefs.errors import StaleError
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.vfs.views.working_hierarchy import WorkingHierarchy
from icefs.views.hierarchy import SessionHierarchy, times_of_history
from icefs.views.interface import Hierarchy
from icefs.worktree.tree import WorkTree

_SERIALS: Final = itertools.count()


class Opening(NamedTuple):
    """A version of a tree.

    Attributes:
        version: As `Hierarchy.version`.
        open: Makes the hierarchy, in a worker thread.
    """

    version: Hashable
    open: Callable[[], Hierarchy]


class Source(ABC):
    """A tree that can be viewed.

    Attributes:
        key: Tells it from all other sources, of the past too, whose content is different.
        label: The tree's place in the mount, for messages; empty where it is all that is mounted.
        is_immutable: Whether there is but one version.

    Concurrency: on the event loop's thread.
    """

    key: Hashable
    label: str
    is_immutable: bool

    @abstractmethod
    def opening(self) -> Opening:
        """Returns the present version.

        Raises:
            NotInMemoryError: it has to be fetched.
            StaleError: the tree is gone.
        """

    @abstractmethod
    def retain(self) -> None:
        """Keeps the tree in memory; `release` ends that."""

    @abstractmethod
    def release(self) -> None:
        """Lets the tree go."""


class SnapshotSource(Source):
    """A tag, a snapshot, or a branch of a mount that only reads, which follows its tip."""

    def __init__(self, tree: SnapshotTree, lineages: Lineages) -> None:
        """Takes the tree, and what tells when nodes changed last."""
        self._tree = tree
        self._lineages = lineages
        self.label = tree.label
        self.is_immutable = tree.is_immutable
        self.key = (tree.label, str(tree.snapshot_id)) if tree.is_immutable else (tree.label, next(_SERIALS))

    @override
    def opening(self) -> Opening:
        tree, lineages = self._tree, self._lineages
        if tree.is_gone:
            raise StaleError(f"{tree.identity.shown} is gone", path=tree.label)
        session = tree.files.finder.require_session()
        branch = tree.identity.name if tree.identity.kind == "branch" else ""

        def make() -> Hierarchy:
            return SessionHierarchy(session, branch=branch, times=times_of_history(lineages, session))

        return Opening(session.snapshot_id, make)

    @override
    def retain(self) -> None:
        self._tree.kernel_refs += 1

    @override
    def release(self) -> None:
        self._tree.forget(self._tree.inodes.root_ino, 1)


class WorkingSource(Source):
    """A branch that can be written to: its working tree while there are changes in it, else its snapshot."""

    def __init__(self, branch: WritableBranch, lineages: Lineages) -> None:
        """Takes the branch, and what tells when nodes changed last."""
        self._branch = branch
        self._lineages = lineages
        self.label = branch.label
        self.is_immutable = False
        self.key = (branch.label, next(_SERIALS))
        self._looked: tuple[WorkTree, int, bool] | None = None

    @override
    def opening(self) -> Opening:
        branch, lineages = self._branch, self._lineages
        below = branch.below
        if below.is_gone:
            raise StaleError(f"{below.identity.shown} is gone", path=below.label)
        branch.life.open_left()
        session = branch.base.ask(lambda below: below.files.finder.require_session())

        def make_base() -> SessionHierarchy:
            return SessionHierarchy(session, branch=below.identity.name, times=times_of_history(lineages, session))

        work = branch.work
        if work is None or not self._has_changes(work):
            return Opening(session.snapshot_id, make_base)
        version = (self.key, work.base, work.revision)
        return Opening(version, lambda: WorkingHierarchy(work, make_base(), version))

    def _has_changes(self, work: WorkTree) -> bool:
        revision = work.revision
        looked = self._looked
        if looked is None or looked[0] is not work or looked[1] != revision:
            looked = self._looked = work, revision, work.has_changes()
        return looked[2]

    @override
    def retain(self) -> None:
        """Does nothing: a branch stays in memory."""

    @override
    def release(self) -> None:
        """Does nothing."""


def source_of(tree: SnapshotTree | BranchTree, lineages: Lineages) -> Source:
    """Returns a tree of the mount as one that can be viewed."""
    if isinstance(tree, SnapshotTree):
        return SnapshotSource(tree, lineages)
    return SnapshotSource(tree.tree, lineages) if tree.writable is None else WorkingSource(tree.writable, lineages)

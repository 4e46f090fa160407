"""Trees that can be viewed, each at its present version."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Final, NamedTuple, override

from icefs.engine.history.lineage import Lineages
from icefs.errors import StaleError
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.views.hierarchy import SessionHierarchy, times_of_history
from icefs.views.interface import Hierarchy

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


def source_of(tree: SnapshotTree | BranchTree, lineages: Lineages) -> Source:
    """Returns a tree of the mount as one that can be viewed."""
    return SnapshotSource(tree if isinstance(tree, SnapshotTree) else tree.tree, lineages)

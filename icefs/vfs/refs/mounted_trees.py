"""The trees of a mount: those below its root, or the one that is all that is mounted."""

from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.refs.root import RootTree
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.worktree.tree import WorkTree


class MountedTrees:
    """The trees that a mount has made so far.

    Attributes:
        root: The top of a mount that shows the whole repository; None where one tree is all that is mounted.
        single: That tree; None where there is a root.
    """

    def __init__(self, root: RootTree | None, single: SnapshotTree | BranchTree | None) -> None:
        """Takes the one or the other."""
        self.root = root
        self.single = single

    def branches(self) -> list[BranchTree]:
        """Returns the branches that were looked at, or the one that is all there is."""
        if self.root is not None:
            return list(self.root.branches.values())
        return [self.single] if isinstance(self.single, BranchTree) else []

    def work_trees(self) -> list[tuple[str, WorkTree]]:
        """Returns the open working trees, with the names of their branches."""
        writable = [(branch.name, branch.writable) for branch in self.branches()]
        return [(name, one.work) for name, one in writable if one is not None and one.work is not None]

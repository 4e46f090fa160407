"""A branch: the snapshot tree that shows it, its tip, and in a mount that writes its working tree.

When the tip moves, what changed is worked out in a thread (`plan_advance`), and then taken over at once, between two
requests (`Advancer.advance`).
"""

from collections.abc import Callable, Iterable
from typing import Any

from icefs.engine.read.session import Session
from icefs.errors import FormatError
from icefs.format.ids import NodeId, SnapshotId
from icefs.inode import Ino, Invalidations
from icefs.paths import NodePath
from icefs.vfs.attrs import Attr
from icefs.vfs.branches.settings import WorkingSettings
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.interface import Tree
from icefs.vfs.trees.advance import Advance
from icefs.vfs.trees.advancer import Advancer
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.control_dir import ControlDir
from icefs.vfs.trees.snapshot_tree import SnapshotTree


class BranchTree:
    """One branch of the mount.

    Attributes:
        tree: Shows the snapshot that the branch stands on.
        writable: The working tree over it; None in a mount that only reads.
        tip: The branch's tip as last seen; None if the branch is gone.
        problem: Why the branch does not show the tip, in words; None if it does.
    """

    def __init__(
        self,
        context: TreeContext,
        settings: WorkingSettings | None,
        identity: TreeIdentity,
        tip: SnapshotId,
        flushed_at: int,
        make_control: "Callable[[BranchTree], ControlDir]",
    ) -> None:
        """Shows a branch at its tip.

        Args:
            context: What all trees of the mount share.
            settings: What writable branches share; None in a mount that only reads.
            identity: Which branch it is.
            tip: The branch's tip.
            flushed_at: When that was written, in microseconds.
            make_control: Makes the control directory, at the first look.
        """
        self.tip: SnapshotId | None = tip
        self.problem: str | None = None
        self.writable: WritableBranch | None = None

        def make() -> ControlDir:
            return make_control(self)

        if settings is None:
            self.tree = SnapshotTree(context, identity, tip, flushed_at, make, is_immutable=False)
        else:
            self.writable = WritableBranch(context, settings, identity, tip, flushed_at, make)
            self.tree = self.writable.below
        self._advancer = Advancer(self.tree)

    @property
    def name(self) -> str:
        """The branch's name."""
        return self.tree.identity.name

    @property
    def label(self) -> str:
        """The branch's place in the mount."""
        return self.tree.label

    @property
    def snapshot_id(self) -> SnapshotId:
        """The snapshot that the branch stands on."""
        return self.tree.snapshot_id

    @property
    def session(self) -> Session | None:
        """The same, if it is loaded."""
        return self.tree.session

    @property
    def owner(self) -> Tree:
        """The tree that answers for the branch's inodes."""
        return self.tree if self.writable is None else self.writable

    def root_attr(self) -> Attr:
        """Returns the attributes of the root directory."""
        return self.tree.root_attr() if self.writable is None else self.writable.root_attr()

    def facts(self) -> dict[str, Any]:
        """Returns what the branch knows of itself without asking the store, in JSON."""
        return {
            "kind": self.tree.identity.kind,
            "name": self.name,
            "tip": None if self.tip is None else str(self.tip),
            "tip_moved": self.tip is not None and self.tip != self.snapshot_id,
            "problem": self.problem,
        }

    # Following the tip.

    @property
    def is_untouched(self) -> bool:
        """Whether nobody has looked below the root yet."""
        return self.tree.session is None and self.tree.inodes.is_untouched

    @property
    def is_pinned(self) -> bool:
        """Whether the branch stays where it is, whatever the tip does."""
        return self.writable is not None and self.writable.base.is_pinned

    def restart(self, snapshot_id: SnapshotId, flushed_at: int) -> Invalidations:
        """Takes another tip where nobody has looked at the branch yet."""
        self.tree.restart(snapshot_id, flushed_at)
        return Invalidations(inodes=[self.tree.inodes.root_ino])

    async def follow(self, advance: Advance, open_inos: Iterable[Ino]) -> Invalidations | None:
        """Carries out what was planned from the present session; None if the branch has to stay after all."""
        if self.writable is not None:
            return await self.writable.base.follow(advance, open_inos)
        return self._advancer.advance(advance, open_inos).changed

    async def find_out(self, open_inos: Iterable[Ino]) -> Invalidations | None:
        """Finds out what became of a commit that is in doubt; None where nothing has changed by that."""
        return None if self.writable is None else await self.writable.base.find_out(open_inos)

    def tidy(self, open_inos: Iterable[Ino]) -> None:
        """Forgets the numbers of what was replaced long ago, once there are many."""

        def used() -> Iterable[Ino] | None:
            kept = [] if self.writable is None else self.writable.base.used_numbers()
            return None if kept is None else [*open_inos, *kept]

        self.tree.inodes.tidy(used, self._has_array)

    def _has_array(self, path: str, node_id: NodeId) -> bool:
        if self.session is None:
            return True
        try:
            node = self.session.get_node(NodePath(path))
        except FormatError:  # a node that cannot be read is there all the same
            return True
        return node is not None and node.id == node_id

    def retire(self) -> None:
        """Ends the branch, which was deleted; uncommitted changes stay in the state directory."""
        self.tree.retire()
        if self.writable is not None:
            self.writable.close()

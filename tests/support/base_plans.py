"""Changes of base without a branch: after a commit of the tree, also one whose outcome was not known."""

from collections.abc import Iterable
from dataclasses import dataclass

from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.model.nodes import DirNode, FileNode
from icefs.worktree.rebase.decisions import Decisions
from icefs.worktree.rebase.new_base import AskedOnce, NewBase
from icefs.worktree.rebase.plan import BaseOutcome, BasePlan
from icefs.worktree.rebase.rescue import Rescue
from icefs.worktree.tree import WorkTree


def plan_of_commit(frozen: FrozenTree, base: str, left_out: Iterable[str] = ()) -> BasePlan:
    """Plans to put a tree on the snapshot that it became; `left` are the paths that are not in it."""
    return BasePlan(base, FrozenIndex.of(frozen, frozenset(left_out)))


def complete_recovered(work: WorkTree) -> BaseOutcome:
    """Puts a tree on the snapshot of a commit whose outcome was not known, and which went through."""
    frozen, intent = work.pending()
    return work.change_base(plan_of_commit(frozen, intent.snapshot_id, intent.left_out))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a change of base is made of, before anything is changed."""

    core: TreeCore
    committed: FrozenIndex | None
    new: NewBase
    decisions: Decisions
    rescue: Rescue

    def node(self, path: str) -> FileNode:
        """Returns the node of a file."""
        found: object = self.core.root
        for name in path.split("/"):
            assert isinstance(found, DirNode)
            found = found.entries[name]
        assert isinstance(found, FileNode)
        return found

    def directory(self, path: str) -> DirNode:
        """Returns the node of a directory."""
        found: object = self.core.root
        for name in path.split("/") if path else ():
            assert isinstance(found, DirNode)
            found = found.entries[name]
        assert isinstance(found, DirNode)
        return found


def parts_of(
    tree: WorkTree,
    base: str,
    frozen: FrozenTree | None = None,
    left_out: Iterable[str] = (),
    yielded: Iterable[str] = (),
) -> Parts:
    """Makes the parts of a change of base: to others' snapshot, or to the one that a frozen tree became."""
    core = tree._core
    committed = None if frozen is None else FrozenIndex.of(frozen, frozenset(left_out))
    new = NewBase(core.base_tree, AskedOnce(core.base_for(base)), committed)
    decisions = Decisions(new, committed, frozenset(yielded))
    return Parts(core, committed, new, decisions, Rescue(core, new, decisions, committed))

"""Changes of base without a branch: after a commit of the tree, also one whose outcome was not known."""

from collections.abc import Iterable

from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.rebase.plan import BaseOutcome, BasePlan
from icefs.worktree.tree import WorkTree


def plan_of_commit(frozen: FrozenTree, base: str, left: Iterable[str] = ()) -> BasePlan:
    """Plans to put a tree on the snapshot that it became; `left` are the paths that are not in it."""
    return BasePlan(base, FrozenIndex.of(frozen, frozenset(left)))


def complete_recovered(work: WorkTree) -> BaseOutcome:
    """Puts a tree on the snapshot of a commit whose outcome was not known, and which went through."""
    frozen, intent = work.pending()
    return work.change_base(plan_of_commit(frozen, intent.snapshot_id, intent.left))

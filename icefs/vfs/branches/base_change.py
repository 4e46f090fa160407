"""A change of base of a branch with a working tree: planned from both sides, and carried out at one moment.

the branch's advance, what the commit renames ─┐
├─► plan ──► both trees stand on the new snapshot ──► outcome
the frozen tree, what others changed ──────────┘
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.format.ids import SnapshotId
from icefs.inode import Ino, Invalidations
from icefs.paths import NodePath, TreePath, child, tree_path
from icefs.vfs.inodes.tree_inodes import TreeInodes
from icefs.vfs.trees.advance import Advance, Advanced, plan_advance
from icefs.vfs.trees.finder import open_session
from icefs.vfs.trees.renames import Renaming, plan_renaming
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.rebase.plan import BaseOutcome, BasePlan, RenamedChunks
from icefs.worktree.tree import WorkTree
from icefs.zarr.keys import metadata_key, node_prefix


class ChangingBranch(Protocol):
    """A branch with a working tree, as far as a change of base concerns it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def label(self) -> str:
        """Where it is in the mount; empty for the only tree."""

    @property
    def session(self) -> Session | None:
        """What it shows now."""

    @property
    def inodes(self) -> TreeInodes:
        """The numbers and times of what it shows."""

    @property
    def inodes_lock(self) -> threading.RLock:
        """Protects `inodes`."""

    def advance(self, advance: Advance, open_inos: Iterable[Ino], renaming: Renaming | None = None) -> Advanced:
        """Goes to another snapshot; called while the working tree is locked."""

    def translated(self, changed: Invalidations) -> Invalidations:
        """Gives directories the numbers by which the kernel knows them, where those are the working tree's."""


@dataclass(frozen=True, slots=True)
class BranchPlan:
    """A change of base of a branch and its working tree.

    Attributes:
        advance: What changes in the branch.
        tree: The working tree's part.
        renaming: What the commit renamed; None for nothing.
        shows_others: Whether names lead to what others wrote. After a commit of the tree alone they lead to what the
            tree showed already.
    """

    advance: Advance
    tree: BasePlan
    renaming: Renaming | None = None
    shows_others: bool = True


def plan_following(advance: Advance, yielded: Iterable[TreePath] = (), revision: int | None = None) -> BranchPlan:
    """Plans to put a working tree's changes on a snapshot that others made.

    Args:
        advance: What changes in the branch.
        yielded: The paths at which the tree gives way to others.
        revision: The revision that the tree must still have; None for any.
    """
    base, changed = str(advance.session.snapshot_id), changed_paths(advance)
    return BranchPlan(advance, BasePlan(base, yielded=frozenset(yielded), changed=changed, revision=revision))


def plan_commit(
    branch: ChangingBranch,
    frozen: FrozenTree,
    made: Session,
    left_out: Iterable[TreePath],
    *,
    yielded: Iterable[TreePath] = (),
    others: Advance | None = None,
    shows_others: bool = True,
) -> BranchPlan:
    """Plans to put a working tree on the snapshot that was made of it.

    Args:
        branch: The branch, which shows what the tree stands on.
        frozen: The tree that the snapshot was made of.
        made: The snapshot.
        left_out: The paths of the frozen tree that are not in it.
        yielded: The paths at which the tree gives way to others.
        others: What others changed between the tree's base and the snapshot.
        shows_others: Whether names lead to what others wrote.
    """
    old = branch.session
    assert old is not None  # a working tree stands on one
    advance = plan_advance(old, made)
    index = FrozenIndex.of(frozen, frozenset(left_out))
    renaming = plan_renaming(branch.inodes, branch.inodes_lock, old, made, frozen.base_tree, index)
    tree = BasePlan(
        str(made.snapshot_id),
        index,
        frozenset(yielded),
        () if others is None else changed_paths(others),
        list(_cut_off(advance)),
        RenamedChunks() if renaming is None else RenamedChunks(renaming.regions, renaming.names),
    )
    return BranchPlan(advance, tree, renaming, shows_others)


def change_base(branch: ChangingBranch, work: WorkTree, plan: BranchPlan, open_inos: Iterable[Ino]) -> BaseOutcome:
    """Puts a branch and its working tree on another snapshot; in a worker thread.

    Raises:
        TreeChangedError, SessionStateError, NoSpaceError, StorageError: as `WorkTree.change_base`.
    """
    advanced = Advanced(Invalidations())
    opened = list(open_inos)

    def advance() -> None:
        nonlocal advanced
        advanced = branch.advance(plan.advance, opened, plan.renaming)

    outcome = work.change_base(plan.tree, advance)
    below = advanced.changed if plan.shows_others else Invalidations(inodes=advanced.changed.inodes)
    changed = branch.translated(below) + outcome.changed
    if not advanced.keeps_renamed:
        changed += Invalidations(outcome.renamed)
    return replace(outcome, changed=changed)


def advance_of_others(repository: Repository, base: Session, made: SnapshotId) -> Advance | None:
    """Works out what others changed between a tree's base and the snapshot that was made of it; None for nothing.

    Args:
        repository: Has the history.
        base: The snapshot that the tree stands on.
        made: The snapshot that was made of the tree.

    Raises:
        NotFoundError, ObjectNotFoundError: a snapshot is gone.
        StorageError, FormatError: it cannot be read.
    """
    parent = repository.snapshot_info(made).parent_id
    if parent is None or parent == base.snapshot_id:
        return None
    return plan_advance(base, open_session(repository, parent))


def changed_paths(advance: Advance) -> Sequence[TreePath]:
    """Returns the paths at and below which an advance shows other content; with a slash at the end, only below.

    A directory that is still there keeps its number, whatever is in it: the kernel looks up the names in it again.
    """
    changes = advance.changes
    paths: list[TreePath] = [metadata_key(path) for path in changes.new | changes.deleted | changes.updated]
    paths += [tree_path(path) for path in changes.deleted if path != "/" and not advance.session.has_children(path)]
    for path, array in advance.arrays.items():
        if array.changed is None or array.layout is None or array.top_names:
            paths.append(TreePath(node_prefix(NodePath(path))))  # no number in the whole array is retained
            continue
        rows = zip(*(column.tolist() for column in array.changed), strict=True) if array.changed else [()]
        paths += [TreePath(node_prefix(NodePath(path)) + array.layout.format(row)) for row in rows]
    return paths


def _cut_off(advance: Advance) -> Iterator[TreePath]:
    """Yields the names below which chunks lay that are outside of their array's grid now."""
    for path, array in advance.arrays.items():
        yield from (child(TreePath(path[1:]), name.decode(errors="surrogatepass")) for name in array.cut_names)

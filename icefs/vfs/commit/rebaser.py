"""Puts a working tree's changes on its branch's tip, without committing them. In a worker thread."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import RebaseFailedError, SessionStateError
from icefs.format.ids import SnapshotId
from icefs.inode import Ino, Invalidations
from icefs.paths import TreePath
from icefs.vfs.branches.base_change import ChangingBranch, change_base, plan_following
from icefs.vfs.branches.in_doubt import resolve, take_over_late
from icefs.vfs.commit.conflict_places import tell_way_out
from icefs.vfs.commit.request import Invalidate
from icefs.vfs.commit.session_changes import pretend_staged, session_for
from icefs.vfs.trees.advance import plan_advance
from icefs.vfs.trees.finder import open_session
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.rebase.plan import TreeChangedError
from icefs.worktree.rebase.yielding import TreeSolver, check_shown, revealed
from icefs.worktree.stage.stager import stage
from icefs.worktree.tree import WorkTree

_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class Compared:
    """What a rebase of a working tree would do.

    Attributes:
        session: The tree's changes, on the branch's tip.
        yielded: The paths at which the tree gives way to others.
    """

    session: WritableSession
    yielded: list[TreePath]


@dataclass(frozen=True, slots=True)
class Rebased:
    """What a rebase did.

    Attributes:
        tip: The snapshot that the tree stands on.
        changed: What the kernel has to ask for again.
    """

    tip: SnapshotId
    changed: Invalidations


def rebase_tree(
    branch: ChangingBranch,
    work: WorkTree,
    repository: WritableRepository,
    how: str,
    open_inos: Iterable[Ino],
    invalidate: Invalidate,
) -> Rebased:
    """Puts a working tree's changes on the branch's tip.

    Args:
        branch: The branch.
        work: Its working tree.
        repository: Where it is.
        how: `ours`, `theirs` or `fail`.
        open_inos: The inodes that are open.
        invalidate: Gets what an earlier commit has changed whose outcome was not known before, whatever becomes of the
            rebase.

    Raises:
        RebaseFailedError: the staged changes conflict with others' commits, or the tree cannot show those; it is as it
            was.
        SessionStateError: the tree changes faster than it can be compared; it is as it was (kind `tree-changed`).
        StorageError: the store failed; the tree is as it was.
    """
    if work.pending_intent is not None:
        invalidate(resolve(branch, work, repository, open_inos))
    late = take_over_late(branch, work, repository, open_inos)
    if late is not None:
        invalidate(late.changed)
    for _ in range(_TRIES):
        tip = repository.lookup_branch(branch.name)
        if str(tip) == work.base:
            return Rebased(tip, Invalidations())
        view = work.view()
        try:
            compared = compare(repository, branch.name, view, how)
        finally:
            work.release_view(view)
        tip = compared.session.snapshot_id
        old = branch.session
        assert old is not None  # a working tree stands on one
        advance = plan_advance(old, open_session(repository, tip))
        plan = plan_following(advance, compared.yielded, view.revision)
        try:
            return Rebased(tip, change_base(branch, work, plan, open_inos).changed)
        except TreeChangedError:
            continue  # what was written since has to be compared, too
    raise SessionStateError(
        "files of the working tree change all the time, so they cannot be compared with others' commits",
        kind="tree-changed",
        hint="pause the programs that write, or commit with a rebase: that works on the tree of one moment",
    )


def compare(repository: WritableRepository, branch: str, view: FrozenTree, how: str) -> Compared:
    """Rebases the staged changes, without storing them.

    Raises:
        RebaseFailedError: there are conflicts, or the tree could not show the tip.
    """
    base = open_session(repository, SnapshotId.parse(view.base))
    staged = stage(view, base)
    session = session_for(staged, repository, branch, base)
    pretend_staged(staged, session)
    solver = TreeSolver(how, view, staged.left_out)
    try:
        session.rebase(solver)
    except RebaseFailedError as error:
        tell_way_out(error, how, staged, session)
        raise
    yielded = list(solver.paths(session))
    check_shown(view, base, open_session(repository, session.snapshot_id), frozenset(yielded))
    return Compared(session, [*yielded, *revealed(view, session, frozenset(staged.left_out))])

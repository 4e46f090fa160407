"""Commits of a working tree whose outcome was not known: they are completed or given up once the store tells."""

import logging
from collections.abc import Iterable
from typing import NamedTuple

from icefs.engine.write.repository import WritableRepository
from icefs.errors import NotFoundError, StorageError
from icefs.format.ids import SnapshotId
from icefs.inode import Ino, Invalidations
from icefs.vfs.branches.base_change import ChangingBranch, advance_of_others, change_base, plan_commit
from icefs.vfs.branches.late_commits import differing, hidden, late_commit, remove_hidden
from icefs.vfs.trees.finder import open_session
from icefs.worktree.stage.stager import stage
from icefs.worktree.tree import WorkTree

logger = logging.getLogger(__name__)


def is_in_history(repository: WritableRepository, branch: str, snapshot_id: SnapshotId) -> bool:
    """Tells whether a branch has a snapshot among its commits."""
    return any(info.id == snapshot_id for info in repository.ancestry(branch=branch))


def resolve(
    branch: ChangingBranch, work: WorkTree, repository: WritableRepository, open_inos: Iterable[Ino]
) -> Invalidations:
    """Finds out what became of a commit in doubt, and completes it or gives it up; in a worker thread.

    Raises:
        StorageError: the store does not tell; the commit stays in doubt.
    """
    frozen, intent = work.pending()
    snapshot_id = SnapshotId.parse(intent.snapshot_id)
    if not is_in_history(repository, branch.name, snapshot_id):
        work.abandon_recovered()
        logger.info("%s: the commit %s had not gone through", branch.label, snapshot_id)
        return Invalidations()
    plan = plan_commit(branch, frozen, open_session(repository, snapshot_id), intent.left_out)
    outcome = change_base(branch, work, plan, open_inos)
    logger.info("%s: the commit %s had gone through", branch.label, snapshot_id)
    return outcome.changed


class TakenOver(NamedTuple):
    """A late commit that a tree stands on now.

    Attributes:
        snapshot_id: The commit.
        changed: What the kernel has to ask for again.
    """

    snapshot_id: SnapshotId
    changed: Invalidations


def take_over_late(
    branch: ChangingBranch, work: WorkTree, repository: WritableRepository, open_inos: Iterable[Ino]
) -> TakenOver | None:
    """Puts a tree on a commit of its own that it had given up, and that its branch has; None where there is none."""
    snapshot_id = late_commit(work, repository, branch.name)
    if snapshot_id is None:
        return None
    frozen = work.freeze()
    try:
        base, made = (open_session(repository, one) for one in (SnapshotId.parse(frozen.base), snapshot_id))
        staged = stage(frozen, base)
        others = differing(staged, frozen, made)
        if others is None:
            work.abandon(frozen)
            return None
        removed = list(hidden(staged, frozen, base, made))
        left_out = [*staged.left_out, *others]
        theirs = advance_of_others(repository, base, snapshot_id)
        plan = plan_commit(branch, frozen, made, left_out, others=theirs)
        work.record_intent(frozen, str(snapshot_id), frozen.base, left_out)
    except BaseException:
        work.abandon(frozen)
        raise
    outcome = change_base(branch, work, plan, open_inos)
    logger.info("%s: the commit %s, which had been given up, was made after all", branch.label, snapshot_id)
    return TakenOver(snapshot_id, outcome.changed + Invalidations(list(remove_hidden(work, removed))))


def recover(branch: ChangingBranch, work: WorkTree, repository: WritableRepository) -> None:
    """Brings a working tree that was just opened to where it can be worked with; in a worker thread.

    Where the store does not answer, a commit in doubt stays so; the tree can be read and written all the same.
    """
    if work.pending_intent is not None:
        try:
            resolve(branch, work, repository, ())
        except StorageError as error:
            logger.warning("%s: cannot find out yet whether the last commit was made: %s", branch.label, error)
    try:
        take_over_late(branch, work, repository, ())
    except (StorageError, NotFoundError) as error:
        logger.warning("%s: cannot find out yet whether a commit was made late: %s", branch.label, error)
    if not work.recovery.is_new:
        logger.info("%s has the working tree of %s", branch.label or "the mount", work.base)

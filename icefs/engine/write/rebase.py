"""What came between two snapshots, and putting a session's changes on top of it.

A rebase compares a session's changes with the transaction logs of all commits since its base, and with the newest
snapshot: so a session that is many commits behind is no slower than one that is a single commit behind. Where they
conflict, the commits are replayed one by one, so that the session ends on the last one without conflicts.

Source: format notes §5; upstream icechunk/src/session.rs.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

from icefs.engine.history.ancestry import ancestry
from icefs.engine.history.compared_log import compared_log
from icefs.engine.read.context import ReadContext
from icefs.engine.read.session import Session, session_at
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.conflicts import Conflict, ConflictSolver, listed, way_out
from icefs.engine.write.draft import Draft
from icefs.engine.write.news import news_since
from icefs.errors import ObjectNotFoundError, RebaseFailedError
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.transaction_log import TransactionLog


def commits_since(context: ReadContext, tip: SnapshotId, base: SnapshotId) -> Iterator[SnapshotInfo]:
    """Yields commits from a tip, newest first, down to `base` or the commit that stands for it; else all of them."""
    for info in ancestry(context, tip):
        yield info
        if info.id == base or base in info.pruned_ancestor_tx_logs:
            return


def branch_history(context: ReadContext, draft: Draft, branch: str) -> Iterator[SnapshotInfo]:
    """Yields a branch's commits, newest first, down to the draft's base; none where the branch is gone."""
    tip = context.refs().branches.get(branch)
    if tip is not None:
        yield from commits_since(context, tip, draft.snapshot.id)


def logs_between(context: ReadContext, base: SnapshotId, tip: SnapshotId) -> list[TransactionLog]:
    """Returns what was changed between two snapshots, as transaction logs, the oldest first.

    Where the one does not descend from the other, or a log is gone, the two snapshots are compared instead.

    Raises:
        SessionStateError: a manifest is gone too, so that it is unknown which chunks differ (kind
            `rebase-tx-log-pruned`).
    """
    if base == tip:
        return []
    history = list(commits_since(context, tip, base))
    ids = [log_id for _, log_ids in _steps(history, base) for log_id in log_ids]
    logs = _fetch_logs(context, ids)
    if not ids or logs is None:
        return [compared_log(session_at(context, base), session_at(context, tip))]
    return logs


def replay(context: ReadContext, draft: Draft, solver: ConflictSolver, branch: str) -> None:
    """Puts a draft's changes on top of its branch's present tip; the caller has frozen the draft.

    Raises:
        RebaseFailedError, SessionStateError: as `transactions.rebase`.
    """
    history = list(branch_history(context, draft, branch))
    base = draft.snapshot.id
    if not history or history[0].id == base:
        return

    def explain(error: RebaseFailedError) -> None:
        news_since(context, history[0].id, base, branch).add_to(error, base)

    steps = list(_steps(history, base))
    if len(steps) > 1 and _replay_at_once(context, draft, solver, steps):
        return
    for info, log_ids in steps:
        logs = _fetch_logs(context, log_ids)
        if logs is None:
            break
        _replay_one(context, draft, solver, info, logs, explain)
    else:
        if draft.snapshot.id == history[0].id:
            return
    ours, theirs = Session(context, draft.snapshot), session_at(context, history[0].id)
    _replay_one(context, draft, solver, history[0], [compared_log(ours, theirs)], explain)


def _steps(history: list[SnapshotInfo], base: SnapshotId) -> Iterator[tuple[SnapshotInfo, Sequence[SnapshotId]]]:
    """Yields the commits after a base, the oldest first, and the transaction logs that each stands for.

    The base itself may be among the commits that expired: the one after it then names their logs, the base's too.
    Nothing is yielded where the base is in no way part of the history.
    """
    oldest = history[-1]
    if oldest.id == base:
        history = history[:-1]
    elif base not in oldest.pruned_ancestor_tx_logs:
        return
    for info in reversed(history):
        pruned = info.pruned_ancestor_tx_logs
        if base in pruned:
            pruned = pruned[pruned.index(base) + 1 :]
        yield info, (*pruned, info.id)


def _fetch_logs(context: ReadContext, log_ids: Sequence[SnapshotId]) -> list[TransactionLog] | None:
    """Fetches transaction logs; None where one is gone."""
    try:
        return context.assets.workers.map(context.assets.fetch_transaction_log, log_ids)
    except ObjectNotFoundError:
        return None


def _replay_at_once(
    context: ReadContext,
    draft: Draft,
    solver: ConflictSolver,
    steps: Sequence[tuple[SnapshotInfo, Sequence[SnapshotId]]],
) -> bool:
    """Puts a draft's changes on top of several commits; False, and nothing done, where they must be taken singly.

    Only where no commit deleted or moved a node: then the newest snapshot has each node that a conflict could be with,
    at the path where it was, and the conflicts are those that the commits have one by one.
    """
    logs = _fetch_logs(context, [log_id for _, log_ids in steps for log_id in log_ids])
    if logs is None or any(log.moved_nodes or log.deleted_arrays or log.deleted_groups for log in logs):
        return False
    theirs = session_at(context, steps[-1][0].id)
    try:
        changes, conflicts = _solve(context, draft, solver, logs, theirs)
    except RebaseFailedError:
        return False
    if conflicts:
        return False
    draft.rebased(theirs.snapshot, changes)
    return True


def _replay_one(
    context: ReadContext,
    draft: Draft,
    solver: ConflictSolver,
    info: SnapshotInfo,
    logs: Iterable[TransactionLog],
    explain: Callable[[RebaseFailedError], None],
) -> None:
    """Puts a draft's changes on top of one commit."""
    theirs = session_at(context, info.id)
    changes, conflicts = _solve(context, draft, solver, logs, theirs)
    if conflicts:
        error = _rebase_failed(info, conflicts)
        explain(error)
        raise error
    draft.rebased(theirs.snapshot, changes)


def _solve(
    context: ReadContext, draft: Draft, solver: ConflictSolver, logs: Iterable[TransactionLog], theirs: Session
) -> tuple[ChangeSet, list[Conflict]]:
    changes, our_base = draft.changes, Session(context, draft.snapshot)
    for log in logs:
        changes, conflicts = solver.solve(log, theirs, changes, our_base)
        if conflicts:
            return changes, conflicts
    return changes, []


def _rebase_failed(info: SnapshotInfo, conflicts: list[Conflict]) -> RebaseFailedError:
    return RebaseFailedError(
        f"commit {info.id} ({info.message!r}) conflicts with these changes: {listed(conflicts)}",
        hint=way_out(conflicts),
        snapshot=str(info.id),
        conflicts=conflicts,
        count=len(conflicts),
    )

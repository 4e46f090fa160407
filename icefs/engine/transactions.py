"""How a session's changes become a snapshot that others see: commit, amend, flush, and rebase when others were first.

A commit writes its snapshot once and then tries to publish it. Publishing checks that the branch still stands where
the session does, inside of the same conditional write, so that of two commits to one branch exactly one succeeds.
The other's session stays as it was, to be rebased or given up.

Source: format notes §2, §5 and §7.12; upstream icechunk/src/session.rs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from icefs.engine import updates
from icefs.engine.changeset import ChangeSet
from icefs.engine.commit import write_snapshot
from icefs.engine.conflicts import Conflict, ConflictSolver
from icefs.engine.session import Session
from icefs.errors import (
    BranchMovedError,
    NothingToCommitError,
    ObjectNotFoundError,
    RebaseFailedError,
    SessionStateError,
    UnsupportedError,
)
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.repo_info import SnapshotInfo
from icefs.format.snapshot import Snapshot

if TYPE_CHECKING:
    from icefs.engine.writable import WritableSession

type BeforePublish = Callable[[SnapshotId], None]
"""Called with the new snapshot's id right before the write that makes it visible."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A commit that was tried, and may or may not have gone through: the store's answer was lost.

    Attributes:
        snapshot_id: What it would have become.
        revision: The session's changes that it had.
    """

    snapshot_id: SnapshotId
    revision: int


def commit(
    session: "WritableSession",
    message: str,
    metadata: dict[str, Any] | None = None,
    *,
    rebase_with: ConflictSolver | None = None,
    rebase_tries: int = 1000,
    allow_empty: bool = False,
    before_publish: BeforePublish | None = None,
) -> SnapshotId:
    """Commits a session's changes to its branch.

    Args:
        session: The session; read-only afterwards.
        message: The commit message.
        metadata: Joined with the repository's default commit metadata.
        rebase_with: Rebase with this solver where the branch moved, and try again.
        rebase_tries: How often.
        allow_empty: Commit also where nothing changed.
        before_publish: See `BeforePublish`.

    Raises:
        NothingToCommitError: nothing changed.
        BranchMovedError: the branch has other commits now; the session is as it was.
        RebaseFailedError: the rebase met conflicts; the session stands on the last commit without any.
        SessionStateError: the session was committed already.
    """
    tries = rebase_tries if rebase_with is not None else 0
    for attempt in range(tries + 1):
        extra = {} if rebase_with is None else {"rebase_attempts": attempt}
        try:
            return _commit_once(session, message, metadata, extra, allow_empty, before_publish)
        except BranchMovedError:
            if rebase_with is None or attempt == tries:
                raise
            rebase(session, rebase_with)
    raise AssertionError("the last attempt returns or raises")


def _commit_once(
    session: "WritableSession",
    message: str,
    metadata: dict[str, Any] | None,
    icechunk_metadata: dict[str, Any],
    allow_empty: bool,
    before_publish: BeforePublish | None,
) -> SnapshotId:
    repository, branch = session.repository, _branch_of(session)
    repository.check_online()
    base, changes, revision = _what_to_commit(session, allow_empty=allow_empty)
    if session.in_doubt is not None and session.in_doubt.revision == revision:
        earlier = session.in_doubt.snapshot_id
        if earlier in {info.id for info in _commits_since(session, branch)}:
            session.committed(earlier)
            return earlier
    # A tip that has moved already is found before anything is written; the publishing write checks again.
    updates.check_tip(repository, branch, base.id)
    new = write_snapshot(
        repository, base, changes, message=message, metadata=_metadata(session, metadata, icechunk_metadata)
    )
    if before_publish is not None:
        before_publish(new.id)
    session.in_doubt = InDoubt(new.id, revision)
    updates.publish_commit(repository, branch, base.id, new, is_rearrange=session.is_rearrange)
    session.committed(new.id)
    return new.id


def _what_to_commit(session: "WritableSession", *, allow_empty: bool) -> tuple[Snapshot, ChangeSet, int]:
    with session.lock:
        base, changes, revision = session.snapshot, session.changes.copy(), session.revision
    if changes.is_empty() and not allow_empty:
        raise NothingToCommitError(
            "there is nothing to commit", hint="change something first, or allow an empty commit"
        )
    return base, changes, revision


def amend(
    session: "WritableSession", message: str, *, metadata: dict[str, Any] | None = None, allow_empty: bool = False
) -> SnapshotId:
    """Replaces the branch's newest commit by one that also has the session's changes (spec 2).

    Raises:
        SessionStateError: the newest commit is the repository's first one, or it moved nodes and this session does
            not.
        UnsupportedError: a repository of spec 1.
        NothingToCommitError, BranchMovedError: as `commit`.
    """
    repository, branch = session.repository, _branch_of(session)
    if repository.spec_version == 1:
        raise UnsupportedError(
            "a repository of spec version 1 cannot amend commits",
            kind="unsupported-operation-for-version",
            hint="upgrade the repository with `icefs upgrade`",
        )
    repository.check_online()
    base, changes, _ = _what_to_commit(session, allow_empty=allow_empty)
    if base.id == INITIAL_SNAPSHOT_ID:
        raise SessionStateError(
            "the first commit of a repository cannot be amended", kind="no-amend-for-initial-commit"
        )
    if not session.is_rearrange and repository.assets.fetch_transaction_log(base.id).moved_nodes:
        raise SessionStateError(
            "a commit that moved nodes is amended by a rearrange session", kind="rearrange-session-only"
        )
    updates.check_tip(repository, branch, base.id)
    new = write_snapshot(
        repository, base, changes, message=message, metadata=_metadata(session, metadata, {}), merge_log_of=base.id
    )
    updates.publish_commit(repository, branch, base.id, new, is_rearrange=session.is_rearrange, amend=True)
    session.committed(new.id)
    return new.id


def flush(session: "WritableSession", message: str, *, metadata: dict[str, Any] | None = None) -> SnapshotId:
    """Writes the changes as a snapshot that no branch leads to.

    Raises:
        SessionStateError: the session was committed already.
    """
    _branch_of(session)
    session.repository.check_online()
    with session.lock:
        base, changes = session.snapshot, session.changes.copy()
    new = write_snapshot(session.repository, base, changes, message=message, metadata=_metadata(session, metadata, {}))
    updates.publish_detached(session.repository, base.id, new)
    session.committed(new.id)
    return new.id


def _branch_of(session: "WritableSession") -> str:
    if session.branch is None:
        raise SessionStateError(
            "the session was committed already", kind="commit-not-allowed", hint="open a new writable session"
        )
    return session.branch


def _metadata(
    session: "WritableSession", own: dict[str, Any] | None, icechunk_metadata: dict[str, Any]
) -> dict[str, Any]:
    merged = {**session.repository.default_commit_metadata, **(own or {})}
    if icechunk_metadata:
        known = merged.get("__icechunk")
        merged["__icechunk"] = {**(known if isinstance(known, dict) else {}), **icechunk_metadata}
    return merged


# Rebase.


def rebase(session: "WritableSession", solver: ConflictSolver) -> None:
    """Puts a session's changes on top of its branch's present tip.

    The commits in between are gone through from the oldest to the newest. After each the session stands on it, so
    that a rebase which fails half-way leaves a session on the last commit without conflicts.

    Raises:
        RebaseFailedError: conflicts that the solver does not solve; `facts` has `snapshot` and `conflicts`.
        SessionStateError: the session was committed already; or a transaction log of an expired commit is gone
            (kind `rebase-tx-log-pruned`), without which conflicts would go unnoticed.
    """
    branch = _branch_of(session)
    repository = session.repository
    for info in _commits_since(session, branch):
        theirs = repository.session_at(info.id)
        with session.lock:
            changes, our_base = session.changes, Session(repository, session.snapshot)
            for log_id in (*info.pruned_ancestor_tx_logs, info.id):
                try:
                    log = repository.assets.fetch_transaction_log(log_id)
                except ObjectNotFoundError as error:
                    raise SessionStateError(
                        f"the transaction log {log_id}, which commit {info.id} stands for, is gone",
                        kind="rebase-tx-log-pruned",
                        hint="make the changes again in a new session",
                    ) from error
                changes, conflicts = solver.solve(log, theirs, changes, our_base)
                if conflicts:
                    raise _rebase_failed(info, conflicts)
            session.rebased(theirs.snapshot, changes)


def _commits_since(session: "WritableSession", branch: str) -> list[SnapshotInfo]:
    """Returns the branch's commits after the session's base, the oldest first; none where the branch is gone."""
    repository = session.repository
    tip = repository.refs().branches.get(branch)
    if tip is None:
        return []
    commits: list[SnapshotInfo] = []
    for info in repository.ancestry(snapshot_id=tip):
        if info.id == session.snapshot_id:
            return commits[::-1]
        commits.append(info)
    raise SessionStateError(
        f"snapshot {session.snapshot_id} is not in the history of branch {branch!r} any more",
        kind="not-on-branch",
        hint="the branch was reset or its history expired: make the changes again in a new session",
    )


def _rebase_failed(info: SnapshotInfo, conflicts: list[Conflict]) -> RebaseFailedError:
    listed = "; ".join(str(conflict) for conflict in conflicts[:5])
    more = f" and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
    return RebaseFailedError(
        f"commit {info.id} ({info.message!r}) conflicts with these changes: {listed}{more}",
        hint="choose a side with --ours or --theirs, or undo the changes that conflict",
        snapshot=str(info.id),
        conflicts=conflicts,
    )

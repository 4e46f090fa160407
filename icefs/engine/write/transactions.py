"""How a session's changes become a snapshot that others see: commit, amend, flush, and rebase when others were first.

A commit writes its snapshot once and then tries to publish it. Publishing checks that the branch still stands where
the session does, inside of the same conditional write, so that of two commits to one branch exactly one succeeds.
The other's session stays as it was, to be rebased or given up.

Source: format notes §2, §5 and §7.12; upstream icechunk/src/session.rs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from icefs.engine.write import publish as updates
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.collected import ChunkGuard, CollectionRanError
from icefs.engine.write.conflicts import ConflictSolver
from icefs.engine.write.others import news_since
from icefs.engine.write.rebase import branch_history, replay
from icefs.engine.write.snapshot_writer import NewSnapshot, write_snapshot
from icefs.engine.write.turns import recent_attempts
from icefs.errors import (
    BranchMovedError,
    ConflictError,
    IcefsError,
    NothingToCommitError,
    ObjectNotFoundError,
    SessionStateError,
    StorageError,
)
from icefs.format.config.codec import splitting_to_json
from icefs.format.ids import INITIAL_SNAPSHOT_ID, SnapshotId
from icefs.format.snapshot.reader import Snapshot

if TYPE_CHECKING:
    from icefs.engine.write.session import WritableSession

_MAX_COLLECTIONS: Final = 20

type BeforePublish = Callable[[SnapshotId], None]
"""Called with the new snapshot's id right before the write that makes it visible."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """A commit that was tried, and may or may not have gone through: the store's answer was lost.

    It may still do so when the session is used again: a write that nobody waits for any more can be under way.

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
    is_state_known: bool = False,
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
        is_state_known: Begin with the repository's state as it was last seen, which the caller has just asked for.

    Raises:
        NothingToCommitError: nothing changed.
        ChunksCollectedError: a collection took chunks of the session; it is as it was.
        BranchMovedError: the branch has other commits now, listed in `facts["commits"]`, newest first; the session is
            as it was.
        RebaseFailedError: the rebase met conflicts; the session stands on the last commit without any.
        SessionStateError: the session was committed already.
    """
    with session.frozen():
        guard = ChunkGuard.of(session)

        def commit_once(icechunk_metadata: dict[str, Any], *, refresh: bool) -> SnapshotId:
            return _commit_once(
                session, message, metadata, icechunk_metadata, allow_empty, before_publish, guard, refresh=refresh
            )

        if rebase_with is not None:
            return _commit_among_others(session, commit_once, rebase_with, rebase_tries, is_state_known=is_state_known)
        try:
            return commit_once({}, refresh=not is_state_known)
        except BranchMovedError as error:
            _tell_commits(session, error)
            raise


def _commit_among_others(
    session: "WritableSession",
    commit_once: Callable[..., SnapshotId],
    solver: ConflictSolver,
    rebase_tries: int,
    *,
    is_state_known: bool,
) -> SnapshotId:
    """Commits and rebases in turn, as `commit` says, fairly among others who do so too."""
    repository, branch, turns = session.repository, _branch_of(session), session.repository.turns
    if repository.spec_version > 1:
        info, _ = repository.assets.fetch_repo_info(refresh=not is_state_known)
        is_state_known = not turns.yield_to_others(branch, recent_attempts(info.snapshots, info.branches.get(branch)))
    for attempt in range(rebase_tries + 1):
        began_at = turns.now()
        try:
            new = commit_once({"rebase_attempts": attempt}, refresh=not is_state_known)
        except BranchMovedError as error:
            if attempt == rebase_tries:
                _tell_commits(session, error)
                raise _never_first(error, branch, rebase_tries) from error
            turns.after_loss(began_at)
            rebase(session, solver)
            if session.read_only:
                return session.snapshot_id  # an earlier try has gone through after all
            is_state_known = True  # the rebase has just asked
        else:
            turns.had(branch, began_at)
            return new
    raise AssertionError("the last attempt returns or raises")


def _never_first(error: BranchMovedError, branch: str, tries: int) -> BranchMovedError:
    """Makes the error for a commit that others were faster than each time; it has the facts of the last time."""
    times = "once" if tries == 1 else f"{tries} times"
    return BranchMovedError(
        f"others were faster each time: the changes were rebased {times}, and branch {branch!r} has moved again",
        hint="commit again, perhaps with a higher rebase_tries; the session has all its changes",
        **error.facts,
    )


def _tell_commits(session: "WritableSession", error: BranchMovedError) -> None:
    """Adds to an error which commits the branch has now."""
    branch = _branch_of(session)
    tip = session.repository.refs().branches.get(branch)
    if tip is not None:
        news_since(session.repository, tip, session.snapshot_id, branch).add_to(error, session.snapshot_id)


def _commit_once(
    session: "WritableSession",
    message: str,
    metadata: dict[str, Any] | None,
    icechunk_metadata: dict[str, Any],
    allow_empty: bool,
    before_publish: BeforePublish | None,
    guard: ChunkGuard,
    *,
    rewrite: bool = False,
    refresh: bool = True,
) -> SnapshotId:
    repository, branch = session.repository, _branch_of(session)
    base, changes, revision = _start(session, allow_empty=allow_empty, refresh=refresh)
    earlier = _settle(session, branch)
    if earlier is not None:
        return earlier
    try:
        # A tip that has moved already is found before anything is written; the publishing write checks again.
        updates.check_tip(repository, branch, base.id, refresh=repository.spec_version == 1)  # else `_start` has asked

        def write() -> NewSnapshot:
            return write_snapshot(
                repository,
                base,
                changes,
                message=message,
                metadata=_metadata(session, metadata, icechunk_metadata),
                rewrite_manifests=rewrite,
            )

        def publish(new: NewSnapshot) -> None:
            if before_publish is not None:
                before_publish(new.id)
            with _in_doubt(session, new.id, revision):
                updates.publish_commit(
                    repository,
                    branch,
                    base.id,
                    new,
                    is_rearrange=session.is_rearrange,
                    check=guard.check_unmoved,
                )

        new = _write_and_publish(guard, changes, write, publish)
    except BranchMovedError:
        # Perhaps by an earlier try of this very session, which the store has carried out meanwhile.
        earlier = _settle(session, branch)
        if earlier is None:
            raise
        return earlier
    session.committed(new)
    return new.id


def _write_and_publish(
    guard: ChunkGuard, changes: ChangeSet, write: Callable[[], NewSnapshot], publish: Callable[[NewSnapshot], None]
) -> NewSnapshot:
    """Writes and publishes a snapshot whose chunks are there; again where a collection ran in between.

    Raises:
        ChunksCollectedError: a collection took chunks of the session; nothing was published.
        ConflictError: collections run all the time.
    """
    for _ in range(_MAX_COLLECTIONS):
        guard.check(changes)
        # Written again after a collection, which may have taken the manifests of the first try as well.
        new = write()
        try:
            publish(new)
        except CollectionRanError:
            continue
        return new
    raise ConflictError(
        f"garbage collections of {guard.session.repository.storage.url} run all the time, so nothing can be committed",
        kind="repo-info-updated",
        hint="commit again when no collection runs",
    )


def _start(session: "WritableSession", *, allow_empty: bool, refresh: bool = True) -> tuple[Snapshot, ChangeSet, int]:
    """Takes what is to be committed, if the repository takes commits and there is anything."""
    session.repository.check_online(refresh=refresh)
    with session.lock:
        base, changes, revision = session.snapshot, session.changes.copy(), session.revision
    if changes.is_empty() and not allow_empty:
        raise NothingToCommitError(
            "there is nothing to commit", hint="change something first, or allow an empty commit"
        )
    return base, changes, revision


@contextmanager
def _in_doubt(session: "WritableSession", snapshot_id: SnapshotId, revision: int) -> Iterator[None]:
    """Remembers a snapshot while it is published, and further on if the store failed: it may have gone through."""
    doubt = InDoubt(snapshot_id, revision)
    session.in_doubt.append(doubt)
    try:
        yield
    except IcefsError as error:
        if not isinstance(error, StorageError):
            session.in_doubt.remove(doubt)
        raise


def _settle(session: "WritableSession", branch: str) -> SnapshotId | None:
    """Finds out whether a commit went through whose answer was lost; the session is then what it would be after it.

    Any of the tries may be it, but no more than one: all were to replace what the session stands on. Not if the session
    was changed since: then it is behind its branch, as it would be behind anybody's commit.
    """
    repository = session.repository
    tries = {doubt.snapshot_id for doubt in session.in_doubt if doubt.revision == session.revision}
    if not tries:
        return None
    if repository.spec_version > 1:
        known = repository.assets.fetch_repo_info()[0].snapshots
        made = next((snapshot_id for snapshot_id in tries if snapshot_id in known), None)
    else:
        made = next((info.id for info in branch_history(session, branch) if info.id in tries), None)
    if made is not None:
        session.committed(made)
    return made


def amend(
    session: "WritableSession",
    message: str,
    *,
    metadata: dict[str, Any] | None = None,
    allow_empty: bool = False,
    before_publish: BeforePublish | None = None,
    rewrite: bool = False,
    icechunk_metadata: dict[str, Any] | None = None,
    is_state_known: bool = False,
) -> SnapshotId:
    """Replaces the branch's newest commit by one that also has the session's changes (spec 2).

    Raises:
        SessionStateError: the newest commit is the repository's first one, or it moved nodes and this session
            changes something else.
        UnsupportedSpecVersionError: a repository of spec 1.
        NothingToCommitError, BranchMovedError, ChunksCollectedError: as `commit`.
    """
    repository, branch = session.repository, _branch_of(session)
    updates.require_v2(repository, "amended commits")
    with session.frozen():
        base, changes, revision = _start(session, allow_empty=allow_empty, refresh=not is_state_known)
        earlier = _settle(session, branch)
        if earlier is not None:
            return earlier
        if base.id == INITIAL_SNAPSHOT_ID:
            raise SessionStateError(
                "the first commit of a repository cannot be amended",
                kind="no-amend-for-initial-commit",
                hint="make a commit of its own",
            )
        try:
            try:
                log = repository.assets.fetch_transaction_log(base.id)
            except ObjectNotFoundError:
                # Of a commit that is no tip any more, everything may be gone.
                updates.check_tip(repository, branch, base.id, refresh=False)
                raise
            if log.moved_nodes and not session.is_rearrange and not changes.is_empty():
                raise moves_cannot_be_joined(base.id, "make a commit of its own, or amend in a rearrange session")
            updates.check_tip(repository, branch, base.id, refresh=False)
            guard = ChunkGuard.of(session)

            def write() -> NewSnapshot:
                return write_snapshot(
                    repository,
                    base,
                    changes,
                    message=message,
                    metadata=_metadata(session, metadata, icechunk_metadata or {}),
                    merge_log_of=base.id,
                    rewrite_manifests=rewrite,
                )

            def publish(new: NewSnapshot) -> None:
                if before_publish is not None:
                    before_publish(new.id)
                with _in_doubt(session, new.id, revision):
                    updates.publish_commit(
                        repository,
                        branch,
                        base.id,
                        new,
                        is_rearrange=session.is_rearrange,
                        amend=True,
                        check=guard.check_unmoved,
                    )

            new = _write_and_publish(guard, changes, write, publish)
        except BranchMovedError:
            earlier = _settle(session, branch)
            if earlier is None:
                raise
            return earlier
        session.committed(new)
        return new.id


def moves_cannot_be_joined(snapshot_id: SnapshotId, hint: str) -> SessionStateError:
    """Makes the error for changes that are to amend a commit of moves: no session can do both."""
    return SessionStateError(
        f"the newest commit {snapshot_id} moved nodes, and such a commit has room for nothing but moves",
        kind="rearrange-session-only",
        hint=hint,
    )


def rewrite_manifests(
    session: "WritableSession", message: str, *, metadata: dict[str, Any] | None = None, replace_tip: bool = False
) -> SnapshotId:
    """Commits all manifests anew, divided as the repository's configuration says now, and whatever else has changed.

    Args:
        session: The session; read-only afterwards.
        message: The commit message.
        metadata: Joined with the repository's default commit metadata.
        replace_tip: Amend the branch's newest commit instead of adding one (spec 2).

    Raises:
        BranchMovedError, SessionStateError, UnsupportedSpecVersionError: as `commit` and `amend`.
    """
    splitting = session.repository.splitting
    told = {} if splitting is None else {"splitting_config": splitting_to_json(splitting)}
    if replace_tip:
        return amend(session, message, metadata=metadata, allow_empty=True, rewrite=True, icechunk_metadata=told)
    with session.frozen():
        guard = ChunkGuard.of(session)
        return _commit_once(session, message, metadata, told, True, None, guard, rewrite=True)


def flush(session: "WritableSession", message: str, *, metadata: dict[str, Any] | None = None) -> SnapshotId:
    """Writes the changes as a snapshot that no branch leads to.

    Raises:
        SessionStateError: the session was committed already.
        ChunksCollectedError: as `commit`.
    """
    with session.frozen():
        branch, repository = _branch_of(session), session.repository
        base, changes, revision = _start(session, allow_empty=True)
        earlier = _settle(session, branch)
        if earlier is not None:
            return earlier
        guard = ChunkGuard.of(session)

        def write() -> NewSnapshot:
            return write_snapshot(repository, base, changes, message=message, metadata=_metadata(session, metadata, {}))

        def publish(new: NewSnapshot) -> None:
            with _in_doubt(session, new.id, revision):
                updates.publish_detached(
                    repository, base.id, new, is_rearrange=session.is_rearrange, check=guard.check_unmoved
                )

        new = _write_and_publish(guard, changes, write, publish)
        session.committed(new)
        return new.id


def _branch_of(session: "WritableSession") -> str:
    if session.is_fork:
        raise SessionStateError(
            "a forked session is not committed, flushed or rebased itself",
            kind="commit-not-allowed",
            hint="merge it into the session that it was forked from, and commit that",
        )
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
    """Puts a session's changes on top of its branch's present tip; does nothing where the branch is gone.

    A rebase that fails leaves the session on the last commit without conflicts. Where the tip does not
    descend from the session's base any more, or a transaction log is gone, the two snapshots are compared instead
    (Divergence 62).

    Raises:
        RebaseFailedError: conflicts that the solver does not solve; `facts` has `snapshot`, `conflicts`, and as
            `commits` all that came in between, newest first.
        SessionStateError: the session was committed already; or it cannot be told what changed, because transaction
            logs are gone, and what could be compared instead too (kind `rebase-tx-log-pruned`).
    """
    branch = _branch_of(session)
    with session.frozen():
        if _settle(session, branch) is None:
            replay(session, solver, branch)

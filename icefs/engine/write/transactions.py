"""How a session's changes become a snapshot that others see: commit, amend, flush, and rebase when others were first.

A commit writes its snapshot once and then tries to publish it. Publishing checks that the branch still stands where
the session does, inside of the same conditional write, so that of two commits to one branch exactly one succeeds.
The other's session stays as it was, to be rebased or given up.

    commit ─► try: check the tip ─► chunks are there? ─► write the snapshot ─► publish ─► the draft is committed
                                       ▲                                         │
                                       └──────── a collection ran ───────────────┘

An amended commit and a flush are tried in the same way; they differ in which snapshot is replaced, and in whether a
branch moves.

Source: format notes §2, §5 and §7.12; upstream icechunk/src/session.rs.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from icefs.engine.write import publish
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.chunk_guard import ChunkGuard, CollectionRanError
from icefs.engine.write.conflicts import ConflictSolver
from icefs.engine.write.context import WriteContext
from icefs.engine.write.draft import Draft, InDoubt
from icefs.engine.write.news import news_since
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

_MAX_COLLECTIONS: Final = 20

type BeforePublish = Callable[[SnapshotId], None]
"""Called with the new snapshot's id right before the write that makes it visible."""


def commit(
    context: WriteContext,
    draft: Draft,
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
        context: The repository.
        draft: The session's changes; read-only afterwards.
        message: The commit message.
        metadata: Joined with the repository's default commit metadata.
        rebase_with: Rebase with this solver where the branch moved, and try again.
        rebase_tries: How often.
        allow_empty: Commit also where nothing changed.
        before_publish: See `BeforePublish`.
        is_state_known: Begin with the repository's state as it was last read, which the caller has just asked for.

    Raises:
        NothingToCommitError: nothing changed.
        ChunksCollectedError: a collection took chunks of the session; it is as it was.
        BranchMovedError: the branch has other commits now, listed in `facts["commits"]`, newest first; the session is
            as it was.
        RebaseFailedError: the rebase met conflicts; the session stands on the last commit without any.
        SessionStateError: the session was committed already.
    """
    aim = _Aim(message, metadata or {}, before_publish=before_publish, allow_empty=allow_empty)
    with _begun(context, draft, aim) as attempt:
        if rebase_with is not None:
            return _commit_among_others(attempt, rebase_with, rebase_tries, is_state_known=is_state_known)
        try:
            return attempt.make(refresh=not is_state_known)
        except BranchMovedError as error:
            _add_commits(attempt, error)
            raise


def amend(
    context: WriteContext,
    draft: Draft,
    message: str,
    metadata: dict[str, Any] | None = None,
    *,
    allow_empty: bool = False,
    before_publish: BeforePublish | None = None,
    is_state_known: bool = False,
) -> SnapshotId:
    """Replaces the branch's newest commit by one that also has the session's changes (spec 2); arguments as `commit`.

    Raises:
        SessionStateError: the newest commit is the repository's first one, or it moved nodes and this session
            changes something else.
        UnsupportedSpecVersionError: a repository of spec 1.
        NothingToCommitError, BranchMovedError, ChunksCollectedError: as `commit`.
    """
    aim = _Aim(message, metadata or {}, before_publish=before_publish, allow_empty=allow_empty, is_amend=True)
    with _begun(context, draft, aim) as attempt:
        return attempt.make(refresh=not is_state_known)


def flush(context: WriteContext, draft: Draft, message: str, *, metadata: dict[str, Any] | None = None) -> SnapshotId:
    """Writes the changes as a snapshot that no branch leads to; arguments as `commit`.

    Raises:
        SessionStateError: the session was committed already.
        ChunksCollectedError: as `commit`.
    """
    with _begun(context, draft, _Aim(message, metadata or {}, allow_empty=True, is_detached=True)) as attempt:
        return attempt.make()


def rewrite_manifests(
    context: WriteContext,
    draft: Draft,
    message: str,
    *,
    metadata: dict[str, Any] | None = None,
    replace_tip: bool = False,
) -> SnapshotId:
    """Commits all manifests again, divided as the repository's configuration says now, and all other changes.

    Args:
        context: The repository.
        draft: The session's changes; read-only afterwards.
        message: The commit message.
        metadata: Joined with the repository's default commit metadata.
        replace_tip: Amend the branch's newest commit instead of adding one (spec 2).

    Raises:
        BranchMovedError, SessionStateError, UnsupportedSpecVersionError: as `commit` and `amend`.
    """
    splitting = context.splitting
    aim = _Aim(message, metadata or {}, allow_empty=True, is_amend=replace_tip, rewrites=True)
    with _begun(context, draft, aim) as attempt:
        if splitting is not None:
            attempt.notes = {"splitting_config": splitting_to_json(splitting)}
        return attempt.make()


@dataclass(frozen=True, slots=True)
class _Aim:
    """The snapshot that a commit is to make of the changes.

    Attributes:
        message: The commit message.
        metadata: The commit's own metadata.
        before_publish: See `BeforePublish`.
        allow_empty: Whether it may change nothing.
        is_amend: Whether it replaces the branch's newest commit.
        is_detached: Whether no branch shall lead to it.
        rewrites: Whether all manifests are written again.
    """

    message: str
    metadata: dict[str, Any]
    before_publish: BeforePublish | None = None
    allow_empty: bool = False
    is_amend: bool = False
    is_detached: bool = False
    rewrites: bool = False


@contextmanager
def _begun(context: WriteContext, draft: Draft, aim: _Aim) -> Iterator["_Attempt"]:
    """Freezes a draft, and gives the attempt to commit it to the branch that it was made on.

    Raises:
        SessionStateError: the draft is a fork's, or was committed already.
    """
    with draft.frozen():
        yield _Attempt(context, draft, _branch_of(draft), aim, ChunkGuard.of(context, draft))


@dataclass(slots=True)
class _Attempt:
    """A commit that is tried, once or again and again; the draft is frozen meanwhile.

    Attributes:
        context: The repository.
        draft: The changes.
        branch: The branch that they were made on.
        aim: The snapshot that they are to become.
        guard: Keeps it from referring to chunks that are gone.
        notes: The members of `__icechunk` in its metadata, as the official library writes them.
    """

    context: WriteContext
    draft: Draft
    branch: str
    aim: _Aim
    guard: ChunkGuard
    notes: dict[str, Any] = field(default_factory=dict)

    def make(self, *, refresh: bool = True) -> SnapshotId:
        """Writes and publishes the snapshot, or finds out that an earlier try has gone through.

        Args:
            refresh: Ask the store for the repository's state. Without, the state as last read will do.
        """
        if self.aim.is_amend:
            publish.require_v2(self.context, "amended commits")
        base, changes, revision = self._start(refresh=refresh)
        earlier = settle(self.context, self.draft, self.branch)
        if earlier is not None:
            return earlier
        try:
            if self.aim.is_amend:
                self._check_amended(base, changes)
            if not self.aim.is_detached:
                # A tip that has moved already is found before anything is written; the publishing write checks again.
                is_old = self.context.spec_version == 1  # in spec 2 `_start` has asked
                publish.check_tip(self.context, self.branch, base.id, refresh=is_old)
                self.context.check_store()
            new = self._write_and_publish(base, changes, revision)
        except BranchMovedError:
            # Perhaps by an earlier try of this very draft, which the store has carried out meanwhile.
            earlier = settle(self.context, self.draft, self.branch)
            if earlier is None:
                raise
            return earlier
        self.draft.committed(_parsed(self.context, new))
        return new.id

    def _start(self, *, refresh: bool) -> tuple[Snapshot, ChangeSet, int]:
        """Returns the base, changes and revision to commit, if the repository takes commits and there is a change."""
        self.context.check_online(refresh=refresh)
        with self.draft.lock:
            base, changes, revision = self.draft.snapshot, self.draft.changes.copy(), self.draft.revision
        if changes.is_empty() and not self.aim.allow_empty:
            raise NothingToCommitError(
                "there is nothing to commit", hint="change something first, or allow an empty commit"
            )
        return base, changes, revision

    def _check_amended(self, base: Snapshot, changes: ChangeSet) -> None:
        """Refuses to amend a commit that these changes cannot be joined with."""
        if base.id == INITIAL_SNAPSHOT_ID:
            raise SessionStateError(
                "the first commit of a repository cannot be amended",
                kind="no-amend-for-initial-commit",
                hint="make a commit of its own",
            )
        try:
            log = self.context.assets.fetch_transaction_log(base.id)
        except ObjectNotFoundError:
            # Of a commit that is no tip any more, everything may be gone.
            publish.check_tip(self.context, self.branch, base.id, refresh=False)
            raise
        if log.moved_nodes and not self.draft.is_rearrange and not changes.is_empty():
            raise moves_cannot_be_joined(base.id, "make a commit of its own, or amend in a rearrange session")

    def _write_and_publish(self, base: Snapshot, changes: ChangeSet, revision: int) -> NewSnapshot:
        """Writes and publishes a snapshot whose chunks are there; again where a collection ran in between.

        Raises:
            ChunksCollectedError: a collection took chunks of the session; nothing was published.
            ConflictError: collections run all the time.
        """
        for _ in range(_MAX_COLLECTIONS):
            self.guard.check(changes)
            try:
                # Written again after a collection, which may have taken the manifests of the first try as well.
                new = write_snapshot(
                    self.context,
                    base,
                    changes,
                    message=self.aim.message,
                    metadata=self._all_metadata(),
                    merge_log_of=base.id if self.aim.is_amend else None,
                    rewrite_manifests=self.aim.rewrites,
                )
                self._publish(base.id, new, revision)
            except CollectionRanError:
                if self.context.spec_version > 1:
                    self.context.assets.fetch_repo_info()  # the guard looks for the collection's entry there
                continue
            return new
        raise ConflictError(
            f"garbage collections of {self.context.storage.url} run all the time, so nothing can be committed",
            kind="repo-info-updated",
            hint="commit again when no collection runs",
        )

    def _publish(self, base_id: SnapshotId, new: NewSnapshot, revision: int) -> None:
        if self.aim.before_publish is not None:
            self.aim.before_publish(new.id)
        is_rearrange, check = self.draft.is_rearrange, self.guard.check_unmoved
        with _in_doubt(self.draft, new.id, revision):
            if self.aim.is_detached:
                publish.publish_detached(self.context, base_id, new, is_rearrange=is_rearrange, check=check)
            else:
                publish.publish_commit(
                    self.context,
                    self.branch,
                    base_id,
                    new,
                    is_rearrange=is_rearrange,
                    amend=self.aim.is_amend,
                    check=check,
                )

    def _all_metadata(self) -> dict[str, Any]:
        merged = {**self.context.default_commit_metadata, **self.aim.metadata}
        if self.notes:
            known = merged.get("__icechunk")
            merged["__icechunk"] = {**(known if isinstance(known, dict) else {}), **self.notes}
        return merged


def _commit_among_others(
    attempt: _Attempt, solver: ConflictSolver, rebase_tries: int, *, is_state_known: bool
) -> SnapshotId:
    """Commits and rebases in turn, as `commit` says, fairly among other processes that do so."""
    context, draft, branch, turns = attempt.context, attempt.draft, attempt.branch, attempt.context.turns
    if context.spec_version > 1:
        info, _ = context.assets.fetch_repo_info(refresh=not is_state_known)
        is_state_known = not turns.yield_to_others(branch, recent_attempts(info.snapshots, info.branches.get(branch)))
    for number in range(rebase_tries + 1):
        began_at = turns.now()
        attempt.notes = {"rebase_attempts": number}
        try:
            new = attempt.make(refresh=not is_state_known)
        except BranchMovedError as error:
            if number == rebase_tries:
                _add_commits(attempt, error)
                raise _never_first(error, branch, rebase_tries) from error
            turns.after_loss(began_at)
            rebase(context, draft, solver)
            if draft.read_only:
                return draft.snapshot.id  # an earlier try has gone through after all
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


def _add_commits(attempt: _Attempt, error: BranchMovedError) -> None:
    """Adds to an error which commits the branch has now."""
    base, branch = attempt.draft.snapshot.id, attempt.branch
    tip = attempt.context.refs().branches.get(branch)
    if tip is not None:
        news_since(attempt.context, tip, base, branch).add_to(error, base)


@contextmanager
def _in_doubt(draft: Draft, snapshot_id: SnapshotId, revision: int) -> Iterator[None]:
    """Remembers a snapshot while it is published, and further on if the store failed: it may have gone through."""
    doubt = InDoubt(snapshot_id, revision)
    draft.in_doubt.append(doubt)
    try:
        yield
    except IcefsError as error:
        if not isinstance(error, StorageError):
            draft.in_doubt.remove(doubt)
        raise


def settle(context: WriteContext, draft: Draft, branch: str) -> SnapshotId | None:
    """Finds out whether a commit went through whose answer was lost; the draft is then what it would be after it.

    Any of the tries may be it, but no more than one: all were to replace the draft's base. Not if the draft was changed
    since: then it is behind its branch, as it would be behind anybody's commit.

    Returns:
        The snapshot of the commit that went through; None if there is none.
    """
    tries = {doubt.snapshot_id for doubt in draft.in_doubt if doubt.revision == draft.revision}
    if not tries:
        return None
    if context.spec_version > 1:
        known = context.assets.fetch_repo_info()[0].snapshots
        made = next((snapshot_id for snapshot_id in tries if snapshot_id in known), None)
    else:
        made = next((info.id for info in branch_history(context, draft, branch) if info.id in tries), None)
    if made is not None:
        draft.committed(context.assets.fetch_snapshot(made))
    return made


def _parsed(context: WriteContext, new: NewSnapshot) -> Snapshot:
    """Returns a snapshot that was written. It is not fetched again: the commit is made, and must not fail now."""
    snapshot = new.parse()
    context.assets.snapshots.get(new.id, lambda: (snapshot, len(snapshot) + 1))
    return snapshot


def moves_cannot_be_joined(snapshot_id: SnapshotId, hint: str) -> SessionStateError:
    """Makes the error for changes that are to amend a commit of moves: no session can do both."""
    return SessionStateError(
        f"the newest commit {snapshot_id} moved nodes, and such a commit has room for nothing but moves",
        kind="rearrange-session-only",
        hint=hint,
    )


def _branch_of(draft: Draft) -> str:
    if draft.is_fork:
        raise SessionStateError(
            "a forked session is not committed, flushed or rebased itself",
            kind="commit-not-allowed",
            hint="merge it into the session that it was forked from, and commit that",
        )
    if draft.branch is None:
        raise SessionStateError(
            "the session was committed already", kind="commit-not-allowed", hint="open a new writable session"
        )
    return draft.branch


# Rebase.


def rebase(context: WriteContext, draft: Draft, solver: ConflictSolver) -> None:
    """Puts a session's changes on top of its branch's present tip; does nothing where the branch is gone.

    A rebase that fails leaves the session on the last commit without conflicts. Where the tip does not
    descend from the session's base any more, or a transaction log is gone, the two snapshots are compared instead
    (Divergence 62).

    Raises:
        RebaseFailedError: conflicts that the solver does not solve; `facts` has `snapshot`, `conflicts`, and as
            `commits` all that came in between, newest first.
        SessionStateError: the session was committed already; or the changes since then are unknown, because
            transaction logs and manifests are gone (kind `rebase-tx-log-pruned`).
    """
    branch = _branch_of(draft)
    with draft.frozen():
        if settle(context, draft, branch) is None:
            replay(context, draft, solver, branch)

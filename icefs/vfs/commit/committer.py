"""From a working tree to a commit: freeze, stage, upload, publish, change of base. In a worker thread.

    freeze → stage → upload → manifests … snapshot → intent recorded → published → the tree stands on it
                │                                                        │
                └ anything wrong: abandoned, the tree is as before       └ outcome unknown: asked of the history

Writers wait for the freeze alone.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from icefs.engine.read.session import Session
from icefs.engine.write.repository import WritableRepository
from icefs.engine.write.session import WritableSession
from icefs.errors import BranchMovedError, NothingToCommitError, StorageError
from icefs.format.ids import SnapshotId
from icefs.inode import Ino, Invalidations
from icefs.vfs.branches.base_change import ChangingBranch, advance_of_others, change_base, plan_commit
from icefs.vfs.branches.in_doubt import is_in_history, resolve, take_over_late
from icefs.vfs.branches.late_commits import late_commit
from icefs.vfs.commit.conflict_places import tell_way_out
from icefs.vfs.commit.report import (
    LISTED,
    NOTHING_LEFT_OUT,
    check_amend,
    check_staged,
    late_facts,
    left_out_facts,
    taken_facts,
)
from icefs.vfs.commit.request import CommitRequest, Committed, Invalidate
from icefs.vfs.commit.session_changes import apply_staged, session_for
from icefs.vfs.notes.chunk_keys import commit_notes
from icefs.vfs.notes.consolidated import Nodes, consolidated_notes, groups_changed
from icefs.vfs.trees.finder import open_session
from icefs.worktree.freeze.frozen import FrozenTree
from icefs.worktree.rebase.yielding import TreeSolver
from icefs.worktree.stage.staged import Staged
from icefs.worktree.stage.stager import stage
from icefs.worktree.tree import WorkTree
from icefs.worktree.upload.options import UploadOptions
from icefs.worktree.upload.uploader import Progress, storing_again


@dataclass(slots=True)
class _Attempt:
    """One attempt to commit, as far as it has come.

    Attributes:
        frozen: The tree of one moment.
        base: The snapshot that it stands on.
        staged: What it means.
        session: The changes.
        solver: What solves conflicts with others; None if nothing does.
    """

    frozen: FrozenTree
    base: Session | None = None
    staged: Staged | None = None
    session: WritableSession | None = None
    solver: TreeSolver | None = None


class Committer:
    """Commits the working tree of one branch."""

    def __init__(
        self,
        branch: ChangingBranch,
        work: WorkTree,
        repository: WritableRepository,
        uploads: UploadOptions,
        open_inos: Iterable[Ino],
        invalidate: Invalidate,
    ) -> None:
        """Takes the tree and its place.

        Args:
            branch: The branch.
            work: Its working tree.
            repository: Where it is committed.
            uploads: How chunks are stored.
            open_inos: The inodes that are open.
            invalidate: Gets what an earlier commit has changed whose outcome was not known before, whatever becomes of
                this one.
        """
        self._branch = branch
        self._work = work
        self._repository = repository
        self._uploads = uploads
        self._open_inos = list(open_inos)
        self._invalidate = invalidate

    def commit(
        self, request: CommitRequest, progress: Progress, before_publish: Callable[[], None] = lambda: None
    ) -> Committed:
        """Commits.

        Args:
            request: What to commit, and how.
            progress: Gets how far the uploads are; what it raises ends the commit, and the tree is as it was.
            before_publish: Called right before the commit may become visible; what it raises ends the commit, too.

        Raises:
            NothingToCommitError: nothing changed.
            InvalidInputError: some files cannot be committed; `facts["invalid"]` lists them (kind `invalid-tree`).
            BranchMovedError, RebaseFailedError: others have committed; the tree is as it was.
            StorageError: the store failed; the tree is as it was, or the commit's outcome is not known yet.
        """
        work, repository = self._work, self._repository
        if work.pending_intent is not None:
            self._invalidate(resolve(self._branch, work, repository, self._open_inos))
        made: SnapshotId | None = None
        while True:
            late = take_over_late(self._branch, work, repository, self._open_inos)
            if late is not None:
                self._invalidate(late.changed)
                made = late.snapshot_id
                request = replace(request, allow_empty=False, amend=False)  # that is done
            try:
                return storing_again(work.uploads, partial(self._attempt, request, progress, before_publish))
            except NothingToCommitError:
                if made is None:
                    raise
                empty = {"dropped_chunks": [], "notes": [], "kept_back": [], "remaining": 0}
                return Committed(made, {**late_facts(repository, made), **empty, **NOTHING_LEFT_OUT}, Invalidations())
            except BranchMovedError:
                if late_commit(work, repository, self._branch.name) is None:
                    raise

    def _attempt(self, request: CommitRequest, progress: Progress, before_publish: Callable[[], None]) -> Committed:
        attempt = _Attempt(self._work.freeze())
        try:
            staged, session = self._stage(attempt, request)
            self._upload(attempt, staged, session, progress)
            snapshot_id = self._publish(attempt, staged, session, request, before_publish)
        except BaseException as error:
            published = self._published_after_all(attempt, error)
            if published is None:
                self._work.abandon(attempt.frozen)
                if attempt.session is not None and attempt.staged is not None and request.rebase is not None:
                    tell_way_out(error, request.rebase, attempt.staged, attempt.session)
                raise
            staged, snapshot_id = published
        try:
            return self._stand_on(attempt, staged, snapshot_id)
        except StorageError as error:
            if self._work.pending_intent is None:
                self._work.leave_pending(attempt.frozen)
            raise _not_taken_over(snapshot_id, error) from error

    # The steps

    def _stage(self, attempt: _Attempt, request: CommitRequest) -> tuple[Staged, WritableSession]:
        """Works out what the frozen tree means, and opens the session for it."""
        frozen = attempt.frozen
        base = attempt.base = open_session(self._repository, SnapshotId.parse(frozen.base))
        staged = attempt.staged = stage(frozen, base, includes_open=request.include_open)
        check_staged(staged, skip_invalid=request.skip_invalid, allow_empty=request.allow_empty)
        if request.amend:
            check_amend(staged, base)
        if request.rebase is not None:
            attempt.solver = TreeSolver(request.rebase, frozen, staged.left_out, self._work.attempts)
        session = attempt.session = session_for(staged, self._repository, self._branch.name, base)
        return staged, session

    def _upload(self, attempt: _Attempt, staged: Staged, session: WritableSession, progress: Progress) -> None:
        """Stores chunks, and makes the staged changes in the session."""
        assert attempt.base is not None  # opened to stage
        # Asked for next to the uploads: where the store is far away, each question in turn is a part of the commit.
        state = self._repository.assets.workers.submit(self._repository.context.check_online)
        apply_staged(staged, attempt.frozen, attempt.base, session, progress, self._uploads, self._work.uploads)
        state.result()

    def _publish(
        self,
        attempt: _Attempt,
        staged: Staged,
        session: WritableSession,
        request: CommitRequest,
        before_publish: Callable[[], None],
    ) -> SnapshotId:
        """Writes manifests and snapshot, records the intent, and makes the snapshot visible."""
        frozen = attempt.frozen

        def announce(new: SnapshotId) -> None:
            before_publish()
            self._work.record_intent(frozen, str(new), frozen.base, staged.left_out)

        if request.amend:
            return _amend(session, request, announce)
        return session.commit(
            request.message or "",
            request.metadata or None,
            rebase_with=attempt.solver,
            allow_empty=request.allow_empty,
            before_publish=announce,
            is_state_known=True,
        )

    def _published_after_all(self, attempt: _Attempt, error: BaseException) -> tuple[Staged, SnapshotId] | None:
        """Finds out whether a commit was published whose answer was lost; None if it was not.

        Raises:
            StorageError: the store does not tell; the commit stays pending.
        """
        session, staged = attempt.session, attempt.staged
        if session is None or staged is None or not session.draft.in_doubt or not isinstance(error, StorageError):
            return None
        snapshot_id = session.draft.in_doubt[-1].snapshot_id
        try:
            is_there = is_in_history(self._repository, self._branch.name, snapshot_id)
        except StorageError as unreadable:
            self._work.leave_pending(attempt.frozen)
            raise _in_doubt(snapshot_id, unreadable) from error
        return (staged, snapshot_id) if is_there else None

    def _stand_on(self, attempt: _Attempt, staged: Staged, snapshot_id: SnapshotId) -> Committed:
        """Puts branch and tree on the snapshot that the tree became."""
        frozen, solver = attempt.frozen, attempt.solver
        assert attempt.base is not None  # opened to stage
        made = open_session(self._repository, snapshot_id)
        is_rebased = solver is not None and solver.was_needed
        plan = plan_commit(
            self._branch,
            frozen,
            made,
            staged.left_out,
            yielded=() if solver is None else solver.paths(made),
            others=advance_of_others(self._repository, attempt.base, snapshot_id) if is_rebased else None,
            shows_others=is_rebased,
        )
        outcome = change_base(self._branch, self._work, plan, self._open_inos)
        notes = consolidated_notes(Nodes(made), groups_changed(made, plan.advance.changes))
        facts = {
            "snapshot": str(snapshot_id),
            **taken_facts(staged, attempt.base),
            "notes": [*commit_notes(staged.nodes), *notes.values()],
            **left_out_facts(staged, made),
            "kept_back": outcome.kept_back[:LISTED],
            "remaining": outcome.remaining,
        }
        return Committed(snapshot_id, facts, outcome.changed)


def _not_taken_over(snapshot_id: SnapshotId, error: StorageError) -> StorageError:
    """Makes the error for a commit that was made, and that the tree cannot stand on at present."""
    return type(error)(
        f"the commit {snapshot_id} was made, but the working tree cannot be put on it yet: {error.own_message}",
        kind=error.kind,
        hint="nothing is lost; the next commit, or refresh, does that",
        **error.facts | {"snapshot": str(snapshot_id)},
    )


def _in_doubt(snapshot_id: SnapshotId, error: StorageError) -> StorageError:
    return StorageError(
        f"the store does not tell whether the commit {snapshot_id} was made: {error.own_message}",
        kind="commit-in-doubt",
        hint="nothing is lost; it is found out when the store answers again, with the next commit or refresh",
        snapshot=str(snapshot_id),
    )


def _amend(session: WritableSession, request: CommitRequest, announce: Callable[[SnapshotId], None]) -> SnapshotId:
    """Replaces the newest commit; refuses where that is another writer's by now."""
    replaced = session.snapshot
    message = replaced.message if request.message is None else request.message
    metadata = {key: value for key, value in replaced.metadata.items() if key != "__icechunk"} | request.metadata
    try:
        return session.amend(
            message, metadata or None, allow_empty=request.allow_empty, before_publish=announce, is_state_known=True
        )
    except BranchMovedError as error:
        raise BranchMovedError(
            f"{replaced.id} is not the newest commit of {session.branch!r} any more; amending would lose the newest",
            hint="rebase, then commit without amending",
            **error.facts,
        ) from error

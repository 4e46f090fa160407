"""Commits, discards and rebases of a writable branch, as jobs: begun here, one at a time, and brought to their end."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from enum import StrEnum
from time import perf_counter_ns
from typing import Any, Final

from icefs.errors import (
    BranchMovedError,
    IcefsError,
    InternalError,
    InvalidInputError,
    NothingToCommitError,
    SessionStateError,
)
from icefs.inode import Ino
from icefs.log_context import in_branch
from icefs.paths import TreePath
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.commit.committer import Committer
from icefs.vfs.commit.rebaser import rebase_tree
from icefs.vfs.commit.request import CommitRequest
from icefs.vfs.control.branch_status import BranchStatus
from icefs.vfs.control.jobs import Job
from icefs.vfs.control.rpc import error_facts
from icefs.vfs.notes.consolidated import Nodes
from icefs.vfs.observe.counters import Outcomes
from icefs.worktree.tree import WorkTree
from icefs.worktree.upload.uploader import UploadProgress

_SHOWN: Final = 50
_WAYS: Final = ("ours", "theirs", "fail")

type Result = dict[str, Any]
"""What a job ended with, in JSON."""

type Work = Callable[[WorkTree, Job[Result]], Result]


class Action(StrEnum):
    """What a job does."""

    COMMIT = "commit"
    DISCARD = "discard"
    REBASE = "rebase"


class BranchJobs:
    """The jobs of one branch.

    Concurrency: begun on the event loop's thread, and ended there whether or not a caller still waits; the work itself
    runs in a worker thread.
    """

    def __init__(
        self,
        branch: BranchTree,
        tree: WritableBranch,
        status: BranchStatus,
        open_inos: Callable[[], Iterable[Ino]],
        outcomes: Outcomes,
    ) -> None:
        """Takes the branch and what writes to it, its status, what returns the open inodes, and the counters."""
        self._branch = branch
        self._tree = tree
        self._status = status
        self._open_inos = open_inos
        self._outcomes = outcomes
        self._last: dict[Action, Result] = {}
        self._commit: Job[Result] | None = None

    def last(self, action: Action) -> Result | None:
        """Returns what the last job of a kind ended with; None where there was none."""
        return self._last.get(action)

    @property
    def uploading(self) -> UploadProgress | None:
        """How far the uploads of the commit under way are; None where there is no commit."""
        job = self._commit
        return None if job is None else job.progress

    def cancel(self) -> bool:
        """Cancels the commit under way; tells whether that was in time."""
        return self._commit is not None and self._commit.cancel()

    @contextmanager
    def recording(self, action: Action) -> Iterator[None]:
        """Keeps the reason why something was not even begun, for reading."""
        try:
            yield
        except IcefsError as error:
            if not self._tree.base.is_committing:
                self._last[action] = {"ok": False, **error_facts(error)}
            raise

    async def begin_commit(self, request: CommitRequest) -> Job[Result]:
        """Begins a commit."""
        tree = self._tree
        if request.amend and request.rebase is not None:
            raise InvalidInputError("a commit cannot both rebase and amend", hint="rebase first")
        if tree.work is None:
            if not request.allow_empty:
                raise NothingToCommitError("there is nothing to commit", hint="change something first")
            await tree.operations.change(lambda opened: opened)
        await tree.take_mapped_pages()
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            settings, invalidate = tree.settings, tree.settings.notifier.invalidate
            committer = Committer(tree.base, work, settings.repository, settings.options.uploads, inos, invalidate)
            done = committer.commit(request, job.report, job.commit_point)
            invalidate(done.changed)
            self._branch.tip = done.snapshot_id
            return done.facts

        return self._begin(Action.COMMIT, run)

    async def begin_longer_message(self, message: str) -> Job[Result]:
        """Gives the commit that was just made more lines of its message.

        Raises:
            BranchMovedError: others have committed on top.
        """
        last = self.last(Action.COMMIT) or {}
        if self._tree.work is None or self._tree.work.base != last.get("snapshot"):
            raise BranchMovedError(
                f"the commit has the first lines of its message only, for others have committed on top: {message!r}",
                hint="write a message of several lines in one piece, as 'icefs commit' does",
            )
        return await self.begin_commit(CommitRequest(message, allow_empty=True, amend=True))

    def begin_discard(self, path: str) -> Job[Result]:
        """Begins to drop changes at a path and below it; at the empty path, all of them."""
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            tree = self._tree
            before = self._status.count_changes_now(work)
            dropped = work.discard(TreePath(path.strip("/")), tree.base.paths_of(inos))
            tree.settings.notifier.invalidate(dropped.changed)
            count = dropped.num_changes
            if count and before is not None:
                after = self._status.count_changes_now(work) if path else 0
                count = count if after is None else max(before - after, 1)
            return {"discarded": count, "paths": dropped.paths[:_SHOWN]}

        return self._begin(Action.DISCARD, run, nothing={"discarded": 0, "paths": []})

    def begin_rebase(self, how: str) -> Job[Result]:
        """Begins to put the changes on the branch's tip."""
        if how not in _WAYS:
            raise InvalidInputError(f"no way to rebase is called {how!r}", hint=f"one of {', '.join(_WAYS)}")
        tree = self._tree
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            before = work.base
            invalidate = tree.settings.notifier.invalidate
            rebased = rebase_tree(tree.base, work, tree.settings.repository, how, inos, invalidate)
            invalidate(rebased.changed)
            tip = self._branch.tip = rebased.tip
            report = self._status.report(work)
            notes = self._status.notes(Nodes(report.base, report.staged))
            return {"snapshot": str(tip), "moved": str(tip) != before, "notes": notes}

        nothing = {"snapshot": str(self._branch.snapshot_id), "moved": False, "notes": []}
        return self._begin(Action.REBASE, run, nothing=nothing)

    def _begin(self, action: Action, work: Work, nothing: Result | None = None) -> Job[Result]:
        """Begins a job; `nothing` is its result where there is no working tree."""
        tree = self._tree
        if tree.base.is_committing:
            raise SessionStateError(
                "a commit, discard or rebase of this branch is under way",
                kind="commit-not-allowed",
                hint="wait for its end: 'icefs status' shows how far it is",
            )
        # A caller that waits finds everything as the job left it: the kernel has asked again.
        job = Job[Result](tree.settings.notifier.drain)

        def run() -> Result:
            opened = tree.work
            if opened is None:
                assert nothing is not None  # what needs a working tree has opened one
                return nothing
            return work(opened, job)

        started = perf_counter_ns()

        def finish(outcome: Future[Result]) -> None:
            tree.base.is_committing = False
            self._commit = None
            error = outcome.exception()
            self._outcomes.add(action, perf_counter_ns() - started, error)
            if error is None:
                self._last[action] = {"ok": True, **outcome.result()}
            elif isinstance(error, IcefsError):
                self._last[action] = {"ok": False, **error_facts(error)}
            else:  # a bug, which the caller that waits reports
                self._last[action] = {"ok": False, **error_facts(InternalError(f"{type(error).__name__}: {error}"))}

        tree.base.is_committing = True
        self._commit = job if action is Action.COMMIT else None
        job.start(tree.settings.jobs, in_branch(self._branch.name, run), finish)
        return job

"""What can be asked of a writable branch, through control files and through `rpc`: commit, discard, rebase, status."""

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
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
from icefs.format.ids import SnapshotId
from icefs.log_context import in_branch
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.commit.committer import Committer
from icefs.vfs.commit.rebaser import rebase_tree
from icefs.vfs.commit.request import CommitRequest
from icefs.vfs.commit.staged_report import StagedReport, count_changes
from icefs.vfs.control import reports
from icefs.vfs.control.command_files import Carry, CommandHandle, command_text
from icefs.vfs.control.jobs import Answer, Job, progress_json
from icefs.vfs.control.rpc import Operation, error_facts
from icefs.vfs.control.status_text import diff_lines, to_text
from icefs.vfs.interface import FileHandle
from icefs.vfs.notes.consolidated import Nodes, consolidated_notes, groups_concerned
from icefs.vfs.notes.root_group import root_notes
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.trees.control_dir import ControlFile
from icefs.vfs.trees.finder import open_session
from icefs.worktree.tree import WorkTree

_SHOWN: Final = 50
_WAYS: Final = ("ours", "theirs", "fail")

type Result = dict[str, Any]
type Work = Callable[[WorkTree, Job[Result]], Result]


class WorkingControl:
    """The control of one branch.

    A commit, a discard or a rebase is a `Job`: begun here on the event loop's thread, one at a time, and brought to
    its end there whether or not anybody still waits for it.
    """

    def __init__(
        self, branch: BranchTree, tree: WritableBranch, open_inos: Callable[[], Iterable[int]], outcomes: Outcomes
    ) -> None:
        """Takes the branch and what writes to it, what returns the inodes that are open, and what counts outcomes."""
        self._branch = branch
        self._tree = tree
        self._open_inos = open_inos
        self._outcomes = outcomes
        self._last: dict[str, Result] = {}
        self._job: Job[Result] | None = None
        self._known_report: StagedReport | None = None
        self._known_notes: tuple[tuple[Nodes, frozenset[str]], list[str]] | None = None

    # Files.

    def files(self) -> dict[str, ControlFile]:
        """Returns the files that differ from a read-only tree's, by name."""
        return {
            "status": self._made("status", lambda: reports.status_text(self.status())),
            "status.json": self._made("status.json", lambda: reports.to_json(self.status())),
            "diff": self._made("diff", lambda: to_text(diff_lines(self.diff())).encode(errors="surrogatepass")),
            "diff.json": self._made("diff.json", lambda: reports.to_json(self.diff())),
            "commit": self._command("commit", self._commit_text),
            "rebase": self._command("rebase", self._rebase_text),
            "discard": self._command("discard", self._discard_text),
        }

    def _made(self, name: str, make: Callable[[], bytes]) -> ControlFile:
        def begin() -> Callable[[], bytes]:
            self._tree.life.open_left()
            return make

        return ControlFile(name, make=begin)

    def _command(self, name: str, carry: Carry) -> ControlFile:
        def connect(ino: int, flags: int) -> FileHandle:
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self._tree.life.open_left()
            return CommandHandle(ino, flags, carry, lambda: self._last.get(name))

        return ControlFile(name, connect=connect)

    async def _commit_text(self, data: bytes, before: bytes) -> None:
        with self._recording("commit"):
            message = command_text(data)
            if not message:
                raise InvalidInputError("a commit needs a message", hint='echo "message" > .icefs/commit')
            if not before:
                job = await self.begin_commit(CommitRequest(message))
            elif message == command_text(before):
                return  # an empty line, after which there may be more
            else:
                job = await self._begin_longer_message(message)
        await job.wait()

    async def _begin_longer_message(self, message: str) -> Job[Result]:
        """Gives the commit that was just made through the same descriptor more lines of its message."""
        last = self._last.get("commit") or {}
        if self._tree.work is None or self._tree.work.base != last.get("snapshot"):
            raise BranchMovedError(
                f"the commit has the first lines of its message only, for others have committed on top: {message!r}",
                hint="write a message of several lines in one piece, as 'icefs commit' does",
            )
        return await self.begin_commit(CommitRequest(message, allow_empty=True, amend=True))

    async def _rebase_text(self, data: bytes, before: bytes) -> None:
        with self._recording("rebase"):
            job = self.begin_rebase(command_text(data[len(before) :]))
        await job.wait()

    async def _discard_text(self, data: bytes, before: bytes) -> None:
        with self._recording("discard"):
            path = command_text(data[len(before) :])
            if not path:
                raise InvalidInputError("what is to be discarded?", hint="write 'yes' for everything, or a path")
            job = self.begin_discard("" if path == "yes" else path)
        await job.wait()

    @contextmanager
    def _recording(self, name: str) -> Any:
        """Leaves the reason for reading why something was not even begun."""
        try:
            yield
        except IcefsError as error:
            if not self._tree.base.is_committing:
                self._last[name] = {"ok": False, **error_facts(error)}
            raise

    # What is staged; in a worker thread.

    def _report(self, work: WorkTree) -> StagedReport:
        repository = self._tree.settings.repository
        now = work.staged_now(lambda base: open_session(repository, SnapshotId.parse(base)))
        known = self._known_report
        if known is None or known.staged is not now.staged:
            known = self._known_report = StagedReport(now.staged, now.base)
        return known

    def status(self) -> dict[str, Any]:
        """Makes `status.json`."""
        tree, job = self._tree, self._job
        status = reports.tree_status(tree.settings.repository, self._branch.facts(), self._branch.snapshot_id)
        status["writable"] = True
        status["refused"] = tree.checks.refusals.as_json()
        intent = None if tree.work is None else tree.work.pending_intent
        if intent is not None:
            status["pending_commit"] = intent.snapshot_id
        if job is not None:
            status["uploading"] = progress_json(job.progress)
        if tree.work is not None:
            status["background"] = reports.background_facts(tree.work.uploads)
            status["damage"] = reports.damage_facts(tree.work)
            report = self._report(tree.work)
            status["staged"] = report.summary
            status |= _left_out(report)
            status["lost"] = sorted(report.staged.lost)
            status["notes"] = self._notes(Nodes(report.base, report.staged))
        elif self._branch.session is not None:  # else nobody has looked, and status asks the store for nothing
            status["notes"] = self._notes(Nodes(self._branch.session))
        return status

    def _notes(self, nodes: Nodes) -> list[str]:
        """Returns the notes about the root and consolidated metadata, worked out once for each state of the tree."""
        tree = self._tree
        followed = frozenset(tree.base.followed_groups)
        known = self._known_notes
        if known is None or known[0] != (nodes, followed):
            groups = groups_concerned(nodes, nodes.changed()) | followed
            notes = [*root_notes(nodes), *consolidated_notes(nodes, groups).values()]
            known = self._known_notes = (nodes, followed), notes
        return known[1]

    def diff(self) -> dict[str, Any]:
        """Makes `diff.json`."""
        tree = self._tree
        if tree.work is None:
            return reports.tree_diff(self._branch.snapshot_id)
        report = self._report(tree.work)
        return {"from": tree.work.base, "to": None, **report.details(), **_left_out(report)}

    # What is done.

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
            committer = Committer(tree.base, work, settings.repository, settings.uploads, inos, invalidate)
            done = committer.commit(request, job.report, job.commit_point)
            invalidate(done.changed)
            self._branch.tip = done.snapshot_id
            return done.facts

        return self._begin("commit", run)

    def begin_discard(self, path: str) -> Job[Result]:
        """Begins to drop changes at a path and below it; at the empty path, all of them."""
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            tree = self._tree
            before = self._count_changes(work)
            dropped = work.discard(path, tree.base.paths_of(inos))
            tree.settings.notifier.invalidate(dropped.changed)
            count = dropped.num_changes
            if count and before is not None:
                after = self._count_changes(work) if path else 0
                count = count if after is None else max(before - after, 1)
            return {"discarded": count, "paths": dropped.paths[:_SHOWN]}

        return self._begin("discard", run, nothing={"discarded": 0, "paths": []})

    def _count_changes(self, work: WorkTree) -> int | None:
        """Counts the changes that `status` lists; None where the store does not answer."""
        try:
            report = self._report(work)
            return count_changes({"staged": report.summary, **_left_out(report)})
        except IcefsError:
            return None

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
            report = self._report(work)
            notes = self._notes(Nodes(report.base, report.staged))
            return {"snapshot": str(tip), "moved": str(tip) != before, "notes": notes}

        nothing = {"snapshot": str(self._branch.snapshot_id), "moved": False, "notes": []}
        return self._begin("rebase", run, nothing=nothing)

    def _begin(self, name: str, work: Work, nothing: Result | None = None) -> Job[Result]:
        """Begins a job; `nothing` is its result where there is no working tree."""
        tree = self._tree
        if tree.base.is_committing:
            raise SessionStateError(
                "a commit, discard or rebase of this branch is under way",
                kind="commit-not-allowed",
                hint="wait for its end: 'icefs status' shows how far it is",
            )
        # Whoever waits finds everything as the job left it: the kernel has forgotten what is otherwise now.
        job = Job[Result](tree.settings.notifier.drain)

        def run() -> Result:
            opened = tree.work
            if opened is None:
                assert nothing is not None  # whoever cannot do without has opened one
                return nothing
            return work(opened, job)

        started = perf_counter_ns()

        def finish(outcome: Future[Result]) -> None:
            tree.base.is_committing = False
            self._job = None
            error = outcome.exception()
            self._outcomes.add(name, perf_counter_ns() - started, error)
            if error is None:
                self._last[name] = {"ok": True, **outcome.result()}
            elif isinstance(error, IcefsError):
                self._last[name] = {"ok": False, **error_facts(error)}
            else:  # a bug, which whoever waits reports
                self._last[name] = {"ok": False, **error_facts(InternalError(f"{type(error).__name__}: {error}"))}

        tree.base.is_committing = True
        self._job = job if name == "commit" else None
        job.start(tree.settings.jobs, in_branch(self._branch.name, run), finish)
        return job

    # rpc.

    def operations(self) -> dict[str, Operation]:
        """Returns what `rpc` can be asked for in this tree beside what it can in any."""

        async def cancel(request: Mapping[str, Any]) -> AsyncGenerator[Result]:
            yield {"cancelled": self._job is not None and self._job.cancel()}

        async def status(request: Mapping[str, Any]) -> AsyncGenerator[Result]:
            await self._tree.operations.look()
            yield await self._tree.operations.in_thread(self.status, self._tree.settings.jobs)

        return {
            "commit": lambda request: Answer(partial(self._ask_commit, request)),
            "discard": lambda request: Answer(partial(self._ask_discard, request)),
            "rebase": lambda request: Answer(partial(self._ask_rebase, request)),
            "cancel": cancel,
            "status": status,
        }

    async def _ask_commit(self, request: Mapping[str, Any]) -> Job[Result]:
        message, metadata = request.get("message"), request.get("metadata") or {}
        amend = bool(request.get("amend"))
        if not isinstance(metadata, dict):
            raise InvalidInputError("a commit's metadata is an object")
        if not isinstance(message, str) and not (message is None and amend):
            raise InvalidInputError("a commit needs a message")
        await self._tree.operations.look()
        asked = CommitRequest(
            message,
            metadata,
            request.get("rebase"),
            # A commit that gets another message is another one.
            bool(request.get("allow_empty")) or (amend and bool(message is not None or metadata)),
            skip_invalid=bool(request.get("skip_invalid")),
            include_open=bool(request.get("include_open")),
            amend=amend,
        )
        return await self.begin_commit(asked)

    async def _ask_discard(self, request: Mapping[str, Any]) -> Job[Result]:
        await self._tree.operations.look()
        return self.begin_discard(str(request.get("path") or ""))

    async def _ask_rebase(self, request: Mapping[str, Any]) -> Job[Result]:
        await self._tree.operations.look()
        return self.begin_rebase(str(request.get("how") or "fail"))


def _left_out(report: StagedReport) -> dict[str, Any]:
    staged = report.staged
    return {
        "untracked": sorted(staged.untracked),
        "invalid": [{"path": path, "reason": reason} for path, reason in sorted(staged.invalid)],
        "open": [{"path": path, "reason": reason} for path, reason in sorted(staged.open)],
    }

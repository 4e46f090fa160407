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
from icefs.vfs.commit.committer import Committer
from icefs.vfs.commit.rebaser import rebase_tree
from icefs.vfs.commit.request import CommitRequest
from icefs.vfs.commit.staged_report import StagedReport
from icefs.vfs.control import reports
from icefs.vfs.control.command_files import Carry, CommandHandle, command_text
from icefs.vfs.control.jobs import Answer, Job, progress_json
from icefs.vfs.control.rpc import Operation, error_facts
from icefs.vfs.control.status_text import diff_lines, to_text
from icefs.vfs.interface import FileHandle
from icefs.vfs.notes.consolidated import Nodes, consolidated_notes, groups_concerned
from icefs.vfs.notes.root_group import root_notes
from icefs.vfs.trees.control_dir import ControlFile
from icefs.vfs.trees.places import open_session
from icefs.vfs.trees.snapshot_tree import tree_facts
from icefs.vfs.trees.writable_branch import WritableBranch
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

    def __init__(self, tree: WritableBranch, open_inos: Callable[[], Iterable[int]]) -> None:
        self._tree = tree
        self._open_inos = open_inos
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
            self._tree.open_left_work()
            return make

        return ControlFile(name, make=begin)

    def _command(self, name: str, carry: Carry) -> ControlFile:
        def connect(ino: int, flags: int) -> FileHandle:
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self._tree.open_left_work()
            return CommandHandle(ino, flags, carry, lambda: getattr(self._tree, f"last_{name}"))

        return ControlFile(name, connect=connect)

    async def _commit_text(self, data: bytes, before: bytes) -> None:
        with self._recording("last_commit"):
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
        last = self._tree.last_commit or {}
        if self._tree.work is None or self._tree.work.base != last.get("snapshot"):
            raise BranchMovedError(
                f"the commit has the first lines of its message only, for others have committed on top: {message!r}",
                hint="write a message of several lines in one piece, as 'icefs commit' does",
            )
        return await self.begin_commit(CommitRequest(message, allow_empty=True, amend=True))

    async def _rebase_text(self, data: bytes, before: bytes) -> None:
        with self._recording("last_rebase"):
            job = self.begin_rebase(command_text(data[len(before) :]))
        await job.wait()

    async def _discard_text(self, data: bytes, before: bytes) -> None:
        with self._recording("last_discard"):
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
            if not self._tree.is_committing:
                setattr(self._tree, name, {"ok": False, **error_facts(error)})
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
        status = reports.tree_status(tree.settings.repository, tree_facts(tree), tree.snapshot_id)
        status["writable"] = True
        status["refused"] = tree.refusals.as_json()
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
        elif tree.session is not None:  # else nobody has looked into the tree, and status asks the store for nothing
            status["notes"] = self._notes(Nodes(tree.session))
        return status

    def _notes(self, nodes: Nodes) -> list[str]:
        """Returns the notes about the root and consolidated metadata, worked out once for each state of the tree."""
        tree = self._tree
        followed = frozenset(tree.followed_groups)
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
            return reports.tree_diff(tree.snapshot_id)
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
            await tree.change(lambda opened: opened)
        await tree.take_mapped_pages()
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            settings, invalidate = tree.settings, tree.settings.notifier.invalidate
            committer = Committer(tree, work, settings.repository, settings.uploads, inos, invalidate)
            done = committer.commit(request, job.report, job.commit_point)
            invalidate(done.changed)
            tree.tip = done.snapshot_id
            return done.facts

        return self._begin("last_commit", run)

    def begin_discard(self, path: str) -> Job[Result]:
        """Begins to drop changes at a path and below it; at the empty path, all of them."""
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            dropped = work.discard(path, self._tree.base_paths(inos))
            self._tree.settings.notifier.invalidate(dropped.changed)
            return {"discarded": dropped.num_changes, "paths": dropped.paths[:_SHOWN]}

        return self._begin("last_discard", run, nothing={"discarded": 0, "paths": []})

    def begin_rebase(self, how: str) -> Job[Result]:
        """Begins to put the changes on the branch's tip."""
        if how not in _WAYS:
            raise InvalidInputError(f"no way to rebase is called {how!r}", hint=f"one of {', '.join(_WAYS)}")
        tree = self._tree
        inos = list(self._open_inos())

        def run(work: WorkTree, job: Job[Result]) -> Result:
            before = work.base
            invalidate = tree.settings.notifier.invalidate
            rebased = rebase_tree(tree, work, tree.settings.repository, how, inos, invalidate)
            invalidate(rebased.changed)
            tip = tree.tip = rebased.tip
            report = self._report(work)
            notes = self._notes(Nodes(report.base, report.staged))
            return {"snapshot": str(tip), "moved": str(tip) != before, "notes": notes}

        nothing = {"snapshot": str(tree.snapshot_id), "moved": False, "notes": []}
        return self._begin("last_rebase", run, nothing=nothing)

    def _begin(self, name: str, work: Work, nothing: Result | None = None) -> Job[Result]:
        """Begins a job; `nothing` is its result where there is no working tree."""
        tree = self._tree
        if tree.is_committing:
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
            tree.is_committing = False
            self._job = None
            error = outcome.exception()
            tree.settings.outcomes.add(name.removeprefix("last_"), perf_counter_ns() - started, error)
            if error is None:
                setattr(tree, name, {"ok": True, **outcome.result()})
            elif isinstance(error, IcefsError):
                setattr(tree, name, {"ok": False, **error_facts(error)})
            else:  # a bug, which whoever waits reports
                setattr(tree, name, {"ok": False, **error_facts(InternalError(f"{type(error).__name__}: {error}"))})

        tree.is_committing = True
        self._job = job if name == "last_commit" else None
        job.start(tree.settings.jobs, in_branch(tree.name, run), finish)
        return job

    # rpc.

    def operations(self) -> dict[str, Operation]:
        """Returns what `rpc` can be asked for in this tree beside what it can in any."""

        async def cancel(request: Mapping[str, Any]) -> AsyncGenerator[Result]:
            yield {"cancelled": self._job is not None and self._job.cancel()}

        async def status(request: Mapping[str, Any]) -> AsyncGenerator[Result]:
            await self._tree.look()
            yield await self._tree.in_thread(self.status, self._tree.settings.jobs)

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
        await self._tree.look()
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
        await self._tree.look()
        return self.begin_discard(str(request.get("path") or ""))

    async def _ask_rebase(self, request: Mapping[str, Any]) -> Job[Result]:
        await self._tree.look()
        return self.begin_rebase(str(request.get("how") or "fail"))


def _left_out(report: StagedReport) -> dict[str, Any]:
    staged = report.staged
    return {
        "untracked": sorted(staged.untracked),
        "invalid": [{"path": path, "reason": reason} for path, reason in sorted(staged.invalid)],
        "open": [{"path": path, "reason": reason} for path, reason in sorted(staged.open)],
    }

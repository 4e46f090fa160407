"""What can be asked of a writable branch, through control files and through `rpc`: commit, discard, rebase, status."""

import os
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from functools import partial
from typing import Any

from icefs.errors import InvalidInputError
from icefs.inode import Ino
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.commit.request import CommitRequest
from icefs.vfs.control import reports
from icefs.vfs.control.branch_jobs import Action, BranchJobs, Result
from icefs.vfs.control.branch_status import BranchStatus
from icefs.vfs.control.command_files import Carry, CommandHandle, command_text
from icefs.vfs.control.jobs import Answer, Job
from icefs.vfs.control.rpc import Operation
from icefs.vfs.control.status_text import diff_lines, to_text
from icefs.vfs.interface import FileHandle
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.trees.control_dir import ControlFile


class BranchControl:
    """The control of one branch.

    Attributes:
        jobs: Its commits, discards and rebases.
    """

    def __init__(
        self, branch: BranchTree, tree: WritableBranch, open_inos: Callable[[], Iterable[Ino]], outcomes: Outcomes
    ) -> None:
        """Takes the branch and what writes to it, what returns the inodes that are open, and what counts outcomes."""
        self._tree = tree
        self._status = BranchStatus(branch, tree)
        self.jobs = BranchJobs(branch, tree, self._status, open_inos, outcomes)

    def status(self) -> dict[str, Any]:
        """Makes `status.json`; in a worker thread."""
        return self._status.status(self.jobs.uploading)

    # Files.

    def files(self) -> dict[str, ControlFile]:
        """Returns the files that differ from a read-only tree's, by name."""
        return {
            "status": self._made("status", lambda: reports.status_text(self.status())),
            "status.json": self._made("status.json", lambda: reports.to_json(self.status())),
            "diff": self._made("diff", lambda: to_text(diff_lines(self._status.diff())).encode(errors="surrogatepass")),
            "diff.json": self._made("diff.json", lambda: reports.to_json(self._status.diff())),
            "commit": self._command(Action.COMMIT, self._commit_text),
            "rebase": self._command(Action.REBASE, self._rebase_text),
            "discard": self._command(Action.DISCARD, self._discard_text),
        }

    def _made(self, name: str, make: Callable[[], bytes]) -> ControlFile:
        def begin() -> Callable[[], bytes]:
            self._tree.life.open_left()
            return make

        return ControlFile(name, make=begin)

    def _command(self, action: Action, carry: Carry) -> ControlFile:
        def connect(ino: Ino, flags: int) -> FileHandle:
            if flags & os.O_ACCMODE != os.O_RDONLY:
                self._tree.life.open_left()
            return CommandHandle(ino, flags, carry, lambda: self.jobs.last(action))

        return ControlFile(action, connect=connect)

    async def _commit_text(self, data: bytes, before: bytes) -> None:
        with self.jobs.recording(Action.COMMIT):
            message = command_text(data)
            if not message:
                raise InvalidInputError("a commit needs a message", hint='echo "message" > .icefs/commit')
            if not before:
                job = await self.jobs.begin_commit(CommitRequest(message))
            elif message == command_text(before):
                return  # an empty line, after which there may be more
            else:
                job = await self.jobs.begin_longer_message(message)
        await job.wait()

    async def _rebase_text(self, data: bytes, before: bytes) -> None:
        with self.jobs.recording(Action.REBASE):
            job = self.jobs.begin_rebase(command_text(data[len(before) :]))
        await job.wait()

    async def _discard_text(self, data: bytes, before: bytes) -> None:
        with self.jobs.recording(Action.DISCARD):
            path = command_text(data[len(before) :])
            if not path:
                raise InvalidInputError("what is to be discarded?", hint="write 'yes' for everything, or a path")
            job = self.jobs.begin_discard("" if path == "yes" else path)
        await job.wait()

    # rpc.

    def operations(self) -> dict[str, Operation]:
        """Returns what `rpc` can be asked for in this tree, besides what it can in any."""

        async def cancel(request: Mapping[str, Any]) -> AsyncGenerator[Result]:
            yield {"cancelled": self.jobs.cancel()}

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
        return await self.jobs.begin_commit(asked)

    async def _ask_discard(self, request: Mapping[str, Any]) -> Job[Result]:
        await self._tree.operations.look()
        return self.jobs.begin_discard(str(request.get("path") or ""))

    async def _ask_rebase(self, request: Mapping[str, Any]) -> Job[Result]:
        await self._tree.operations.look()
        return self.jobs.begin_rebase(str(request.get("how") or "fail"))

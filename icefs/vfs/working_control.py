"""The control files of a branch that can be written to: commit, discard, rebase, and what is staged."""

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import trio

from icefs.errors import IcefsError, InvalidInputError, NothingToCommitError, SessionStateError
from icefs.format.ids import SnapshotId
from icefs.vfs import reports
from icefs.vfs.committing import CommitRequest, Committed, commit, rebase_tree
from icefs.vfs.control import ControlFile
from icefs.vfs.handles import DirectBytesHandle
from icefs.vfs.interface import FileHandle
from icefs.vfs.rpc import Operation
from icefs.vfs.places import open_session
from icefs.vfs.working import WorkingTree
from icefs.worktree.staging import Staged, stage

_SHOWN = 50

type Carry = Callable[[str], Awaitable[None]]


class CommandHandle(FileHandle):
    """An open control file that does something with what is written to it, at once."""

    __slots__ = ("_carry",)

    direct_io = True
    nonseekable = True

    def __init__(self, ino: int, carry: Carry) -> None:
        super().__init__(ino)
        self._carry = carry

    def read_nowait(self, offset: int, size: int) -> bytes:
        """Reads nothing."""
        return b""

    async def write(self, offset: int, data: bytes) -> int:
        """Does what is asked; its failure is the write's, so that the shell's `echo` fails."""
        await self._carry(data.decode(errors="replace").strip())
        return len(data)


class WorkingControl:
    """What can be asked of a writable branch, through files and through `rpc`."""

    def __init__(self, tree: WorkingTree, open_inos: Callable[[], Iterable[int]]) -> None:
        self._tree = tree
        self._open_inos = open_inos
        self._lock = trio.Lock()

    # Files.

    def files(self) -> dict[str, ControlFile]:
        """Returns the files that differ from a read-only tree's, by name."""
        return {
            "status": ControlFile("status", make=lambda: self._as_text()),
            "status.json": ControlFile("status.json", make=lambda: partial(reports.to_json, self.facts())),
            "diff": ControlFile("diff", make=lambda: self._diff_text),
            "diff.json": ControlFile("diff.json", make=lambda: lambda: reports.to_json(self._diff())),
            "commit": ControlFile("commit", connect=partial(self._connect, self._commit_text, "last_commit")),
            "rebase": ControlFile("rebase", connect=partial(self._connect, self._rebase_text, "last_rebase")),
            "discard": ControlFile("discard", connect=partial(self._connect, self._discard_text, "last_discard")),
        }

    def _connect(self, carry: Carry, result: str, ino: int, flags: int) -> FileHandle:
        if flags & os.O_ACCMODE == os.O_RDONLY:
            return DirectBytesHandle(ino, reports.to_json(getattr(self._tree, result, None)))
        return CommandHandle(ino, carry)

    async def _commit_text(self, message: str) -> None:
        if not message:
            raise InvalidInputError("a commit needs a message", hint='echo "message" > .icefs/commit')
        await self.commit(CommitRequest(message))

    async def _rebase_text(self, how: str) -> None:
        await self.rebase(how)

    async def _discard_text(self, path: str) -> None:
        if not path:
            raise InvalidInputError("what is to be discarded?", hint="write 'yes' for everything, or a path")
        await self.discard("" if path == "yes" else path)

    # What is staged.

    def _staged(self) -> Staged:
        """Looks at the working tree; in a worker thread."""
        work = self._tree.work
        if work is None:
            return Staged()
        view = work.view()
        try:
            return stage(view, open_session(self._tree.settings.repository, SnapshotId.parse(view.base)))
        finally:
            work.release_view(view)

    def facts(self) -> Mapping[str, Any]:
        """Returns what `status.json` tells; made in a worker thread when it is looked at."""
        return self._status()

    def _status(self) -> dict[str, Any]:
        tree = self._tree
        tip = tree.tip
        status = reports.tree_status(
            tree.settings.repository,
            {
                "kind": tree.kind,
                "name": tree.name,
                "tip": None if tip is None else str(tip),
                "tip_moved": tip is not None and tip != tree.snapshot_id,
                "problem": tree.problem,
            },
            tree.snapshot_id,
        )
        staged = self._staged()
        status["writable"] = True
        status["staged"] = _summary(staged)
        status["untracked"] = staged.untracked
        status["invalid"] = [{"path": path, "reason": reason} for path, reason in staged.invalid]
        return status

    def _as_text(self) -> Callable[[], bytes]:
        return lambda: status_text(self._status()).encode(errors="surrogatepass")

    def _diff(self) -> dict[str, Any]:
        staged = self._staged()
        summary = _summary(staged)
        summary["updated_chunks"] = {
            path: {"written": sorted(array.sets), "deleted": sorted(array.deletes)}
            for path, array in staged.arrays.items()
        }
        return summary

    def _diff_text(self) -> bytes:
        staged = self._staged()
        lines = [f"deleted  {path}" for path in staged.deleted]
        lines += [f"{'new    ' if path in staged.made else 'changed'}  {path}" for path in staged.nodes]
        for path, array in sorted(staged.arrays.items()):
            lines += [f"chunk written  {path} {list(index)}" for index in sorted(array.sets)]
            lines += [f"chunk deleted  {path} {list(index)}" for index in sorted(array.deletes)]
        return "".join(f"{line}\n" for line in lines).encode(errors="surrogatepass")

    # What is done.

    async def commit(self, request: CommitRequest) -> dict[str, Any]:
        """Commits, and leaves what became of it for reading."""
        tree = self._tree

        async def run() -> dict[str, Any]:
            work = tree.work
            if work is None and not request.allow_empty:
                raise NothingToCommitError("there is nothing to commit", hint="change something first")
            if work is None:
                work = await tree.change(lambda opened: opened)
            inos = list(self._open_inos())
            done: Committed = await tree.in_thread(lambda: commit(tree, work, request, inos, lambda *_: None))
            notifier = tree.settings.notifier
            notifier.invalidate_entries(tree.translated(done.entries))
            notifier.invalidate_attrs(done.attrs)
            tree.tip = done.snapshot_id
            return done.facts

        return await self._recorded("last_commit", run)

    async def discard(self, path: str) -> dict[str, Any]:
        """Drops changes."""
        tree = self._tree

        async def run() -> dict[str, Any]:
            work = tree.work
            if work is None:
                return {"discarded": 0}
            dropped = await tree.in_thread(lambda: work.discard(path))
            notifier = tree.settings.notifier
            notifier.invalidate_entries([(ino, name.encode(errors="surrogatepass")) for ino, name in dropped.entries])
            notifier.invalidate_attrs([*dropped.inos, *(ino for ino, _ in dropped.entries)])
            return {"discarded": len(dropped.paths), "paths": dropped.paths[:_SHOWN]}

        return await self._recorded("last_discard", run)

    async def rebase(self, how: str) -> dict[str, Any]:
        """Puts the changes on the branch's tip."""
        tree = self._tree

        async def run() -> dict[str, Any]:
            work = tree.work
            if work is None:
                return {"snapshot": str(tree.snapshot_id), "moved": False}
            inos = list(self._open_inos())
            tip, entries, attrs = await tree.in_thread(lambda: rebase_tree(tree, work, how, inos))
            notifier = tree.settings.notifier
            notifier.invalidate_entries(tree.translated(entries))
            notifier.invalidate_attrs(attrs)
            tree.tip = tip
            return {"snapshot": str(tip), "moved": bool(entries or attrs)}

        return await self._recorded("last_rebase", run)

    async def _recorded(self, name: str, run: Callable[[], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        tree = self._tree
        if tree.is_committing:
            raise SessionStateError("a commit of this branch is under way", kind="commit-not-allowed")
        async with self._lock:
            tree.is_committing = True
            try:
                result = await run()
            except IcefsError as error:
                setattr(tree, name, {"ok": False, **error_facts(error)})
                raise
            finally:
                tree.is_committing = False
        setattr(tree, name, {"ok": True, **result})
        return result

    # rpc.

    def operations(self) -> dict[str, Operation]:
        """Returns what `rpc` can be asked for in this tree beside what it can in any."""

        async def do_commit(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            message = request.get("message")
            metadata = request.get("metadata") or {}
            if not isinstance(message, str) or not isinstance(metadata, dict):
                raise InvalidInputError("a commit needs a message")
            asked = CommitRequest(
                message,
                metadata,
                request.get("rebase"),
                bool(request.get("allow_empty")),
                bool(request.get("skip_invalid")),
            )
            yield await self.commit(asked)

        async def do_discard(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            yield await self.discard(str(request.get("path") or ""))

        async def do_rebase(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            yield await self.rebase(str(request.get("how") or "fail"))

        async def status(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
            yield await self._tree.in_thread(self._status)

        return {"commit": do_commit, "discard": do_discard, "rebase": do_rebase, "status": status}


def error_facts(error: IcefsError) -> dict[str, Any]:
    """Describes an error in JSON."""
    facts = {key: value for key, value in error.facts.items() if key in ("invalid", "snapshot", "path", "commits")}
    if "conflicts" in error.facts:
        facts["conflicts"] = [str(conflict) for conflict in error.facts["conflicts"]]
    return {
        "error": type(error).__name__,
        "kind": error.kind,
        "message": error.message,
        "hint": error.hint,
        **facts,
    }


def _summary(staged: Staged) -> dict[str, Any]:
    made = [path for path in staged.nodes if path in staged.made]
    return {
        "new_nodes": made,
        "updated_nodes": [path for path in staged.nodes if path not in staged.made],
        "deleted_nodes": staged.deleted,
        "chunks": {
            path: {"written": len(array.sets), "deleted": len(array.deletes)} for path, array in staged.arrays.items()
        },
    }


def status_text(status: Mapping[str, Any]) -> str:
    """Makes a writable branch's `status`, from its `status.json`."""
    lines = reports.status_text(status).splitlines()[:-1]
    staged = status["staged"]
    for key, word in (("new_nodes", "new"), ("updated_nodes", "changed"), ("deleted_nodes", "deleted")):
        lines += [f"  {word:8}{path}" for path in staged[key][:_SHOWN]]
    for path, counts in staged["chunks"].items():
        lines.append(f"  chunks  {path}: {counts['written']} written, {counts['deleted']} deleted")
    if not any(staged.values()):
        lines.append("Nothing staged")
    lines += [f"  untracked  {path}" for path in status["untracked"][:_SHOWN]]
    lines += [f"  invalid  {one['path']} {one['reason']}" for one in status["invalid"][:_SHOWN]]
    return "\n".join(lines) + "\n"

"""Which files a mount's control directories have, and what makes their contents."""

import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any, Final, NoReturn

from icefs.errors import InvalidInputError, ReadOnlyError
from icefs.inode import Ino
from icefs.storage.url import redact
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.chunks.warmup import warm_up
from icefs.vfs.control import reports
from icefs.vfs.control.branch_control import BranchControl
from icefs.vfs.control.jobs import Answer
from icefs.vfs.control.observing_rpc import observing_operations
from icefs.vfs.control.rpc import Operation, RpcHandle
from icefs.vfs.control.uncommitted import has_changes, list_uncommitted
from icefs.vfs.mount import Mount
from icefs.vfs.observe.access_log import as_text, recent_accesses
from icefs.vfs.observe.look import Look
from icefs.vfs.observe.stats import RING
from icefs.vfs.refs.root import RootTree
from icefs.vfs.trees.control_dir import ControlDir, ControlFile
from icefs.vfs.trees.finder import open_session
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.words import plural, quoted, some, visible

_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class _Shown:
    """A tree with the branch that it is of, if it is a branch's."""

    tree: SnapshotTree
    branch: BranchTree | None = None

    def facts(self) -> dict[str, Any]:
        """Returns the facts of the tree that need no question to the store, in JSON."""
        if self.branch is not None:
            return self.branch.facts()
        identity = self.tree.identity
        return {"kind": identity.kind, "name": identity.name, "tip": None, "tip_moved": False, "problem": None}

    def info(self) -> dict[str, Any]:
        """Returns what `info.json` says of the tree."""
        is_writable = self.branch is not None and self.branch.writable is not None
        return {**self.facts(), "snapshot": str(self.tree.snapshot_id), "writable": is_writable}


class MountControl:
    """Makes control directories: one in each tree, one at the mount's root, and one that is both.

    Facts are gathered on the event loop's thread and written down in a worker thread, where the history that goes
    with them can be read.
    """

    def __init__(self, mount: Mount) -> None:
        """Takes the mount, which is about to make its trees."""
        self._mount = mount
        self._facts = mount.facts
        self._ownership = mount.ownership
        self._started_ns = time.time_ns()

    def for_snapshot(self, tree: SnapshotTree) -> ControlDir:
        """Makes the control directory of a tag or snapshot, which is the mount's too where that is all there is."""
        return self._directory(_Shown(tree))

    def for_branch(self, branch: BranchTree) -> ControlDir:
        """Makes a branch's, in the same way."""
        shown = _Shown(branch.tree, branch)
        if branch.writable is None:
            return self._directory(shown)
        working = BranchControl(branch, branch.writable, self._mount.fs.handles.open_inos, self._mount.outcomes)
        return self._directory(shown, working.files(), working.operations())

    def _directory(
        self,
        shown: "_Shown",
        own_files: Mapping[str, ControlFile] = MappingProxyType({}),
        own_operations: Mapping[str, Operation] = MappingProxyType({}),
    ) -> ControlDir:
        tree = shown.tree
        files = [own_files.get(file.name, file) for file in self._tree_files(shown)]
        operations = self._operations(shown) | dict(own_operations)
        if tree.identity.is_whole_mount:
            files += self._root_files(shown.info)
        files.append(ControlFile("rpc", connect=partial(self._connect, operations)))
        viewed = shown.tree if shown.branch is None else shown.branch
        files.append(ControlFile("views", enter=lambda parent_ino: self._mount.views.views_of(viewed, parent_ino)))
        return ControlDir(tree.inodes.fixed, files, self._ownership, self._started_ns)

    def for_root(self, root: RootTree) -> ControlDir:
        """Makes the control directory at the root of a mount of a whole repository."""
        files = [
            _made("status", lambda: partial(_status_of_mount, self._mount_status())),
            _made("status.json", lambda: partial(reports.to_json, self._mount_status())),
            *self._root_files(dict),
            ControlFile("rpc", connect=partial(self._connect, self._operations(None))),
            ControlFile("views", enter=lambda parent_ino: self._mount.views.views_of_root(root, parent_ino)),
        ]
        return ControlDir(root.fixed, files, self._ownership, self._started_ns)

    # Trees.

    def _tree_files(self, shown: "_Shown") -> list[ControlFile]:
        repository, tree = self._mount.repository, shown.tree

        def status() -> Callable[[], dict[str, Any]]:
            return partial(reports.tree_status, repository, shown.facts(), tree.snapshot_id, tree.session)

        def as_text() -> Callable[[], bytes]:
            make = status()
            return lambda: reports.status_text(make())

        def as_json() -> Callable[[], bytes]:
            make = status()
            return lambda: reports.to_json(make())

        files = [
            _made("status", as_text),
            _made("status.json", as_json),
            _made("log", lambda: partial(reports.log_text, repository, tree.snapshot_id)),
            _made("log.json", lambda: partial(reports.log_json, repository, tree.snapshot_id)),
            _made("diff", lambda: bytes),
            _made("diff.json", lambda: partial(reports.to_json, reports.tree_diff(tree.snapshot_id))),
        ]
        if not tree.identity.is_whole_mount:
            files.append(ControlFile("head", target=lambda: f"../../../snapshots/{tree.snapshot_id}"))
        # Nothing was ever committed, discarded or rebased through a read-only tree.
        files += [_made(name, lambda: partial(reports.to_json, None)) for name in ("commit", "discard", "rebase")]
        if not tree.identity.is_whole_mount:
            files.append(_made("info.json", lambda: partial(reports.to_json, shown.info())))
        return files

    # The mount.

    def _root_files(self, more: Callable[[], dict[str, Any]]) -> list[ControlFile]:
        mount = self._mount
        return [
            _made("info.json", lambda: partial(reports.to_json, {**self._info(), **more()})),
            _made("stats.json", lambda: partial(self._stats, mount.observer.look())),
            _made("metrics", lambda: partial(self._metrics, mount.observer.look())),
            replace(
                _made("accesslog", lambda: partial(as_text, recent_accesses(mount.stats, mount.fs, RING))),
                is_private=True,  # it tells what all users open
            ),
            _made("version", lambda: partial(str.encode, f"icefs {self._facts.version}\n")),
        ]

    def _info(self) -> dict[str, Any]:
        repository = self._mount.repository
        return {
            "pid": os.getpid(),
            "repository": redact(repository.storage.url),
            "spec_version": repository.spec_version,
            **self._facts.as_json(),
        }

    def _mount_status(self) -> dict[str, Any]:
        mount, refs = self._mount, self._mount.follower.refs
        return {
            "kind": "repository",
            "repository": redact(mount.repository.storage.url),
            "mountpoint": self._facts.mountpoint or None,
            "branches": {name: str(tip) for name, tip in sorted(refs.branches.items())},
            "tags": {name: str(tip) for name, tip in sorted(refs.tags.items())},
            "trees": [
                {
                    **branch.facts(),
                    "snapshot": str(branch.snapshot_id),
                    "has_changes": has_changes(branch),
                    "problem": _problem(branch),
                }
                for branch in mount.trees.branches()
            ],
            "refreshed_at": mount.follower.refreshed_at,
            "problem": mount.follower.problem,
            "failures": len(mount.stats.failures),
        }

    def _stats(self, look: Look) -> bytes:
        return reports.to_json(self._mount.observer.as_json(look))

    def _metrics(self, look: Look) -> bytes:
        return self._mount.observer.as_prometheus(look).encode(errors="backslashreplace")

    # rpc.

    def _connect(self, operations: Mapping[str, Operation], ino: Ino, flags: int) -> RpcHandle:
        return RpcHandle(ino, operations, flags)

    def _operations(self, shown: "_Shown | None") -> dict[str, Operation]:
        """Returns what `rpc` can be asked for, in a tree or (None) at the root."""

        async def ping(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
            yield {"pid": os.getpid()}

        async def refresh(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
            changed = await self._mount.follower.refresh()
            yield {**changed, **({} if shown is None else {"snapshot": str(shown.tree.snapshot_id)})}

        async def info(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
            yield {**self._info(), **({} if shown is None else shown.info())}

        async def status(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
            if shown is None:
                yield self._mount_status()
                return
            facts, snapshot_id = shown.facts(), shown.tree.snapshot_id
            yield await self._mount.in_thread(partial(reports.tree_status, self._mount.repository, facts, snapshot_id))

        async def uncommitted(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
            yield {"branches": await list_uncommitted(self._mount)}

        tree = None if shown is None else shown.tree
        operations: dict[str, Operation] = {
            "ping": ping,
            "refresh": refresh,
            "info": info,
            "status": status,
            # A writable branch has its own.
            **dict.fromkeys(
                ("commit", "discard", "rebase", "cancel"),
                lambda request: Answer(partial(_refuse, tree, request)),
            ),
        }
        if shown is not None:
            operations["warmup"] = lambda request: self._warm_up(shown.tree, request)
        if shown is None or shown.tree.identity.is_whole_mount:
            operations |= {"uncommitted": uncommitted, **observing_operations(self._mount)}
        return operations

    async def _warm_up(self, tree: SnapshotTree, request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        repository, snapshot_id = self._mount.repository, tree.snapshot_id
        session = await self._mount.in_thread(lambda: open_session(repository, snapshot_id))
        async for line in warm_up(session, request):
            yield line


async def _refuse(tree: SnapshotTree | None, request: Mapping[str, Any]) -> NoReturn:
    """Refuses what only a writable branch can do: `tree` is another one, or None above all trees."""
    if tree is None:
        raise InvalidInputError(
            f"not in a branch, but at the root of a mount, where there is nothing to {request['op']}",
            hint="ask in a branch, as branches/main",
        )
    identity = tree.identity
    raise ReadOnlyError(f"this tree is read-only: {identity.kind} {quoted(identity.name or str(tree.snapshot_id))}")


def _problem(branch: BranchTree) -> str | None:
    """Says why a branch cannot be used, or does not show its tip."""
    unusable = None if branch.writable is None else branch.writable.life.unusable
    return branch.problem if unusable is None else unusable.own_message


def _made(name: str, make: Callable[[], Callable[[], bytes]]) -> ControlFile:
    return ControlFile(name, make=make)


def _status_of_mount(status: Mapping[str, Any]) -> bytes:
    lines = [f"Repository {quoted(status['repository'])}"]
    for one, many in (("branch", "branches"), ("tag", "tags")):
        names = [quoted(name) for name in status[many]]
        lines.append(f"{plural(len(names), one, many)}: {some(names, _SHOWN)}" if names else f"no {many}")
    trees = status["trees"]
    lines += [f"branch {quoted(tree['name'])}: uncommitted changes" for tree in trees if tree["has_changes"]]
    lines += [f"branch {quoted(tree['name'])}: {tree['problem']}" for tree in trees if tree["problem"]]
    if status["problem"]:
        lines.append(f"Refs cannot be read: {status['problem']}")
    if status["failures"]:
        lines.append(f"{plural(status['failures'], 'recent failure')}, see .icefs/stats.json")
    return "".join(f"{visible(line)}\n" for line in lines).encode()

"""A working tree without a mount: opened where it was left, committed or read, and closed again.

It is the same file system as that of a mount, only without a kernel.
"""

import os
import stat
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import trio

from icefs.engine.read.refs import Refs
from icefs.engine.write.repository import WritableRepository
from icefs.errors import DamagedStateError, IcefsError, NotFoundError, RefNotFoundError, StorageError
from icefs.format.ids import SnapshotId
from icefs.inode import ROOT_INO, Ino, Invalidations
from icefs.vfs.attrs import Ownership
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.settings import WorkingOptions
from icefs.vfs.branches.writable_branch import WritableBranch
from icefs.vfs.commit.request import CommitRequest
from icefs.vfs.control.branch_control import BranchControl
from icefs.vfs.control.mount_control import MountControl
from icefs.vfs.filesystem import FileSystem
from icefs.vfs.mount import Mount, MountRequest
from icefs.vfs.observe.stats import Stats
from icefs.worktree.freeze.changes import ChangeKind, TreeChange
from icefs.worktree.spool.state import StateInfo, has_state
from icefs.worktree.spool.summary import summarise
from icefs.worktree.upload.options import UploadOptions

_PIECE: Final = 8 << 20
_WITH_BYTES: Final = (ChangeKind.WRITTEN, ChangeKind.REUSED)
_DIRECTORIES: Final = (ChangeKind.NEW_DIRECTORY, ChangeKind.RENAMED_DIRECTORY)


class _NoKernel:
    """A kernel that has cached nothing."""

    pending = sent = failed = 0

    def invalidate(self, changed: Invalidations) -> None:
        """Does nothing."""

    async def drop_pages(self, inos: Iterable[Ino]) -> None:
        """Returns at once."""
        await trio.lowlevel.checkpoint()

    async def drain(self) -> None:
        """Returns at once."""
        await trio.lowlevel.checkpoint()


@dataclass(slots=True)
class Exported:
    """What of a working tree was written, or would be.

    Attributes:
        files: The files that differ from the base.
        directories: The directories that are new.
        deleted: What the base has and the tree has not.
        num_bytes: The length of the files.
        lost: Files whose bytes are gone.
    """

    files: list[str] = field(default_factory=list)
    directories: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    num_bytes: int = 0
    lost: list[str] = field(default_factory=list)


class _Opened:
    def __init__(self, mount: Mount, branch: BranchTree, tree: WritableBranch) -> None:
        self.fs = mount.fs
        self.tree = tree
        self.control = BranchControl(branch, tree, mount.fs.handles.open_inos, mount.outcomes)


def _run[T](
    repository: WritableRepository, directory: Path, work: Callable[[_Opened], Awaitable[T]], *, needs_branch: bool
) -> T:
    """Opens the working tree in a state directory, works with it, and closes it."""
    left = summarise(directory)
    info = left.info
    if left.problem is not None:
        raise DamagedStateError(
            f"the working tree in {directory} cannot be opened: {left.problem}", directory=str(directory)
        )
    if not has_state(directory):
        raise NotFoundError(f"there is no working tree in {directory}", hint="'icefs sessions' lists them")
    refs = repository.refs()
    snapshot_id = _shown(refs, info, needs_branch=needs_branch)
    ownership = Ownership(os.getuid(), os.getgid())
    working = WorkingOptions(directory.parent, uploads=UploadOptions(quiet_s=None), state_directory=directory)
    request = MountRequest(ownership, "branch", info.branch, snapshot_id, working=working)
    mount = Mount(repository, refs, request, _NoKernel(), Stats(()), MountControl)

    async def main() -> T:
        [branch] = mount.trees.branches()
        assert branch.writable is not None  # a writable repository's branch
        await branch.writable.operations.look()
        return await work(_Opened(mount, branch, branch.writable))

    try:
        return trio.run(main)
    finally:
        mount.close()


def _shown(refs: Refs, info: StateInfo, *, needs_branch: bool) -> SnapshotId:
    """Returns the tip of the branch; without the branch, the base of the tree."""
    try:
        return refs.branch(info.branch)
    except RefNotFoundError:
        if needs_branch:
            raise
        return SnapshotId.parse(info.base)  # what was written can be had even so


def commit_left(repository: WritableRepository, directory: Path, request: CommitRequest) -> dict[str, Any]:
    """Commits the changes of a working tree that is not mounted.

    Raises:
        SessionStateError: another process has it open.
        IcefsError: as `committing.commit`; the tree is as it was.
    """

    async def work(opened: _Opened) -> dict[str, Any]:
        job = await opened.control.jobs.begin_commit(request)
        try:
            return await job.wait()
        except KeyboardInterrupt:
            # Cancelled if it is not too late; the tree is not closed under it.
            job.cancel()
            with trio.CancelScope(shield=True):
                await job.wait()
            raise

    return _run(repository, directory, work, needs_branch=True)


def list_left(repository: WritableRepository, directory: Path) -> dict[str, Any]:
    """Returns what a commit of a working tree would do, as `status.json` tells it."""

    async def work(opened: _Opened) -> dict[str, Any]:
        return await opened.tree.operations.in_thread(opened.control.status)

    return _run(repository, directory, work, needs_branch=False)


def export_left(
    repository: WritableRepository, directory: Path, target: Path | None, progress: Callable[[str, int], None]
) -> Exported:
    """Writes the files of a working tree that differ from its base to a directory.

    Args:
        repository: The repository that it belongs to.
        directory: The state directory.
        target: Where to write, under the paths that they have in the tree; None to list them alone.
        progress: Gets the progress.

    Raises:
        SessionStateError: another process has it open.
        StorageError: a file cannot be written, or read.
    """

    async def work(opened: _Opened) -> Exported:
        exported = Exported()
        tree = opened.tree
        if tree.work is None:
            return exported
        changes = await tree.operations.in_thread(lambda: list(tree.work.changes() if tree.work is not None else ()))
        for change in changes:
            await _export(opened.fs, change, target, exported)
            progress("exported files", len(exported.files))
        return exported

    return _run(repository, directory, work, needs_branch=False)


async def _export(fs: FileSystem, change: TreeChange, target: Path | None, exported: Exported) -> None:
    if change.kind is ChangeKind.WHITEOUT:
        exported.deleted.append(change.path)
    elif change.is_lost:
        exported.lost.append(change.path)
    elif change.kind in _WITH_BYTES:
        await _export_file(fs, change.path, target, exported)
    elif change.kind in _DIRECTORIES:
        exported.directories.append(change.path)
        if target is not None:
            _make_directory(target / change.path)
        if change.kind is ChangeKind.RENAMED_DIRECTORY:
            await _export_below(fs, change.path, target, exported)


async def _export_below(fs: FileSystem, path: str, target: Path | None, exported: Exported) -> None:
    """Exports what a renamed directory brought along; what changed in it has entries of its own among the changes."""
    fh = await fs.opendir(await _find(fs, path))
    below: list[tuple[str, bool]] = []
    try:
        position = 0
        while (run := await fs.readdir(fh, position)) is not None:
            names = [name.decode(errors="surrogatepass") for name in run.names[position - run.start :]]
            below += [(name, stat.S_ISDIR(run.template.mode)) for name in names if name not in (".", "..")]
            position = run.start + len(run.names)
    finally:
        await fs.releasedir(fh)
    known = set(exported.files)
    for name, is_directory in below:
        inner = f"{path}/{name}"
        if is_directory:
            if target is not None:
                _make_directory(target / inner)
            await _export_below(fs, inner, target, exported)
        elif inner not in known:
            await _export_file(fs, inner, target, exported)


async def _export_file(fs: FileSystem, path: str, target: Path | None, exported: Exported) -> None:
    if path in exported.files:
        return
    ino = await _find(fs, path)
    exported.files.append(path)
    exported.num_bytes += (await fs.getattr(ino)).size
    if target is None:
        return
    place = target / path
    _make_directory(place.parent)
    fh, _ = await fs.open(ino, os.O_RDONLY)
    try:
        with place.open("xb") as file:
            offset = 0
            while data := await fs.read(fh, offset, _PIECE):
                file.write(data)
                offset += len(data)
    except OSError as error:
        raise _cannot_write(place, error) from error
    finally:
        await fs.release(fh)


async def _find(fs: FileSystem, path: str) -> Ino:
    ino: Ino = ROOT_INO
    for name in path.split("/"):
        ino = (await fs.lookup(ino, name)).ino
        if not ino:
            raise StorageError(f"{path} is gone while it is exported", path=path)
    return ino


def _make_directory(place: Path) -> None:
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(place, error) from error


def _cannot_write(place: Path, error: OSError) -> IcefsError:
    return StorageError(f"cannot write {place}: {error.strerror}", kind="io", hint="export to an empty directory")

"""The parts of a writable branch over a real repository and a real state directory, without a mount around them."""

import os
from collections.abc import Callable
from pathlib import Path

from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.paths import NodePath
from icefs.storage.memory import MemoryStorage
from icefs.vfs.attrs import Ownership
from icefs.vfs.branches.branch_base import BranchBase
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.session_base import Guarded
from icefs.vfs.branches.settings import WorkingOptions, WorkingSettings
from icefs.vfs.branches.working_life import WorkingLife
from icefs.vfs.chunks.fetcher import ChunkFetcher
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.fetches import Fetches
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.threads import Pools
from icefs.vfs.trees.advance import Advance, plan_advance
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.control_dir import ControlDir
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.worktree.model.nodes import Perm
from icefs.worktree.tree import WorkTree
from tests.support.fake_vfs import FakeNotifier

_PERM = Perm(0o644, 1, 2)
_GROUP = b'{"zarr_format": 3, "node_type": "group"}'


class Hooks:
    """Notes when a working tree is opened and taken; `on_opened` is called in between."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.on_opened: Callable[[WorkTree], None] = lambda work: None

    def opened(self, work: WorkTree) -> None:
        self.calls.append("opened")
        self.on_opened(work)

    def taken(self, work: WorkTree) -> None:
        self.calls.append("taken")


class BranchBench:
    """One writable branch: its snapshot tree, the life of its working tree, its operations and its base."""

    def __init__(self, state_root: Path, repository: WritableRepository | None = None, branch: str = "main") -> None:
        self.repository = WritableRepository.create(MemoryStorage()) if repository is None else repository
        self.hooks = Hooks()
        self.pools = Pools(4)
        self.fetches = Fetches(self.pools.load)
        self.notifier = FakeNotifier()
        ownership = Ownership(1000, 1001)
        opener = ChunkOpener(ChunkFetcher(self.pools.read, max_bytes=0), self.repository.storage)
        context = TreeContext(InodeSpace(), ownership, self.repository, opener)
        tip = self.repository.lookup_branch(branch)

        def make_control() -> ControlDir:
            return ControlDir(self.below.inodes.fixed, [], ownership, 0)

        self.below = SnapshotTree(
            context,
            TreeIdentity("branch", branch, f"branches/{branch}", Ino(2)),
            tip,
            0,
            make_control,
            is_immutable=False,
            is_writable=True,
        )
        self.settings = WorkingSettings(
            repository=self.repository,
            options=WorkingOptions(state_root),
            threads=self.pools.write,
            jobs=self.pools.control,
            fetches=self.fetches,
            notifier=self.notifier,
        )
        guarded = Guarded()
        self.life = WorkingLife(self.settings, self.below, guarded, self.hooks)
        self.operations = Operations(branch, self.life, self.fetches, self.pools.write)
        self.base = BranchBase(self.settings, self.below, self.life, self.operations, guarded)

    def commit(self, path: str) -> SnapshotId:
        """Commits a group to the branch, as another writer does."""
        session = self.repository.writable_session(self.below.identity.name)
        session.nodes.put(NodePath(path), _GROUP)
        return session.commit(f"made {path}")

    def plan(self) -> Advance:
        """Plans the way from what is shown to the tip."""
        old = self.below.session
        assert old is not None
        tip = self.repository.lookup_branch(self.below.identity.name)
        return plan_advance(old, self.repository.session_at(tip))

    def create(self, name: str, parent: Ino | None = None) -> Ino:
        """Makes an empty file in a directory of the working tree, or its root."""
        work = self.life.work
        assert work is not None
        where = self.base.where(self.below.inodes.root_ino if parent is None else parent)
        entry, number = work.names.create(where, name, _PERM, os.O_WRONLY | os.O_CREAT)
        work.files.release(number)
        return entry.attr.ino

    def close(self) -> None:
        self.life.close()
        self.pools.close()


def ask[T](question: Callable[[], T]) -> T:
    """Asks until all that the answer takes is in memory, and fetches it here."""
    while True:
        try:
            return question()
        except NotInMemoryError as missing:
            found = missing
        found.store(found.load())

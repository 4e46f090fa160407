"""A mount: made of what was asked for, with its trees and all that they share."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from icefs.engine.history.lineage import Lineages
from icefs.engine.history.lineage_cache import LineageCache
from icefs.engine.read.refs import Refs
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.format.ids import SnapshotId
from icefs.inode import Ino
from icefs.storage.base import Storage
from icefs.storage.metered import MeteredStorage, StoreMeter
from icefs.vfs.attrs import Ownership
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.settings import WorkingOptions, WorkingSettings
from icefs.vfs.chunks.fetcher import ChunkFetcher
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.fetches import Fetches
from icefs.vfs.filesystem import FileSystem
from icefs.vfs.gauges import Gauges
from icefs.vfs.handles import HandleTable
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import Notifier
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.observe.observer import Observer
from icefs.vfs.observe.stats import Stats
from icefs.vfs.refs.follower import Follower
from icefs.vfs.refs.loaded_trees import LoadedTrees
from icefs.vfs.refs.mounted_trees import MountedTrees
from icefs.vfs.refs.root import ControlMaker, RootTree, immutable_tree
from icefs.vfs.refs.snapshot_times import fetch_times
from icefs.vfs.threads import Pools
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.vfs.views.versions import ViewTools, view_tools
from icefs.vfs.views.view_tree import ViewTree

_MEMORY_BYTES: Final = 128 << 20


@dataclass(frozen=True, slots=True)
class MountRequest:
    """What shall be mounted, and how; plain facts, checked by its maker.

    Attributes:
        ownership: Whose the files are.
        kind: `branch`, `tag` or `snapshot` to put that one tree at the mountpoint; empty for the whole repository.
        name: The ref's name.
        snapshot_id: What the tree shows; None for the whole repository.
        memory_bytes: How much of chunks that were fetched is kept.
        facts: What `info.json` tells of the mount, besides what the file system knows itself.
        working: How working trees are kept; None for a mount that only reads.
        history_cache: Where answers about the repository's history are kept; None keeps none.
        view: The format that trees are shown in, with its options; empty for Zarr keys.
        view_tools: What makes views.
    """

    ownership: Ownership
    kind: str = ""
    name: str = ""
    snapshot_id: SnapshotId | None = None
    memory_bytes: int = _MEMORY_BYTES
    facts: MountFacts = field(default_factory=MountFacts)
    working: WorkingOptions | None = None
    history_cache: Path | None = None
    view: str = ""
    view_tools: ViewTools = field(default_factory=view_tools)


class Mount:
    """One mount of a repository.

    Attributes:
        repository: What is mounted.
        ownership: Whose the files are.
        facts: What `info.json` tells of the mount, besides what the file system knows itself.
        stats: The counters of its requests.
        outcomes: What became of its commits, discards and rebases.
        fs: Answers its requests.
        trees: Its trees.
        fetcher: Fetches chunks, and keeps some.
        opener: Opens chunks.
        follower: Keeps it at the tips of its branches.
        gauges: What of it is open, held and under way.
        observer: Observes it.

    Concurrency: on the event loop's thread.
    """

    def __init__(
        self,
        repository: Repository,
        refs: Refs,
        request: MountRequest,
        notifier: Notifier,
        stats: Stats,
        make_controls: "Callable[[Mount], ControlMaker]",
    ) -> None:
        """Makes the trees; reads a snapshot's time for a single tree, so it may block.

        Args:
            repository: What is mounted.
            refs: Its refs as they are now.
            request: What of it, and how.
            notifier: Invalidates what the kernel caches.
            stats: Counts requests.
            make_controls: Returns what makes the control directories. It gets the mount before its trees are made.
        """
        self.repository = repository
        self.ownership = request.ownership
        self.facts = request.facts
        self.stats = stats
        self.outcomes = Outcomes()
        self._pools = Pools(repository.storage.capabilities.concurrency)
        self._history_cache = None if request.history_cache is None else LineageCache(request.history_cache)
        handles, space, fetches = HandleTable(), InodeSpace(), Fetches(self._pools.load)
        state_root = None if request.working is None else request.working.state_root
        self.fs = FileSystem(space, handles, fetches, Fetches(self._pools.control), state_root)
        self.fetcher = ChunkFetcher(self._pools.read, max_bytes=request.memory_bytes)
        self.opener = ChunkOpener(self.fetcher, repository.storage)
        self._space = space
        self._lineages = Lineages(repository.context, self._history_cache)
        self._view_tools = request.view_tools
        self._views: ViewTree | None = None
        context = TreeContext(space, request.ownership, repository, self.opener, self._lineages)
        working = _working_settings(repository, request.working, self._pools, fetches, notifier)
        controls = make_controls(self)
        loaded: LoadedTrees | None = None
        if request.snapshot_id is None:
            root, loaded = _root_tree(context, working, refs, controls, notifier, handles)
            self.trees = MountedTrees(root, None)
        else:
            self.trees = MountedTrees(None, _single_tree(context, working, request, request.snapshot_id, controls))
        if request.view:
            self.views.put_in_front(self.trees, request.view)
        self.follower = Follower(repository, self._pools.control, notifier, refs, self.trees, handles.open_inos)
        self.gauges = Gauges(
            handles=handles,
            space=space,
            trees=self.trees,
            loaded=loaded,
            fetcher=self.fetcher,
            opener=self.opener,
            assets=repository.assets,
            follower=self.follower,
            notifier=notifier,
            pools=self._pools,
            fetches=fetches,
        )
        self.observer = Observer(self.gauges, stats, self.outcomes, _meter_of(repository.storage), request.facts)

    @property
    def views(self) -> ViewTree:
        """The views of the mount's trees; made when the first is looked at."""
        if self._views is None:
            self._views = ViewTree(self._space, self.ownership, self._lineages, self._view_tools)
        return self._views

    async def in_thread[R](self, function: Callable[[], R]) -> R:
        """Runs what may block in a worker thread."""
        return await self._pools.control.run(function)

    def close(self) -> None:
        """Gives back what is open, and closes working trees; nothing is asked afterwards."""
        self.fs.handles.release_all()
        for branch in self.trees.branches():
            if branch.writable is not None:
                branch.writable.close()
        self._pools.close()
        if self._views is not None:
            self._views.close()
        if self._history_cache is not None:
            self._history_cache.close()


def _working_settings(
    repository: Repository, options: WorkingOptions | None, pools: Pools, fetches: Fetches, notifier: Notifier
) -> WorkingSettings | None:
    """Returns what branches share that can be written to; None in a mount that only reads."""
    if options is None or not isinstance(repository, WritableRepository):
        return None
    return WorkingSettings(
        repository=repository,
        options=options,
        threads=pools.write,
        jobs=pools.control,
        fetches=fetches,
        notifier=notifier,
    )


def _meter_of(storage: Storage) -> StoreMeter:
    """Returns the counter of a storage's requests, or an unused one."""
    return storage.meter if isinstance(storage, MeteredStorage) else StoreMeter()


def _root_tree(
    context: TreeContext,
    working: WorkingSettings | None,
    refs: Refs,
    controls: ControlMaker,
    notifier: Notifier,
    handles: HandleTable,
) -> tuple[RootTree, LoadedTrees]:
    """Makes the top of a mount of a whole repository, and what bounds how many of its trees are in memory."""

    def is_open(tree: SnapshotTree) -> bool:
        found = (context.space.find(one.ino) for one in handles.everything())
        return any(one is not None and one.tree is tree for one in found)

    def forget_tree(tree: SnapshotTree) -> None:
        root.forget_tree(tree)

    def directory_ino(name: str) -> Ino:
        return root.directory_ino(name)

    loaded = LoadedTrees(context.space, notifier, is_open, directory_ino, forget_tree)
    root = RootTree(context, working, refs, controls, loaded, time.time_ns())
    return root, loaded


def _single_tree(
    context: TreeContext,
    working: WorkingSettings | None,
    request: MountRequest,
    snapshot_id: SnapshotId,
    controls: ControlMaker,
) -> SnapshotTree | BranchTree:
    """Makes the tree that is all that is mounted."""
    flushed_at = fetch_times(context.repository, [snapshot_id])[snapshot_id] or 0
    identity = TreeIdentity(request.kind, request.name)
    if request.kind == "branch":
        return BranchTree(context, working, identity, snapshot_id, flushed_at, controls.for_branch)
    return immutable_tree(context, identity, snapshot_id, flushed_at, controls, None)

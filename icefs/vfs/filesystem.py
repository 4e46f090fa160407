"""The file system as a whole: finds the tree that answers for an inode, and waits where a tree may not.

lookup, getattr, …  →  the tree of the inode answers at once, or says what to fetch first
read, write, …      →  the handle answers
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from icefs.engine.history.lineage import Lineages
from icefs.engine.history.lineage_cache import LineageCache
from icefs.engine.read.refs import Refs
from icefs.engine.repository import Repository
from icefs.engine.write.repository import WritableRepository
from icefs.errors import CrossTreeError, StaleError
from icefs.format.ids import SnapshotId
from icefs.ioctl import is_request
from icefs.storage.base import Storage
from icefs.storage.cache.disk import DiskCache
from icefs.storage.metered import MeteredStorage, StoreMeter
from icefs.vfs.attrs import BLOCK_SIZE, Attr, EntryRun, FsStats, Ownership
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.branches.settings import WorkingOptions, WorkingSettings
from icefs.vfs.chunks.fetcher import ChunkFetcher
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.fetches import Fetches, ask
from icefs.vfs.handles import HandleTable
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import AttrChanges, Caller, FileHandle, Notifier, NotInMemoryError, Tree
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.observe.report import Observer
from icefs.vfs.observe.stats import Stats
from icefs.vfs.refs.follower import Follower
from icefs.vfs.refs.loaded_trees import LoadedTrees
from icefs.vfs.refs.root import ControlMaker, RootTree, immutable_tree
from icefs.vfs.refs.snapshot_times import fetch_times
from icefs.vfs.threads import Threads
from icefs.vfs.trees.context import TreeContext, TreeIdentity
from icefs.vfs.trees.snapshot_tree import SnapshotTree
from icefs.vfs.views.versions import ViewTools
from icefs.vfs.views.view_tree import ViewTree
from icefs.worktree.tree import WorkTree

_PEBIBYTE: Final = 1 << 50
_LOADERS: Final = 8
_CONTROLLERS: Final = 32


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
        view_tools: What makes views.
    """

    ownership: Ownership
    kind: str = ""
    name: str = ""
    snapshot_id: SnapshotId | None = None
    memory_bytes: int = 128 << 20
    facts: MountFacts = field(default_factory=MountFacts)
    working: WorkingOptions | None = None
    history_cache: Path | None = None
    view_tools: ViewTools = field(default_factory=ViewTools)


class FileSystem:
    """One mount; implements `interface.Vfs`.

    Concurrency: on the event loop's thread. A request touches trees and handles between two awaits only, and
    whatever it found may be gone after one.
    """

    wants_flush: bool

    def __init__(
        self,
        repository: Repository,
        refs: Refs,
        request: MountRequest,
        notifier: Notifier,
        stats: Stats,
        make_controls: "Callable[[FileSystem], ControlMaker]",
    ) -> None:
        """Makes the file system's trees; reads a snapshot's time for a single tree, so it may block.

        Args:
            repository: What is mounted.
            refs: Its refs as they are now.
            request: What of it, and how.
            notifier: Invalidates what the kernel caches.
            stats: Counts requests.
            make_controls: Returns what makes the control directories.
        """
        self.repository = repository
        self.facts = request.facts
        self.ownership = request.ownership
        self.stats = stats
        self.handles = HandleTable()
        self._notifier = notifier
        self.wants_flush = request.working is not None
        self._state_root = None if request.working is None else request.working.state_root
        self._loaders = Threads(_LOADERS, "icefs-load")
        self._readers = Threads(max(4, min(32, repository.storage.capabilities.concurrency)), "icefs-read")
        self._fetches = Fetches(self._loaders)
        # Control files and commands have threads of their own: they say what is wrong while a store does not answer.
        self._controllers = Threads(_CONTROLLERS, "icefs-control")
        self._control_fetches = Fetches(self._controllers)
        self._notifier = notifier
        self.fetcher = ChunkFetcher(self._readers, max_bytes=request.memory_bytes)
        self.opener = ChunkOpener(self.fetcher, repository.storage)
        self._writers = Threads(_LOADERS, "icefs-write")
        self._loaded: LoadedTrees | None = None
        self.outcomes = Outcomes()
        self.observer = Observer(self, _meter_of(repository.storage), request.facts)
        self._controls = make_controls(self)
        self._history_cache = None if request.history_cache is None else LineageCache(request.history_cache)
        self.space = InodeSpace()
        self._lineages = Lineages(repository.context, self._history_cache)
        context = TreeContext(self.space, request.ownership, repository, self.opener, self._lineages)
        self._view_tools = request.view_tools
        self._views: ViewTree | None = None
        working = self._working_settings(request, notifier)
        self.root: RootTree | None = None
        self.single: SnapshotTree | BranchTree | None = None
        if request.snapshot_id is None:
            self.root = self._root_tree(context, working, refs)
        else:
            self.single = _single_tree(context, working, request, self._controls)
        single_branch = self.single if isinstance(self.single, BranchTree) else None
        self.follower = Follower(
            repository, self._controllers, notifier, refs, self.root, single_branch, self.open_inos
        )

    def _working_settings(self, request: MountRequest, notifier: Notifier) -> WorkingSettings | None:
        """Returns what branches share that can be written to; None in a mount that only reads."""
        if request.working is None or not isinstance(self.repository, WritableRepository):
            return None
        return WorkingSettings(
            repository=self.repository,
            options=request.working,
            threads=self._writers,
            jobs=self._controllers,
            fetches=self._fetches,
            notifier=notifier,
        )

    def _root_tree(self, context: TreeContext, working: WorkingSettings | None, refs: Refs) -> RootTree:
        def forget_tree(tree: SnapshotTree) -> None:
            root.forget_tree(tree)

        def directory_ino(name: str) -> int:
            return root.directory_ino(name)

        self._loaded = LoadedTrees(self.space, self._notifier, self._is_open, directory_ino, forget_tree)
        root = RootTree(context, working, refs, self._controls, self._loaded, time.time_ns())
        return root

    @property
    def views(self) -> ViewTree:
        """The views of the mount's trees; made when the first is looked at."""
        if self._views is None:
            self._views = ViewTree(self.space, self.ownership, self._lineages, self._view_tools)
        return self._views

    def branches(self) -> list[BranchTree]:
        """Returns the branches that were looked at, or the one that is all there is."""
        if self.root is not None:
            return list(self.root.branches.values())
        return [self.single] if isinstance(self.single, BranchTree) else []

    def close(self) -> None:
        """Gives back what is open, and closes working trees; nothing is asked afterwards."""
        self.handles.release_all()
        for branch in self.branches():
            if branch.writable is not None:
                branch.writable.close()
        self._writers.close()
        self._loaders.close()
        self._controllers.close()
        self._readers.close()
        if self._views is not None:
            self._views.close()
        if self._history_cache is not None:
            self._history_cache.close()

    async def refresh(self) -> dict[str, Any]:
        """Takes over what others did to the repository's refs; see `Follower.refresh`."""
        return await self.follower.refresh()

    async def in_thread[R](self, function: Callable[[], R]) -> R:
        """Runs what may block in a worker thread."""
        return await self._controllers.run(function)

    def gauges(self) -> dict[str, float]:
        """Returns what is open, held and under way, for the counters."""
        assets = self.repository.assets
        return {
            "open_files": self.handles.open_files,
            "open_directories": self.handles.open_dirs,
            "inode_ranges": len(self.space),
            "loaded_trees": 0 if self._loaded is None else len(self._loaded),
            "chunk_memory_bytes": self.fetcher.held_bytes,
            "chunk_fetches_in_flight": self.fetcher.in_flight,
            "chunk_memory_hits_total": self.fetcher.hits,
            "chunk_memory_misses_total": self.fetcher.misses,
            "chunk_fetched_bytes_total": self.fetcher.fetched_bytes,
            "chunks_opened_local_total": self.opener.opened_local,
            "chunks_opened_remote_total": self.opener.opened_remote,
            "chunks_opened_cached_total": self.opener.opened_cached,
            "branch_moves_total": self.follower.moves,
            "manifest_refs": assets.manifests.weight,
            "manifest_memory_hits_total": assets.manifests.hits,
            "manifest_memory_misses_total": assets.manifests.misses,
            "snapshot_memory_hits_total": assets.snapshots.hits,
            "snapshot_memory_misses_total": assets.snapshots.misses,
            "log_memory_hits_total": assets.transaction_logs.hits,
            "log_memory_misses_total": assets.transaction_logs.misses,
            "kernel_told_total": self._notifier.sent,
            "kernel_refused_total": self._notifier.failed,
        }

    @property
    def disk_cache(self) -> DiskCache | None:
        """The disk cache; None if there is none."""
        return self.repository.assets.disk_cache

    def work_trees(self) -> list[tuple[str, WorkTree]]:
        """Returns the open working trees, with the names of their branches."""
        writable = [(branch.name, branch.writable) for branch in self.branches()]
        return [(name, one.work) for name, one in writable if one is not None and one.work is not None]

    def queues(self) -> dict[str, int]:
        """Returns how many tasks run or wait, by what works on them."""
        return {
            "load": self._loaders.pending,
            "read": self._readers.pending,
            "write": self._writers.pending,
            "fetch": len(self._fetches) + self.fetcher.in_flight,
            "control": self._controllers.pending,
            "workers": self.repository.assets.workers.pending,
            "notify": self._notifier.pending,
        }

    # Trees.

    def _tree(self, ino: int) -> Tree:
        found = self.space.find(ino)
        if found is None:
            raise StaleError(f"inode {ino} is gone", ino=ino)
        return found.tree

    def _is_open(self, tree: SnapshotTree) -> bool:
        """Tells whether any file or directory of a tree is open."""
        found = (self.space.find(one.ino) for one in self.handles.everything())
        return any(one is not None and one.tree is tree for one in found)

    def open_inos(self) -> list[int]:
        """Returns the inodes that are open."""
        return [file.ino for file in self.handles.files()]

    async def _after[R](self, missing: NotInMemoryError, question: Callable[[], R]) -> R:
        """Fetches what a question asked for, and asks again until there is an answer."""
        return await ask(question, self._bring, missing)

    async def _bring(self, missing: NotInMemoryError) -> None:
        if missing.by is not None:
            await missing.by.bring(missing)
        else:
            await (self._control_fetches if missing.is_for_asker else self._fetches).bring(missing)

    # Names and attributes.

    async def lookup(self, parent: int, name: str) -> Attr:
        """Finds a name in a directory."""
        try:
            return self._tree(parent).lookup(parent, name)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: self._tree(parent).lookup(parent, name))

    async def getattr(self, ino: int) -> Attr:
        """Returns attributes; of a file that is open also if its name leads elsewhere by now."""
        try:
            try:
                return self._tree(ino).getattr(ino)
            except NotInMemoryError as missing:
                return await self._after(missing, lambda: self._tree(ino).getattr(ino))
        except StaleError:
            file = self.handles.file_of(ino)
            if file is None:
                raise
            return self._tree(ino).getattr_open(file)

    def forget(self, ino: int, count: int) -> None:
        """Drops references of the kernel to an inode."""
        found = self.space.find(ino)
        if found is not None:
            found.tree.forget(ino, count)

    async def readlink(self, ino: int) -> str:
        """Returns where a symbolic link leads."""
        return self._tree(ino).readlink(ino)

    async def listxattr(self, ino: int) -> Sequence[str]:
        """Returns the names of extended attributes."""
        try:
            return self._tree(ino).listxattr(ino)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: self._tree(ino).listxattr(ino))

    async def getxattr(self, ino: int, name: str) -> bytes | None:
        """Returns an extended attribute, or None."""
        try:
            return self._tree(ino).getxattr(ino, name)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: self._tree(ino).getxattr(ino, name))

    async def statfs(self) -> FsStats:
        """Describes the disk that changes are kept on; on a read-only mount a large one without a free block."""
        place = self._state_root
        if place is not None:
            while not place.exists():  # made with the first change
                place = place.parent
            disk = os.statvfs(place)
            counts = disk.f_blocks, disk.f_bfree, disk.f_bavail
            blocks, free, available = (count * disk.f_frsize // BLOCK_SIZE for count in counts)
            return FsStats(blocks, free, available, disk.f_files, disk.f_ffree)
        return FsStats(_PEBIBYTE // BLOCK_SIZE, 0, 0, 1 << 40, 0)

    # Files.

    async def open(self, ino: int, flags: int) -> tuple[int, FileHandle]:
        """Opens a file."""
        try:
            file = self._tree(ino).open(ino, flags)
        except NotInMemoryError as missing:
            file = await self._after(missing, lambda: self._tree(ino).open(ino, flags))
        return self.handles.add_file(file), file

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray | memoryview:
        """Reads from an open file."""
        file = self.handles.file(fh)
        data = file.read_nowait(offset, size)
        return await file.read(offset, size) if data is None else data

    def only_reads(self, fh: int) -> bool:
        """Tells whether to read from what is open changes nothing."""
        return not self.handles.reading_acts(fh)

    async def write(self, fh: int, offset: int, data: bytes | memoryview, is_write_back: bool = False) -> int:
        """Writes to an open file."""
        file = self.handles.file(fh)
        return await (file.write_back(offset, data) if is_write_back else file.write(offset, data))

    async def fallocate(self, fh: int, offset: int, length: int, mode: int) -> None:
        """Gives a part of an open file its place on the disk, or takes it away."""
        await self.handles.file(fh).fallocate(offset, length, mode)

    def takes_ioctl(self, command: int) -> bool:
        """Tells whether an ioctl hands over a request, or a part of one."""
        return is_request(command)

    async def ioctl(self, fh: int, request: bytes) -> None:
        """Hands a request, or a part of one, to an open file."""
        await self.handles.file(fh).take_request(request)

    async def flush(self, fh: int) -> None:
        """Answers a `close(2)`."""
        await self.handles.file(fh).flush()

    async def release(self, fh: int) -> None:
        """Takes an open file back."""
        self.handles.pop_file(fh).release()

    async def fsync(self, fh: int) -> None:
        """Makes an open file durable."""
        await self.handles.file(fh).fsync()

    # Directories.

    async def opendir(self, ino: int) -> int:
        """Opens a directory."""
        try:
            directory = self._tree(ino).opendir(ino)
        except NotInMemoryError as missing:
            directory = await self._after(missing, lambda: self._tree(ino).opendir(ino))
        return self.handles.add_dir(directory)

    async def readdir(self, fh: int, position: int) -> EntryRun | None:
        """Returns the run of entries that holds a position."""
        directory = self.handles.dir(fh)
        try:
            return directory.run_at(position)
        except NotInMemoryError as missing:
            return await self._after(missing, lambda: directory.run_at(position))

    def entered(self, fh: int, run: EntryRun, first: int, end: int) -> None:
        """Records the entries of a run that the kernel was sent."""
        self.handles.dir(fh).entered(run, first, end)

    async def releasedir(self, fh: int) -> None:
        """Takes an open directory back."""
        self.handles.pop_dir(fh).release()

    async def fsyncdir(self, fh: int) -> None:
        """Makes an open directory durable."""
        ino = self.handles.dir(fh).ino
        await self._tree(ino).changes.fsyncdir(ino)

    # Changes: the tree decides.

    async def setattr(self, ino: int, changes: AttrChanges, fh: int | None, caller: Caller) -> Attr:
        """Changes attributes."""
        file = None if fh is None else self.handles.file(fh)
        return await self._tree(ino).changes.setattr(ino, changes, file, caller)

    async def create(
        self, parent: int, name: str, mode: int, flags: int, caller: Caller
    ) -> tuple[int, FileHandle, Attr]:
        """Creates and opens a file."""
        file, attr = await self._tree(parent).changes.create(parent, name, mode, flags, caller)
        return self.handles.add_file(file), file, attr

    async def mknod(self, parent: int, name: str, mode: int, rdev: int, caller: Caller) -> Attr:
        """Creates a file."""
        return await self._tree(parent).changes.mknod(parent, name, mode, rdev, caller)

    async def mkdir(self, parent: int, name: str, mode: int, caller: Caller) -> Attr:
        """Creates a directory."""
        return await self._tree(parent).changes.mkdir(parent, name, mode, caller)

    async def unlink(self, parent: int, name: str) -> None:
        """Removes a file."""
        await self._tree(parent).changes.unlink(parent, name)

    async def rmdir(self, parent: int, name: str) -> None:
        """Removes a directory."""
        await self._tree(parent).changes.rmdir(parent, name)

    async def symlink(self, parent: int, name: str, target: str, caller: Caller) -> Attr:
        """Creates a symbolic link."""
        return await self._tree(parent).changes.symlink(parent, name, target, caller)

    async def rename(self, old_parent: int, old_name: str, new_parent: int, new_name: str, flags: int) -> None:
        """Renames within a tree."""
        tree = self._tree(old_parent)
        if self._tree(new_parent) is not tree:
            raise CrossTreeError(f"cannot rename {old_name} from one tree to another")
        await tree.changes.rename(old_parent, old_name, new_parent, new_name, flags)

    async def link(self, ino: int, new_parent: int, new_name: str) -> Attr:
        """Makes a hard link within a tree."""
        tree = self._tree(ino)
        if self._tree(new_parent) is not tree:
            raise CrossTreeError(f"cannot link {new_name} from one tree to another")
        return await tree.changes.link(ino, new_parent, new_name)

    async def setxattr(self, ino: int, name: str, value: bytes) -> None:
        """Sets an extended attribute."""
        await self._tree(ino).changes.setxattr(ino, name, value)

    async def removexattr(self, ino: int, name: str) -> None:
        """Removes an extended attribute."""
        await self._tree(ino).changes.removexattr(ino, name)

    # For log lines.

    def describe_inode(self, ino: int) -> str:
        """Returns the path of an inode below the mountpoint."""
        found = self.space.find(ino)
        if found is None:
            return f"inode {ino}"
        path, label = found.tree.path_of(ino), found.tree.label
        return f"/{label}{path}" if label else path

    def describe_handle(self, fh: int) -> str:
        """Returns the path of what is open."""
        ino = self.handles.ino_of(fh)
        return f"handle {fh}" if ino is None else self.describe_inode(ino)


def _meter_of(storage: Storage) -> StoreMeter:
    """Returns the counter of a storage's requests, or an unused one."""
    return storage.meter if isinstance(storage, MeteredStorage) else StoreMeter()


def _single_tree(
    context: TreeContext, working: WorkingSettings | None, request: MountRequest, controls: ControlMaker
) -> SnapshotTree | BranchTree:
    """Makes the tree that is all that is mounted."""
    snapshot_id = request.snapshot_id
    assert snapshot_id is not None  # a single tree shows one
    flushed_at = fetch_times(context.repository, [snapshot_id])[snapshot_id] or 0
    identity = TreeIdentity(request.kind, request.name)
    if request.kind == "branch":
        return BranchTree(context, working, identity, snapshot_id, flushed_at, controls.for_branch)
    return immutable_tree(context, identity, snapshot_id, flushed_at, controls, None)

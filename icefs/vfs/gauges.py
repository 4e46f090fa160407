"""What of a mount is open, held and under way, for its numbers."""

from dataclasses import dataclass

from icefs.engine.read.assets import AssetManager
from icefs.storage.cache.disk import DiskCache
from icefs.vfs.chunks.fetcher import ChunkFetcher
from icefs.vfs.chunks.reader import ChunkOpener
from icefs.vfs.fetches import Fetches
from icefs.vfs.handles import HandleTable
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import Notifier
from icefs.vfs.refs.follower import Follower
from icefs.vfs.refs.loaded_trees import LoadedTrees
from icefs.vfs.refs.mounted_trees import MountedTrees
from icefs.vfs.threads import Pools
from icefs.worktree.tree import WorkTree


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """The parts of a mount that have numbers of their own; implements `observe.observer.Observed`.

    Attributes:
        handles: What is open.
        space: Its inode numbers.
        trees: Its trees.
        loaded: The trees of tags and snapshots in memory; None where a single tree is mounted.
        fetcher: Fetches chunks.
        opener: Opens chunks.
        assets: The repository's files in memory.
        follower: Follows the refs.
        notifier: Invalidates what the kernel caches.
        pools: Its worker threads.
        fetches: What is being fetched.
    """

    handles: HandleTable
    space: InodeSpace
    trees: MountedTrees
    loaded: LoadedTrees | None
    fetcher: ChunkFetcher
    opener: ChunkOpener
    assets: AssetManager
    follower: Follower
    notifier: Notifier
    pools: Pools
    fetches: Fetches

    def values(self) -> dict[str, float]:
        """Returns how much is open, held and under way, by name."""
        fetcher, opener, assets = self.fetcher, self.opener, self.assets
        return {
            "open_files": self.handles.open_files,
            "open_directories": self.handles.open_dirs,
            "inode_ranges": len(self.space),
            "loaded_trees": 0 if self.loaded is None else len(self.loaded),
            "chunk_memory_bytes": fetcher.held_bytes,
            "chunk_fetches_in_flight": fetcher.in_flight,
            "chunk_memory_hits_total": fetcher.hits,
            "chunk_memory_misses_total": fetcher.misses,
            "chunk_fetched_bytes_total": fetcher.fetched_bytes,
            "chunks_opened_local_total": opener.opened_local,
            "chunks_opened_remote_total": opener.opened_remote,
            "chunks_opened_cached_total": opener.opened_cached,
            "branch_moves_total": self.follower.moves,
            "manifest_refs": assets.manifests.weight,
            "manifest_memory_hits_total": assets.manifests.hits,
            "manifest_memory_misses_total": assets.manifests.misses,
            "snapshot_memory_hits_total": assets.snapshots.hits,
            "snapshot_memory_misses_total": assets.snapshots.misses,
            "log_memory_hits_total": assets.transaction_logs.hits,
            "log_memory_misses_total": assets.transaction_logs.misses,
            "kernel_told_total": self.notifier.sent,
            "kernel_refused_total": self.notifier.failed,
        }

    def queues(self) -> dict[str, int]:
        """Returns how many tasks run or wait, by what works on them."""
        return {
            **self.pools.pending(),
            "fetch": len(self.fetches) + self.fetcher.in_flight,
            "workers": self.assets.workers.pending,
            "notify": self.notifier.pending,
        }

    def work_trees(self) -> list[tuple[str, WorkTree]]:
        """Returns the open working trees, with the names of their branches."""
        return self.trees.work_trees()

    @property
    def disk_cache(self) -> DiskCache | None:
        """The disk cache; None if there is none."""
        return self.assets.disk_cache

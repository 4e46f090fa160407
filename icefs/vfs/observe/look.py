"""The numbers of a mount at one moment."""

from dataclasses import dataclass, field
from typing import Any, Final

from icefs.storage.metered import StoreCounts
from icefs.vfs.observe.counters import Lag, Outcomes
from icefs.worktree.tree import WorkTree

CACHES: Final = (
    ("memory", "chunk_memory_hits_total", "chunk_memory_misses_total"),
    ("disk", "disk_cache_hits_total", "disk_cache_misses_total"),
    ("manifests", "manifest_memory_hits_total", "manifest_memory_misses_total"),
    ("snapshots", "snapshot_memory_hits_total", "snapshot_memory_misses_total"),
    ("logs", "log_memory_hits_total", "log_memory_misses_total"),
)
"""Each cache's name, with the gauges that count its hits and its misses."""


@dataclass(slots=True)
class BranchContent:
    """A branch with a working tree, and the counts that are made of it in a thread."""

    name: str
    work: WorkTree
    revision: int
    files: int = 0
    num_bytes: int = 0
    uploads: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Look:
    """The numbers of one moment, as far as the event loop's thread has them; times are in nanoseconds.

    Attributes:
        names: The kinds of requests; `errors`, `latencies`, `total_ns` and `num_bytes` go by position in it.
        requests: The requests by kind, in JSON.
        failures: The last failures, in JSON.
        errors: How many requests of a kind failed with an errno.
        latencies: How many requests of a kind took how long; see `Stats`.
        total_ns: How long the requests of a kind took altogether.
        num_bytes: How many bytes they moved.
        gauges: How much is open, held and under way.
        queues: How many tasks run or wait, by what works on them.
        branches: The branches with a working tree.
        store: Requests to the store.
        outcomes: What became of commits, discards and rebases.
        lag: How late the event loop came to its tasks.
        started_at: When counting began, in seconds since the epoch.
        uptime_s: How long ago that was, in seconds.
    """

    names: tuple[str, ...]
    requests: dict[str, Any]
    failures: list[dict[str, Any]]
    errors: dict[tuple[int, int], int]
    latencies: list[list[int]]
    total_ns: list[int]
    num_bytes: list[int]
    gauges: dict[str, float]
    queues: dict[str, int]
    branches: list[BranchContent]
    store: StoreCounts
    outcomes: Outcomes
    lag: Lag
    started_at: float
    uptime_s: float

    def moved(self, operation: str) -> int:
        """Returns how many bytes the requests of a kind moved."""
        return self.num_bytes[self.names.index(operation)]

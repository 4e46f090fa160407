"""What a mount tells of itself in numbers: `stats.json`, `metrics`, and what `icefs top` shows.

Numbers are taken on the event loop's thread in a fraction of a millisecond (`Observer.look`), and counted further and
written down in a worker thread.
"""

import os
import resource
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

import trio

from icefs.storage.cache.disk import DiskCache
from icefs.storage.metered import StoreCounts, StoreMeter, Timing
from icefs.vfs.observe.counters import Lag, Outcomes
from icefs.vfs.observe.metrics import Durations, Labels, Metric, to_prometheus
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.observe.stats import Stats, errno_name, quantile_us
from icefs.words import node_key
from icefs.worktree.tree import WorkTree

_TICK_S: Final = 0.5
_CACHES: Final = (
    ("memory", "chunk_memory_hits_total", "chunk_memory_misses_total"),
    ("disk", "disk_cache_hits_total", "disk_cache_misses_total"),
    ("manifests", "manifest_memory_hits_total", "manifest_memory_misses_total"),
    ("snapshots", "snapshot_memory_hits_total", "snapshot_memory_misses_total"),
    ("logs", "log_memory_hits_total", "log_memory_misses_total"),
)
_CACHE_COUNTERS: Final = frozenset(name for _, *names in _CACHES for name in names)
_HELP: Final = {
    "open_files": "Files that are open.",
    "open_directories": "Directories that are open.",
    "inode_ranges": "Ranges of inode numbers that are in use.",
    "loaded_trees": "Immutable trees whose snapshot is in memory.",
    "chunk_memory_bytes": "Bytes of chunks that are kept in memory.",
    "chunk_fetches_in_flight": "Chunks that are being fetched.",
    "chunk_memory_hits_total": "Chunks that were found in memory.",
    "chunk_memory_misses_total": "Chunks that were not found in memory.",
    "chunk_fetched_bytes_total": "Bytes of chunks that were fetched.",
    "chunks_opened_local_total": "Chunks that were opened as files of a local repository.",
    "chunks_opened_remote_total": "Chunks that were opened to be fetched.",
    "chunks_opened_cached_total": "Chunks that were opened in the disk cache.",
    "branch_moves_total": "Branches that were seen to move.",
    "manifest_refs": "Chunk references of manifests in memory.",
    "kernel_told_total": "Names and inodes that were invalidated in the kernel.",
    "kernel_refused_total": "Names and inodes whose invalidation the kernel refused.",
    "disk_cache_max_bytes": "What the disk cache grows to.",
    "disk_cache_used_bytes": "What the disk cache takes, of all mounts that share it.",
    "disk_cache_queued_bytes": "Bytes that wait to be written to the disk cache.",
}


@dataclass(slots=True)
class _Branch:
    """A branch with a working tree, and the counts that are made of it in a thread."""

    name: str
    work: WorkTree
    revision: int
    files: int = 0
    num_bytes: int = 0
    uploads: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Look:
    """The numbers of one moment, as far as the event loop's thread has them."""

    operations: dict[str, Any]
    failures: list[dict[str, Any]]
    errors: dict[tuple[int, int], int]
    latencies: list[list[int]]
    total_ns: list[int]
    num_bytes: list[int]
    gauges: dict[str, float]
    queues: dict[str, int]
    branches: list[_Branch]
    store: StoreCounts
    uptime_s: float


class Observed(Protocol):
    """A mount, as far as it has numbers besides those of its requests."""

    def values(self) -> dict[str, float]:
        """Returns how many files, caches and requests are open, held and under way."""

    def queues(self) -> dict[str, int]:
        """Returns how many tasks run or wait, by what works on them."""

    def work_trees(self) -> list[tuple[str, WorkTree]]:
        """Returns the open working trees, with the names of their branches."""

    @property
    def disk_cache(self) -> DiskCache | None:
        """The disk cache; None if there is none."""


class Observer:
    """Observes one mount.

    Concurrency: `look` and `run` on the event loop's thread; any other works on their results.
    """

    def __init__(self, mount: Observed, stats: Stats, outcomes: Outcomes, meter: StoreMeter, facts: MountFacts) -> None:
        """Takes the mount, its counters, and its facts.

        Args:
            mount: What is open, held and under way.
            stats: Counts its requests.
            outcomes: Counts its commits, discards and rebases.
            meter: Counts the requests to its store.
            facts: How it was made.
        """
        self.lag = Lag()
        self._mount = mount
        self._stats = stats
        self._outcomes = outcomes
        self._meter = meter
        self._facts = facts
        self._staged: dict[WorkTree, tuple[int, int, int]] = {}

    async def run(self, on_tick: Callable[[], None] = lambda: None) -> None:
        """Measures how late the event loop is, for as long as the mount is there; calls `on_tick` now and then."""
        while True:
            due = trio.current_time() + _TICK_S
            await trio.sleep_until(due)
            self.lag.add(max(0, round((trio.current_time() - due) * 1e9)))
            on_tick()

    def look(self) -> Look:
        """Takes the numbers."""
        mount, stats = self._mount, self._stats
        return Look(
            stats.as_json(),
            list(stats.failures),
            dict(stats.errors),
            [buckets.copy() for buckets in stats.latencies],
            stats.total_ns.copy(),
            stats.num_bytes.copy(),
            {**mount.values(), **self._disk_cache()},
            mount.queues(),
            [_Branch(name, work, work.revision) for name, work in mount.work_trees()],
            self._meter.counts(),
            stats.uptime_s,
        )

    def _disk_cache(self) -> dict[str, float]:
        cache = self._mount.disk_cache
        if cache is None:
            return {}
        counters, used = cache.counters, cache.counted_bytes()
        return {
            "disk_cache_max_bytes": cache.max_bytes,
            **({} if used is None else {"disk_cache_used_bytes": used}),
            "disk_cache_queued_bytes": cache.queued_bytes,
            "disk_cache_hits_total": counters.hits,
            "disk_cache_misses_total": counters.misses,
            "disk_cache_stored_total": counters.stored,
            "disk_cache_refused_total": counters.refused,
            "disk_cache_damaged_total": counters.damaged,
            "disk_cache_evicted_total": counters.evicted,
        }

    # In a worker thread.

    def _count(self, look: Look) -> None:
        before, now = self._staged, {}
        for branch in look.branches:
            known = before.get(branch.work)
            if known is None or known[0] != branch.revision:
                known = branch.revision, *branch.work.own_content()
            now[branch.work] = known
            branch.files, branch.num_bytes = known[1:]
            uploads = branch.work.uploads
            if uploads is not None:
                state = uploads.state
                branch.uploads = {
                    "pending_files": state.pending,
                    "pending_bytes": state.pending_bytes,
                    "stored_files": state.stored,
                    "stored_bytes": state.stored_bytes,
                }
        self._staged = now

    def as_json(self, look: Look) -> dict[str, Any]:
        """Makes `stats.json`."""
        self._count(look)
        return {
            "uptime_s": round(look.uptime_s, 6),
            "operations": look.operations,
            "read_bytes": self._moved(look, "read"),
            "written_bytes": self._moved(look, "write"),
            "gauges": look.gauges,
            "caches": {
                name: {"hits": look.gauges[hits], "misses": look.gauges[misses]}
                for name, hits, misses in _CACHES
                if hits in look.gauges
            },
            "store": _store_json(look.store),
            "queues": look.queues,
            "branches": {
                branch.name: {
                    "staged_files": branch.files,
                    "staged_bytes": branch.num_bytes,
                    "uploads": branch.uploads or None,
                }
                for branch in look.branches
            },
            "commits": self._outcomes_json(),
            "event_loop": {
                "lag_us": self.lag.recent_ns / 1000,
                "longest_lag_us": self.lag.longest_ns / 1000,
                "p99_lag_us": quantile_us(self.lag.timing.buckets, 0.99),
            },
            "process": process_facts(),
            "failures": [{**failure, "path": node_key(failure["path"])} for failure in look.failures],
        }

    def _moved(self, look: Look, operation: str) -> int:
        return look.num_bytes[self._stats.operations.index(operation)]

    def _outcomes_json(self) -> dict[str, Any]:
        outcomes = self._outcomes
        found: dict[str, Any] = {}
        for (action, outcome), count in list(outcomes.counts.items()):
            timing = outcomes.timings[action]
            times = {
                "total_us": timing.total_ns // 1000,
                "p50_us": quantile_us(timing.buckets, 0.5),
                "p99_us": quantile_us(timing.buckets, 0.99),
            }
            facts = found.setdefault(action, {"outcomes": {}, **times})
            facts["outcomes"][outcome] = count
        if outcomes.last_commit_at is not None:
            found["commit"]["last_at"] = outcomes.last_commit_at
        return found

    def as_prometheus(self, look: Look) -> str:
        """Makes `metrics`."""
        self._count(look)
        metrics = [
            *self._request_metrics(look),
            *_cache_metrics(look),
            *_store_metrics(look.store),
            *self._commit_metrics(look),
            *self._own_metrics(look),
        ]
        return to_prometheus(metrics, {"mountpoint": self._facts.mountpoint})

    def _request_metrics(self, look: Look) -> list[Metric | Durations]:
        names = self._stats.operations
        seen = [number for number, buckets in enumerate(look.latencies) if any(buckets)]
        return [
            Metric(
                "icefs_operations_total",
                "Requests of the kernel that were answered, well or not.",
                [((("op", names[number]),), sum(look.latencies[number])) for number in seen],
            ),
            Metric(
                "icefs_operation_errors_total",
                "Requests of the kernel that failed, by errno.",
                [
                    ((("op", names[number]), ("errno", errno_name(code))), count)
                    for (number, code), count in sorted(look.errors.items())
                ],
            ),
            Durations(
                "icefs_operation_duration_seconds",
                "How long requests of the kernel took.",
                [((("op", names[number]),), (look.latencies[number], look.total_ns[number])) for number in seen],
            ),
            Metric("icefs_read_bytes_total", "Bytes that the kernel read.", [((), self._moved(look, "read"))]),
            Metric("icefs_written_bytes_total", "Bytes that the kernel wrote.", [((), self._moved(look, "write"))]),
            *(
                Metric(f"icefs_{name}", _HELP.get(name, name.replace("_", " ") + "."), [((), value)])
                for name, value in look.gauges.items()
                if name not in _CACHE_COUNTERS
            ),
        ]

    def _commit_metrics(self, look: Look) -> list[Metric | Durations]:
        outcomes, branches = self._outcomes, look.branches
        metrics: list[Metric | Durations] = []
        for action in ("commit", "rebase", "discard"):
            ended = [(outcome, count) for (what, outcome), count in list(outcomes.counts.items()) if what == action]
            timing = outcomes.timings.get(action)
            if timing is not None:
                metrics += [
                    Metric(
                        f"icefs_{action}s_total",
                        f"{action.capitalize()}s by outcome.",
                        [((("outcome", outcome),), count) for outcome, count in ended],
                    ),
                    _durations(f"icefs_{action}_duration_seconds", f"How long {action}s took.", timing),
                ]
        if outcomes.last_commit_at is not None:
            text = "When the last commit was made."
            metrics.append(Metric("icefs_last_commit_timestamp_seconds", text, [((), outcomes.last_commit_at)]))

        def by_branch(name: str, text: str, value: Callable[[_Branch], float | None]) -> Metric:
            found = [(branch.name, value(branch)) for branch in branches]
            return Metric(name, text, [((("branch", one),), number) for one, number in found if number is not None])

        metrics += [
            by_branch("icefs_staged_files", "Files with content that is not committed.", lambda one: one.files),
            by_branch("icefs_staged_bytes", "Bytes that are not committed.", lambda one: one.num_bytes),
            *(
                by_branch(f"icefs_upload_{name}", text, lambda one, name=name: one.uploads.get(name))  # type: ignore[misc]
                for name, text in (
                    ("pending_files", "Files that wait to be uploaded in the background."),
                    ("pending_bytes", "Their bytes."),
                    ("stored_files", "Files that are uploaded and not committed."),
                    ("stored_bytes", "Their bytes."),
                )
            ),
        ]
        return metrics

    def _own_metrics(self, look: Look) -> list[Metric | Durations]:
        facts = process_facts()
        version = self._facts.version
        return [
            Metric("icefs_info", "The mount; always 1.", [((("version", version),), 1)]),
            Metric(
                "icefs_queue_length",
                "Tasks that run or wait, by what works on them.",
                [((("queue", name),), length) for name, length in look.queues.items()],
            ),
            _durations("icefs_event_loop_lag_seconds", "How late the event loop came.", self.lag.timing),
            Metric(
                "icefs_event_loop_lag_longest_seconds",
                "The latest that the event loop ever came.",
                [((), self.lag.longest_ns / 1e9)],
            ),
            Metric("icefs_failures", "Failures that stats.json tells about.", [((), len(look.failures))]),
            Metric("process_threads", "Threads of the daemon.", [((), facts["threads"])]),
            Metric("process_open_fds", "Open file descriptors.", [((), facts["open_fds"])]),
            Metric("process_max_fds", "How many it may open.", [((), facts["max_fds"])]),
            Metric("process_resident_memory_bytes", "Memory in use.", [((), facts["resident_bytes"])]),
            Metric("process_cpu_seconds_total", "Processor time used.", [((), facts["cpu_s"])]),
            Metric("process_start_time_seconds", "When the mount began.", [((), self._stats.started_at)]),
        ]


def _durations(name: str, text: str, timing: Timing, labels: Labels = ()) -> Durations:
    return Durations(name, text, [(labels, (timing.buckets.copy(), timing.total_ns))])


def _cache_metrics(look: Look) -> list[Metric | Durations]:
    known = [caches for caches in _CACHES if caches[1] in look.gauges]
    found = [((("cache", name),), look.gauges[hits]) for name, hits, _ in known]
    missed = [((("cache", name),), look.gauges[misses]) for name, _, misses in known]
    return [
        Metric("icefs_cache_hits_total", "What was found in a cache.", found),
        Metric("icefs_cache_misses_total", "What was not found in a cache.", missed),
    ]


def _store_metrics(store: StoreCounts) -> list[Metric | Durations]:
    return [
        Metric(
            "icefs_store_requests_total",
            "Requests to the object store, by kind and by what they concerned.",
            [((("op", op), ("object", kind or "all")), count) for (op, kind), count in sorted(store.objects.items())],
        ),
        Metric(
            "icefs_store_errors_total",
            "Requests to the object store that failed, after retries; also for objects that are not there.",
            [((("op", op), ("error", error)), count) for (op, error), count in sorted(store.errors.items())],
        ),
        Durations(
            "icefs_store_request_duration_seconds",
            "How long requests to the object store took, with their retries.",
            [((("op", op),), (one.buckets, one.total_ns)) for op, one in store.timings.items() if one.count],
        ),
        Metric(
            "icefs_store_retries_total",
            "Tries of requests to the object store that failed for a passing reason and were repeated.",
            [((("action", verb), ("reason", why)), count) for (verb, why), count in sorted(store.retries.items())],
        ),
        Metric("icefs_store_requests_in_flight", "Requests that are under way.", [((), store.in_flight)]),
        Metric("icefs_store_read_bytes_total", "Bytes read from the object store.", [((), store.read_bytes)]),
        Metric("icefs_store_written_bytes_total", "Bytes written to the object store.", [((), store.written_bytes)]),
    ]


def _store_json(store: StoreCounts) -> dict[str, Any]:
    requests: dict[str, Any] = {}
    for op, timing in store.timings.items():
        if timing.count:
            requests[op] = {
                "count": timing.count,
                "errors": {error: count for (of, error), count in store.errors.items() if of == op},
                "total_us": timing.total_ns // 1000,
                "p50_us": quantile_us(timing.buckets, 0.5),
                "p99_us": quantile_us(timing.buckets, 0.99),
                "latencies": timing.buckets,
            }
    retries: dict[str, dict[str, int]] = {}
    for (verb, reason), count in sorted(store.retries.items()):
        retries.setdefault(verb, {})[reason] = count
    return {
        "requests": requests,
        "retries": retries,
        "in_flight": store.in_flight,
        "read_bytes": store.read_bytes,
        "written_bytes": store.written_bytes,
    }


def process_facts() -> dict[str, float]:
    """Returns what this process uses."""
    status = dict(
        line.split(":", 1) for line in Path("/proc/self/status").read_text(errors="replace").splitlines() if ":" in line
    )
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "threads": int(status.get("Threads", "0")),
        "open_fds": len(os.listdir("/proc/self/fd")),
        "max_fds": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "resident_bytes": int(status.get("VmRSS", "0 kB").split()[0]) * 1024,
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 6),
    }

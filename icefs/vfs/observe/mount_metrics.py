"""`metrics`: the numbers of a mount as Prometheus has them."""

from collections.abc import Sequence
from typing import Final

from icefs.storage.metered import StoreCounts, Timing
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.observe.look import CACHES, BranchContent, Look
from icefs.vfs.observe.metrics import Durations, Labels, Metric
from icefs.vfs.observe.process import process_facts
from icefs.vfs.observe.stats import errno_name

_CACHE_COUNTERS: Final = frozenset(name for _, *names in CACHES for name in names)
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
_UPLOADS: Final = (
    ("pending_files", "Files that wait to be uploaded in the background."),
    ("pending_bytes", "Their bytes."),
    ("stored_files", "Files that are uploaded and not committed."),
    ("stored_bytes", "Their bytes."),
)


def mount_metrics(look: Look, version: str) -> list[Metric | Durations]:
    """Returns the metrics of one moment, and those of the process now; in a worker thread.

    Args:
        look: The moment.
        version: The version of the daemon.
    """
    return [
        *_request_metrics(look),
        *_cache_metrics(look),
        *_store_metrics(look.store),
        *_commit_metrics(look.outcomes),
        *_branch_metrics(look.branches),
        *_own_metrics(look, version),
    ]


def _request_metrics(look: Look) -> list[Metric | Durations]:
    names = look.names
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
        Metric("icefs_read_bytes_total", "Bytes that the kernel read.", [((), look.moved("read"))]),
        Metric("icefs_written_bytes_total", "Bytes that the kernel wrote.", [((), look.moved("write"))]),
        *(
            Metric(f"icefs_{name}", _HELP.get(name, name.replace("_", " ") + "."), [((), value)])
            for name, value in look.gauges.items()
            if name not in _CACHE_COUNTERS
        ),
    ]


def _commit_metrics(outcomes: Outcomes) -> list[Metric | Durations]:
    metrics: list[Metric | Durations] = []
    for action in ("commit", "rebase", "discard"):
        ended = [(outcome, count) for (what, outcome), count in outcomes.counts.items() if what == action]
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
    return metrics


def _branch_metrics(branches: Sequence[BranchContent]) -> list[Metric]:
    labels: list[Labels] = [(("branch", branch.name),) for branch in branches]
    with_labels = list(zip(labels, branches, strict=True))
    return [
        Metric(
            "icefs_staged_files",
            "Files with content that is not committed.",
            [(label, branch.files) for label, branch in with_labels],
        ),
        Metric(
            "icefs_staged_bytes",
            "Bytes that are not committed.",
            [(label, one.num_bytes) for label, one in with_labels],
        ),
        *(
            Metric(
                f"icefs_upload_{name}",
                text,
                [(label, branch.uploads[name]) for label, branch in with_labels if name in branch.uploads],
            )
            for name, text in _UPLOADS
        ),
    ]


def _own_metrics(look: Look, version: str) -> list[Metric | Durations]:
    facts = process_facts()
    return [
        Metric("icefs_info", "The mount; always 1.", [((("version", version),), 1)]),
        Metric(
            "icefs_queue_length",
            "Tasks that run or wait, by what works on them.",
            [((("queue", name),), length) for name, length in look.queues.items()],
        ),
        _durations("icefs_event_loop_lag_seconds", "How late the event loop came.", look.lag.timing),
        Metric(
            "icefs_event_loop_lag_longest_seconds",
            "The latest that the event loop ever came.",
            [((), look.lag.longest_ns / 1e9)],
        ),
        Metric("icefs_failures", "Failures that stats.json tells about.", [((), len(look.failures))]),
        Metric("process_threads", "Threads of the daemon.", [((), facts["threads"])]),
        Metric("process_open_fds", "Open file descriptors.", [((), facts["open_fds"])]),
        Metric("process_max_fds", "How many it may open.", [((), facts["max_fds"])]),
        Metric("process_resident_memory_bytes", "Memory in use.", [((), facts["resident_bytes"])]),
        Metric("process_cpu_seconds_total", "Processor time used.", [((), facts["cpu_s"])]),
        Metric("process_start_time_seconds", "When the mount began.", [((), look.started_at)]),
    ]


def _durations(name: str, text: str, timing: Timing, labels: Labels = ()) -> Durations:
    return Durations(name, text, [(labels, (timing.buckets.copy(), timing.total_ns))])


def _cache_metrics(look: Look) -> list[Metric | Durations]:
    known = [caches for caches in CACHES if caches[1] in look.gauges]
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

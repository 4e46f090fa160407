"""`stats.json`: what `icefs top` shows."""

from typing import Any

from icefs.storage.metered import StoreCounts
from icefs.vfs.observe.counters import Outcomes
from icefs.vfs.observe.look import CACHES, Look
from icefs.vfs.observe.process import process_facts
from icefs.vfs.observe.stats import quantile_us
from icefs.words import node_key


def stats_json(look: Look) -> dict[str, Any]:
    """Makes `stats.json`; in a worker thread."""
    return {
        "uptime_s": round(look.uptime_s, 6),
        "operations": look.requests,
        "read_bytes": look.moved("read"),
        "written_bytes": look.moved("write"),
        "gauges": look.gauges,
        "caches": {
            name: {"hits": look.gauges[hits], "misses": look.gauges[misses]}
            for name, hits, misses in CACHES
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
        "commits": _outcomes_json(look.outcomes),
        "event_loop": {
            "lag_us": look.lag.recent_ns / 1000,
            "longest_lag_us": look.lag.longest_ns / 1000,
            "p99_lag_us": quantile_us(look.lag.timing.buckets, 0.99),
        },
        "process": process_facts(),
        "failures": [{**failure, "path": node_key(failure["path"])} for failure in look.failures],
    }


def _outcomes_json(outcomes: Outcomes) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for (action, outcome), count in outcomes.counts.items():
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

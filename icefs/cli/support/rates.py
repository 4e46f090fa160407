"""What a mount did between two looks at its numbers: rates, latencies, hit rates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

_NOTHING: Final[Mapping[str, int]] = {"count": 0, "bytes": 0}
_NONE: Final[Mapping[str, Mapping[str, int]]] = {}


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a mount.

    Attributes:
        stats: Its `stats.json`.
        accesses: The last requests of programs, oldest first.
        control: How many requests of control files there were since the look before, and their bytes, by operation:
            this very looking makes some.
    """

    stats: dict[str, Any]
    accesses: list[dict[str, Any]]
    control: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def rates(before: Sample, after: Sample) -> dict[str, Any]:
    """Works out what happened between two samples of one mount, in the form that `icefs top --json` prints."""
    old, new = before.stats, after.stats
    # The daemon's own clock: what lies between the two looks, however late we were.
    seconds = max(1e-3, new["uptime_s"] - old["uptime_s"])
    return {
        "interval_s": round(seconds, 3),
        "operations": _kinds(old["operations"], new["operations"], seconds, after.control),
        "read_bytes_per_s": _rate(old, new, "read_bytes", seconds, after.control.get("read", _NOTHING)["bytes"]),
        "written_bytes_per_s": _rate(old, new, "written_bytes", seconds, after.control.get("write", _NOTHING)["bytes"]),
        "caches": {name: _cache(old["caches"].get(name, {}), cache) for name, cache in new["caches"].items()},
        "store": {
            "requests": _kinds(old["store"]["requests"], new["store"]["requests"], seconds),
            "retries_per_s": round((_retries(new["store"]) - _retries(old["store"])) / seconds, 1),
            "in_flight": new["store"]["in_flight"],
            "read_bytes_per_s": _rate(old["store"], new["store"], "read_bytes", seconds),
            "written_bytes_per_s": _rate(old["store"], new["store"], "written_bytes", seconds),
        },
        "queues": new["queues"],
        "kernel": {
            "told": new["gauges"].get("kernel_told_total", 0),
            "refused": new["gauges"].get("kernel_refused_total", 0),
        },
        "branches": new["branches"],
        "commits": new["commits"],
        "event_loop": new["event_loop"],
        "process": {
            **new["process"],
            "cpu_percent": round(100 * (new["process"]["cpu_s"] - old["process"]["cpu_s"]) / seconds, 1),
        },
        "failures": new["failures"],
        "accesses": after.accesses,
    }


def _rate(old: Mapping[str, int], new: Mapping[str, int], name: str, seconds: float, less: int = 0) -> float:
    return round(max(0, new[name] - old[name] - less) / seconds, 1)


def _retries(store: Mapping[str, Any]) -> int:
    """Returns how many tries were repeated; a daemon of an older version does not say."""
    return sum(count for reasons in store.get("retries", {}).values() for count in reasons.values())


def _kinds(
    old: Mapping[str, Any], new: Mapping[str, Any], seconds: float, less: Mapping[str, Mapping[str, int]] = _NONE
) -> dict[str, Any]:
    """Compares requests by kind; of those that there were none of in between, the rate is 0."""
    found = {}
    for name, now in new.items():
        then = old.get(name, {"count": 0, "errors": {}, "total_us": 0, "latencies": [0] * len(now["latencies"])})
        less_count = less.get(name, _NOTHING)["count"]
        count = max(0, now["count"] - then["count"] - less_count)
        latencies = [one - other for one, other in zip(now["latencies"], then["latencies"], strict=True)]
        errors = sum(now["errors"].values()) - sum(then["errors"].values())
        found[name] = {
            "count": now["count"],
            "per_s": round(count / seconds, 1),
            "errors_per_s": round(errors / seconds, 1),
            "mean_us": round((now["total_us"] - then["total_us"]) / (count + less_count), 1) if count else None,
            "p50_us": _quantile_us(latencies, 0.5) if count else None,
            "p99_us": _quantile_us(latencies, 0.99) if count else None,
        }
    return found


def _quantile_us(latencies: Sequence[int], share: float) -> float | None:
    """Returns what the share of the requests stayed below, by powers of two; None if there were none."""
    wanted, seen = share * sum(latencies), 0
    for bucket, count in enumerate(latencies):
        seen += count
        if seen and seen >= wanted:
            return (1 << bucket) / 1000
    return None


def _cache(old: Mapping[str, int], new: Mapping[str, int]) -> dict[str, Any]:
    hits, misses = new["hits"] - old.get("hits", 0), new["misses"] - old.get("misses", 0)
    asked = hits + misses
    return {"hits": hits, "misses": misses, "hit_rate": round(hits / asked, 3) if asked else None}

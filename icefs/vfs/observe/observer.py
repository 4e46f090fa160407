"""Takes the numbers of a mount.

Numbers are taken on the event loop's thread in a fraction of a millisecond (`Observer.look`), and counted further and
written down in a worker thread.
"""

from collections.abc import Callable
from typing import Any, Final, Protocol

import trio

from icefs.storage.cache.disk import DiskCache
from icefs.storage.metered import StoreMeter
from icefs.vfs.observe.counters import Lag, Outcomes
from icefs.vfs.observe.look import BranchContent, Look
from icefs.vfs.observe.metrics import to_prometheus
from icefs.vfs.observe.mount_facts import MountFacts
from icefs.vfs.observe.mount_metrics import mount_metrics
from icefs.vfs.observe.stats import Stats
from icefs.vfs.observe.stats_json import stats_json
from icefs.worktree.tree import WorkTree

_TICK_S: Final = 0.5


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
            names=stats.operations,
            requests=stats.as_json(),
            failures=list(stats.failures),
            errors=dict(stats.errors),
            latencies=[buckets.copy() for buckets in stats.latencies],
            total_ns=stats.total_ns.copy(),
            num_bytes=stats.num_bytes.copy(),
            gauges={**mount.values(), **self._disk_cache()},
            queues=mount.queues(),
            branches=[BranchContent(name, work, work.revision) for name, work in mount.work_trees()],
            store=self._meter.counts(),
            outcomes=self._outcomes.copy(),
            lag=self.lag.copy(),
            started_at=stats.started_at,
            uptime_s=stats.uptime_s,
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
        return stats_json(look)

    def as_prometheus(self, look: Look) -> str:
        """Makes `metrics`."""
        self._count(look)
        return to_prometheus(mount_metrics(look, self._facts.version), {"mountpoint": self._facts.mountpoint})

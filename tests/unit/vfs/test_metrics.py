"""Prometheus' text format, judged by Prometheus' own parser."""

import errno
import json
import logging
import time

from prometheus_client.parser import text_string_to_metric_families

from icefs.inode import Invalidations
from icefs.storage.memory import MemoryStorage
from icefs.storage.metered import MeteredStorage, StoreMeter
from icefs.vfs.observe.counters import Lag, Outcomes
from icefs.vfs.observe.metrics import Durations, Metric, to_prometheus
from tests.support.repo_builder import RepoBuilder, group
from tests.support.vfs_driver import mounted


def parse(text):
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families)
    return {family.name: family for family in families}


def test_counters_gauges_and_labels():
    text = to_prometheus(
        [
            Metric("a_total", "Counts \\ more\nthan one.", [((("op", 'x"\\\n'),), 3), ((("op", "y"),), 1e20)]),
            Metric("b_bytes", "A gauge.", [((), 2.5)]),
            Metric("nothing", "Has no samples.", []),
        ],
        {"mountpoint": '/a"b\\c'},
    )
    families = parse(text)
    assert set(families) == {"a", "b_bytes"}
    assert (families["a"].type, families["b_bytes"].type) == ("counter", "gauge")
    first, second = families["a"].samples
    assert first.labels == {"op": 'x"\\\n', "mountpoint": '/a"b\\c'}
    assert (first.value, second.value) == (3, 1e20)
    assert families["a"].documentation == "Counts \\ more\nthan one."


def test_a_histogram_is_cumulative_and_whole():
    buckets = [0] * 37
    buckets[11], buckets[20], buckets[36] = 2, 3, 1
    family = parse(to_prometheus([Durations("t_seconds", "T.", [((), (buckets, 5_000_000_000))])], {}))["t_seconds"]
    assert family.type == "histogram"
    counted = [sample for sample in family.samples if sample.name == "t_seconds_bucket"]
    values = [sample.value for sample in counted]
    assert values == sorted(values)
    assert counted[0].labels["le"] == "1.024e-06"
    assert (counted[-1].labels["le"], counted[-1].value) == ("+Inf", 6)
    assert {sample.name: sample.value for sample in family.samples if sample.name != "t_seconds_bucket"} == {
        "t_seconds_sum": 5.0,
        "t_seconds_count": 6,
    }
    assert dict(zip((s.labels["le"] for s in counted), values, strict=True))["0.00104858"] == 5


async def test_a_mount_tells_all_its_metrics():
    builder = RepoBuilder(MeteredStorage(MemoryStorage(), StoreMeter()))
    builder.commit([group("/", 1)])
    async with mounted(builder.publish(), branch="main") as driver:
        stats = driver.mount.stats
        assert await driver.read("zarr.json")
        stats.record(0, 0, 1500, 0, (1, b"a", 0))
        stats.record(11, 0, 1500, errno.EIO, (1, None, 0))
        stats.record(13, 0, 1500, 0, (1, None, 77))
        stats.record_failure(11, KeyError("x"), errno.EIO, logging.WARNING, "/x")
        driver.mount.outcomes.add("commit", 2_000_000, None)
        driver.mount.outcomes.add("commit", 1_000_000, ValueError("x"))
        driver.mount.observer.lag.add(3_000_000)
        driver.notifier.invalidate(Invalidations([(1, b"a"), (1, b"b")]))
        driver.notifier.pending, driver.notifier.failed = 5, 3
        told = json.loads(await driver.read(".icefs/stats.json"))
        families = parse((await driver.read(".icefs/metrics")).decode())

    def value(name, **labels):
        [found] = [
            sample.value
            for sample in families[name.removesuffix("_total")].samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return found

    assert value("icefs_operations_total", op="lookup") == 1
    assert value("icefs_operation_errors_total", op="open", errno="EIO") == 1
    assert value("icefs_read_bytes_total") == 77
    assert value("icefs_commits_total", outcome="success") == 1
    assert value("icefs_commits_total", outcome="bug") == 1
    assert value("icefs_store_requests_total", op="get", object="repo") >= 0
    assert value("icefs_cache_misses_total", cache="memory") == 0
    assert value("icefs_queue_length", queue="load") >= 0
    assert value("icefs_queue_length", queue="notify") == told["queues"]["notify"] == 5
    assert value("icefs_kernel_told_total") == told["gauges"]["kernel_told_total"] == 2
    assert value("icefs_kernel_refused_total") == told["gauges"]["kernel_refused_total"] == 3
    assert told["queues"].keys() == {"load", "read", "write", "fetch", "control", "workers", "notify"}
    assert told["caches"]["snapshots"]["misses"] >= 1
    assert value("icefs_cache_misses_total", cache="snapshots") == told["caches"]["snapshots"]["misses"]
    commit = told["commits"]["commit"]
    assert (commit["total_us"], commit["p50_us"] <= commit["p99_us"]) == (3000, True)
    assert abs(commit["last_at"] - time.time()) < 3600
    assert value("icefs_event_loop_lag_longest_seconds") == 0.003
    assert value("process_open_fds") > 3
    assert value("process_resident_memory_bytes") > 1e6
    assert all(sample.labels["mountpoint"] == "/mnt" for family in families.values() for sample in family.samples)
    assert all(family.documentation for family in families.values())


def test_lag_and_outcomes():
    lag = Lag()
    for late in (5, 1000, *[1] * 30):
        lag.add(late)
    assert (lag.longest_ns, lag.recent_ns, lag.timing.count) == (1000, 1, 32)
    outcomes = Outcomes()
    outcomes.add("rebase", 5, None)
    assert outcomes.last_commit_at is None
    assert outcomes.counts == {("rebase", "success"): 1}

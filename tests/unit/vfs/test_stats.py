import errno
import logging
import re

from icefs.errors import FormatError
from icefs.vfs.stats import Stats


def make(now):
    return Stats(("lookup", "read"), clock=lambda: now[0])


def test_requests_are_counted_with_their_latency():
    stats = make([0.0])
    for elapsed in (500, 1500, 3000, 10**12):
        stats.record(1, elapsed)
    told = stats.as_json({"open_files": 3})
    assert list(told["operations"]) == ["read"]
    assert told["operations"]["read"]["count"] == 4
    assert told["operations"]["read"]["p50_us"] == 2.048
    assert told["gauges"] == {"open_files": 3}


def test_failures_that_programs_expect_are_counted_and_not_remembered():
    stats = make([0.0])
    assert stats.record_failure(0, KeyError("x"), errno.ENOENT, logging.DEBUG, "/x")
    assert stats.errors_of(0) == {"ENOENT": 1}
    assert not stats.failures


def test_the_same_failure_is_logged_once_a_minute():
    now = [0.0]
    stats = make(now)
    error = FormatError("bad manifest", file="m", reason="r")

    def fail():
        return stats.record_failure(1, error, errno.EIO, logging.WARNING, "/a/c/0")

    assert fail()
    now[0] = 59.0
    assert not fail()
    now[0] = 61.0
    assert fail()
    assert stats.errors_of(1) == {"EIO": 3}
    last = stats.failures[-1]
    assert (last["path"], last["errno"], last["kind"]) == ("/a/c/0", "EIO", "invalid-file-format")


def test_what_is_remembered_is_bounded():
    stats = make([0.0])
    for number in range(2000):
        stats.record_failure(1, FormatError(str(number)), errno.EIO, logging.WARNING, "/a")
    assert len(stats.failures) == 50
    assert len(stats._logged) <= 512


def test_prometheus_text_has_one_type_line_a_metric_and_cumulative_buckets():
    stats = make([0.0])
    stats.record(0, 2000)
    stats.record(0, 2_000_000)
    stats.record_failure(0, KeyError("x"), errno.ENOENT, logging.DEBUG, "/x")
    text = stats.as_prometheus({"open_files": 2, "opened_total": 7}, {"mountpoint": 'a"b\\c'})
    buckets = [int(n) for n in re.findall(r'_bucket\{operation="lookup".*\} (\d+)', text)]
    assert buckets == sorted(buckets)
    assert buckets[-1] == 2
    assert 'mountpoint="a\\"b\\\\c"' in text
    assert "# TYPE icefs_opened_total counter" in text
    assert "# TYPE icefs_open_files gauge" in text
    assert 'icefs_request_errors_total{operation="lookup",errno="ENOENT"' in text
    sample = re.compile(r"[a-z_]+(\{[^{}]*\})? [0-9.e+-]+")
    assert all(line.startswith("#") or sample.fullmatch(line) for line in text.splitlines())

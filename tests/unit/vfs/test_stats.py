import errno
import logging

from icefs.errors import FormatError
from icefs.vfs.observe.access_log import as_text, log_accesses, recent_accesses
from icefs.vfs.observe.stats import RING, Stats, quantile_us


def make(now):
    return Stats(("lookup", "read", "open", "create", "statfs"), clock=lambda: now[0])


class Paths:
    """Knows the inodes below 100."""

    def describe_inode(self, ino):
        return f"/i{ino}" if ino < 100 else f"inode {ino}"

    def describe_handle(self, fh):
        return f"handle {fh}"


def test_requests_are_counted_with_their_latency_and_bytes():
    stats = make([0.0])
    for elapsed in (500, 1500, 3000, 10**12):
        stats.record(1, 0, elapsed, 0, (7, None, 100))
    told = stats.as_json()
    assert list(told) == ["read"]
    assert (told["read"]["count"], told["read"]["bytes"]) == (4, 400)
    assert told["read"]["p50_us"] == 2.048
    assert sum(told["read"]["latencies"]) == 4


def test_a_quantile_of_nothing_is_nothing():
    assert quantile_us([0, 0, 0], 0.99) == 0.0
    assert quantile_us([0, 1, 99], 0.5) == 0.004


def test_failures_that_programs_expect_are_counted_and_not_remembered():
    stats = make([0.0])
    stats.record_failure(0, KeyError("x"), errno.ENOENT, logging.DEBUG, "/x")
    assert stats.errors_of(0) == {"ENOENT": 1}
    assert not stats.failures


def test_what_is_remembered_is_bounded():
    stats = make([0.0])
    for number in range(2000):
        stats.record_failure(1, FormatError(str(number)), errno.EIO, logging.WARNING, "/a")
        stats.record(0, number, 1, 0, (1, "x", 0))
    assert len(stats.failures) == 50
    assert len(stats.recent) == RING
    last = stats.failures[-1]
    assert (last["path"], last["errno"], last["kind"]) == ("/a", "EIO", "invalid-file-format")


def test_the_access_log_tells_paths_sizes_and_results():
    stats = make([0.0])
    stats.record(0, 0, 2000, 0, (1, "a", 0))
    stats.record(2, 0, 2000, 0, (5, 77, 0))
    stats.record(1, 0, 2000, 0, (77, None, 4096))  # its handle was opened within the log
    stats.record(1, 0, 2000, errno.EIO, (78, None, 0))  # this one before
    stats.record(3, 0, 2000, 0, (6, ("new", 79), 0))
    stats.record(1, 0, 2000, 0, (79, None, 1))
    stats.record(0, 0, 2000, errno.ENOENT, (1, "none", 0))
    stats.record(4, 0, 2000, 0, (0, None, 0))
    told = [
        (one["op"], one["path"], one["bytes"], one["us"], one["result"]) for one in recent_accesses(stats, Paths(), 9)
    ]
    assert told == [
        ("lookup", "i1/a", 0, 2.0, "ok"),
        ("open", "i5", 0, 2.0, "ok"),
        ("read", "i5", 4096, 2.0, "ok"),
        ("read", "handle 78", 0, 2.0, "EIO"),
        ("create", "i6/new", 0, 2.0, "ok"),
        ("read", "i6/new", 1, 2.0, "ok"),
        ("lookup", "i1/none", 0, 2.0, "ENOENT"),
        ("statfs", "", 0, 2.0, "ok"),
    ]
    assert [one["op"] for one in recent_accesses(stats, Paths(), 2)] == ["lookup", "statfs"]
    assert recent_accesses(stats, Paths(), 0) == []
    lines = as_text(recent_accesses(stats, Paths(), 9)).decode().splitlines()
    assert lines[2].split()[1:] == ["read", "ok", "2.0", "us", "4096", "/i5"]


def test_each_request_is_logged_while_that_is_wanted(caplog):
    caplog.set_level(logging.DEBUG)
    stats = make([0.0])
    log_accesses(stats, Paths(), enabled=True)
    stats.record(0, 0, 2500, errno.ENOENT, (1, "a", 0))
    log_accesses(stats, Paths(), enabled=False)
    stats.record(0, 0, 2500, 0, (1, "b", 0))
    assert caplog.messages == ["lookup /i1/a: ENOENT, 0 bytes, 2.5 us"]
    assert len(stats.recent) == 2

"""Reading from afar: what is asked of the store, counted at a proxy, and what is not asked again."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from icefs.cli.support.options import human_bytes
from tests.conformance.official import GROUP, array_json, commit, create
from tests.support.mounting import mounted, wait_until

CHUNK = 1 << 18
COUNT = 16
KEYS = {"zarr.json": GROUP, "a/zarr.json": array_json((COUNT << 18,), (1 << 18,))} | {
    f"a/c/{i}": bytes([i]) + os.urandom(CHUNK - 1) for i in range(COUNT)
}
ICEFS = Path(sys.executable).with_name("icefs")


@pytest.fixture
def place(s3_server, s3_storage, s3_prefix, proxy, tmp_path, monkeypatch):
    """The location of a repository behind the proxy."""
    commit(create(tmp_path / "repo", 2), "first", KEYS)
    for path in (tmp_path / "repo").rglob("*"):
        if path.is_file():
            s3_storage.put(path.relative_to(tmp_path / "repo").as_posix(), path.read_bytes())
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://icefs-tests/{s3_prefix}?endpoint_url={proxy.endpoint_url}"


def asked(proxy):
    """Counts requests by what they were about, and forgets them."""
    requests, proxy.requests[:] = list(proxy.requests), []
    return Counter(request.path.partition("?")[0].split("/")[4] for request in requests)


def read_all(mount):
    return {key: (mount / key).read_bytes() for key in KEYS}


def test_a_second_mount_asks_for_nothing_that_was_read_before(place, proxy, tmp_path):
    cache = {"cache_dir": str(tmp_path / "cache"), "cache_size": 1 << 30}
    with mounted(place, branch="main", **cache) as mount:
        assert read_all(mount) == KEYS
    first = asked(proxy)
    assert first["chunks"] == COUNT
    assert first["manifests"] == first["snapshots"] == 1
    with mounted(place, branch="main", **cache) as mount:
        assert read_all(mount) == KEYS
        gauges = mount.control("stats.json")["gauges"]
        assert gauges["chunks_opened_cached_total"] == COUNT
        assert gauges["chunks_opened_remote_total"] == 0
    assert set(asked(proxy)) == {"repo"}
    # Whatever is damaged is fetched again, and right.
    for number, path in enumerate(sorted((tmp_path / "cache/v1").glob("??/*"))):
        data = bytearray(path.read_bytes())
        data[-1 if number % 2 else 20] ^= 1
        path.write_bytes(data)
    with mounted(place, branch="main", **cache) as mount:
        assert read_all(mount) == KEYS
    assert asked(proxy)["chunks"] == COUNT
    with mounted(place, branch="main", **cache) as mount:
        assert read_all(mount) == KEYS
    assert set(asked(proxy)) == {"repo"}


def test_a_disk_that_is_full_costs_the_cache_alone(place, proxy, tmp_path):
    with mounted(place, branch="main", cache_dir=str(tmp_path / "cache"), cache_size=3 * CHUNK) as mount:
        assert read_all(mount) == KEYS
    kept = sum(path.stat().st_size for path in (tmp_path / "cache/v1").glob("??/*"))
    assert kept <= 3 * CHUNK


def test_warmup(place, proxy, tmp_path):
    def warm(path, *options):
        done = subprocess.run([ICEFS, "warmup", path, *options], check=False, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    cache = {"cache_dir": str(tmp_path / "cache"), "cache_size": 1 << 30}
    with mounted(place, **cache) as mount:
        tree = mount / "branches/main"
        code, out, _ = warm(tree / "a/c/3", "--json")
        assert (code, json.loads(out)["chunks"], json.loads(out)["fetched_bytes"]) == (0, 1, CHUNK)
        code, out, _ = warm(tree, "--json")
        told = json.loads(out)
        assert (code, told["chunks"], told["done_chunks"]) == (0, COUNT, COUNT)
        assert told["bytes"] == told["done_bytes"] == COUNT * CHUNK
        assert told["fetched_bytes"] == (COUNT - 1) * CHUNK
        code, out, _ = warm(tree / "a")
        assert code == 0
        kept = f"{COUNT} chunks, {human_bytes(COUNT * CHUNK)} in all, are in the cache"
        assert out == f"{kept}; 0 bytes of that fetched now\n"
        code, out, _ = warm(tree / "a/c/3")
        assert out == f"1 chunk, {human_bytes(CHUNK)} in all, is in the cache; 0 bytes of that fetched now\n"
        code, _, err = warm(mount.path)
        assert code == 2
        assert "branches/main" in err
    assert asked(proxy)["chunks"] == COUNT
    with mounted(place, branch="main", **cache) as mount:
        assert read_all(mount) == KEYS
    assert set(asked(proxy)) == {"repo"}
    with mounted(place, branch="main") as mount:
        code, _, err = warm(mount.path)
        assert code != 0
        assert "--cache-size" in err


def test_following_a_branch_is_one_conditional_request_a_poll(place, proxy):
    with mounted(place, branch="main", poll_interval_s=0.1) as mount:
        assert (mount / "zarr.json").read_bytes() == GROUP
        wait_until(lambda: len(proxy.requests) >= 8, "polls")
        time.sleep(0.2)
        proxy.requests.clear()
        started = time.monotonic()
        wait_until(lambda: len(proxy.requests) >= 10, "ten polls")
        elapsed = time.monotonic() - started
        polls = list(proxy.requests)
    assert {request.method for request in polls} == {"GET"}
    assert all(request.path.endswith("/repo") for request in polls)
    assert all("if-none-match" in {name.lower() for name in request.headers} for request in polls)
    assert len(polls) <= elapsed / 0.1 + 2


def test_an_idle_mount_asks_nothing(place, proxy):
    with mounted(place, branch="main") as mount:
        assert (mount / "zarr.json").read_bytes() == GROUP
        proxy.requests.clear()
        before = cpu_ticks(mount.pid)
        time.sleep(1)
        assert proxy.requests == []
        assert cpu_ticks(mount.pid) - before <= 2  # hundredths of a second


def cpu_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]) + int(fields[12])

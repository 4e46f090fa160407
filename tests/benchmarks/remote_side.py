"""Reading from afar, against the official library: a real S3 server behind a relay that adds latency.

Both sides run the same program, zarr-python reading a whole array of 256 MiB, each in a process of its own: over a
mount, and over the official library's store. Requests and bytes are counted at the relay.
"""

import atexit
import contextlib
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.benchmarks import mounts
from tests.benchmarks.rows import Row, compare
from tests.support.delay_proxy import DelayProxy
from tests.support.s3_server import SeaweedServer

SIZE_BYTES = 256 << 20
DELAYS_MS = (0, 20, 100)
CHUNKS = {"1 MiB": 1 << 20, "64 KiB": 64 << 10}
_BUCKET = "icefs-bench"

_COMMON = """
import sys, time, zarr
prefix, endpoint, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
def official():
    import icechunk
    return icechunk.s3_storage(bucket="icefs-bench", prefix=prefix, endpoint_url=endpoint, region="us-east-1",
                               allow_http=True, force_path_style=True, from_env=True)
"""
_WRITE = """
import icechunk, numpy
repo = icechunk.Repository.create(official())
session = repo.writable_session("main")
options = {"dtype": "u1", "compressors": None, "filters": None}
array = zarr.create_array(session.store, name="a", shape=(SIZE,), chunks=(rounds,), **options)
array[:] = numpy.random.default_rng(1).integers(0, 255, SIZE, dtype="u1")
session.commit("x")
"""
_OFFICIAL = """
import icechunk
store = icechunk.Repository.open(official()).readonly_session("main").store
READ
"""
_MOUNT = """
store = zarr.storage.LocalStore(prefix, read_only=True)
READ
"""
_READ = """
for _ in range(rounds):
    start = time.perf_counter()
    data = zarr.open_array(store, path="a", mode="r")[:]
    seconds = time.perf_counter() - start
assert data.nbytes == SIZE and int(data[-1000:].sum()) > 0
print(seconds)
"""


def _run(program: str, *arguments: object) -> float:
    source = (_COMMON + program).replace("READ", _READ).replace("SIZE", str(SIZE_BYTES))
    command = [sys.executable, "-c", source, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return float(done.stdout.split()[-1]) if done.stdout.strip() else 0.0


@functools.cache
def server() -> SeaweedServer:
    """Starts the server that all rows share."""
    started = SeaweedServer().__enter__()
    atexit.register(started.__exit__)
    started.make_bucket(_BUCKET)
    os.environ.update(started.environment())
    return started


@functools.cache
def repository(chunk_bytes: int) -> str:
    """Writes a repository with the official library; returns its prefix."""
    prefix = f"read-{chunk_bytes}"
    _run(_WRITE, prefix, server().endpoint_url, chunk_bytes)
    return prefix


@contextlib.contextmanager
def far_away(delay_ms: int) -> Iterator[DelayProxy]:
    """Puts the relay in front of the server."""
    with DelayProxy(server().endpoint_url, delay_s=delay_ms / 1000) as proxy:
        yield proxy


def location(prefix: str, proxy: DelayProxy) -> str:
    """Returns what to mount."""
    return f"s3://{_BUCKET}/{prefix}?endpoint_url={proxy.endpoint_url}"


def _told(what: str, counts: list[tuple[int, int, int]]) -> str:
    requests, _, received = counts[-1]
    return f"{what} {requests} requests, {received / 1e6:.0f} MB"


def read_far(what: str, rounds: int, *, chunk_bytes: int, delay_ms: int, target: float) -> Row:
    """Reads an array that nothing of is kept anywhere."""
    prefix = repository(chunk_bytes)
    with far_away(delay_ms) as proxy:
        ours_counts, their_counts = [], []

        def ours() -> float:
            with mounts.icefs_mount(location(prefix, proxy), "--cache-size", "0") as mountpoint:
                seconds = _run(_MOUNT, mountpoint, "", 1)
                ours_counts.append(proxy.take_counts())
                return seconds

        def theirs() -> float:
            seconds = _run(_OFFICIAL, prefix, proxy.endpoint_url, 1)
            their_counts.append(proxy.take_counts())
            return seconds

        row = compare(what, ours, theirs, target, rounds)
    told = f"{_told('icefs', ours_counts)}; {_told('official', their_counts)}"
    return Row(f"{row.what} ({told})", row.ours, row.theirs, row.ratio, row.target, row.met)


def read_again(what: str, rounds: int, *, chunk_bytes: int, delay_ms: int, target: float) -> Row:
    """Reads an array in a new mount whose disk cache has it, against the official library's second read."""
    prefix = repository(chunk_bytes)
    with far_away(delay_ms) as proxy, tempfile.TemporaryDirectory(prefix="icefs-bench-") as cache:
        url, options = location(prefix, proxy), ("--cache-dir", str(Path(cache) / "c"))
        with mounts.icefs_mount(url, *options) as mountpoint:
            _run(_MOUNT, mountpoint, "", 1)
        ours_counts = []

        def ours() -> float:
            proxy.take_counts()
            with mounts.icefs_mount(url, *options) as mountpoint:
                seconds = _run(_MOUNT, mountpoint, "", 1)
            ours_counts.append(proxy.take_counts())
            return seconds

        row = compare(what, ours, lambda: _run(_OFFICIAL, prefix, proxy.endpoint_url, 2), target, rounds)
    return Row(f"{row.what} ({_told('icefs', ours_counts)})", row.ours, row.theirs, row.ratio, row.target, row.met)


def _rows() -> dict[str, Callable[[str, int], Row]]:
    rows: dict[str, Callable[[str, int], Row]] = {}
    for name, chunk_bytes in CHUNKS.items():
        for delay_ms in DELAYS_MS:
            target = 1 / 1.5 if delay_ms == 0 else 1.0
            fixed = {"chunk_bytes": chunk_bytes, "delay_ms": delay_ms}
            rows[f"S3 at {delay_ms} ms, 256 MiB in {name} chunks, vs. official store"] = functools.partial(
                read_far, **fixed, target=target
            )
            rows[f"S3 at {delay_ms} ms, {name} chunks again, from the disk cache, vs. official store"] = (
                functools.partial(read_again, **fixed, target=5)
            )
    return rows


REMOTE_SIDE = _rows()

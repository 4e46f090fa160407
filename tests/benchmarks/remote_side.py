"""Reading from afar, against the official library: a real S3 server behind a relay that adds latency.

Both sides run the same program, zarr-python reading an array, each in a process of its own: over a mount, and over
the official library's store. Requests and bytes are counted at the relay. A second read goes through a new mount,
whose disk cache has the array; the official library's is in the process that has read it once. How long zarr-python
takes for the same files on a disk is a row of its own: no file system is faster. `ICEFS_BENCH_REMOTE_MIB` is the
array's size; of small chunks, a quarter of them is read where the store is far away.
"""

import atexit
import functools
import os
import shutil
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks import mounts
from tests.benchmarks.far_store import Counts, far_away, location, run, server, told
from tests.benchmarks.rows import Row

SIZE_BYTES = int(os.environ.get("ICEFS_BENCH_REMOTE_MIB", "256")) << 20
DELAYS_MS = (0, 20, 100)
# All of it in four minutes: what waits for a network varies less than what does not.
_MAX_ROUNDS = 2
CHUNKS = {"1 MiB": 1 << 20, "64 KiB": 64 << 10}

_WRITE = """
import icechunk, numpy
repo = icechunk.Repository.create(official())
session = repo.writable_session("main")
options = {"dtype": "u1", "compressors": None, "filters": None}
array = zarr.create_array(session.store, name="a", shape=(SIZE,), chunks=(CHUNK,), **options)
array[:] = numpy.random.default_rng(1).integers(0, 255, SIZE, dtype="u1")
session.commit("x")
told()
"""
_READ = """
def read():
    start = time.perf_counter()
    data = zarr.open_array(store, path="a", mode="r")[:READ]
    seconds = time.perf_counter() - start
    assert data.nbytes == READ and int(data[-1000:].sum()) > 0
    return seconds
"""
_ON_FILES = f"""
store = zarr.storage.LocalStore(prefix, read_only=True)
{_READ}
told(read())
"""
# The second read without zarr-python: the bytes of every chunk, as many requests at once as the store is given.
_OFFICIAL = f"""
import icechunk
from zarr.core.buffer import default_buffer_prototype
store = icechunk.Repository.open(official()).readonly_session("main").store
{_READ}
async def one(number, turns):
    async with turns:
        return len(await store.get(f"a/c/{{number}}", default_buffer_prototype()))
async def keys():
    turns = asyncio.Semaphore(32)
    start = time.perf_counter()
    assert sum(await asyncio.gather(*(one(n, turns) for n in range(READ // CHUNK)))) == READ
    return time.perf_counter() - start
first, second = read(), read()
told(first, second, asyncio.run(keys()))
"""
_FILES = """
buffer = bytearray(CHUNK)
start = time.perf_counter()
for number in range(READ // CHUNK):
    with open(f"{prefix}/a/c/{number}", "rb", buffering=0) as file:
        assert file.readinto(buffer) == CHUNK
told(time.perf_counter() - start)
"""


@dataclass(frozen=True, slots=True)
class _Case:
    """One array read from one distance.

    Attributes:
        chunk_bytes: The size of its chunks.
        delay_ms: The added latency.
        read_bytes: How much of it is read.
    """

    chunk_bytes: int
    delay_ms: int
    read_bytes: int

    def run(self, program: str, *arguments: object) -> list[float]:
        return run(program, *arguments, READ=self.read_bytes, CHUNK=self.chunk_bytes)


@dataclass(frozen=True, slots=True)
class _Times:
    """What was measured in one round; seconds."""

    first: float
    first_counts: Counts
    again: float
    again_counts: Counts
    again_plain: float
    official_first: float
    official_again: float
    official_keys: float
    official_counts: Counts
    on_disk: float


@functools.cache
def repository(chunk_bytes: int) -> str:
    """Writes a repository with the official library; returns its prefix."""
    prefix = f"read-{chunk_bytes}"
    run(_WRITE, prefix, server().endpoint_url, CHUNK=chunk_bytes, SIZE=SIZE_BYTES)
    return prefix


@functools.cache
def _scratch() -> Path:
    held = tempfile.TemporaryDirectory(prefix="icefs-bench-")
    atexit.register(held.cleanup)
    return Path(held.name)


@functools.cache
def _cached(chunk_bytes: int) -> tuple[str, Path]:
    """Fills a disk cache with the whole array; returns the cache, and a copy of the array on the disk."""
    cache, copy = str(_scratch() / f"cache-{chunk_bytes}"), _scratch() / f"files-{chunk_bytes}"
    far_away(0)
    with mounts.icefs_mount(location(repository(chunk_bytes)), "--cache-dir", cache) as mountpoint:
        shutil.copytree(mountpoint / "a", copy / "a")
    return cache, copy


def _round(case: _Case) -> _Times:
    prefix = repository(case.chunk_bytes)
    cache, copy = _cached(case.chunk_bytes)
    proxy = far_away(case.delay_ms)
    with mounts.icefs_mount(location(prefix), "--cache-size", "0") as mountpoint:
        (first,) = case.run(_ON_FILES, mountpoint, "")
    first_counts = proxy.take_counts()
    with mounts.icefs_mount(location(prefix), "--cache-dir", cache) as mountpoint:
        (again,) = case.run(_ON_FILES, mountpoint, "")
    again_counts = proxy.take_counts()
    again_plain = on_disk = 0.0
    if case.delay_ms == 0:
        with mounts.icefs_mount(location(prefix), "--cache-dir", cache) as mountpoint:
            (again_plain,) = case.run(_FILES, mountpoint, "")
        (on_disk,) = case.run(_ON_FILES, copy, "")
        proxy.take_counts()
    theirs = case.run(_OFFICIAL, prefix, proxy.endpoint_url)
    requests, sent, received = proxy.take_counts()
    # Their process reads three times, each time alike.
    return _Times(
        first, first_counts, again, again_counts, again_plain, *theirs,
        (requests // 3, sent // 3, received // 3), on_disk,
    )  # fmt: skip


@functools.cache
def _rounds(case: _Case, rounds: int) -> list[_Times]:
    return [_round(case) for _ in range(min(rounds, _MAX_ROUNDS) if case.delay_ms == 0 else 1)]


def _row(what: str, case: _Case, rounds: int, pick: Callable[[_Times], tuple[float, float]], target: float) -> Row:
    times = _rounds(case, rounds)
    pairs = [pick(one) for one in times]
    ratio = statistics.median(theirs / ours for ours, theirs in pairs)
    ours, theirs = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(what, ours, theirs, ratio, f"≥ {target:.2g}×", ratio >= target)


def read_far(what: str, rounds: int, case: _Case, target: float) -> Row:
    """Reads an array that nothing of is kept anywhere."""
    last = _rounds(case, rounds)[-1]
    counted = f"{told('icefs', last.first_counts)}; {told('official', last.official_counts)}"
    return _row(f"{what} ({counted})", case, rounds, lambda one: (one.first, one.official_first), target)


def read_again(what: str, rounds: int, case: _Case) -> Row:
    """Reads an array in a new mount whose disk cache has it, against the official library's second read."""
    counted = told("icefs", _rounds(case, rounds)[-1].again_counts)
    return _row(f"{what} ({counted})", case, rounds, lambda one: (one.again, one.official_again), 5)


def read_again_plain(what: str, rounds: int, case: _Case) -> Row:
    """Does the same without zarr-python on either side."""
    return _row(what, case, rounds, lambda one: (one.again_plain, one.official_keys), 5)


def read_on_disk(what: str, rounds: int, case: _Case) -> Row:
    """Shows what zarr-python itself takes: the best that any file system could reach in `read_again`."""
    row = _row(what, case, rounds, lambda one: (one.on_disk, one.official_again), 0)
    return Row(row.what, row.ours, row.theirs, row.ratio, "—", True)


def _rows() -> dict[str, Callable[[str, int], Row]]:
    rows: dict[str, Callable[[str, int], Row]] = {}
    for name, chunk_bytes in CHUNKS.items():
        for delay_ms in DELAYS_MS:
            read_bytes = SIZE_BYTES if delay_ms == 0 or chunk_bytes >= 1 << 20 else SIZE_BYTES // 4
            case = _Case(chunk_bytes, delay_ms, read_bytes)
            size = f"{read_bytes >> 20} MiB in {name} chunks"
            at = f"S3 at {delay_ms} ms, {size}"
            target = 1 / 1.5 if delay_ms == 0 else 1.0
            rows[f"{at}, vs. official store"] = functools.partial(read_far, case=case, target=target)
            rows[f"{at} again, from the disk cache, vs. official store's second read"] = functools.partial(
                read_again, case=case
            )
            if delay_ms == 0:
                rows[f"{at} again, without zarr-python, vs. official store"] = functools.partial(
                    read_again_plain, case=case
                )
                rows[f"{at}: plain files on the disk, vs. official store's second read"] = functools.partial(
                    read_on_disk, case=case
                )
    return rows


REMOTE_SIDE = _rows()

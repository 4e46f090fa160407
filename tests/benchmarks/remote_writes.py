"""Writing from afar, against the official library: many small chunks, and the commit of them.

No array library is in between, as most of the time would be its own: one side writes files, the other sets the same
keys in the official library's store, ten at once, as zarr-python does by default; both then commit.
Further away there are fewer chunks, or the official library's side would take minutes. `ICEFS_BENCH_REMOTE_CHUNKS`
is how many there are. The commit of a single chunk is nothing but waits for the store. A row of its own has the time
that the same files take where nothing is done with them.
"""

import itertools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.benchmarks import mounts
from tests.benchmarks.far_store import Counts, far_away, location, run, server, told
from tests.benchmarks.rows import Row, compare

CHUNK_BYTES = 10 << 10
COUNT = int(os.environ.get("ICEFS_BENCH_REMOTE_CHUNKS", "10000"))
COUNTS = {0: COUNT, 20: COUNT // 2, 100: COUNT // 10}
_MIN_FEWER_REQUESTS = 50

_CREATE = """
import icechunk
session = icechunk.Repository.create(official()).writable_session("main")
zarr.create_array(session.store, name="a", shape=(COUNT * SIZE,), chunks=(SIZE,), dtype="u1", compressors=None,
                  filters=None)
session.commit("an array without chunks")
told()
"""
_DATA = """
import numpy
pool = numpy.random.default_rng(1).integers(0, 255, SIZE + COUNT, dtype="u1").tobytes()
"""
_OFFICIAL = f"""
import icechunk
from zarr.core.buffer import default_buffer_prototype
{_DATA}
session = icechunk.Repository.open(official()).writable_session("main")
make = default_buffer_prototype().buffer.from_bytes
async def one(number, turns):
    async with turns:
        await session.store.set(f"a/c/{{number}}", make(pool[number : number + SIZE]))
async def all():
    turns = asyncio.Semaphore(10)  # as zarr-python does by itself
    await asyncio.gather(*(one(number, turns) for number in range(COUNT)))
start = time.perf_counter()
asyncio.run(all())
session.commit("chunks")
told(time.perf_counter() - start)
"""
_FILES = f"""
{_DATA}
directory = prefix + "/a/c"
start = time.perf_counter()
os.makedirs(directory, exist_ok=True)
for number in range(COUNT):
    with open(f"{{directory}}/{{number}}", "wb", buffering=0) as file:
        file.write(pool[number : number + SIZE])
"""
_MOUNT = f"""
{_FILES}
with open(prefix + "/.icefs/commit", "w") as file:
    file.write("chunks")
told(time.perf_counter() - start)
"""
_NOTHING = f"""
{_FILES}
told(time.perf_counter() - start)
"""
_CHECK = f"""
import icechunk
{_DATA}
array = zarr.open_array(icechunk.Repository.open(official()).readonly_session("main").store, path="a", mode="r")
for number in (0, COUNT // 2, COUNT - 1):
    assert array[number * SIZE : (number + 1) * SIZE].tobytes() == pool[number : number + SIZE], number
told()
"""


_names = itertools.count()


def _new(constants: Mapping[str, int]) -> str:
    prefix = f"write-{next(_names)}"
    run(_CREATE, prefix, server().endpoint_url, **constants)
    return prefix


def _official(delay_ms: int, constants: Mapping[str, int]) -> tuple[float, Counts]:
    """Writes and commits with the official library; returns seconds, and what went over the relay."""
    prefix = _new(constants)
    proxy = far_away(delay_ms)
    (seconds,) = run(_OFFICIAL, prefix, proxy.endpoint_url, **constants)
    return seconds, proxy.take_counts()


def write_into_nothing(what: str, rounds: int) -> Row:
    """Shows what the files alone take, without bytes that go anywhere: the best that a file system could reach."""
    constants = {"COUNT": COUNTS[0], "SIZE": CHUNK_BYTES}

    def ours() -> float:
        with mounts.null_mount(0, 0, 0) as mountpoint:
            return run(_NOTHING, mountpoint, "", **constants)[0]

    row = compare(what, ours, lambda: _official(0, constants)[0], 0, rounds)
    return Row(row.what, row.ours, row.theirs, row.ratio, "—", True)


def write_far(what: str, rounds: int, delay_ms: int, count: int) -> Row:
    """Writes chunks into a new repository and commits them."""
    constants = {"COUNT": count, "SIZE": CHUNK_BYTES}
    ours_counts: list[Counts] = []
    their_counts: list[Counts] = []

    def ours() -> float:
        prefix = _new(constants)
        proxy = far_away(delay_ms)
        with (
            tempfile.TemporaryDirectory(prefix="icefs-bench-") as state,
            mounts.icefs_mount(location(prefix), "--cache-size", "0", state_dir=Path(state)) as mountpoint,
        ):
            (seconds,) = run(_MOUNT, mountpoint, "", **constants)
        ours_counts.append(proxy.take_counts())
        run(_CHECK, prefix, server().endpoint_url, **constants)
        return seconds

    def theirs() -> float:
        seconds, counts = _official(delay_ms, constants)
        their_counts.append(counts)
        return seconds

    row = compare(what, ours, theirs, 1 if count == 1 else 5, rounds)
    requests, their_requests = ours_counts[-1][0], their_counts[-1][0]
    counted = f"{told('icefs', ours_counts[-1])}; {told('official', their_counts[-1])}"
    if count == 1:
        return Row(f"{what} ({counted})", row.ours, row.theirs, row.ratio, row.target, row.met)
    is_met = row.met and their_requests >= _MIN_FEWER_REQUESTS * requests
    target = f"{row.target}, ≥ {_MIN_FEWER_REQUESTS}× fewer requests"
    return Row(f"{what} ({counted})", row.ours, row.theirs, row.ratio, target, is_met)


REMOTE_WRITES: dict[str, Callable[[str, int], Row]] = {
    f"S3 at {delay_ms} ms, {count} chunks of 10 KiB written and committed, vs. official store": (
        lambda what, n, delay_ms=delay_ms, count=count: write_far(
            what, min(n, 2) if delay_ms == 0 else 1, delay_ms, count
        )
    )
    for delay_ms, count in COUNTS.items()
}
for _delay_ms in (20, 100):
    REMOTE_WRITES[f"S3 at {_delay_ms} ms, one chunk written and committed, vs. official store"] = (
        lambda what, n, delay_ms=_delay_ms: write_far(what, min(n, 3), delay_ms, 1)
    )
REMOTE_WRITES[
    f"S3 at 0 ms, {COUNT} chunks of 10 KiB: the do-nothing file system, without a commit, vs. official store"
] = lambda what, n: write_into_nothing(what, min(n, 2))

"""What is measured of reading: names, bytes, the daemon itself."""

import subprocess
import time
from collections.abc import Callable

from tests.benchmarks import clients, mounts, repos
from tests.benchmarks.rows import Row, compare, limit


def on_icefs(client: str, repo: str, below: str, *options: str) -> Callable[[], float]:
    """Returns a measurement: the client on a fresh icefs mount of the repository, given the directory `below`."""

    def measure() -> float:
        with mounts.icefs_mount(repos.repository(repo), *options) as mountpoint:
            return clients.run(client, mountpoint / below)

    return measure


def on_null(client: str, dirs: int, files: int, size: int, below: str = "") -> Callable[[], float]:
    """Returns a measurement: the client on a fresh do-nothing mount."""

    def measure() -> float:
        with mounts.null_mount(dirs, files, size) as mountpoint:
            return clients.run(client, mountpoint / below)

    return measure


def official(client: str, repo: str) -> Callable[[], float]:
    """Returns a measurement with the official library."""
    return lambda: clients.run(client, repos.repository(repo))


def mount_seconds() -> float:
    """Measures `icefs mount` until it returns, which is when the mount answers."""
    start = time.perf_counter()
    with mounts.icefs_mount(repos.repository("small")):
        return time.perf_counter() - start


def status_seconds() -> float:
    """Measures one `icefs status` on a mount."""
    with mounts.icefs_mount(repos.repository("small")) as mountpoint:
        start = time.perf_counter()
        subprocess.run([mounts.ICEFS, "status", mountpoint], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def listed_memory_megabytes() -> float:
    """Measures the daemon's resident memory after a million chunks were listed."""
    with mounts.icefs_mount(repos.repository("million")) as mountpoint:
        clients.run("find", mountpoint)
        return mounts.daemon_rss_bytes(mountpoint) / 1e6


SMALL = (*repos.SMALL_GRID, repos.SMALL_CHUNK_BYTES)
PYFUSE3 = ("--fuse-library", "pyfuse3")
BIG = (1, repos.BIG_CHUNKS, repos.BIG_CHUNK_BYTES)

READ_SIDE: dict[str, Callable[[str, int], Row]] = {
    "cold open+read+close, 4 KiB chunks, of do-nothing": lambda what, n: compare(
        what, on_icefs("open_read_close", "small", "a/c"), on_null("open_read_close", *SMALL), 0.6, n
    ),
    "cold stat, of do-nothing": lambda what, n: compare(
        what, on_icefs("cold_stat", "small", "a/c"), on_null("cold_stat", *SMALL), 0.6, n
    ),
    "cold sequential read, 1 MiB chunks, of do-nothing": lambda what, n: compare(
        what, on_icefs("sequential_read", "big", "a/c"), on_null("sequential_read", *BIG, below="0"), 0.7, n
    ),
    "cold open+read+close, 4 KiB chunks, of --fuse-library pyfuse3": lambda what, n: compare(
        what, on_icefs("open_read_close", "small", "a/c"), on_icefs("open_read_close", "small", "a/c", *PYFUSE3), 1, n
    ),
    "cold sequential read, 1 MiB chunks, of --fuse-library pyfuse3": lambda what, n: compare(
        what, on_icefs("sequential_read", "big", "a/c"), on_icefs("sequential_read", "big", "a/c", *PYFUSE3), 1, n
    ),
    "warm stat, of do-nothing": lambda what, n: compare(
        what, on_icefs("warm_stat", "small", "a/c"), on_null("warm_stat", *SMALL), 0.9, n
    ),
    "warm read, of do-nothing": lambda what, n: compare(
        what, on_icefs("warm_read", "big", "a/c"), on_null("warm_read", *BIG, below="0"), 0.9, n
    ),
    "find over a million chunks, vs. official list_prefix": lambda what, n: compare(
        what, on_icefs("find", "million", ""), official("official_list_prefix", "million"), 20, 1
    ),
    "find over a million chunks in 10 000 directories, vs. official list_prefix": lambda what, n: compare(
        what, on_icefs("find", "million-3d", ""), official("official_list_prefix", "million-3d"), 20, 1
    ),
    "find over a million chunks, of do-nothing": lambda what, n: compare(
        what, on_icefs("find", "million", ""), on_null("find", 1000, 1000, 256), 0.6, n
    ),
    "zarr-python, 1 GiB in 1 MiB chunks, vs. official store": lambda what, n: compare(
        what, on_icefs("zarr_read", "big", ""), official("official_zarr_read", "big"), 2, n
    ),
    "mount until it answers (s)": lambda what, n: limit(what, mount_seconds, 1.0, "s", n),
    "icefs status (s)": lambda what, n: limit(what, status_seconds, 0.25, "s", n),
    "daemon memory, a million chunks listed (MB)": lambda what, n: limit(what, listed_memory_megabytes, 450, "MB", 1),
}

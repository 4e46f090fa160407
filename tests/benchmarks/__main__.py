"""`make bench`: measures icefs and prints the README's table.

Times are wall seconds of client processes. Each comparison runs its two sides in turn, several rounds, everything
freshly mounted; the table shows the medians and the median of the ratios, which is what to quote: single times say
more about the machine than about icefs.

    python -m tests.benchmarks [--rounds N] [--only SUBSTRING] [--json FILE]
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.benchmarks import clients, mounts, repos


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        what: What was done.
        ours: Median seconds (or megabytes) of icefs.
        theirs: The same of what it is compared with, or None.
        ratio: How many times faster icefs is (below 1: slower), or None where there is no other side.
        target: What the project aims at, in words.
        met: Whether it was reached in this run.
    """

    what: str
    ours: float
    theirs: float | None
    ratio: float | None
    target: str
    met: bool


def compare(what: str, ours: Callable[[], float], theirs: Callable[[], float], target: float, rounds: int) -> Row:
    """Runs both sides in turn and takes medians; `target` is the least acceptable ratio theirs/ours."""
    pairs = [(ours(), theirs()) for _ in range(rounds)]
    ratio = statistics.median(b / a for a, b in pairs)
    return Row(
        what,
        statistics.median(a for a, _ in pairs),
        statistics.median(b for _, b in pairs),
        ratio,
        f"≥ {target:g}×",
        ratio >= target,
    )


def limit(what: str, measure: Callable[[], float], most: float, unit: str, rounds: int) -> Row:
    """Measures one figure that has an upper bound."""
    value = statistics.median(measure() for _ in range(rounds))
    return Row(what, value, None, None, f"≤ {most:g} {unit}", value <= most)


def on_icefs(client: str, repo: str, below: str) -> Callable[[], float]:
    """Returns a measurement: the client on a fresh icefs mount of the repository, given the directory `below`."""

    def measure() -> float:
        with mounts.icefs_mount(repos.repository(repo)) as mountpoint:
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


def machine() -> str:
    """Describes the machine in one line."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} × {model}, {memory} GiB, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> None:
    """Runs the benchmarks and prints a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", default="")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    tempfile.tempdir = os.environ.get("TMPDIR")
    rows = []
    print(f"\n{machine()}\n\n| what | icefs | other | ratio | target | |\n|---|---:|---:|---:|---:|---|")
    for what, measure in READ_SIDE.items():
        if arguments.only not in what:
            continue
        row = measure(what, arguments.rounds)
        rows.append(row)
        theirs = "" if row.theirs is None else f"{row.theirs:.3g}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}×"
        print(
            f"| {what} | {row.ours:.3g} | {theirs} | {ratio} | {row.target} | {'✓' if row.met else '✗'} |", flush=True
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "rows": [asdict(row) for row in rows]}, indent=1))


if __name__ == "__main__":
    main()

"""What is measured of writing: files, whole arrays, commits.

Every round begins with an empty working tree over a copy of a repository, on the disk that the official library
writes to as well; neither side syncs its writes.
"""

import functools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.benchmarks import clients, mounts, repos
from tests.benchmarks.rows import Row, compare, limit


@contextmanager
def _scratch() -> Iterator[Path]:
    root = repos.cache_root()
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=root) as directory:
        yield Path(directory)


def on_branch(client: str, repo: str, below: str = "") -> Callable[[], float]:
    """Returns a measurement: the client on a fresh writable mount of a fresh copy, given the directory `below`."""
    return lambda: _run_on_branch(client, repo, below)[-1]


def _run_on_branch(client: str, repo: str, below: str) -> list[float]:
    original = repos.repository(repo)
    with _scratch() as scratch:
        copy = scratch / "repository"
        shutil.copytree(original, copy)
        with mounts.icefs_mount(copy, state_dir=scratch / "state") as mountpoint:
            return clients.run_all(client, mountpoint / below)


def on_null(client: str) -> Callable[[], float]:
    """Returns a measurement: the client on a fresh do-nothing mount."""

    def measure() -> float:
        with mounts.null_mount(0, 0, 0) as mountpoint:
            return clients.run(client, mountpoint)

    return measure


def in_scratch(client: str) -> Callable[[], float]:
    """Returns a measurement: the client in an empty directory of the same disk."""

    def measure() -> float:
        with _scratch() as scratch:
            return clients.run(client, scratch)

    return measure


@functools.cache
def staged_commit() -> tuple[float, float, float]:
    """Commits 100 000 chunks once, next to a reader and a writer: their longest stalls, and the commit's seconds."""
    reader, writer, seconds = _run_on_branch("staged_commit", "staged", "")
    return reader, writer, seconds


WRITE_SIDE: dict[str, Callable[[str, int], Row]] = {
    "create + write + close, 4 KiB files, of do-nothing": lambda what, n: compare(
        what, on_branch("create_write_close", "empty", "a"), on_null("create_write_close"), 0.5, n
    ),
    "write to a temporary name + rename, 4 KiB, of do-nothing": lambda what, n: compare(
        what, on_branch("write_rename", "empty", "a"), on_null("write_rename"), 0.4, n
    ),
    "create + write + close, 1 MiB files, of do-nothing": lambda what, n: compare(
        what, on_branch("write_big", "empty", "a"), on_null("write_big"), 0.6, n
    ),
    "zarr-python writes 1 GiB in 1 MiB chunks + commit, vs. official store": lambda what, n: compare(
        what, on_branch("zarr_write_commit", "empty"), in_scratch("official_zarr_write_commit"), 1, n
    ),
    "a transaction of a million references, vs. official library": lambda what, n: compare(
        what, in_scratch("million_refs"), in_scratch("official_million_refs"), 0.5, n
    ),
    "commit of 100 000 staged chunks (s)": lambda what, n: limit(what, lambda: staged_commit()[2], 15, "s", 1),
    "longest stall of a reader meanwhile (s)": lambda what, n: limit(what, lambda: staged_commit()[0], 0.5, "s", 1),
    "longest stall of a writer meanwhile (s)": lambda what, n: limit(what, lambda: staged_commit()[1], 1, "s", 1),
}

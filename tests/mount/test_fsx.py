"""Tens of thousands of random reads and writes of one file of a branch, in the manner of `fsx`.

`ICEFS_TEST_OPERATIONS` is their number for each test, `ICEFS_TEST_SEED` the seed.
"""

import os
from pathlib import Path

import pytest

from tests.conformance.official import GROUP, loose_array_json
from tests.support.differential import Station
from tests.support.fsx import MAX_BYTES, Exerciser
from tests.support.mounting import scratch_directory

OPERATIONS = int(os.environ.get("ICEFS_TEST_OPERATIONS", "4000"))
SEED = int(os.environ.get("ICEFS_TEST_SEED", "1"))

NATIVE = bytes(range(256)) * 500
CONTENT = {
    "zarr.json": GROUP,
    "a/zarr.json": loose_array_json((4 * MAX_BYTES,), (MAX_BYTES,)),
    "a/c/0": NATIVE,
    "a/c/1": b"inline",
}


@pytest.fixture(scope="module")
def station():
    with scratch_directory() as scratch:
        station = Station(Path(scratch), CONTENT)
        yield station
        station.stop()


@pytest.fixture
def tree(station):
    return f"branches/{station.new_branch()}"


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("key", ["a/c/0", "a/c/1", "a/c/2.partial"])
def test_random_reads_and_writes(station, tree, key, direct):
    """The base's files are copied when they are first written to; a new file is of the tree's own from the start."""
    path = station.place / tree / key
    if key not in CONTENT:
        path.touch()
    exerciser = Exerciser(path, CONTENT.get(key, b""), SEED, direct=direct)
    exerciser.run(OPERATIONS // 3)
    exerciser.close()
    exerciser.check()


def test_past_the_page_cache(station, tree):
    """A program that makes a file and only writes to it goes past the kernel's page cache; others read through it."""
    path = station.place / tree / "a/c/2"
    exerciser = Exerciser(path, b"", SEED, direct=True, makes_it=True)
    exerciser.run(OPERATIONS // 3, check_every=50)
    exerciser.close_maker()
    exerciser.run(OPERATIONS // 10)
    exerciser.close()
    exerciser.check()


def test_commits_in_between(station, tree):
    """The file stays open over commits, each of which has what the file held at the time."""
    path = station.place / tree / "a/c/0"
    exerciser = Exerciser(path, NATIVE, SEED)
    for number in range(12):
        exerciser.run(OPERATIONS // 12)
        if number % 3 == 2:
            exerciser.close()
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what was written through mappings
        if not exerciser.content:
            continue
        answer = station.mount.rpc({"op": "commit", "message": f"commit {number}", "include_open": True}, tree)[-1]
        assert answer["type"] == "result", exerciser.explain(str(answer))
        committed = station.read_branch(tree.removeprefix("branches/"))["a/c/0"]
        assert committed == exerciser.content, exerciser.explain("another content was committed")
    exerciser.close()
    exerciser.check()


def test_killed_in_between(station, tree):
    """Closed files are there after the daemon was killed."""
    path = station.place / tree / "a/c/0"
    exerciser = Exerciser(path, NATIVE, SEED)
    for _ in range(2):
        exerciser.run(OPERATIONS // 10)
        exerciser.close()
        station.remount(kill=True)
        exerciser.check()
    exerciser.run(OPERATIONS // 10)
    exerciser.close()

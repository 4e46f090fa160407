"""A whole commit while the disk of the state directory fails, at each of its calls in turn.

The commit is made, or it is not and says what failed and where; nothing is lost either way. When the disk answers
again, in the same process or a new one, the next commit takes all that is left.
"""

import contextlib
from pathlib import Path

import pytest

from icefs.errors import NothingToCommitError, StorageError
from icefs.storage.memory import MemoryStorage
from tests.support.faulty_disk import FullDisk, Fuse, full_journal
from tests.support.staging_bench import Bench, array, group

MADE = {"zarr.json": group(), "a/zarr.json": array((8,), (1,)), "a/c/0": b"0", "a/c/1": b"1", "b/zarr.json": group()}
WANTED = {
    "zarr.json": group(),
    "a/zarr.json": array((8,), (1,)),
    "a/c/0": b"new",
    "a/c/5": b"5",
    "d/zarr.json": group(),
    "n/zarr.json": array((2,), (1,)),
    "n/c/0": b"n",
}


def changed(directory: Path, fuse: Fuse) -> Bench:
    """Makes a tree whose changes are of every kind."""
    bench = Bench(directory, MemoryStorage(), io=FullDisk(fuse), open_journal=full_journal(fuse))
    bench.write_all(MADE)
    bench.commit("made")
    bench.write("a/c/0", b"new")
    bench.write("a/c/5", b"5")
    bench.remove("a/c/1")
    bench.rename("b", "d")
    bench.write_all({key: data for key, data in WANTED.items() if key.startswith("n/")})
    return bench


def attempt(bench: Bench) -> StorageError | None:
    try:
        bench.commit("theirs")
    except StorageError as error:
        return error
    return None


@pytest.mark.parametrize("is_new_process", [False, True])
def test_a_commit_on_a_failing_disk_is_made_or_not_and_loses_nothing(tmp_path: Path, is_new_process: bool) -> None:
    fuse = Fuse()
    failed = 0
    for place in range(60):
        bench = changed(tmp_path / f"{place}", fuse)
        before = bench.committed()
        fuse.blow(place)
        error = attempt(bench)
        is_whole = error is None and fuse.left is not None and fuse.left >= 0
        if error is not None:
            failed += 1
            assert "malformed" not in error.message
            assert str(tmp_path / f"{place}") in error.message or "spool file" in error.message, error.message
            assert error.hint
        fuse.mend()
        assert bench.committed() in (before, WANTED)
        if is_new_process:
            bench.work.close()
            bench.open()
        assert bench.tree() == WANTED
        with contextlib.suppress(NothingToCommitError):
            bench.commit("all of it")
        assert bench.committed() == WANTED
        assert bench.tree() == WANTED
        bench.work.close()
        if is_whole:
            break
    assert failed
    assert is_whole, "the commit makes more calls than were tried"

"""An edited `zarr.json` that has no place for chunks of the base: dropped chunks are reported once and completely."""

import pytest

from icefs.engine.history.diff import diff_snapshots
from icefs.errors import InvalidInputError
from icefs.storage.memory import MemoryStorage
from icefs.vfs.commit.staged_report import StagedReport
from tests.support.staging_bench import Bench, array, group

CHUNKS = {f"a/c/{i}/{j}": bytes([i, j]) * (300 if (i + j) % 2 else 5) for i in range(4) for j in range(4)}
FILES = {"zarr.json": group(), "a/zarr.json": array((40, 40), (10, 10)), **CHUNKS}
ALL = {(i, j) for i in range(4) for j in range(4)}


@pytest.fixture(params=[2, 1], ids=["v2", "v1"])
def bench(request, tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage(), spec_version=request.param)
    bench.write_all(FILES)
    bench.commit("first")
    yield bench
    bench.work.close()


def report(bench):
    return StagedReport(bench.staged(), bench.session)


def told(bench, path="a"):
    """Returns the indices that `diff` has as written, deleted and dropped, having compared `status` with it."""
    made = report(bench)
    diff, status = made.details(), made.summary
    chunks = diff["chunks"].get(path, {"written": [], "deleted": []})
    dropped = [one for one in diff["dropped_chunks"] if one["path"] == path]
    for one, counted in zip(diff["dropped_chunks"], status["dropped_chunks"], strict=True):
        assert counted == {key: value for key, value in one.items() if key != "chunks"}
        assert counted["count"] == len(one["chunks"])
    counts = status["chunks"].get(path, {"written": 0, "deleted": 0})
    assert (counts["written"], counts["deleted"]) == (len(chunks["written"]), len(chunks["deleted"]))
    rows = [row for one in dropped for row in one["chunks"]]
    return tuple({tuple(row["index"]) for row in some} for some in (chunks["written"], chunks["deleted"], rows))


EDITS = {
    "smaller": (array((20, 35), (10, 10)), {(2, 0), (2, 1), (2, 2), (2, 3), (3, 0), (3, 1), (3, 2), (3, 3)}, "[2, 4]"),
    "larger chunks": (array((40, 40), (40, 20)), ALL - {(0, 0), (0, 1)}, "[1, 2]"),
    "empty": (array((0, 40), (10, 10)), ALL, "[0, 4]"),
    "another separator": (array((40, 40), (10, 10), separator="."), ALL, "c.0.0 for c/0/0"),
    "another encoding": (array((40, 40), (10, 10), encoding="v2"), ALL, "0/0 for c/0/0"),
    "another encoding and smaller": (array((20, 40), (10, 10), encoding="v2"), ALL, "0/0 for c/0/0"),
    "another rank": (array((160,), (10,)), ALL, "1 now, and was 2"),
    "a scalar": (array((), ()), ALL, "0 now, and was 2"),
    "a group": (group(), ALL, "a group has no chunks"),
}


@pytest.mark.parametrize(("data", "gone", "reason"), EDITS.values(), ids=EDITS)
def test_what_an_edit_drops_is_told(bench, data, gone, reason):
    bench.write("a/zarr.json", data)
    assert told(bench) == (set(), set(), gone)
    (dropped,) = report(bench).summary["dropped_chunks"]
    assert reason in dropped["reason"]
    assert all(path in bench.tree() for path in CHUNKS)  # to the last
    done = bench.commit()
    assert done.facts["dropped_chunks"] == [dropped]
    kept = {f"a/c/{i}/{j}" for i, j in ALL - gone}
    assert bench.committed().keys() == bench.tree().keys() == {"zarr.json", "a/zarr.json", *kept}
    assert not bench.work.has_changes()


@pytest.mark.parametrize("data", [array((45, 40), (10, 10)), array((40, 40), (10, 10)) + b" "], ids=["larger", "same"])
def test_an_edit_that_has_a_place_for_all_drops_nothing(bench, data):
    bench.write("a/zarr.json", data)
    assert told(bench) == (set(), set(), set())
    assert bench.commit().facts["dropped_chunks"] == []
    assert bench.committed().keys() == FILES.keys()


def test_chunks_that_lie_within_a_smaller_grid_are_not_dropped(bench):
    for index in ((2, 0), (3, 3)):
        bench.remove("a/c/{}/{}".format(*index))
    bench.commit()
    bench.write("a/zarr.json", array((30, 40), (10, 10)))
    assert told(bench) == (set(), set(), {(3, 0), (3, 1), (3, 2)})


@pytest.mark.parametrize("edit", EDITS)
def test_a_chunk_that_was_removed_is_deleted_and_not_dropped(bench, edit):
    data, gone, _ = EDITS[edit]
    bench.write("a/zarr.json", data)
    for name in ("3/0", "3/3", "0/0"):
        bench.remove(f"a/c/{name}")
    bench.remove("a/c/2")
    removed = {(3, 0), (3, 3), (0, 0), (2, 0), (2, 1), (2, 2), (2, 3)}
    written, deleted, dropped = told(bench)
    assert not written
    assert dropped == gone - removed
    # Where the array's chunks are no more those of the base, there is nothing that a deletion could be of.
    assert deleted == (set() if edit in ("another rank", "a scalar", "a group") else removed)
    bench.commit()
    kept = {f"a/c/{i}/{j}" for i, j in ALL - gone - removed}
    assert bench.committed().keys() == {"zarr.json", "a/zarr.json", *kept}


def test_chunks_under_their_new_names_are_not_dropped(bench):
    bench.write("a/zarr.json", array((40, 40), (10, 10), separator="."))
    bench.write("a/c.0.0", b"written anew")
    bench.rename("a/c/1/1", "a/c.1.1")
    assert told(bench) == ({(0, 0), (1, 1)}, set(), ALL - {(0, 0), (1, 1)})
    bench.commit()
    assert bench.committed().keys() == {"zarr.json", "a/zarr.json", "a/c.0.0", "a/c.1.1"}


def test_a_renamed_array_that_is_smaller_now(bench):
    bench.rename("a", "b")
    bench.write("b/zarr.json", array((20, 40), (10, 10)))
    bench.remove("b/c/3")
    assert told(bench, "b")[2] == {(2, j) for j in range(4)}
    bench.commit()
    assert bench.committed().keys() == {"zarr.json", "b/zarr.json", *(f"b/c/{i}/{j}" for i in (0, 1) for j in range(4))}


def test_chunks_that_were_moved_out_of_the_grid_with_their_directory(bench):
    bench.rename("a/c/1", "a/c/7")
    written, deleted, dropped = told(bench)
    assert (written, deleted, dropped) == (set(), {(1, j) for j in range(4)}, set())
    # No zarr.json was edited: their names are wrong, as of files that somebody wrote there.
    invalid = [(f"a/c/7/{j}", "is outside of the grid [4, 4] of /a") for j in range(4)]
    assert sorted(bench.staged().invalid) == invalid
    with pytest.raises(InvalidInputError, match="4 files cannot be committed"):
        bench.commit()
    bench.commit(skip_invalid=True)
    assert sorted(bench.staged().invalid) == invalid
    assert {f"a/c/7/{j}" for j in range(4)} <= bench.tree().keys()


def test_chunks_of_a_renamed_array_that_were_removed_are_deleted(bench):
    bench.rename("a", "b")
    bench.remove("b/c/3")
    assert told(bench, "b") == (set(), {(3, j) for j in range(4)}, set())
    facts = bench.commit().facts
    assert (facts["nodes"], facts["chunks"]) == (1, 4)


def test_an_array_that_was_moved_away_and_back_and_is_smaller(bench):
    bench.rename("a", "b")
    bench.rename("b", "a")
    bench.write("a/zarr.json", array((10, 40), (10, 10)))
    assert told(bench) == (set(), set(), {(i, j) for i in (1, 2, 3) for j in range(4)})


def test_chunks_whose_directory_was_moved_away_and_back(bench):
    bench.rename("a/c/3", "kept")
    bench.remove("a/c")
    bench.mkdir("a/c")
    bench.rename("kept", "a/c/3")
    assert told(bench) == (set(), {(i, j) for i in range(3) for j in range(4)}, set())
    bench.write("a/zarr.json", array((10, 40), (10, 10)))
    assert told(bench) == (set(), {(i, j) for i in range(3) for j in range(4)}, {(3, j) for j in range(4)})
    bench.commit()
    assert bench.committed().keys() == {"zarr.json", "a/zarr.json"}


def test_an_array_that_was_deleted_whole_and_made_anew_drops_nothing(bench):
    bench.remove("a")
    bench.write("a/zarr.json", group())
    assert told(bench) == (set(), set(), set())
    assert report(bench).summary["deleted_nodes"] == ["a"]


def test_a_scalar_that_becomes_a_group(tmp_path):
    bench = Bench(tmp_path / "tree", MemoryStorage())
    bench.write_all({"s/zarr.json": array((), ()), "s/c": b"one"})
    bench.commit("first")
    bench.write("s/zarr.json", group())
    assert told(bench, "s") == (set(), set(), {()})
    bench.remove("s/c")
    assert told(bench, "s") == (set(), set(), set())
    bench.work.close()


def test_a_commit_counts_chunks_without_those_that_it_drops(bench):
    bench.write("a/zarr.json", array((20, 40), (10, 10)))
    bench.write("a/c/0/0", b"new")
    facts = bench.commit().facts
    assert (facts["nodes"], facts["chunks"]) == (1, 1)
    assert [(one["path"], one["count"]) for one in facts["dropped_chunks"]] == [("a", 8)]
    bench.write("a/zarr.json", array((20, 40), (10, 10), separator="."))
    facts = bench.commit().facts
    assert (facts["nodes"], facts["chunks"]) == (1, 0)
    assert [(one["path"], one["count"]) for one in facts["dropped_chunks"]] == [("a", 8)]


def test_a_diff_of_snapshots_lists_what_a_smaller_grid_dropped(bench):
    before = bench.repository.lookup_branch("main")
    bench.write("a/zarr.json", array((20, 40), (10, 10)))
    done = bench.commit()
    diff = diff_snapshots(bench.repository.context, before, done.snapshot_id)
    assert {tuple(index) for index in diff.updated_chunks["/a"]} == {(i, j) for i in (2, 3) for j in range(4)}

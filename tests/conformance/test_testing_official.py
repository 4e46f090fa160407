"""`icefs.testing` has the strategies and invariants of `icechunk.testing`, and they do what their names say."""

import asyncio
import importlib
import inspect
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import icechunk
import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings

import icefs
from icefs.testing import invariants, strategies

# What the official library has besides, with the reason.
MISSING = {
    "models": "a store to compare with: zarr-python's MemoryStore, with moves; a program's tests choose their own",
    "trees": "hierarchies that these tests compare by; zarr.testing.strategies makes such",
    "utils": "helpers of the library's own tests",
}


@pytest.mark.parametrize("name", ["strategies", "invariants"])
def test_the_official_names_are_there(name: str) -> None:
    official = importlib.import_module(f"icechunk.testing.{name}")
    ours = importlib.import_module(f"icefs.testing.{name}")
    assert set(official.__all__) == set(ours.__all__)
    for function in official.__all__:
        theirs, mine = (inspect.signature(getattr(each, function)).parameters for each in (official, ours))
        assert [(each.name, each.kind) for each in theirs.values()] == [
            (each.name, each.kind) for each in mine.values()
        ]


def test_what_is_missing_is_listed() -> None:
    modules = {path.stem for path in Path(str(icechunk.__file__)).parent.joinpath("testing").glob("[a-z]*.py")}
    assert modules - {"strategies", "invariants"} == MISSING.keys()


def arrays() -> list[Any]:
    group = zarr.open_group(zarr.storage.MemoryStore(), mode="w")
    group.create_array("plain", shape=(4, 6), chunks=(2, 3), dtype="i4")
    group.create_array("named", shape=(5,), chunks=(1,), dtype="i4", dimension_names=["time"])
    group.create_array("scalar", shape=(), dtype="i4")
    return [array for _, array in group.arrays()]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_configurations_make_repositories(data: st.DataObject) -> None:
    splitting = strategies.splitting_configs(arrays=arrays())
    config = data.draw(
        strategies.repository_configs(inline_chunk_threshold_bytes=st.integers(0, 600), splitting=splitting)
    )
    assert 1 <= (config.num_updates_per_repo_info_file or 0) <= 5
    storage = icefs.in_memory_storage()
    icefs.Repository.create(storage, config)
    assert icefs.Repository.open(storage).config.manifest.splitting == config.manifest.splitting


@given(data=st.data())
def test_configurations_of_another_library(data: st.DataObject) -> None:
    assert isinstance(data.draw(strategies.repository_configs(ic_module=icechunk)), icechunk.RepositoryConfig)


@given(data=st.data())
def test_chunks_lie_in_the_grid(data: st.DataObject) -> None:
    values = np.arange(4 * 9).reshape(4, 9)
    slices = data.draw(strategies.chunk_slicers((2, 3), (2, 3)))
    assert values[slices].shape == (2, 3)
    row, column = map(int, data.draw(strategies.chunk_paths((2, 3))).split("/"))
    assert 0 <= row < 2
    assert 0 <= column < 3


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_times_expire_some_snapshots(data: st.DataObject) -> None:
    storage = icefs.in_memory_storage()
    repo = icefs.Repository.create(storage)
    for number in range(3):
        repo.writable_session("main").commit(str(number), allow_empty=True)
    before = [info.id for info in repo.ancestry(branch="main")]
    cutoff = strategies.draw_older_than(data, storage, repo)
    released = repo.expire_snapshots(cutoff)
    after = list(repo.ancestry(branch="main"))
    assert released <= set(before)
    invariants.assert_ancestry_invariants(after, set(before))


def info(name: str, parent: str | None, second: int) -> icefs.SnapshotInfo:
    return icefs.SnapshotInfo(name, parent, datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=second), "m", {})


FIRST = info("1CECHNKREP0F1RSTCMT0", None, 0)


@pytest.mark.parametrize(
    "history",
    [
        [info("A", FIRST.id, 0), FIRST],  # as old as its parent
        [info("A", FIRST.id, 1), info("A", FIRST.id, 2), FIRST],
        [info("A", None, 1), FIRST],
        [info("B", None, 1)],
        [info("C", "D", 1)],
        [info("unknown", FIRST.id, 1), FIRST],
    ],
)
def test_a_history_that_cannot_be_is_seen(history: list[icefs.SnapshotInfo]) -> None:
    with pytest.raises(AssertionError):
        invariants.assert_ancestry_invariants(history, {"A", "B", "C", FIRST.id})
    invariants.assert_ancestry_invariants([info("A", FIRST.id, 1), FIRST], {"A", FIRST.id})
    invariants.assert_ancestry_invariants([info("B", None, 1)], must_contain_initial=False)


def test_lists_and_moves_are_compared() -> None:
    invariants.assert_list_dir_equal("a", ["c", "zarr.json"], ["zarr.json"])
    for names in (["b"], ["c", "d"]):
        with pytest.raises(AssertionError):
            invariants.assert_list_dir_equal("a", names, ["zarr.json"])
    invariants.assert_moves_sorted_by_final_path([("/x", "/a"), ("/y", "/a/b"), ("/z", "/a-b")])
    for moves in ([], [("/x", "/b"), ("/y", "/a")]):
        with pytest.raises(AssertionError):
            invariants.assert_moves_sorted_by_final_path(moves)
    repo = icefs.Repository.create(icefs.in_memory_storage())
    session = repo.writable_session("main")
    model = zarr.storage.MemoryStore()
    for store in (session.store, model):
        zarr.open_group(store, mode="w").create_group("g")
    asyncio.run(invariants.compare_list_dir(model, session.store, ["", "g"]))
    zarr.open_group(model, mode="a").create_group("h")
    with pytest.raises(AssertionError):
        asyncio.run(invariants.compare_list_dir(model, session.store, [""]))

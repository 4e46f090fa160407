"""zarr-python, xarray and dask write to a mounted branch as they do to any directory."""

import asyncio
import errno
import shutil
import warnings
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr

from tests.support.programs import files_of, start_python, wait_all

A = np.random.default_rng(1).normal(size=(40, 50)).astype("f4")
ZSTD = zarr.codecs.ZstdCodec(level=1)


@pytest.fixture(autouse=True)
def _quiet():
    # What the libraries have to say of consolidated metadata and strings in version 3 is not our business.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def test_zarr_python_creates_overwrites_resizes_appends_and_deletes(branch):
    def create(path):
        group = zarr.open_group(path, mode="w", attributes={"title": "ä"})
        group.create_array("plain", shape=A.shape, chunks=(16, 16), dtype="f4", compressors=None)[:] = A
        group.create_array("packed", shape=A.shape, chunks=(16, 16), dtype="f4", compressors=ZSTD)[:] = A
        group.create_array("sharded", shape=A.shape, chunks=(4, 5), shards=(20, 25), dtype="f4")[:] = A
        group.create_array("deep/er/scalar", shape=(), dtype="i8")[...] = 7
        group.create_array("dots", shape=(9,), chunks=(2,), dtype="u1", chunk_key_encoding={
            "name": "default", "separator": "."})[:] = 3  # fmt: skip
        group.create_array("names", shape=(3,), chunks=(2,), dtype=str)[:] = np.array(["a", "", "ö"], dtype=object)

    def change(path):
        group = zarr.open_group(path, mode="a")
        group["plain"][3:20, 10:30] = -1
        group["packed"].resize((20, 70))
        group["packed"][:, 60:] = 5
        group["sharded"][0, 0] = 99
        group["sharded"].append(A[:10])
        group["dots"][4:] = 0  # the fill value: the chunks go
        group["names"].attrs["units"] = "none"
        del group["deep/er/scalar"]
        group.create_group("new", attributes={"a": [1, 2.5, None, {"b": "c"}]})

    def shrink_and_grow(path):
        group = zarr.open_group(path, mode="a")
        group["plain"].resize((16, 16))
        group["plain"].resize((40, 50))
        del group["deep"]
        group.create_array("packed", shape=(3,), chunks=(1,), dtype="i2", overwrite=True)[:] = 4

    branch.do("zarr", create, change)
    group = branch.official("zarr")
    expected = A.copy()
    expected[3:20, 10:30] = -1
    np.testing.assert_array_equal(group["plain"][:], expected)
    np.testing.assert_array_equal(group["packed"][:, :50], A[:20])
    np.testing.assert_array_equal(group["sharded"][1:], np.concatenate([A, A[:10]])[1:])
    assert list(group["names"][:]) == ["a", "", "ö"]
    assert group.attrs["title"] == "ä"
    branch.do("zarr", shrink_and_grow)
    group = branch.official("zarr")
    assert not group["plain"][16:].any()
    np.testing.assert_array_equal(group["plain"][:16, :16], expected[:16, :16])
    assert group["packed"].shape == (3,)
    branch.remove("zarr")
    assert "zarr" not in branch.official("")


def test_local_store_sets_if_not_exists_by_linking(branch):
    """The present file stays, and no second name is left over."""
    buffer = zarr.core.buffer.default_buffer_prototype().buffer
    group = b'{"zarr_format":3,"node_type":"group","attributes":{"of":"%s"}}'

    async def once(path, who):
        store = await zarr.storage.LocalStore.open(path)
        await asyncio.gather(
            *(store.set_if_not_exists(f"{name}/zarr.json", buffer.from_bytes(group % who)) for name in ("a", "a/b"))
        )
        await store.set_if_not_exists("zarr.json", buffer.from_bytes(group % who))

    branch.do("link", lambda path: asyncio.run(once(path, b"one")), lambda path: (
        asyncio.run(once(path, b"two")), asyncio.run(once(path / "a/c", b"two"))))  # fmt: skip
    assert branch.official("link/a/b").attrs["of"] == "one"
    assert branch.official("link/a/c/a").attrs["of"] == "two"
    assert all(path.stat().st_nlink == 1 for path in (branch.path / "link").rglob("zarr.json"))


def test_the_root_of_a_mounted_branch_cannot_be_made_anew_but_nothing_is_lost(branch):
    """Mode `w` removes the directory, and no mountpoint can be removed; the files that it had removed come back."""
    zarr.open_group(branch.path, mode="a").create_array("kept", shape=(3,), chunks=(1,), dtype="i1")[:] = 1
    branch.commit("kept")
    before = files_of(branch.path)
    with pytest.raises(OSError) as failure:
        zarr.open_group(branch.path, mode="w")
    assert failure.value.errno == errno.EBUSY
    (branch.path / ".icefs/discard").write_text("yes")
    assert files_of(branch.path) == before
    for path in branch.path.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    zarr.open_group(branch.path, mode="a", attributes={"new": True})
    branch.commit("a new root")
    assert files_of(branch.path) == {"zarr.json": branch.committed_files("")["zarr.json"]}


def dataset(start=0, steps=4, scale=1.0):
    time = np.arange(start, start + steps)
    values = scale * (time[:, None, None] + np.arange(12.0).reshape(3, 4))
    return xr.Dataset(
        {"t": (("time", "y", "x"), values), "flag": (("time",), time % 2 == 0)},
        {"time": time, "y": np.arange(3), "name": ("x", np.array(list("abcd"), dtype=object))},
        {"title": "weather"},
    )


@pytest.mark.parametrize("consolidated", [False, True])
def test_xarray_writes_appends_adds_and_fills_regions(branch, consolidated):
    name = f"xarray-{consolidated}"
    write = partial(xr.Dataset.to_zarr, zarr_format=3, consolidated=consolidated)
    chunks = {"t": {"chunks": (2, 3, 2)}}
    branch.do(
        name,
        lambda path: write(dataset(), path, mode="w", encoding=chunks),
        lambda path: write(dataset(4, 3), path, mode="a", append_dim="time"),
        lambda path: write(dataset()[["t"]].rename(t="u").drop_vars("name"), path / "g", mode="a", group="more"),
        lambda path: write(
            dataset(2, 2, -1.0)[["t"]].drop_vars(["y", "name"]), path, mode="r+", region={"time": slice(2, 4)}
        ),
        lambda path: write(-dataset()[["t"]].drop_vars(["y", "name"]), path, mode="a", region={
            "time": slice(0, 4)}),
        lambda path: write(dataset(steps=7)[["t"]].rename(t="v").drop_vars("name"), path, mode="a"),
    )  # fmt: skip
    with xr.open_zarr(branch.session().store, group=name, chunks=None, consolidated=False) as found:
        np.testing.assert_array_equal(found.t, np.concatenate([-dataset().t, dataset(4, 3).t]))
        np.testing.assert_array_equal(found.flag, dataset(steps=7).flag)
        np.testing.assert_array_equal(found.v, dataset(steps=7).t)
    assert b"consolidated_metadata" in branch.committed_files(name)["zarr.json"] or not consolidated
    branch.do(name, lambda path: write(dataset(scale=2.0), path, mode="w"))
    with xr.open_zarr(branch.session().store, group=name, chunks=None, consolidated=consolidated) as found:
        xr.testing.assert_equal(found, dataset(scale=2.0))


def test_dask_writes_from_threads(branch):
    values = np.arange(64 * 48, dtype="i4").reshape(64, 48)
    lazy = xr.Dataset({"v": (("y", "x"), da.from_array(values, chunks=(8, 8)))})
    regions = xr.Dataset({"v": (("y", "x"), da.from_array(-values[16:48], chunks=(16, 16)))})
    with dask.config.set(scheduler="threads", num_workers=8):
        branch.do(
            "threads",
            lambda path: lazy.to_zarr(path, mode="w", zarr_format=3, consolidated=False),
            lambda path: regions.to_zarr(path, mode="r+", region={"y": slice(16, 48)}, consolidated=False),
        )
    expected = values.copy()
    expected[16:48] *= -1
    np.testing.assert_array_equal(branch.official("threads")["v"][:], expected)


def test_dask_writes_from_processes(branch):
    values = np.arange(64 * 48, dtype="i4").reshape(64, 48)
    # Next to the test and not in it: its threads and a fork do not go together.
    program = """
import sys, dask, dask.array as da, numpy as np, zarr
values = np.arange(64 * 48, dtype="i4").reshape(64, 48)
with dask.config.set({"scheduler": "processes", "multiprocessing.context": "fork", "num_workers": 4}):
    da.store(da.from_array(-values, chunks=(8, 16)), zarr.open_array(sys.argv[1], mode="r+"), lock=False)
"""

    def store(path, sign):
        target = zarr.open_array(path, mode="a", shape=values.shape, chunks=(8, 16), dtype="i4")
        da.store(da.from_array(sign * values, chunks=(8, 16)), target, lock=False)

    branch.do("processes", lambda path: store(path, 1))
    wait_all([start_python(program, branch.path / "processes")])
    store(branch.plain / "processes", -1)
    branch.check_commit("processes")
    np.testing.assert_array_equal(branch.official("processes")[:], -values)


def test_copies_of_trees_with_shutil(branch, tmp_path):
    zarr.create_array(tmp_path / "a", shape=A.shape, chunks=(8, 8), dtype="f4")[:] = A
    zarr.create_array(tmp_path / "b", shape=A.shape, chunks=(8, 8), dtype="f4")[:] = 2 * A
    branch.do(
        "tree",
        lambda path: shutil.copytree(tmp_path / "a", path),
        lambda path: shutil.copytree(tmp_path / "b", path, dirs_exist_ok=True),
    )
    np.testing.assert_array_equal(branch.official("tree")[:], 2 * A)

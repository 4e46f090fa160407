"""The README's recipes for a laptop, for a node of a cluster, and for programs of others, followed to the letter."""

import subprocess
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from icefs.daemon.mountinfo import mount_table
from tests.support.mounting import scratch_directory
from tests.support.readme import recipe, run_recipe
from tests.support.virtual_samples import PACKED, days


@pytest.fixture
def home():
    with scratch_directory() as name:
        yield Path(name)
        for entry in mount_table():
            if entry.mountpoint.startswith(f"{name}/"):
                subprocess.run(["fusermount3", "-uz", entry.mountpoint], check=True)


def read(home):
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(home / "weather")))
    return repository, zarr.open_group(repository.readonly_session("main").store, mode="r")


def test_the_laptop_and_then_the_cluster_and_then_ncdump(home):
    told = run_recipe(recipe("laptop"), home)
    assert f"mounted {home}/weather at {home}/mnt" in told
    assert "committed" in told
    assert "Ten days of temperature" in told
    repository, group = read(home)
    expected = np.arange(30.0).reshape(10, 3)
    np.testing.assert_array_equal(group["temperature"][:], expected)

    told = run_recipe(recipe("merge"), home)
    assert "would merge calibration into main: 0 nodes, 1 chunk" in told
    assert "merged calibration into main: 0 nodes, 1 chunk" in told
    repository, group = read(home)
    np.testing.assert_array_equal(group["temperature"][0], expected[0] + 0.5)  # restored
    np.testing.assert_array_equal(group["temperature"][1:], expected[1:])
    merged = next(info for info in repository.ancestry(branch="main") if info.message == "Merge calibration into main")
    then = zarr.open_group(repository.readonly_session(snapshot_id=merged.id).store, mode="r")
    np.testing.assert_array_equal(then["temperature"][0], expected[0] + 0.5)

    told = run_recipe(recipe("copies"), home)
    assert "branch mine created" in told
    assert "branch main is there already" in told
    assert "compared" in told
    copy = icechunk.Repository.open(icechunk.local_filesystem_storage(str(home / "weather-copy")))
    assert repository.lookup_branch("mine") == copy.lookup_branch("main")
    assert [info.id for info in copy.ancestry(branch="main")] == [
        info.id for info in repository.ancestry(branch="main")
    ]

    run_recipe("icefs revert main --repo ~/weather", home)
    told = run_recipe(recipe("hpc"), home, SLURM_JOB_ID="4711")
    assert "unmounted" in told
    repository, group = read(home)
    np.testing.assert_array_equal(group["copy"][:], expected)
    assert next(iter(repository.ancestry(branch="main"))).message == "job 4711"
    assert not [entry for entry in mount_table() if entry.mountpoint.startswith(str(home))]

    told = run_recipe(recipe("views"), home)
    assert "double temperature(" in told
    assert "27, 28, 29 ;" in told


@pytest.mark.filterwarnings("ignore")  # zarr-python warns of codecs that the specification lacks
def test_netcdf_files_in_one_commit(home):
    (home / "data").mkdir()
    for number in range(2):
        days(4 * number).to_netcdf(home / f"data/day-{number}.nc", encoding=PACKED)
    late = {**PACKED, "time": {"units": "hours since 2020-01-05", "dtype": "i8"}}
    days(8).to_netcdf(home / "data/late.nc", encoding=late)
    told = run_recipe(recipe("files"), home)
    assert "would copy 4 arrays of 2 files" in told
    assert "--allow-virtual" in told
    repository = icechunk.Repository.open(icechunk.local_filesystem_storage(str(home / "era5")))
    store = repository.readonly_session("main").store
    with (
        xr.open_mfdataset(str(home / "data/*.nc"), combine="by_coords") as originals,
        xr.open_zarr(store, consolidated=False) as copy,
    ):
        xr.testing.assert_identical(copy.load(), originals.load())
    assert zarr.open_group(store, path="where-they-are", mode="r")["t2m"].shape == (8, 10, 12)

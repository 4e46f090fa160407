"""The README's recipes for a laptop, for a node of a cluster, and for programs of others, followed to the letter."""

import subprocess
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.daemon.mountinfo import mount_table
from tests.support.mounting import scratch_directory
from tests.support.readme import recipe, run_recipe


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

    told = run_recipe(recipe("hpc"), home, SLURM_JOB_ID="4711")
    assert "unmounted" in told
    repository, group = read(home)
    np.testing.assert_array_equal(group["copy"][:], expected)
    assert next(iter(repository.ancestry(branch="main"))).message == "job 4711"
    assert not [entry for entry in mount_table() if entry.mountpoint.startswith(str(home))]

    told = run_recipe(recipe("views"), home)
    assert "double temperature(" in told
    assert "27, 28, 29 ;" in told

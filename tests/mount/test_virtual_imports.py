"""`icefs import --virtual`, and the mount that it says to make: xarray reads the originals' values."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr

from tests.support.mounting import mounted
from tests.support.virtual_samples import series

ICEFS = Path(sys.executable).with_name("icefs")


def icefs(*arguments):
    return subprocess.run([ICEFS, *map(str, arguments)], check=True, capture_output=True, text=True).stdout


@pytest.mark.filterwarnings("ignore")  # zarr-python warns of codecs that the specification lacks
def test_a_mount_shows_the_originals(tmp_path):
    (tmp_path / "files").mkdir()
    paths = series(tmp_path / "files")
    repo = tmp_path / "repo"
    icefs("init", repo)
    first = icefs("import", "--virtual", *paths[:2], repo, "--concat", "time", "-m", "two files")
    assert first.splitlines()[-1].endswith(f"--allow-virtual file://{tmp_path}/files/")
    done = json.loads(icefs("import", "--virtual", paths[2], repo, "--concat", "time", "--append", "--json"))
    with (
        mounted(repo, allow_virtual=tuple(done["allow_virtual"])) as mount,
        xr.open_mfdataset(paths, combine="by_coords") as originals,
        xr.open_zarr(mount / "branches/main", consolidated=False) as found,
    ):
        xr.testing.assert_identical(found.load(), originals.load())

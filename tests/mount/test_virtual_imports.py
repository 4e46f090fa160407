"""`icefs import --virtual` and `--copy`, and mounts of the repository: xarray reads the originals' values."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import icechunk
import numpy as np
import pytest
import xarray as xr
import zarr

from tests.support.mounting import mounted
from tests.support.virtual_samples import days, make, series, settled

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


# --- ten kinds of files, in one repository and one mount ---


def by_xarray(write, group=""):
    """Returns how a file is made, and how xarray opens it; the values of a `days` data set."""

    def make_one(path):
        write(days(0), path)
        return xr.open_dataset(path, group=group or None, engine="zarr" if path.suffix == ".zarr" else None).load()

    return make_one, group


def by_reader(kind):
    """Returns how a sample is made that xarray has no reader for; its values are those of the format's own."""

    def make_one(path):
        made, expected = make(kind, path.parent)
        made.rename(path)
        return {name: np.asarray(values) for name, values in expected.items()}

    return make_one, ""


def netcdf(**more):
    return lambda data, path: data.to_netcdf(path, **more)


def zarr_tree(**more):
    return lambda data, path: data.to_zarr(path, consolidated=False, **more)


PACKED_DAYS = {"t2m": {"zlib": True, "shuffle": True, "chunksizes": (3, 4, 5)}}
TEN = {
    "netcdf4.nc": by_xarray(netcdf(engine="netcdf4", encoding=PACKED_DAYS)),
    "contiguous.nc": by_xarray(netcdf(engine="netcdf4", encoding={"t2m": {"contiguous": True}})),
    "netcdf3.nc": by_xarray(netcdf(engine="scipy", format="NETCDF3_64BIT")),
    "groups.h5": by_xarray(
        netcdf(engine="h5netcdf", group="deep/in", encoding={"t2m": {"chunksizes": (2, 5, 6)}}), "deep/in"
    ),
    "zarr2.zarr": by_xarray(zarr_tree(zarr_format=2)),
    "zarr3.zarr": by_xarray(zarr_tree(zarr_format=3)),
    "sharded.zarr": by_xarray(zarr_tree(zarr_format=3, encoding={"t2m": {"chunks": (2, 5, 6), "shards": (4, 10, 12)}})),
    "grib.grib2": by_reader("grib"),
    "image.tif": by_reader("tiff"),
    "sky.fits": by_reader("fits"),
}


def arrays_in(store, group):
    """Returns the arrays of a group by name; and under no name the first image, which GRIB has other names for."""
    opened = zarr.open_group(store, path=group, mode="r")
    found = {name: array[...] for name, array in opened.members(max_depth=None) if isinstance(array, zarr.Array)}
    large = [np.squeeze(values) for values in found.values() if values.ndim >= 2]
    return {**found, "": large[0]}


def check(original, store, group):
    """Compares a file with what a store has of it."""
    if isinstance(original, dict):
        found = arrays_in(store, group)
        for name, values in original.items():
            np.testing.assert_array_equal(found[name], values)
        return
    with xr.open_zarr(store, group=group, consolidated=False) as found:
        xr.testing.assert_equal(found.load(), original.load())
        assert found["t2m"].attrs == original["t2m"].attrs


@pytest.mark.filterwarnings("ignore")  # zarr-python warns of codecs that the specification lacks
@pytest.mark.parametrize("way", ["--virtual", "--copy"])
def test_ten_kinds_of_files_equal_their_originals(tmp_path, way):
    (tmp_path / "files").mkdir()
    repo, originals, allow = tmp_path / "repo", {}, set()
    icefs("init", repo)
    for name, (make_one, _) in TEN.items():
        path = tmp_path / "files" / name
        originals[name] = make_one(path)
        settled(path)
        done = json.loads(icefs("import", way, path, repo, "--path", f"/{name}", "-m", name, "--json"))
        assert done["invalid"] == []
        allow.update(done.get("allow_virtual", ()))
    assert bool(allow) == (way == "--virtual")
    if way == "--copy":
        shutil.rmtree(tmp_path / "files")  # they are needed no more
    official = icechunk.Repository.open(
        icechunk.local_filesystem_storage(str(repo)),
        authorize_virtual_chunk_access=icechunk.containers_credentials(dict.fromkeys(allow)),
    )
    with mounted(repo, allow_virtual=tuple(allow)) as mount:
        for name, (_, group) in TEN.items():
            below = f"{name}/{group}".rstrip("/")
            check(originals[name], mount / "branches/main", below)
            check(originals[name], official.readonly_session("main").store, below)

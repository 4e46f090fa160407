"""What others' programs read from views, on a real mount, is what zarr-python reads from the Zarr keys."""

import shutil
import subprocess

import netCDF4
import numpy as np
import pytest

from tests.support import view_judges as judges

TREES = ["branch", "tag", "snapshot"]
CLIMATE = ["time", "lat", "lon", "lat_bnds", "sparse", "t2m"]
TYPES = ["big", "f4", "f8", "flag", "i1", "i2", "i4", "i8", "scalar", "transposed", "u1", "u2", "u4", "u8"]
FILL = -32768

NETCDF4 = {
    "ncdump": judges.ncdump,
    "ncks": judges.ncks,
    "netCDF4": judges.netcdf4,
    "xarray-netcdf4": judges.xarray_with("netcdf4"),
    "xarray-h5netcdf": judges.xarray_with("h5netcdf"),
    "h5py": judges.hdf5,
    "gdal": judges.gdal,
    "R": judges.ncdf4_of_r,
    "octave": judges.octave,
}
NETCDF3 = {
    "ncdump": judges.ncdump,
    "ncks": judges.ncks,
    "netCDF4": judges.netcdf4,
    "xarray-scipy": judges.xarray_with("scipy"),
    "gdal": judges.gdal,
    "R": judges.ncdf4_of_r,
    "octave": judges.octave,
}
ZARR2 = {
    "zarr-python-2": judges.zarr_python_2,
    "zarr-python-3": judges.zarr_python_3,
    "z5py": judges.z5,
    "gdal": judges.gdal,
    "ncdump": judges.as_zarr(judges.ncdump),
    "ncks": judges.as_zarr(judges.ncks),
    "netCDF4": judges.as_zarr(judges.netcdf4),
}


def no_fill(name, values):
    """Returns values with NaN where a temperature is missing."""
    values = np.asarray(values, "f8").ravel()
    return np.where(values == FILL, np.nan, values) if name == "t2m" else values


def check(viewed, kind, group, found, names):
    expected = viewed.values(kind, group)
    assert list(found) == list(names)
    for name, values in found.items():
        np.testing.assert_array_equal(no_fill(name, values), no_fill(name, expected[name][...]), err_msg=name)


def climate_of(kind):
    return [*CLIMATE, "staged"] if kind == "branch" else CLIMATE


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("judge", NETCDF4)
def test_netcdf4(viewed, kind, judge):
    names = climate_of(kind)
    check(viewed, kind, "", NETCDF4[judge](viewed.view(kind, "netcdf") / "root.nc", names), names)
    if kind == "branch":  # the same for all trees
        check(viewed, kind, "types", NETCDF4[judge](viewed.view(kind, "netcdf") / "types.nc", TYPES), TYPES)


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("judge", NETCDF3)
def test_classic_netcdf(viewed, kind, judge):
    names = climate_of(kind)
    check(viewed, kind, "", NETCDF3[judge](viewed.view(kind, "netcdf3") / "root.nc", names), names)


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("judge", ZARR2)
def test_zarr_2(viewed, kind, judge):
    names = climate_of(kind)
    check(viewed, kind, "", ZARR2[judge](viewed.view(kind, "zarr2"), names), names)
    if kind == "branch":
        check(viewed, kind, "types", ZARR2[judge](viewed.view(kind, "zarr2") / "types", TYPES), TYPES)


@pytest.mark.parametrize("judge", ["zarr-python-2", "zarr-python-3", "z5py", "gdal"])
def test_zarr_2_with_the_bytes_of_the_chunks(viewed, judge):
    view = viewed.view("branch", "zarr2,compressed")
    names = climate_of("branch")
    check(viewed, "branch", "", ZARR2[judge](view, names), names)
    check(viewed, "branch", "pyramid", ZARR2[judge](view / "pyramid", ["l0", "l2"]), ["l0", "l2"])


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("view", ["netcdf", "netcdf3"])
def test_programs_for_grids(viewed, kind, view):
    file = viewed.view(kind, view) / "root.nc"
    expected = no_fill("t2m", viewed.values(kind, "")["t2m"][...])
    [found] = judges.rasterio_netcdf(file, ["t2m"]).values()
    np.testing.assert_array_equal(no_fill("t2m", found), expected)
    [found] = judges.cdo(file, ["t2m"]).values()
    is_there = ~np.isnan(expected)
    np.testing.assert_allclose(found[is_there], expected[is_there] * 0.01 + 273.15, rtol=1e-8)
    assert len(set(found[~is_there])) == 1
    assert "t2m" in judges.output_of("/usr/bin/cdo", "-s", "showname", str(file))
    assert f"{len(expected) // 48}" in judges.output_of("/usr/bin/gdalinfo", f'NETCDF:"{file}":t2m')


@pytest.mark.parametrize("kind", TREES)
def test_numpy_maps_arrays(viewed, kind):
    for group, names in (("", climate_of(kind)), ("types", TYPES), ("pyramid", ["l0", "l1", "l2"])):
        expected = viewed.values(kind, group)
        for name in names:
            mapped = np.load(
                viewed.view(kind, "npy") / group / f"{name}.npy", mmap_mode="r" if name != "scalar" else None
            )
            np.testing.assert_array_equal(mapped, expected[name][...], err_msg=name)
            assert mapped.shape == expected[name].shape
    assert np.load(viewed.view(kind, "npy") / "odd names/1st & last.npy").tolist() == [0, 1, 2]
    assert np.load(viewed.view(kind, "npy") / "outer/inner/deep.npy").tolist() == [0, 1, 2, 3, 4]


def test_groups_pyramids_and_odd_names_as_netcdf(viewed):
    view = viewed.view("tag", "netcdf")
    check(viewed, "tag", "pyramid", judges.ncdump(view / "pyramid.nc", ["l0", "l2"]), ["l0", "l2"])
    check(viewed, "tag", "outer/inner", judges.netcdf4(view / "outer/inner.nc", ["deep"]), ["deep"])
    printed = judges.output_of("/usr/bin/ncdump", str(view / "odd names.nc"))
    assert "0, 1, 2 ;" in printed


def test_an_array_of_twenty_gigabytes_is_read_where_it_is(viewed):
    expected = np.full((5, 6), 1.5, "f4")
    expected[1:4, 1:5] = np.arange(12).reshape(3, 4)
    for view in ("netcdf", "netcdf3"):
        file = viewed.view("tag", view) / "huge.nc"
        assert file.stat().st_size > 20_000_000_000
        with netCDF4.Dataset(file) as dataset:
            dataset.set_auto_mask(False)  # a missing chunk has the fill value
            np.testing.assert_array_equal(dataset["cube"][7, 1999:2004, 4999:5005], expected)
            assert dataset["cube"][49, -1, -1] == 1.5
    cube = np.load(viewed.view("tag", "npy") / "huge/cube.npy", mmap_mode="r")
    assert cube.shape == (50, 10_000, 10_000)
    assert cube[7, 2000:2003, 5000:5004].tolist() == np.arange(12).reshape(3, 4).tolist()
    assert cube[49, 9999, 9999] == 1.5


def test_a_copy_is_the_file(viewed, tmp_path):
    for view in ("netcdf", "netcdf3"):
        file = viewed.view("snapshot", view) / "root.nc"
        subprocess.run(["cp", file, tmp_path / "copy.nc"], check=True)
        assert (tmp_path / "copy.nc").stat().st_size == file.stat().st_size
        assert (tmp_path / "copy.nc").read_bytes() == file.read_bytes()
        check(viewed, "snapshot", "", judges.netcdf4(tmp_path / "copy.nc", CLIMATE), CLIMATE)
    shutil.copytree(viewed.view("snapshot", "npy") / "pyramid", tmp_path / "pyramid")
    np.testing.assert_array_equal(np.load(tmp_path / "pyramid/l1.npy"), viewed.values("snapshot", "pyramid")["l1"][...])

"""What others' programs read from views, on a real mount, is what zarr-python reads from the Zarr keys."""

import shutil
import subprocess

import netCDF4
import numpy as np
import pytest
import xarray

from tests.support import view_judges as judges

TREES = ["branch", "tag", "snapshot"]
CLIMATE = ["time", "lat", "lon", "lat_bnds", "sparse", "t2m"]
TYPES = ["big", "f4", "f8", "flag", "i1", "i2", "i4", "i8", "scalar", "transposed", "u1", "u2", "u4", "u8"]
NUMBERS = ["when", "lag", "half", "c8_real", "c8_imag", "c16_real", "c16_imag"]
KINDS = [*NUMBERS, "texts", "fixed", "bytes"]
GRIDS = ["t2m", "sparse", "lat_bnds"]
LEVELS = ["l0", "l1", "l2"]
NATIVE = ["when", "lag", "half", "fixed", "bytes"]
# Classic files have integers in wider types.
SAME = {"i": "iuf", "u": "iuf"}
FILL = -32768
NOT_A_TIME = float(np.iinfo("i8").min)
# Octave's package knows no NC_STRING: "unknown type 12".
NOT_READ_FROM_NETCDF4 = {("octave", "texts"), ("octave", "fixed")}

NETCDF4 = {
    "ncdump": judges.each(judges.ncdump),
    "ncks": judges.each(judges.ncks),
    "netCDF4": judges.each(judges.netcdf4),
    "xarray-netcdf4": judges.each(judges.xarray_with("netcdf4")),
    "xarray-h5netcdf": judges.each(judges.xarray_with("h5netcdf")),
    "h5py": judges.each(judges.hdf5),
    "gdal": judges.gdal,
    "R": judges.ncdf4_of_r,
    "octave": judges.octave,
}
NETCDF3 = {
    "ncdump": judges.each(judges.ncdump),
    "ncks": judges.each(judges.ncks),
    "netCDF4": judges.each(judges.netcdf4),
    "xarray-scipy": judges.each(judges.xarray_with("scipy")),
    "gdal": judges.gdal,
    "R": judges.ncdf4_of_r,
    "octave": judges.octave,
}
ZARR2 = {
    "zarr-python-2": judges.zarr_python_2,
    "zarr-python-3": judges.each(judges.zarr_python_3),
    "z5py": judges.each(judges.z5),
    "gdal": judges.gdal,
    "ncdump": judges.each(judges.as_zarr(judges.ncdump)),
    "ncks": judges.each(judges.as_zarr(judges.ncks)),
    "netCDF4": judges.each(judges.as_zarr(judges.netcdf4)),
}


def no_fill(name, values):
    """Returns values with NaN where a temperature is missing."""
    values = np.asarray(values, "f8").ravel()
    return np.where(values == FILL, np.nan, values) if name == "t2m" else values


def expected_of(group, name):
    """Returns what a variable shows of the array of its name, or of a complex one."""
    if name not in group:
        base, _, part = name.rpartition("_")
        return getattr(group[base][...], part)
    values = np.asarray(group[name][...])
    if values.dtype.kind in "mM":
        return np.where(np.isnat(values), np.nan, values.view("i8"))
    if values.dtype.kind == "S":
        return np.strings.decode(values, "utf-8")
    return values if values.dtype.kind in "UTO" else values.astype("f8")


def check(viewed, kind, group, found, names):
    expected = viewed.values(kind, group)
    assert list(found) == list(names)
    for name, values in found.items():
        wanted = expected_of(expected, name).ravel()
        if wanted.dtype.kind in "UTO":
            assert values.tolist() == [str(one) for one in wanted], name
            continue
        values = np.where(values == NOT_A_TIME, np.nan, values)
        np.testing.assert_array_equal(no_fill(name, values), no_fill(name, wanted), err_msg=name)


def climate_of(kind):
    return [*CLIMATE, "staged"] if kind == "branch" else CLIMATE


def check_judge(viewed, judge, file_of, names_by_group):
    """Has a program read groups of all trees."""
    asked = [
        (kind, group, climate_of(kind) if not group else names)
        for kind in TREES
        for group, names in names_by_group.items()
    ]
    answers = judge([(file_of(kind, group), names) for kind, group, names in asked])
    for (kind, group, names), found in zip(asked, answers, strict=True):
        check(viewed, kind, group, found, names)


@pytest.mark.parametrize("judge", NETCDF4)
def test_netcdf4(viewed, judge):
    kinds = [name for name in KINDS if (judge, name) not in NOT_READ_FROM_NETCDF4]
    check_judge(
        viewed,
        NETCDF4[judge],
        lambda kind, group: viewed.view(kind, "netcdf") / f"{group or 'root'}.nc",
        {"": CLIMATE, "types": TYPES, "kinds": kinds},
    )


@pytest.mark.parametrize("judge", NETCDF3)
def test_classic_netcdf(viewed, judge):
    check_judge(
        viewed,
        NETCDF3[judge],
        lambda kind, group: viewed.view(kind, "netcdf3") / f"{group or 'root'}.nc",
        {"": CLIMATE, "types": TYPES, "kinds": KINDS},
    )


@pytest.mark.parametrize("judge", ZARR2)
def test_zarr_2(viewed, judge):
    check_judge(
        viewed,
        ZARR2[judge],
        lambda kind, group: viewed.view(kind, "zarr2") / group,
        {"": CLIMATE, "types": TYPES, "kinds": NUMBERS},
    )


@pytest.mark.parametrize("judge", ["zarr-python-2", "zarr-python-3", "z5py", "gdal"])
def test_zarr_2_with_the_bytes_of_the_chunks(viewed, judge):
    check_judge(
        viewed,
        ZARR2[judge],
        lambda kind, group: viewed.view(kind, "zarr2,compressed") / group,
        {"": CLIMATE, "pyramid": LEVELS, **({"types": TYPES, "kinds": NATIVE} if "zarr" in judge else {})},
    )


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("view", ["netcdf", "netcdf3"])
def test_programs_for_grids(viewed, kind, view):
    file = viewed.view(kind, view) / "root.nc"
    expected = no_fill("t2m", viewed.values(kind, "")["t2m"][...])
    for judge in (judges.rasterio_netcdf, judges.gdal_translate):
        check(viewed, kind, "", judge(file, GRIDS), GRIDS)
        check(viewed, kind, "pyramid", judge(file.with_name("pyramid.nc"), LEVELS), LEVELS)
    [found] = judges.cdo(file, ["t2m"]).values()
    is_there = ~np.isnan(expected)
    np.testing.assert_allclose(found[is_there], expected[is_there] * 0.01 + 273.15, rtol=1e-8)
    assert len(set(found[~is_there])) == 1
    check(viewed, kind, "", judges.cdo(file, ["sparse"]), ["sparse"])
    check(viewed, kind, "pyramid", judges.cdo(file.with_name("pyramid.nc"), LEVELS), LEVELS)
    # Scalars are no fields for it.
    types = [name for name in TYPES if name != "scalar"]
    check(viewed, kind, "types", judges.cdo(file.with_name("types.nc"), types), types)
    # It takes dates for a time axis, and no texts.
    numbers = [name for name in NUMBERS if name != "when"]
    check(viewed, kind, "kinds", judges.cdo(file.with_name("kinds.nc"), numbers), numbers)
    assert f"{len(expected) // 48}" in judges.output_of("/usr/bin/gdalinfo", f'NETCDF:"{file}":t2m')


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("view", ["zarr2", "zarr2,compressed"])
def test_rasterio_reads_zarr_2(viewed, kind, view):
    place = viewed.view(kind, view)
    check(viewed, kind, "", judges.rasterio_zarr(place, GRIDS), GRIDS)
    check(viewed, kind, "pyramid", judges.rasterio_zarr(place / "pyramid", LEVELS), LEVELS)


XARRAY = {
    "netcdf-netcdf4": ("netcdf", {"engine": "netcdf4"}),
    "netcdf-h5netcdf": ("netcdf", {"engine": "h5netcdf"}),
    "netcdf3-scipy": ("netcdf3", {"engine": "scipy"}),
    "netcdf3-netcdf4": ("netcdf3", {"engine": "netcdf4"}),
    "zarr2": ("zarr2", {"engine": "zarr", "zarr_format": 2}),
    "zarr2,compressed": ("zarr2,compressed", {"engine": "zarr", "zarr_format": 2}),
}


@pytest.mark.parametrize("view", XARRAY)
def test_what_xarray_makes_of_views_is_what_it_makes_of_the_tree(viewed, view):
    """Decoded as CF says: packed numbers, missing data, times, spans, texts, truth values."""
    name, options = XARRAY[view]
    for kind in TREES:
        for group in ("", "types", "kinds"):
            is_file = "netcdf" in name
            file, chosen = (f"{group or 'root'}.nc", options) if is_file else ("", {**options, "group": group})
            with (
                xarray.open_dataset(viewed.tree(kind), engine="zarr", group=group, consolidated=False) as expected,
                xarray.open_dataset(viewed.view(kind, name) / file, **chosen) as found,
            ):
                check_decoded(expected.load(), found.load(), has_all=is_file or group == "")


def check_decoded(expected, found, *, has_all):
    for name, wanted in expected.variables.items():
        if wanted.dtype.kind == "c" and name not in found:
            values = found[f"{name}_real"].values + 1j * found[f"{name}_imag"].values
        elif name in found or has_all:
            values = found[name].values
            # Where arrays give a name two sizes, plain Zarr v2 has another one; scalars are arrays of one element.
            assert not wanted.dims or [one.partition("_")[0] for one in found[name].dims] == list(wanted.dims)
            if wanted.dtype.kind not in "USTO":
                assert found[name].dtype.kind in SAME.get(wanted.dtype.kind, wanted.dtype.kind), name
        else:
            assert wanted.dtype.kind in "USTO", name  # the view leaves it out
            continue
        if wanted.dtype.kind in "USTO":
            assert texts_of(values) == texts_of(wanted.values), name
        else:
            np.testing.assert_array_equal(values, wanted.values, err_msg=name)


def texts_of(values):
    return [one.decode() if isinstance(one, bytes) else str(one) for one in values.tolist()]


@pytest.mark.parametrize("kind", TREES)
def test_numpy_maps_arrays(viewed, kind):
    kinds = ["when", "lag", "half", "c8", "c16", "fixed", "bytes"]
    for group, names in (("", climate_of(kind)), ("types", TYPES), ("pyramid", LEVELS), ("kinds", kinds)):
        expected = viewed.values(kind, group)
        for name in names:
            mapped = np.load(
                viewed.view(kind, "npy") / group / f"{name}.npy", mmap_mode="r" if name != "scalar" else None
            )
            np.testing.assert_array_equal(mapped, expected[name][...], err_msg=name)
            assert mapped.shape == expected[name].shape
            assert mapped.dtype.newbyteorder("=") == expected[name].dtype.newbyteorder("=")
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

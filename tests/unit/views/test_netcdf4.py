"""NetCDF-4 files, read by netCDF4-python, h5netcdf and xarray."""

import json
import logging
import sys
import warnings

import h5netcdf
import h5py
import netCDF4
import numpy as np
import pytest
import xarray
import zarr
from h5py import h5ds

from icefs.errors import NotShownError, UnsupportedError
from icefs.views.cf.limits import MAX_SMALL_BYTES, MAX_SMALL_ELEMENTS
from icefs.views.interface import HierarchyFacts
from icefs.views.netcdf4.format import NetCdf4Format
from tests.support.netcdf_samples import NUMBERS, climate, every_number, every_other_type, number_name
from tests.support.netcdf_views import FACTS, WrittenDecoder, WrittenHierarchy, read_whole, view_of, write_view

ENGINES = ["netcdf4", "h5netcdf"]


@pytest.fixture
def written(tmp_path):
    def write(tree, **options):
        return write_view(NetCdf4Format(**options), WrittenHierarchy(tree), tmp_path)

    return write


def raw(path):
    dataset = netCDF4.Dataset(path)
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)
    return dataset


def test_groups_are_files_with_directories_next_to_them(written):
    assert [*written(climate)] == ["surface/deep.nc", "surface.nc"]


def test_a_climate_set_has_its_dimensions_and_types(written):
    with raw(written(climate)["surface.nc"]) as surface:
        sizes = {name: len(dimension) for name, dimension in surface.dimensions.items()}
        assert sizes == {"time": 6, "lat": 4, "lon": 5, "nv": 2}
        assert [*surface.variables][:3] == ["time", "lat", "lon"]
        assert surface["t2m"].dimensions == ("time", "lat", "lon")
        assert surface["t2m"].dtype == "i2"
        assert surface["height"].dimensions == ()
        assert surface["time"].units == "hours since 1970-01-01"
        assert surface["time"].dtype == surface["lon"].dtype == "i4"
        assert surface["t2m"].getncattr("_FillValue").dtype == "i2"
        assert surface["t2m"].valid_range.dtype == "i2"
        assert (surface["t2m"].scale_factor, surface["t2m"].add_offset) == (0.01, 273.0)
        assert np.isnan(surface["rain"].getncattr("_FillValue"))
        assert "_FillValue" not in surface["lat_bnds"].ncattrs()
        assert surface.history == "made"
        assert (surface.icefs_repository, surface.icefs_snapshot) == (FACTS.repository, FACTS.snapshot)
        assert surface.icefs_branch == "main"
        assert "icefs_left_out" not in surface.ncattrs()


@pytest.mark.parametrize("engine", ENGINES)
def test_xarray_reads_what_it_reads_of_the_zarr_group(written, engine):
    hierarchy = WrittenHierarchy(climate)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = xarray.open_zarr(hierarchy.store, group="surface", consolidated=False).load()
    with xarray.open_dataset(written(climate)["surface.nc"], engine=engine) as found:
        found.load()
    assert found.sizes == expected.sizes
    for name, variable in expected.variables.items():
        if name == "station":
            assert found[name].values.tolist() == variable.values.tolist()
        else:
            np.testing.assert_array_equal(found[name].values, variable.values)
        assert found[name].dims == variable.dims
        attributes = found[name].attrs
        assert attributes.keys() - {"units", "calendar"} <= variable.attrs.keys()


@pytest.mark.parametrize("reader", [netCDF4.Dataset, h5netcdf.File])
def test_numbers_stay_as_they_are(written, reader):
    expected = zarr.open_group(WrittenHierarchy(every_number).store)
    with reader(written(every_number)["root.nc"]) as dataset:
        assert len(dataset.variables) == len(NUMBERS)
        for dtype in NUMBERS:
            name = number_name(dtype)
            found = dataset.variables[name][...]
            assert found.dtype.newbyteorder("=") == np.dtype(dtype).newbyteorder("=")
            np.testing.assert_array_equal(np.asarray(found), expected[name][...])


def test_types_that_netcdf_has_under_other_names(written, caplog):
    with caplog.at_level(logging.INFO, "icefs.views"):
        path = written(every_other_type)["root.nc"]
    with raw(path) as root:
        assert root["flags"].dtype == "u1"
        assert root["flags"][:].tolist() == [1, 0, 1]
        assert root["half"].dtype == "f4"
        np.testing.assert_array_equal(root["half"][:], np.array([0.5, 65504, np.nan], "f4"))
        assert root["c8_real"][:].tolist() == [1, 0, 0]
        assert root["c8_imag"][:].tolist() == [2, 0, -1]
        assert root["c8_real"].icefs_name == "c8"
        assert "_FillValue" not in root["c8_real"].ncattrs()
        assert np.isnan(root["c16_imag"].getncattr("_FillValue"))
        missing = np.iinfo("i8").min
        assert root["days"][:].tolist() == [1, missing, -98615]
        assert root["days"].getncattr("_FillValue") == missing
        assert root["days"].units == "days since 1970-01-01"
        assert root["months"][:].tolist() == [31, missing, 18322]
        assert root["tens"][:].tolist() == [10, 20, 30]
        assert root["tens"].units == "seconds since 1970-01-01"
        assert root["fine"].icefs_units == "picoseconds since 1970-01-01"
        assert root["spans"][:].tolist() == [1, missing, -3]
        assert root["texts"][:].tolist() == ["a", "", "ünï"]
        assert root["wide"][:].tolist() == ["a", "", "ünïx"]
        assert netCDF4.chartostring(root["narrow"][:]).tolist() == ["a", "", "wxyz"]
        left_out = root.icefs_left_out.splitlines()
    assert [line.partition(":")[0] for line in left_out] == ["/raw", "/struct", "/years"]
    assert "/struct: NetCDF has no type for structures" in caplog.text


@pytest.mark.parametrize("engine", ENGINES)
def test_xarray_decodes_types(written, engine):
    with xarray.open_dataset(written(every_other_type)["root.nc"], engine=engine) as found:
        found.load()
    assert found["flags"].values.tolist() == [True, False, True]
    np.testing.assert_array_equal(found["days"].values, np.array(["1970-01-02", "NaT", "1700-01-01"], "M8[s]"))
    np.testing.assert_array_equal(found["months"].values, np.array(["1970-02", "NaT", "2020-03"], "M8[s]"))
    np.testing.assert_array_equal(found["spans"].values, np.array([1, "NaT", -3], "m8[ms]"))
    assert found["narrow"].values.tolist() == [b"a", b"", b"wxyz"]


MANY = MAX_SMALL_ELEMENTS + 1


def test_many_texts_are_characters_where_their_width_is_known(written):
    def tree(root):
        wide = root.create_array("wide", shape=(MANY,), chunks=(MANY,), dtype="U2")
        wide[:] = np.array(["é\U0001f600", "", "a"] + ["bb"] * (MANY - 3))
        root.create_array("narrow", shape=(MANY,), chunks=(MANY,), dtype="S2")[:] = b"xy"
        root.create_array("any", shape=(MANY,), chunks=(MANY,), dtype="str")
        root.create_array("huge", shape=(MANY,), chunks=(MANY,), dtype="U2000")

    with netCDF4.Dataset(written(tree)["root.nc"]) as root:
        assert root["wide"].dimensions == ("wide_dim0", "string8")
        assert root["wide"][:4].tolist() == ["é\U0001f600", "", "a", "bb"]
        assert netCDF4.chartostring(root["narrow"][-2:]).tolist() == ["xy", "xy"]
        any_text, huge = root.icefs_left_out.splitlines()
        assert any_text == f"/any: it has {MANY} texts of any length, too many to be read while a file is laid out"
        assert huge == "/huge: its texts have up to 8000 bytes each, and a view shows at most 4096"


def test_texts_that_others_leave_no_room_for_are_left_out(written):
    def tree(root):
        for name in ("first", "second"):
            root.create_array(name, shape=(1,), dtype="str")[:] = np.array(["x" * (MAX_SMALL_BYTES * 5 // 8)], object)
        root.create_array("huge", shape=(1,), dtype="str")[:] = np.array(["x" * (MAX_SMALL_BYTES + 1)], object)

    with netCDF4.Dataset(written(tree)["root.nc"]) as root:
        assert list(root.variables) == ["first"]
        huge, second = sorted(root.icefs_left_out.splitlines())
        assert huge == "/huge: its texts are too large to be read while a file is laid out"
        assert second.startswith("/second: ")
        assert "other arrays of the file" in second


def test_an_array_without_elements_has_an_unlimited_dimension(written):
    def tree(root):
        root.create_array("empty", shape=(0, 3), chunks=(1, 3), dtype="i4", dimension_names=("x", "y"))

    with netCDF4.Dataset(written(tree)["root.nc"]) as root:  # the library takes a length of 0 for "unlimited"
        assert root.dimensions["x"].isunlimited()
        assert not root.dimensions["y"].isunlimited()
        assert root["empty"].shape == (0, 3)


def test_texts_that_c_cannot_hold_are_left_out(written):
    def tree(root):
        root.create_array("nul", shape=(1,), dtype="str")[:] = np.array(["a\0b"], object)
        root.create_array("ok", shape=(1,), dtype="str")[:] = np.array(["a"], object)

    with raw(written(tree)["root.nc"]) as root:
        assert [*root.variables] == ["ok"]
        assert "/nul: one of its texts has the character 0" in root.icefs_left_out


COORDINATES = [
    ("i8", [1, 2], "i4", [1, 2], None),
    ("i8", [2**40, 2], "f8", [2**40, 2], None),
    ("i8", [2**53 + 1, 2], "i8", [2**53 + 1, 2], None),
    ("u8", [2**64 - 1, 2], "u8", [2**64 - 1, 2], None),
    ("M8[ns]", [0, 86_400 * 10**9], "i4", [0, 1], "days since 1970-01-01"),
    ("M8[ns]", [0, 60 * 10**9], "i4", [0, 1], "minutes since 1970-01-01"),
    ("M8[ns]", [0, 1], "i4", [0, 1], "nanoseconds since 1970-01-01"),
    ("M8[ns]", [2**60 + 1, 1], "i8", [2**60 + 1, 1], "nanoseconds since 1970-01-01"),
    ("M8[h]", [0, 2**40], "f8", [0, 2**40], "hours since 1970-01-01"),
    ("M8[s]", ["NaT", 1], "i8", [-(2**63), 1], "seconds since 1970-01-01"),
]


@pytest.mark.parametrize(("dtype", "values", "shown", "numbers", "units"), COORDINATES)
def test_coordinates_are_read_by_old_programs_where_that_is_exact(written, dtype, values, shown, numbers, units):
    def tree(root):
        made = root.create_array("x", shape=(2,), dtype=dtype, dimension_names=["x"])
        made[:] = np.array(values, dtype if dtype[0] != "M" or "NaT" in values else "i8").view(dtype)

    with raw(written(tree)["root.nc"]) as root:
        assert root["x"].dtype == shown
        assert root["x"][:].tolist() == numbers
        assert getattr(root["x"], "units", None) == units


def test_long_coordinates_are_not_read_while_a_file_is_laid_out():
    def tree(root):
        root.create_array("x", shape=(MANY,), chunks=(MANY,), dtype="i8", dimension_names=["x"])
        root.create_array("t", shape=(MANY,), chunks=(MANY,), dtype="M8[ns]", dimension_names=["t"])

    hierarchy = WrittenHierarchy(tree)
    decoder = WrittenDecoder(hierarchy)
    NetCdf4Format().root(hierarchy, decoder).find("root.nc").layout()
    assert len(decoder.opened) == 2
    assert not any(elements.reads for elements in decoder.opened.values())


def test_fill_values_of_coordinates_mark_nothing(written):
    def tree(root):
        root.create_array("x", shape=(2,), dtype="f8", fill_value=np.nan, dimension_names=["x"])[:] = 1
        root.create_array("v", shape=(2,), dtype="f8", fill_value=np.nan, dimension_names=["x"])[:] = 1

    with raw(written(tree)["root.nc"]) as root:
        assert root["x"].ncattrs() == []
        assert np.isnan(root["v"].getncattr("_FillValue"))


def test_fill_values_of_another_type_are_left_out_and_named(written):
    def tree(root):
        root.create_array("v", shape=(2,), dtype="i2", attributes={"_FillValue": 70000, "valid_max": 70000})

    with raw(written(tree)["root.nc"]) as root:
        assert root["v"].ncattrs() == ["valid_max"]
        assert root.icefs_left_out == "/v: attribute _FillValue: it is no value of the type int16 that it is shown in"


def test_half_floats_are_kept_where_asked_for(written):
    with h5netcdf.File(written(every_other_type, keeps_half=True)["root.nc"]) as root:
        assert root["half"].dtype == "f2"
        np.testing.assert_array_equal(root["half"][:], np.array([0.5, 65504, np.nan], "f2"))


def test_hdf5_takes_the_dimension_scales_for_its_own(written):
    with h5py.File(written(climate)["surface.nc"], "r+") as surface:
        t2m = surface["t2m"]
        for axis, name in enumerate(["time", "lat", "lon"]):
            scale = surface[name]
            assert h5ds.is_scale(scale.id)
            assert h5ds.is_attached(t2m.id, scale.id, axis)
            assert not h5ds.is_attached(t2m.id, scale.id, (axis + 1) % 3)
            h5ds.detach_scale(t2m.id, scale.id, axis)
            h5ds.attach_scale(t2m.id, scale.id, axis)
            assert h5ds.is_attached(t2m.id, scale.id, axis)
            assert h5ds.is_attached(surface["rain"].id, scale.id, axis)


def test_groups_inside_of_one_file(written):
    files = written(climate, has_groups=True)
    assert [*files] == ["root.nc"]
    with raw(files["root.nc"]) as root:
        assert root.title == "tëst"
        assert root.levels.tolist() == [1, 2]
        assert root.names == ["a", "b"]
        assert json.loads(root.nested) == {"a": [1]}
        assert root["surface"].history == "made"
        assert root["surface/t2m"][4, 3, 4] == 99
        assert root["surface/deep/x"][:].tolist() == [[1, 2, 3], [4, 5, 6]]
        assert root["surface/deep/x"].dimensions == ("x_dim0", "x_dim1")
    with xarray.open_datatree(files["root.nc"], engine="h5netcdf") as tree:
        assert tree["surface/deep/x"].values.tolist() == [[1, 2, 3], [4, 5, 6]]


def pyramid(root):
    group = root.create_group("p")
    for level, size in enumerate((8, 4, 2)):
        group.create_array(str(level), shape=(size, size), dtype="u1", dimension_names=["y", "x"])[:] = level
    group.create_array("y", shape=(4,), dtype="f4", dimension_names=["y"])[:] = [1, 2, 3, 4]
    group.create_array("square", shape=(4, 4), dtype="u1", dimension_names=["y", "y"])[:] = np.eye(4)
    group.create_array("skew", shape=(4, 3), dtype="u1", dimension_names=["y", "y"])[:] = 7


def test_arrays_that_disagree_have_files_of_their_own(written):
    files = written(pyramid)
    assert [*files] == ["p/1.nc", "p/2.nc", "p.nc"] or [*files] == ["p/0.nc", "p/1.nc", "p/2.nc", "p.nc"]
    with raw(files["p.nc"]) as together:
        assert len(together.dimensions["y"]) == 4
        assert together["square"].dimensions == ("y", "y")
        assert together["skew"].dimensions == ("y", "skew_dim1")
        np.testing.assert_array_equal(together["square"][:], np.eye(4))
        assert "2: a file of its own" in together.icefs_elsewhere
    with raw(files["p/2.nc"]) as apart:
        assert apart["2"][:].tolist() == [[2, 2], [2, 2]]
        assert [*apart.variables] == ["2"]


def test_a_file_of_its_own_has_the_coordinates_that_fit(written):
    with raw(written(pyramid)["p/1.nc"]) as apart:
        assert [*apart.variables] == ["y", "1"]
        assert apart["1"][:].tolist() == [[1] * 4] * 4


def test_groups_inside_rename_dimensions_that_disagree(written):
    with raw(written(pyramid, has_groups=True)["root.nc"]) as root:
        group = root["p"]
        assert len(group.dimensions["y"]) == 4
        assert group["0"].dimensions == ("y~2", "x")
        assert json.loads(group["0"].icefs_dimension_names) == ["y", "x"]
        for level, size in enumerate((8, 4, 2)):
            np.testing.assert_array_equal(group[str(level)][:], np.full((size, size), level))


def odd_names(root):
    for number, name in enumerate(["100%", "-x", "é", "e\u0301", "a b", "x" * 240, "_nc4_non_coord_x", "x ", "c_real"]):
        attributes = {"a/b": 1, "": 2, "NAME": 3, "_FillValue": 99}
        made = root.create_array(name, shape=(2,), dtype="i4", dimension_names=["a/b"], attributes=attributes)
        made[:] = number
    root.create_array("c", shape=(2,), dtype="c8", dimension_names=["a/b"])[:] = 1 + 2j
    root.create_array("coord", shape=(2, 3), dtype="i4", dimension_names=["coord", "z"])[:] = 5
    root.create_array("z", shape=(2, 3), dtype="i4", dimension_names=["a/b", "z"])[:] = 6


def test_names_that_netcdf_forbids_are_mapped_and_said(written):
    with raw(written(odd_names)["root.nc"]) as root:
        for number, (name, shown) in enumerate(
            [("100%", "100%25"), ("-x", "_%2Dx"), ("é", "é"), ("e\u0301", "e%CC%81"), ("a b", "a b")]
        ):
            variable = root[shown]
            assert variable[:].tolist() == [number, number]
            assert variable.dimensions == ("a%2Fb",)
            assert json.loads(variable.icefs_dimension_names) == ["a/b"]
            assert getattr(variable, "icefs_name", name) == name
            assert variable.getncattr("a%2Fb") == 1
            assert variable.getncattr("_%") == 2
            assert variable.getncattr("_%4EAME") == 3
        assert root["_%5Fnc4_non_coord_x"].icefs_name == "_nc4_non_coord_x"
        assert root["x%20"][:].tolist() == [7, 7]
        assert root["c_real"][:].tolist() == [8, 8]
        assert root["c_real~2"][:].tolist() == [1, 1]
        assert root["coord"].dimensions == ("coord", "z")
        assert root["coord"][:].tolist() == [[5] * 3] * 2
        assert root["z"].dimensions == ("a%2Fb", "z")
        assert root["z"][:].tolist() == [[6] * 3] * 2
        assert len(root.variables) == 13


def clashing(root):
    root.create_array("a", shape=(1,), dtype="i4")[:] = 1
    root.create_group("root").create_array("b", shape=(1,), dtype="i4")[:] = 2
    root.create_group("g").create_array("c", shape=(1,), dtype="i4")[:] = 3
    root.create_group("g.nc").create_group("below").create_array("d", shape=(1,), dtype="i4")[:] = 4
    root.create_group("n" * 254).create_array("e", shape=(1,), dtype="i4")[:] = 5


def test_file_names_do_not_clash(written):
    files = written(clashing)
    long_name = next(name for name in files if name.startswith("nnn"))
    assert {*files} == {"root.nc", "root~2.nc", "g~2.nc", "g.nc/below.nc", long_name}
    assert len(long_name) <= 255
    with raw(files["root~2.nc"]) as file:
        assert file["b"][:].tolist() == [2]


def test_no_elements_and_unused_coordinates(written):
    def tree(root):
        root.create_array("time", shape=(0,), dtype="f8", dimension_names=["time"])
        root.create_array("x", shape=(3,), dtype="f8", dimension_names=["x"])[:] = 1
        root.create_array("v", shape=(0, 3), dtype="f4", dimension_names=["time", "x"])
        root.create_array("texts", shape=(0,), dtype="str", dimension_names=["time"])

    path = written(tree)["root.nc"]
    with raw(path) as root:
        assert root["v"].shape == (0, 3)
        assert root["texts"].shape == (0,)
    with xarray.open_dataset(path, engine="h5netcdf") as found:
        assert found["v"].shape == (0, 3)


def test_an_array_that_is_the_root():
    hierarchy = WrittenHierarchy(lambda root: zarr.create_array(root.store, shape=(2,), dtype="i4", overwrite=True))
    assert [*view_of(NetCdf4Format(), hierarchy)] == ["root.nc"]


def test_facts_of_uncommitted_changes(tmp_path):
    facts = HierarchyFacts("s3://b/r", "X", is_staged=True)
    with raw(write_view(NetCdf4Format(), WrittenHierarchy(climate, facts), tmp_path)["surface.nc"]) as surface:
        assert surface.icefs_uncommitted_changes == "shown"
        assert "icefs_branch" not in surface.ncattrs()


def test_layouts_of_equal_hierarchies_are_equal():
    made = []
    for _ in range(2):
        files = view_of(NetCdf4Format(has_groups=True), WrittenHierarchy(climate))
        made.append(read_whole(files["root.nc"].layout(), 1 << 20))
    assert made[0] == made[1]


def test_no_times_of_day_are_in_a_file(written):
    """Two layouts of one version must have equal bytes, whenever they are made."""
    with h5py.File(written(climate, has_groups=True)["root.nc"]) as root:
        objects = [root["/"]]
        root.visititems(lambda _, found: objects.append(found))
        assert len(objects) > 10
        assert not any(found.id.get_create_plist().get_obj_track_times() for found in objects)


def test_pieces_of_any_size_make_the_same_file():
    layout = view_of(NetCdf4Format(), WrittenHierarchy(climate))["surface.nc"].layout()
    whole = bytes(layout.read(0, layout.size))
    assert len(whole) == layout.size
    for piece in (1, 7, 511, 4096):
        assert read_whole(layout, piece) == whole


def test_times_of_files_are_those_of_the_newest_array():
    hierarchy = WrittenHierarchy(climate)
    times = {node.path: node.time_ns for node in hierarchy.nodes()}
    root = NetCdf4Format().root(hierarchy, WrittenDecoder(hierarchy))
    surface = {path: time for path, time in times.items() if path.startswith("/surface") and "deep" not in path}
    assert root.find("surface.nc").time_ns == max(surface.values())
    assert root.find("surface").time_ns == max(time for path, time in times.items() if path.startswith("/surface"))
    assert root.time_ns == max(times.values())
    assert root.find("none.nc") is None


def test_files_of_petabytes_have_small_layouts():
    def tree(root):
        for number in range(200):
            root.create_array(
                f"v{number}", shape=(10**7, 10**6), chunks=(10**5, 10**5), dtype="f8", fill_value=1.5,
                dimension_names=["y", "x"],
            )  # fmt: skip

    layout = view_of(NetCdf4Format(), WrittenHierarchy(tree))["root.nc"].layout()
    assert layout.size > 200 * 8 * 10**13
    assert bytes(layout.read(layout.size // 2, 16)) in np.full(4, 1.5).tobytes()


@pytest.mark.parametrize(("count", "fits"), [(2, True), (5, False)])
def test_arrays_larger_than_a_file_are_left_out_or_refused(caplog, count, fits):
    def tree(root):
        for number in range(count):
            root.create_array(f"v{number}", shape=(2**30, 2**27), chunks=(2**20, 2**20), dtype="f8")
        root.create_array("huge", shape=(2**40, 2**40), chunks=(2**20, 2**20), dtype="f8")

    file = view_of(NetCdf4Format(), WrittenHierarchy(tree))["root.nc"]
    if fits:
        with caplog.at_level(logging.INFO, "icefs.views"):
            assert 2**61 < file.layout().size < 2**62
        assert "/huge: it is larger than a file can be" in caplog.text
    else:
        with pytest.raises(NotShownError, match="more than a file can have"):
            file.layout()


def test_h5py_is_asked_for_by_name(monkeypatch):
    """Without it a view lists its files, and laying one out says which package is missing."""
    monkeypatch.setitem(sys.modules, "h5py", None)
    monkeypatch.delitem(sys.modules, "icefs.views.netcdf4.template", raising=False)
    files = view_of(NetCdf4Format(), WrittenHierarchy(climate))
    with pytest.raises(UnsupportedError, match="NetCDF-4 files need h5py") as caught:
        files["surface.nc"].layout()
    assert caught.value.hint == "pip install 'icefs[views]'"
    assert not isinstance(caught.value, NotShownError)

"""Classic files, read by scipy, netCDF4-python and xarray."""

import warnings

import netCDF4
import numpy as np
import pytest
import xarray
import zarr
from scipy.io import netcdf_file

from icefs.errors import DecodeError
from icefs.paths import NodePath
from icefs.views.cf.limits import MAX_SMALL_ELEMENTS
from icefs.views.cf.model import Dataset, Dimension, Variable
from icefs.views.interface import Source
from icefs.views.netcdf3.format import NetCdf3Format, layout_of
from icefs.views.netcdf3.plan import Plan, plan_of
from icefs.views.netcdf3.records import RecordPart, RecordSource
from tests.support.netcdf_samples import NUMBERS, climate, every_number, every_other_type, number_name
from tests.support.netcdf_views import WrittenHierarchy, read_whole, view_of, write_view


@pytest.fixture
def written(tmp_path):
    def write(tree):
        return write_view(NetCdf3Format(), WrittenHierarchy(tree), tmp_path)

    return write


def raw(path):
    dataset = netCDF4.Dataset(path)
    dataset.set_auto_maskandscale(False)
    dataset.set_auto_chartostring(False)
    return dataset


@pytest.mark.parametrize("engine", ["scipy", "netcdf4"])
def test_xarray_reads_what_it_reads_of_the_zarr_group(written, engine):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = xarray.open_zarr(WrittenHierarchy(climate).store, group="surface", consolidated=False).load()
    with xarray.open_dataset(written(climate)["surface.nc"], engine=engine) as found:
        found.load()
    assert found.sizes == expected.sizes
    for name, variable in expected.variables.items():
        if name == "station":
            assert found[name].values.tolist() == variable.values.tolist()
        else:
            np.testing.assert_array_equal(found[name].values, variable.values)
        assert found[name].dims == variable.dims


def test_types_are_those_of_classic_files(written):
    files = written(climate)
    with raw(files["surface.nc"]) as surface:
        assert surface.data_model == "NETCDF3_64BIT_OFFSET"
        assert surface["t2m"].dtype == "i2"
        assert surface["t2m"].getncattr("_FillValue") == -9999
        assert surface["lon"].dtype == "i4"
        assert surface["station"].dimensions == ("lat", "string9")
        assert surface["station"].getncattr("_Encoding") == "utf-8"
    with netcdf_file(files["surface/deep.nc"], mmap=False) as deep:
        assert deep.variables["x"][:].tolist() == [[1, 2, 3], [4, 5, 6]]


CLASSIC = {
    "i1": "i1",
    "i2": "i2",
    "i4": "i4",
    "i8": "f8",
    "u1": "i2",
    "u2": "i4",
    "u4": "f8",
    "u8": "f8",
    "f4": "f4",
    "f8": "f8",
}


def exact_numbers(root):
    """As all numbers, with 64-bit ones that are floats."""
    every_number(root)
    for name in ("little_i8", "big_i8", "little_u8", "big_u8"):
        root[name][0] = np.array([0, 2**31, 2**53, 2**53 + 2, 1])


def test_numbers_stay_the_same(written):
    expected = zarr.open_group(WrittenHierarchy(exact_numbers).store)
    with netcdf_file(written(exact_numbers)["root.nc"], mmap=False) as dataset:
        assert len(dataset.variables) == len(NUMBERS)
        for dtype in NUMBERS:
            name = number_name(dtype)
            found = dataset.variables[name][...]
            assert found.dtype == np.dtype(CLASSIC[dtype[1:]]).newbyteorder(">")
            np.testing.assert_array_equal(found, expected[name][...])


def test_numbers_that_are_not_exact_are_errors_and_never_other_numbers():
    def tree(root):
        root.create_array("ok", shape=(3,), dtype="i4")[:] = [1, 2, 3]
        root.create_array("wide", shape=(4,), dtype="i8")[:] = [1, 2**53 + 1, 2, 3]

    layout = view_of(NetCdf3Format(), WrittenHierarchy(tree))["root.nc"].layout()
    start = layout.size - 32
    assert np.frombuffer(layout.read(start - 12, 12), ">i4").tolist() == [1, 2, 3]
    assert np.frombuffer(layout.read(start, 8), ">f8") == [1]
    assert np.frombuffer(layout.read(start + 16, 16), ">f8").tolist() == [2, 3]
    with pytest.raises(DecodeError, match="not exact as a float"):
        layout.read(start, 16)


def test_large_integers_are_floats_without_being_read():
    def tree(root):
        size = MAX_SMALL_ELEMENTS + 1
        root.create_array("wide", shape=(size,), chunks=(size,), dtype="i8")[:] = np.arange(size)

    layout = view_of(NetCdf3Format(), WrittenHierarchy(tree))["root.nc"].layout()
    found = np.frombuffer(layout.read(layout.size - 8 * (MAX_SMALL_ELEMENTS + 1), layout.size), ">f8")
    np.testing.assert_array_equal(found, np.arange(MAX_SMALL_ELEMENTS + 1))


def test_types_that_classic_files_have_under_other_names(written):
    path = written(every_other_type)["root.nc"]
    with xarray.open_dataset(path, engine="scipy", decode_times=False) as root:
        root.load()
    assert root["flags"].values.tolist() == [True, False, True]
    np.testing.assert_array_equal(root["half"].values, np.array([0.5, 65504, np.nan], "f4"))
    assert root["c8_imag"].values.tolist() == [2, 0, -1]
    assert root["months"].values[[0, 2]].tolist() == [31, 18322]
    assert np.isnan(root["months"].values[1])
    assert root["texts"].values.tolist() == root["texts"].values.tolist() == ["a", "", "ünï"]
    assert root["wide"].values.tolist() == ["a", "", "ünïx"]
    assert root["narrow"].values.tolist() == [b"a", b"", b"wxyz"]
    assert [line.partition(":")[0] for line in root.attrs["icefs_left_out"].splitlines()] == [
        "/raw",
        "/struct",
        "/years",
    ]


class Counted(Source):
    """Bytes that say which variable and which place they are of."""

    def __init__(self, seed):
        self.seed = seed

    def read(self, start, stop):
        return ((np.arange(start, stop) * 31 + self.seed * 17) % 251).astype("u1").tobytes()


def dataset_of(sizes, *variables):
    made = Dataset([Dimension(name, size) for name, size in sizes.items()])
    names = [*sizes]
    for number, (name, dimensions, dtype) in enumerate(variables):
        positions = tuple(names.index(dimension) for dimension in dimensions)
        made.variables.append(Variable(name, NodePath(f"/{name}"), positions, np.dtype(dtype), {}, Counted(number)))
    return made


def reasons(plan):
    return {one.path: one.reason for one in plan.left_out}


def test_one_large_variable_is_the_last():
    plan = plan_of(dataset_of({"x": 2**30}, ("large", "x", ">f8"), ("small", "", ">f8")))
    assert [variable.name for variable in plan.fixed] == ["small", "large"]
    assert not plan.records
    assert not plan.left_out


def test_large_variables_have_records():
    sizes = {"t": 1000, "x": 2**24, "y": 4}
    variables = [("a", "tx", ">f8"), ("b", "tx", ">f4"), ("c", "xt", ">f8"), ("t", "t", ">f8"), ("d", "yx", ">f4")]
    plan = plan_of(dataset_of(sizes, *variables))
    assert [variable.name for variable in plan.records] == ["a", "b", "t"]
    assert [variable.name for variable in plan.fixed] == ["d"]
    assert reasons(plan) == {
        "/c": "classic NetCDF has the dimension t, which has records here, only as the first of a variable"
    }


def test_too_large_and_too_long_variables_are_left_out():
    sizes = {"x": 2**31, "y": 2**30, "z": 3}
    plan = plan_of(
        dataset_of(sizes, ("long", "x", ">i1"), ("a", "zyy", ">f8"), ("b", "zyy", ">f8"), ("ok", "z", ">i1"))
    )
    assert reasons(plan) == {
        "/long": "classic NetCDF has dimensions of at most 2147483647 elements",
        "/a": "it is larger than classic NetCDF allows",
        "/b": "it is larger than classic NetCDF allows",
    }
    assert [variable.name for variable in plan.fixed] == ["ok"]


def test_dimensions_of_no_elements():
    sizes = {"none": 0, "no": 0, "x": 3}
    plan = plan_of(
        dataset_of(
            sizes, ("a", ["none", "x"], ">f8"), ("b", ["x", "none"], ">f8"), ("c", ["no"], ">f8"), ("d", "x", ">f8")
        )
    )
    assert [variable.name for variable in plan.records] == ["a"]
    assert [variable.name for variable in plan.fixed] == ["d"]
    assert reasons(plan).keys() == {"/b", "/c"}


RECORDS = [
    [("a", ["t"], ">f8"), ("b", ["t", "x"], ">i2"), ("c", ["t", "x"], ">f4"), ("d", ["x"], "i1")],
    [("only", ["t", "x"], "i1"), ("d", ["x"], ">i2")],
    [("only", ["t"], ">i2")],
    [("only", ["t", "x"], ">f8")],
]


@pytest.mark.parametrize("variables", RECORDS)
@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_records_are_read_by_scipy_and_the_library(tmp_path, variables, count):
    sizes = {"t": count, "x": 3}
    dataset = dataset_of(sizes, *variables)
    records = [variable for variable in dataset.variables if variable.dimensions[0] == 0]
    fixed = [variable for variable in dataset.variables if variable not in records]
    layout = layout_of(dataset, Plan(fixed, records, 0, []))
    path = tmp_path / "records.nc"
    path.write_bytes(read_whole(layout, 11))
    assert path.read_bytes() == bytes(layout.read(0, layout.size))
    with netcdf_file(path, mmap=False) as by_scipy, raw(path) as by_library:
        assert by_library.dimensions["t"].isunlimited()
        for number, (name, dimensions, dtype) in enumerate(variables):
            shape = tuple(sizes[dimension] for dimension in dimensions)
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            expected = np.frombuffer(Counted(number).read(0, size), dtype).reshape(shape)
            assert by_library[name].shape == shape
            np.testing.assert_array_equal(by_library[name][...], expected)
            np.testing.assert_array_equal(by_scipy.variables[name][...], expected)


def test_ranges_of_records_are_those_of_all_records():
    source = RecordSource(
        [RecordPart(0, 5, Counted(1)), RecordPart(8, 2, Counted(2)), RecordPart(12, 0, Counted(3))], 12
    )
    whole = bytes(source.read(0, 120))
    assert whole[8:10] == Counted(2).read(0, 2)
    assert whole[12:17] == Counted(1).read(5, 10)
    for start in range(0, 120, 5):
        for stop in range(start + 1, 121, 7):
            assert bytes(source.read(start, stop)) == whole[start:stop]


def test_petabytes_are_records_that_are_not_built_in_memory():
    sizes = {"t": 10**6, "x": 2**28}
    dataset = dataset_of(sizes, ("a", "tx", ">f8"), ("b", "tx", ">f8"))
    layout = layout_of(dataset, plan_of(dataset))
    assert layout.size > 4 * 10**15
    start = 12345 * 2**32 + 1000
    assert len(layout.read(start, 100)) == 100


def test_attributes_that_classic_files_have_not(written):
    def tree(root):
        root.attrs.update(
            wide=2**40, list=[2**40, 1], unsigned=2**63, texts=["a", "é"], empty="", byte=True, inexact=2**53 + 1
        )
        root.create_array("x", shape=(1,), dtype="u1", fill_value=255)[:] = 1

    with raw(written(tree)["root.nc"]) as root:
        assert root.wide == 2.0**40
        assert root.list.tolist() == [2.0**40, 1]
        assert root.unsigned == 2.0**63
        assert root.texts == '["a", "é"]'
        assert root.empty == ""
        assert root.byte == 1
        assert root.inexact == str(2**53 + 1)
        assert root["x"].getncattr("_FillValue") == 255
        assert root["x"].getncattr("_FillValue").dtype == "i2"

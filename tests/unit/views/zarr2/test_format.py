"""The format zarr2: what zarr-python, z5 and netCDF-C read of it."""

import json

import numpy as np
import pytest
import z5py
import zarr

from icefs.views.interface import ViewDirectory
from icefs.views.zarr2.format import Zarr2Format
from icefs.zarr.reader import KeyReader
from tests.support.view_files import (
    SketchedDecoder,
    SketchedHierarchy,
    array_document,
    content,
    regular,
    shown,
    view_of,
    write_out,
)
from tests.support.viewed import repository_of

PLAIN = ["bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", ">i4", ">f8"]
NATIVE = [*PLAIN, "c8", "c16", "M8[ns]", "M8[10s]", "m8[s]", "S5", "U4", "V3", ">U3"]
VALUES = np.arange(35).reshape(7, 5)


def values_of(dtype):
    return VALUES.astype(f"S{dtype[1:]}").astype(dtype) if dtype.startswith("V") else VALUES.astype(dtype)


def every_type(dtypes):
    def write(root):
        for number, dtype in enumerate(dtypes):
            made = root.create_array(
                f"a{number}", shape=VALUES.shape, chunks=(3, 2), dtype=dtype, dimension_names=("t", "x")
            )
            made[:] = values_of(dtype)

    return write


def metadata(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_every_type_of_numbers_is_read_by_zarr_python_and_z5(tmp_path):
    target = shown(every_type(PLAIN), Zarr2Format(), tmp_path / "v2")
    opened = zarr.open_group(target, mode="r", zarr_format=2, use_consolidated=False)
    with z5py.File(str(target), "r") as file:
        for number, dtype in enumerate(PLAIN):
            found = opened[f"a{number}"]
            assert found.chunks == (3, 2)
            np.testing.assert_array_equal(found[...], values_of(dtype))
            np.testing.assert_array_equal(file[f"a{number}"][...], values_of(dtype))
    assert (target / "a0/0.0").stat().st_size == 6  # whole chunks, one byte each
    assert (target / "a6/2.2").stat().st_size == 24


def test_libraries_of_v2_get_every_type(tmp_path):
    target = shown(every_type(NATIVE), Zarr2Format(keeps_compressed=True), tmp_path / "v2")
    opened = zarr.open_group(target, mode="r", zarr_format=2)
    for number, dtype in enumerate(NATIVE):
        np.testing.assert_array_equal(opened[f"a{number}"][...], values_of(dtype))
    assert metadata(target / "a6/.zarray")["compressor"]["id"] == "zstd"


def test_chunks_keep_their_bytes_where_v2_has_a_name_for_their_codecs(tmp_path):
    def write(root):
        root.create_array("gzip", shape=(4,), dtype="i4", compressors=zarr.codecs.GzipCodec())[:] = 1
        root.create_array(
            "both", shape=(4,), dtype="i4", compressors=[zarr.codecs.GzipCodec(), zarr.codecs.ZstdCodec()]
        )[:] = 2
        root.create_array("shards", shape=(8, 4), chunks=(2, 2), shards=(4, 4), dtype="i4")[:4] = 3
        transposed = root.create_array(
            "order",
            shape=(2, 3),
            dtype="i4",
            filters=zarr.codecs.TransposeCodec(order=(1, 0)),
            serializer=zarr.codecs.BytesCodec(endian="big"),
            compressors=None,
        )
        transposed[:] = np.arange(6).reshape(2, 3)
        root.create_array("texts", shape=(3,), dtype=str)[:] = np.array(["a", "ü", ""], object)

    repository = repository_of(write)
    target = write_out(view_of(repository, Zarr2Format(keeps_compressed=True)), tmp_path / "v2")
    opened = zarr.open_group(target, mode="r", zarr_format=2)
    stored = KeyReader(repository.readonly_session("main"))
    assert (target / "gzip/0").read_bytes() == stored.read("gzip/c/0")
    assert metadata(target / "gzip/.zarray")["compressor"] == {"id": "gzip", "level": 5}
    assert metadata(target / "both/.zarray")["compressor"] is None
    assert metadata(target / "shards/.zarray")["chunks"] == [2, 2]
    names = {path.name for path in (target / "shards").iterdir()}
    assert names == {".zarray", ".zattrs", "0.0", "0.1", "1.0", "1.1"}
    assert metadata(target / "order/.zarray") | {"order": "F", "dtype": ">i4"} == metadata(target / "order/.zarray")
    assert opened["gzip"][...].tolist() == [1] * 4
    assert opened["both"][...].tolist() == [2] * 4
    assert opened["shards"][...].tolist() == [[3] * 4] * 4 + [[0] * 4] * 4
    assert opened["order"][...].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert opened["texts"][...].tolist() == ["a", "ü", ""]


def test_times_have_units_and_complex_numbers_are_two_arrays(tmp_path):
    def write(root):
        root.create_array("time", shape=(2,), dtype="M8[ns]")[:] = np.array(["2020-01-01", "NaT"], "M8[ns]")
        root.create_array("tens", shape=(2,), dtype="m8[10s]", attributes={"units": "x"})[:] = np.array(
            [1, 2], "m8[10s]"
        )
        root.create_array("z", shape=(2,), dtype="c8")[:] = [1 + 2j, 3 - 4j]

    target = shown(write, Zarr2Format(), tmp_path / "v2")
    opened = zarr.open_group(target, mode="r", zarr_format=2)
    assert opened["time"].attrs["units"] == "nanoseconds since 1970-01-01 00:00:00"
    assert opened["time"][...].tolist() == [1_577_836_800 * 10**9, -(2**63)]
    assert opened["tens"].attrs["units"] == "seconds"
    assert opened["tens"][...].tolist() == [10, 20]
    assert opened["z_real"][...].tolist() == [1, 3]
    assert opened["z_imag"][...].tolist() == [2, -4]
    assert "z" not in opened


def test_what_is_not_shown_is_named(tmp_path):
    def write(root):
        root.create_array("texts", shape=(1,), dtype="U3")
        root.create_array("none", shape=(0, 2), dtype="i4")
        inside = root.create_group("g")
        inside.create_array("z", shape=(1,), dtype="c8")
        inside.create_array("z_real", shape=(1,), dtype="f4")

    repository = repository_of(write)
    view = view_of(repository, Zarr2Format())
    reasons = {one.path: one.reason for one in view.left_out()}
    assert reasons == {
        "/none": "it has no elements, and netCDF-C opens no Zarr v2 with such an array in it",
        "/texts": "programs that read Zarr v2 as NetCDF know no arrays of texts",
        "/g/z": "there is another array z_real",
    }
    root = json.loads(content(view.find(".zattrs")))
    assert root["icefs_left_out"].startswith("none: it has no elements")
    assert root["icefs_snapshot"] == str(repository.lookup_branch("main"))
    assert root["icefs_branch"] == "main"
    assert view.find("texts") is None
    assert [name for name, _ in view.list()] == [".zattrs", ".zgroup", ".zmetadata", "g"]
    inside = view.find("g")
    assert isinstance(inside, ViewDirectory)
    assert [name for name, _ in inside.list()] == [".zattrs", ".zgroup", "z_imag", "z_real"]
    assert "icefs_snapshot" not in json.loads(content(inside.find(".zattrs")))


def test_missing_chunks_are_missing_files_and_the_fill_value_tells_no_lie(tmp_path):
    def write(root):
        for name, fill, attributes in [
            ("sparse", 7, {}),
            ("marked", 7, {"_FillValue": -1}),
            ("dense", 7, {}),
            ("dense_marked", 7, {"_FillValue": -1}),
            ("nan", 0.0, {"_FillValue": "AAAAAAAA+H8="}),
        ]:
            dtype = "f4" if name == "nan" else "i4"
            made = root.create_array(name, shape=(6,), chunks=(2,), dtype=dtype, fill_value=fill, attributes=attributes)
            made[: 6 if name.startswith(("dense", "nan")) else 2] = 3

    target = shown(write, Zarr2Format(), tmp_path / "v2")
    fills = {path.name: metadata(path / ".zarray")["fill_value"] for path in target.iterdir() if path.is_dir()}
    assert fills == {"sparse": 7, "marked": 7, "dense": None, "dense_marked": -1, "nan": "NaN"}
    assert metadata(target / "marked/.zattrs")["_FillValue"] == -1
    assert "_FillValue" not in metadata(target / "nan/.zattrs")
    assert not (target / "sparse/1").exists()
    assert zarr.open_array(target / "sparse", mode="r")[...].tolist() == [3, 3, 7, 7, 7, 7]


def test_a_dimension_has_one_size_in_the_whole_view(tmp_path):
    def write(root):
        root.create_array("a", shape=(3,), dtype="i4", dimension_names=("x",))[:] = [1, 2, 3]
        root.create_group("g").create_array("a", shape=(4,), dtype="i4", dimension_names=("x",))[:] = [1, 2, 3, 4]
        root.create_array("scalar", shape=(), dtype="i4")[...] = 5
        root.create_array("large", shape=(3,), chunks=(10,), dtype="i4", dimension_names=("x",))[:] = [1, 2, 3]

    target = shown(write, Zarr2Format(), tmp_path / "v2")
    assert metadata(target / "a/.zattrs")["_ARRAY_DIMENSIONS"] == ["x"]
    assert metadata(target / "g/a/.zattrs")["_ARRAY_DIMENSIONS"] == ["x_4"]
    assert metadata(target / "scalar/.zarray")["shape"] == [1]
    assert metadata(target / "large/.zarray")["chunks"] == [3]
    assert (target / "large/0").read_bytes() == np.array([1, 2, 3], "<i4").tobytes()
    native = shown(write, Zarr2Format(keeps_compressed=True), tmp_path / "native")
    assert metadata(native / "g/a/.zattrs")["_ARRAY_DIMENSIONS"] == ["x"]
    assert metadata(native / "scalar/.zarray")["shape"] == []


def test_consolidated_metadata_are_those_of_the_files(tmp_path):
    def write(root):
        root.attrs["title"] = "ü"
        root.create_group("g").create_array("a", shape=(3,), dtype="i4")[:] = 1

    target = shown(write, Zarr2Format(), tmp_path / "v2")
    consolidated = metadata(target / ".zmetadata")["metadata"]
    paths = {str(path.relative_to(target)) for path in target.rglob(".z*")} - {".zmetadata"}
    assert consolidated == {path: metadata(target / path) for path in paths}
    assert "ü" in (target / ".zmetadata").read_text(encoding="utf-8")
    assert zarr.open_consolidated(target, zarr_format=2)["g/a"][...].tolist() == [1] * 3


def test_nodes_in_odd_places_are_left_out_or_get_other_names():
    document = array_document()
    nodes = {
        "/": b"{}",
        "/.zattrs": document,
        "/a": document,
        "/a/below": document,
        "/bad": b"not JSON",
        "/grid": array_document(chunk_grid={"name": "rectilinear", "configuration": {"chunk_shapes": [[1, 2]]}}),
        "/implicit/b": document,
        "/odd\n": document,
        "/" + "/".join("x" * 70): document,
    }
    view = Zarr2Format().root(SketchedHierarchy(nodes), SketchedDecoder())
    names = [".zattrs", ".zattrs_2", ".zgroup", ".zmetadata", "a", "bad", "implicit", "odd_"]
    assert [name for name, _ in view.list()] == names
    assert {one.path: one.reason for one in view.left_out()} == {
        "/": "its zarr.json is that of no group or array",
        "/bad": "its zarr.json is that of no group or array",
        "/a/below": "it is below the array /a",
        "/grid": "its chunk grid is not regular",
        "/" + "/".join("x" * 70): "it is in more than 64 groups",
    }


@pytest.mark.parametrize(
    "members",
    [
        {"shape": None},
        {"shape": [-1]},
        {"shape": [1.5]},
        {"shape": [True]},
        {"shape": [2**63]},
        {"shape": [2**40, 2**40], "chunk_grid": regular([1, 1])},
        {"chunk_grid": regular([0])},
        {"chunk_grid": regular([1, 1])},
        {"chunk_grid": {"name": "regular"}},
        {"chunk_grid": []},
        {"codecs": [1]},
        {"codecs": [{"name": 1}]},
        {"shape": [1] * 33, "chunk_grid": regular([1] * 33)},
        {"shape": [2**40], "chunk_grid": regular([1])},
    ],
)
def test_metadata_that_make_no_array_leave_it_out(members):
    hierarchy = SketchedHierarchy({"/a": array_document(**members), "/b": array_document()})
    for keeps_compressed in (False, True):
        view = Zarr2Format(keeps_compressed=keeps_compressed).root(hierarchy, SketchedDecoder(chunk_shape=(1,)))
        assert [one.path for one in view.left_out()] == ["/a"]
        assert "a: it" in json.loads(content(view.find(".zattrs")))["icefs_left_out"]
        assert set(json.loads(content(view.find(".zmetadata")))["metadata"]) == {
            ".zgroup", ".zattrs", "b/.zarray", "b/.zattrs"
        }  # fmt: skip


@pytest.mark.parametrize("member", ["attributes", "dimension_names", "fill_value"])
@pytest.mark.parametrize("value", [1, "x", [], {}, None, [None], [[1]], [1, "x"], ["t"], {"a": {}}, "0x", "NaN", True])
def test_odd_members_do_no_harm(member, value):
    hierarchy = SketchedHierarchy({"/a": array_document(**{member: value})})
    for keeps_compressed in (False, True):
        view = Zarr2Format(keeps_compressed=keeps_compressed).root(hierarchy, SketchedDecoder())
        assert list(view.left_out()) == []
        metadata = json.loads(content(view.find(".zmetadata")))["metadata"]
        assert metadata["a/.zarray"]["shape"] == [6]
        assert len(metadata["a/.zattrs"]["_ARRAY_DIMENSIONS"]) == 1

"""NetCDF views of repositories that nobody vouches for: large, deep, many, and with names of anything."""

import json

import netCDF4
import numpy as np
import pytest

from icefs.errors import DecodeError, NotShownError
from icefs.views.cf.limits import MAX_VARIABLES
from icefs.views.netcdf3.format import NetCdf3Format
from icefs.views.netcdf4.format import NetCdf4Format
from tests.support.netcdf_views import WrittenDecoder, WrittenHierarchy, read_whole, view_of, write_view

FORMATS = [NetCdf4Format(), NetCdf3Format(), NetCdf4Format(has_groups=True)]
IDS = ["netcdf", "netcdf3", "netcdf,groups"]


def array_document(**members):
    document = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2],
        "data_type": "int32",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }
    return json.dumps(document | members).encode()


def hierarchy_with(**documents):
    hierarchy = WrittenHierarchy(lambda root: None)
    for key, document in documents.items():
        hierarchy.put(f"{key}/zarr.json", document)
    return hierarchy


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_attributes_of_megabytes_are_left_out_and_named(tmp_path, form):
    attributes = {"large": "x" * 10_000_000, "units": "K"}
    path = write_view(form, hierarchy_with(a=array_document(attributes=attributes)), tmp_path, 1 << 20)["root.nc"]
    assert path.stat().st_size < 100_000
    with netCDF4.Dataset(path) as root:
        assert root["a"].ncattrs() == ["units"]
        assert root.icefs_left_out == "/a: attribute large: it is larger than 1 MiB"


@pytest.mark.parametrize("form", FORMATS[:2], ids=IDS[:2])
def test_a_hundred_thousand_attributes_are_cut(tmp_path, form):
    attributes = {f"attribute_{number}": number for number in range(100_000)}
    path = write_view(form, hierarchy_with(a=array_document(attributes=attributes)), tmp_path, 1 << 20)["root.nc"]
    with netCDF4.Dataset(path) as root:
        assert len(root["a"].ncattrs()) == 8192
        assert root["a"].attribute_8191 == 8191
        assert root.icefs_left_out == "/a: 91808 attributes: there are more than 8192"


def test_headers_have_a_limit():
    attributes = {f"a{number}": "x" * 1_000_000 for number in range(40)}
    file = view_of(NetCdf3Format(), hierarchy_with(a=array_document(attributes=attributes)))["root.nc"]
    with pytest.raises(NotShownError, match="are larger than 32 MiB, too large for the header") as caught:
        file.layout()
    assert caught.value.hint == "read the arrays in the view zarr2 or npy"


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_variables_have_a_limit(form):
    documents = {f"a{number}": array_document() for number in range(MAX_VARIABLES + 1)}
    hierarchy = hierarchy_with(**documents)
    decoder = WrittenDecoder(hierarchy)
    file = form.root(hierarchy, decoder).find("root.nc")
    with pytest.raises(NotShownError, match="has more than 4096 arrays, too many for one NetCDF file"):
        file.layout()
    assert not decoder.opened


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_deep_attributes_are_said(tmp_path, form):
    deep = "[" * 300 + "]" * 300
    document = array_document().replace(b'"attributes": {}', b'"attributes": {"deep": %s}' % deep.encode())
    with netCDF4.Dataset(write_view(form, hierarchy_with(a=document), tmp_path)["root.nc"]) as root:
        assert root["a"].deep == deep


def test_deep_groups_end_where_paths_would():
    hierarchy = hierarchy_with(**{"/".join(["g"] * 200 + ["a"]): array_document(), "top": array_document()})
    assert [*view_of(NetCdf4Format(), hierarchy)] == ["root.nc"]
    with pytest.raises(NotShownError, match="groups deep, too deep for one NetCDF file"):
        view_of(NetCdf4Format(has_groups=True), hierarchy)["root.nc"].layout()


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_all_that_is_left_out_is_known_without_reading_files(form):
    documents = {
        "good": array_document(),
        "bad": array_document(shape="x"),
        "only/bad": array_document(shape="x"),
        "p/0": array_document(dimension_names=["x"]),
        "p/1": array_document(dimension_names=["x"], shape=[3]),
        "p/bad": array_document(codecs=[{"name": "unheard_of"}]),
    }
    hierarchy = hierarchy_with(**documents)
    root = form.root(hierarchy, WrittenDecoder(hierarchy))
    assert sorted(one.path for one in root.left_out()) == ["/bad", "/only/bad", "/p/bad"]
    deep = hierarchy_with(**{"/".join(["g"] * 70 + ["a"]): array_document()})
    left_out = [*form.root(deep, WrittenDecoder(deep)).left_out()]
    # With groups inside there is no file then, which its readers meet.
    assert [one.path.count("/") for one in left_out] == ([] if form is FORMATS[2] else [65])


BROKEN = {
    "shape": array_document(shape="x"),
    "grid": array_document(chunk_grid=None),
    "codec": array_document(codecs=[{"name": "unheard_of"}]),
    "kind": array_document(data_type="unheard_of"),
    "rank": array_document(shape=[1] * 40, chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1] * 40}}),
    "names": array_document(dimension_names=[1]),
}


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_arrays_that_no_reader_could_read_are_left_out_and_named(tmp_path, form):
    path = write_view(form, hierarchy_with(good=array_document(), **BROKEN), tmp_path)["root.nc"]
    with netCDF4.Dataset(path) as root:
        assert [*root.variables] == ["good"]
        assert {line.partition(":")[0] for line in root.icefs_left_out.splitlines()} == {f"/{name}" for name in BROKEN}


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_what_is_left_out_is_named_within_a_limit(tmp_path, form):
    documents = {f"{number:04}{'x' * 200}": array_document(shape="x") for number in range(300)}
    path = write_view(form, hierarchy_with(good=array_document(), **documents), tmp_path)["root.nc"]
    with netCDF4.Dataset(path) as root:
        assert len(root.icefs_left_out) < 20_000
        assert root.icefs_left_out.splitlines()[-1].endswith(" more")


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_names_and_texts_of_anything(tmp_path, form):
    attributes = {"nul\0name": "a\0b", "\ud800": "\udfff", "new\nline": ["\0"], "\u202e": "x", "": None, " ": " "}
    documents = {name: array_document(attributes=attributes, dimension_names=["d\0"]) for name in ("a\nb", "a\tb", " ")}
    path = write_view(form, hierarchy_with(**documents), tmp_path)["root.nc"]
    with netCDF4.Dataset(path) as root:
        assert [*root.dimensions] == ["d%00"]
        assert sorted(root.variables) == ["_%20", "a%09b", "a%0Ab"]
        variable = root["a%0Ab"]
        assert variable.icefs_name == '"a\\nb"'
        assert variable.getncattr("nul%00name") == "a\\x00b"
        assert variable.getncattr("_%ED%A0%80") == "\\udfff"
        assert variable.getncattr("\u202e") == "x"
        assert json.loads(variable.icefs_attribute_names)["new%0Aline"] == "new\nline"


def test_names_that_no_file_can_have():
    documents = {f"{name}/x": array_document() for name in ("..", ".", "a\0b", "y" * 300)}
    files = view_of(NetCdf4Format(), hierarchy_with(**documents))
    assert all("\0" not in name and len(name.encode()) <= 255 and name[0] != "." for name in files)
    assert len(files) == 4


@pytest.mark.parametrize("form", FORMATS, ids=IDS)
def test_an_array_that_does_not_decode_is_an_error_of_its_reads_alone(form):
    class Failing(WrittenDecoder):
        def open(self, array):
            elements = super().open(array)
            if array == "/bad":
                elements.read = self.fail
            return elements

        def fail(self, start, stop):
            raise DecodeError("it does not decode")

    hierarchy = hierarchy_with(bad=array_document(), good=array_document(fill_value=5))
    layout = form.root(hierarchy, Failing(hierarchy)).find("root.nc").layout()
    with pytest.raises(DecodeError):
        read_whole(layout)
    good = b""
    for offset in range(0, layout.size, 4):
        try:
            good += bytes(layout.read(offset, 4))
        except DecodeError:
            continue
    assert np.array([5, 5], ">i4" if form.name == "netcdf3" else "<i4").tobytes() in good

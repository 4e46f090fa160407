"""The format npy: what numpy maps."""

import json

import numpy as np
import pytest

from icefs.errors import FormatError
from icefs.views.interface import ViewDirectory
from icefs.views.npy import NpyFormat, npy_header
from tests.support.view_files import SketchedDecoder, SketchedHierarchy, array_document, content, shown, view_of
from tests.support.viewed import repository_of

DTYPES = [
    "bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16", ">i4", ">f8",
    "M8[ns]", "M8[10s]", "m8[s]", "S5", "U4", ">U3", "V3",
]  # fmt: skip
VALUES = np.arange(35).reshape(7, 5)


def values_of(dtype):
    return VALUES.astype(f"S{dtype[1:]}").astype(dtype) if dtype.startswith("V") else VALUES.astype(dtype)


def test_numpy_maps_every_type(tmp_path):
    def write(root):
        for number, dtype in enumerate(DTYPES):
            root.create_array(f"a{number}", shape=VALUES.shape, chunks=(3, 2), dtype=dtype)[:] = values_of(dtype)
        record = np.dtype([("x", "<i4"), ("y", "<f8")])
        root.create_array("record", shape=(2,), dtype=record)[:] = np.array([(1, 2.5), (3, 4.5)], record)
        root.create_array("scalar", shape=(), dtype="i4")[...] = 5
        root.create_array("none", shape=(0, 3), dtype="i4")

    target = shown(write, NpyFormat(), tmp_path / "npy")
    for number, dtype in enumerate(DTYPES):
        mapped = np.load(target / f"a{number}.npy", mmap_mode="r", allow_pickle=False)
        assert isinstance(mapped, np.memmap)
        assert mapped.offset % 64 == 0
        np.testing.assert_array_equal(mapped, values_of(dtype))
    assert np.load(target / "record.npy", mmap_mode="r").tolist() == [(1, 2.5), (3, 4.5)]
    assert np.load(target / "scalar.npy").tolist() == 5
    assert np.load(target / "none.npy").shape == (0, 3)


def test_texts_of_any_length_get_that_of_the_longest(tmp_path):
    def write(root):
        root.create_array("texts", shape=(3,), dtype=str)[:] = np.array(["a", "lönger", ""], object)
        root.create_array("empty", shape=(2,), dtype=str)

    target = shown(write, NpyFormat(), tmp_path / "npy")
    texts = np.load(target / "texts.npy", mmap_mode="r")
    assert (texts.dtype.str, texts.tolist()) == ("<U6", ["a", "lönger", ""])
    assert np.load(target / "empty.npy").tolist() == ["", ""]


def test_metadata_are_next_to_the_array_and_about_the_view_in_the_root(tmp_path):
    def write(root):
        root.attrs["title"] = "ü"
        inside = root.create_group("g", attributes={"level": 1})
        inside.create_array("a", shape=(2,), dtype="i4", attributes={"units": "m"})[:] = [1, 2]

    repository = repository_of(write)
    view = view_of(repository, NpyFormat())
    assert [name for name, _ in view.list()] == ["g", "icefs_view.json"]
    about = json.loads(content(view.find("icefs_view.json")))
    assert about["icefs_snapshot"] == str(repository.lookup_branch("main"))
    assert about["icefs_branch"] == "main"
    assert about["attributes"] == {"/": {"title": "ü"}, "/g": {"level": 1}}
    inside = view.find("g")
    assert isinstance(inside, ViewDirectory)
    assert [name for name, _ in inside.list()] == ["a.json", "a.npy"]
    assert json.loads(content(inside.find("a.json")))["attributes"] == {"units": "m"}
    assert inside.find("a") is None
    assert inside.find("b.npy") is None


def test_names_that_collide_are_made_different_and_said():
    document = array_document()
    paths = ["/a", "/a.npy", "/a.npy/x", "/icefs_view", "/b", "/b.json", "/b/inside", "/odd\n", "/odd_"]
    view = NpyFormat().root(SketchedHierarchy(dict.fromkeys(paths, document)), SketchedDecoder())
    about = json.loads(content(view.find("icefs_view.json")))

    def leaves(directory, prefix=""):
        for name, entry in directory.list():
            if isinstance(entry, ViewDirectory):
                yield from leaves(entry, f"{prefix}{name}/")
            else:
                yield prefix + name

    found = list(leaves(view))
    assert len(found) == len(set(found)) == 2 * len(paths) + 1
    assert about["icefs_renamed"] == {
        "icefs_view_2": "/icefs_view",
        "a_2": "/a",
        "odd__2": "/odd_",
        "odd_": "/odd\n",
    }
    assert list(view.left_out()) == []


def test_a_root_that_is_an_array_is_shown():
    view = NpyFormat().root(SketchedHierarchy({"/": array_document()}), SketchedDecoder())
    assert [name for name, _ in view.list()] == ["icefs_view.json", "root.json", "root.npy"]


def test_what_numpy_cannot_map_is_left_out_and_named():
    hierarchy = SketchedHierarchy({"/a": array_document(), "/" + "/".join("x" * 70): array_document()})
    view = NpyFormat().root(hierarchy, SketchedDecoder(shape=(1 << 20, 1 << 20), dtype="O"))
    reasons = {one.path: one.reason for one in view.left_out()}
    assert reasons["/a"] == "it has too many texts of any length, which numpy cannot map"
    assert "64 groups" in reasons["/" + "/".join("x" * 70)]
    assert [name for name, _ in view.list()] == ["a.json", "icefs_view.json"]
    assert json.loads(content(view.find("icefs_view.json")))["icefs_left_out"] == reasons


def test_objects_that_are_no_texts_are_an_error():
    view = NpyFormat().root(SketchedHierarchy({"/a": array_document()}), SketchedDecoder(dtype="O"))
    with pytest.raises(FormatError, match="not texts"):
        view.find("a.npy").layout()


def test_a_large_array_takes_neither_memory_nor_time():
    decoder = SketchedDecoder(shape=(1 << 31, 1 << 31), chunk_shape=(1, 1))
    view = NpyFormat().root(SketchedHierarchy({"/a": array_document()}), decoder)
    layout = view.find("a.npy").layout()
    assert layout.size == 128 + 4 * (1 << 62)
    assert bytes(layout.read(layout.size - 8, 100)) == bytes(8)


def test_a_header_of_many_fields_has_the_second_version():
    dtype = np.dtype([(f"field{number}" * 10, "<i4") for number in range(1000)])
    header = npy_header((3,), dtype)
    assert header[:8] == b"\x93NUMPY\x02\x00"
    assert len(header) % 64 == 0
    assert npy_header((3,), np.dtype("<i4"))[:8] == b"\x93NUMPY\x01\x00"


def test_times_are_those_of_the_arrays():
    view = NpyFormat().root(SketchedHierarchy({"/g/a": array_document()}), SketchedDecoder())
    inside = view.find("g")
    assert (view.time_ns, inside.time_ns, inside.find("a.npy").time_ns) == (10**18,) * 3

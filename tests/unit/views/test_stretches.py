"""What a file has in common with that of an earlier version, and where it is zeros, is true of their bytes."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from icefs.format.chunk_indices import ChunkIndices
from icefs.paths import NodePath
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.formats import parse_format
from icefs.views.hierarchy import SessionHierarchy
from icefs.views.interface import Layout, Stretch, ViewFile
from icefs.views.parts import PartHierarchy
from icefs.views.walk import walk
from icefs.zarr.store import IcechunkStore
from tests.support.viewed import commit_arrays, repository_of

FORMATS = ["netcdf", "netcdf3", "zarr2", "zarr2,compressed", "npy"]


def layouts_of(session, view_format, node=None) -> dict[str, Layout]:
    hierarchy = SessionHierarchy(session)
    if node is not None:
        hierarchy = PartHierarchy(hierarchy, NodePath(node))
    view = parse_format(view_format).make().root(hierarchy, ZarrDecoder(hierarchy, Decoding()))
    return {path: file.layout() for path, file in walk(view) if isinstance(file, ViewFile)}


def rebuilt(layout: Layout, earlier: Layout | None) -> tuple[bytes, list[Stretch]]:
    """Makes a file as an export does; all that is in no stretch is zeros."""
    made = bytearray(layout.size)
    old = b"" if earlier is None else bytes(earlier.read(0, earlier.size))
    stretches = list(layout.stretches(earlier))
    position = 0
    for one in stretches:
        assert position <= one.start < one.stop <= layout.size
        position = one.stop
        length = one.stop - one.start
        if one.kept_at is None:
            made[one.start : one.stop] = layout.read(one.start, length)
        else:
            assert one.kept_at + length <= len(old)
            made[one.start : one.stop] = old[one.kept_at : one.kept_at + length]
    return bytes(made), stretches


def read_bytes(stretches):
    return sum(one.stop - one.start for one in stretches if one.kept_at is None)


def check(old, new):
    """Checks all files of all formats; returns how many bytes of each have to be read."""
    found = {}
    for view_format in FORMATS:
        earlier = layouts_of(old, view_format)
        for path, layout in layouts_of(new, view_format).items():
            expected = bytes(layout.read(0, layout.size))
            assert rebuilt(layout, None)[0] == expected, (view_format, path)
            made, stretches = rebuilt(layout, earlier.get(path))
            assert made == expected, (view_format, path)
            found[view_format, path] = read_bytes(stretches)
    return found


edits = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(0, 6), st.integers(0, 5), st.integers(0, 3)),
        st.tuples(st.just("resize"), st.integers(1, 9), st.integers(4, 6)),
        st.tuples(st.just("delete"), st.integers(0, 2), st.integers(0, 2)),
        st.tuples(st.just("attributes"), st.integers(0, 3)),
        st.tuples(st.just("other")),
    ),
    max_size=3,
)
arrays = st.fixed_dictionaries(
    {
        "chunks": st.sampled_from([(2, 3), (2, 6), (1, 2), (7, 6)]),
        "dtype": st.sampled_from(["i2", "i8", "f8", "c8", "M8[s]", "bool"]),
        "has_shards": st.booleans(),
        "is_zero": st.booleans(),
    }
)


@settings(max_examples=10, deadline=None)
@given(arrays, st.tuples(edits, edits))
def test_a_file_is_made_of_the_earlier_one(array, versions):
    chunks = array["chunks"]

    def write(root):
        options = {"shards": tuple(2 * size for size in chunks)} if array["has_shards"] else {}
        root.create_array("before", shape=(3,), dtype="f4")[:] = 1
        root.create_array(
            "a", shape=(7, 6), chunks=chunks, dtype=array["dtype"], dimension_names=("t", "x"),
            fill_value=0 if array["is_zero"] else 1, **options,
        )[2:4] = 1  # fmt: skip
        root.create_array("c", shape=(5,), dtype="i4")[:] = 1

    repository = repository_of(write)
    sessions = []
    for number, version in enumerate(versions):
        session = repository.writable_session("main")
        root = zarr.open_group(IcechunkStore(session), mode="r+")
        root.attrs["version"] = number
        for edit in version:
            apply(root, session, edit)
        session.commit("edited")
        sessions.append(repository.readonly_session("main"))
    check(*sessions)


def apply(root, session, edit):
    found = root["a"]
    match edit:
        case ("set", row, column, value):
            if row < found.shape[0] and column < found.shape[1]:
                found[row, column] = np.array(value).astype(found.dtype)
        case ("resize", rows, columns):
            found.resize((rows, columns))
        case ("delete", *index):
            whole = found.shards or found.chunks
            if all(at * size < length for at, size, length in zip(index, whole, found.shape, strict=True)):
                session.chunks.delete("/a", ChunkIndices.from_indices(2, [index]))
        case ("attributes", number):
            found.attrs["n"] = "x" * number
        case _:
            root["c"][:2] = 9


def test_hours_that_are_appended_are_all_that_is_read(tmp_path):
    def write(root):
        root.create_array("t", shape=(40, 100), chunks=(4, 100), dtype="f8", dimension_names=("t", "x"))[:] = 1
        root.create_array("z", shape=(50,), chunks=(10,), dtype="f8", dimension_names=("z",))[:] = 2

    def append(root):
        root["t"].resize((44, 100))
        root["t"][40:] = 3

    repository = repository_of(write)
    old = repository.readonly_session("main")
    commit_arrays(repository, append)
    found = check(old, repository.readonly_session("main"))
    hours = 4 * 100 * 8
    assert found["npy", "t.npy"] == 128 + hours
    assert found["npy", "z.npy"] == 128
    assert hours < found["netcdf3", "root.nc"] < hours + 2000
    assert hours < found["netcdf", "root.nc"] < hours + 20_000
    assert [path for (view, path), size in found.items() if view == "zarr2" and path[:2] == "t/" and size] == [
        "t/.zarray", "t/.zattrs", "t/10.0",
    ]  # fmt: skip


def test_records_of_classic_netcdf_are_kept_where_they_are_large():
    def write(root):
        for name in "ab":
            root.create_array(
                name, shape=(3, 1 << 28), chunks=(1, 1 << 14), dtype="f8", dimension_names=("t", "x")
            )[1, :8] = 1  # fmt: skip
        root.create_array("small", shape=(3,), dtype="i4", dimension_names=("t",))[:] = 1
        root.create_array("text", shape=(2,), dtype="i4", dimension_names=("n",))[:] = 1

    repository = repository_of(write)
    old = layouts_of(repository.readonly_session("main"), "netcdf3")["root.nc"]
    commit_arrays(repository, lambda root: root["a"].__setitem__((2, slice(4)), 7))
    new = layouts_of(repository.readonly_session("main"), "netcdf3")["root.nc"]
    assert new.size > 3 * 2 * (1 << 31)
    stretches = list(new.stretches(old))
    assert 0 < read_bytes(stretches) < 1 << 20
    kept = [one for one in stretches if one.kept_at is not None]
    assert kept
    for one in stretches:
        data = bytes(new.read(one.start, one.stop - one.start))
        assert one.kept_at is None or data == bytes(old.read(one.kept_at, one.stop - one.start))
    for value, view in ((1, old), (7, new)):
        assert any(np.array(value, ">f8").tobytes() in bytes(view.read(one.start, 1 << 16)) for one in stretches)


@pytest.mark.parametrize("fill", [0, 1])
def test_missing_chunks_are_no_stretch_where_they_are_zeros(fill):
    def write(root):
        root.create_array("a", shape=(1 << 40,), chunks=(1 << 16,), dtype="u1", fill_value=fill)[:4] = 5

    layout = layouts_of(repository_of(write).readonly_session("main"), "npy")["a.npy"]
    total = sum(one.stop - one.start for one in layout.stretches())
    assert total == 128 + ((1 << 16) if fill == 0 else (1 << 40))


def test_parts_have_the_earlier_ones_of_the_same_node_alone():
    def write(root):
        for name in "gh":
            root.create_group(name).create_array("a", shape=(4,), chunks=(2,), dtype="f8")[:] = 1

    repository = repository_of(write)
    old = repository.readonly_session("main")
    commit_arrays(repository, lambda root: root["g/a"].__setitem__(0, 2))
    new = repository.readonly_session("main")
    layout = layouts_of(new, "npy", "/g")["a.npy"]
    kept = [one for one in layout.stretches(layouts_of(old, "npy", "/g")["a.npy"]) if one.kept_at is not None]
    assert kept == [Stretch(144, 160, 144)]
    assert all(one.kept_at is None for one in layout.stretches(layouts_of(old, "npy", "/h")["a.npy"]))

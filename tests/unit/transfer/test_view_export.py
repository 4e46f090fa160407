"""A view becomes plain files: its own bytes, interrupted anywhere, and again."""

import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from icefs.errors import NoSpaceError, NotEmptyError
from icefs.paths import NodePath
from icefs.transfer.directory_export import Exported, ExportRequest
from icefs.transfer.view_export import export_view
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.formats import parse_format
from icefs.views.hierarchy import SessionHierarchy
from icefs.views.interface import Layout, ViewDirectory, ViewFile
from icefs.views.parts import PartHierarchy
from tests.support.view_files import SketchedDecoder, SketchedHierarchy, array_document, view_of, write_out
from tests.support.viewed import commit_arrays, repository_of
from tests.unit.transfer.test_directory_export import files
from tests.unit.transfer.test_directory_import import Stop

FORMATS = ["zarr2", "zarr2,compressed", "npy"]


def first(root):
    root.attrs["title"] = "ü"
    root.create_array("a", shape=(6, 4), chunks=(2, 2), dtype="i4", dimension_names=("t", "x"))[:] = 1
    root.create_array("shards", shape=(8,), chunks=(2,), shards=(4,), dtype="f8")[:4] = 2
    inside = root.create_group("g")
    inside.create_array("b", shape=(3,), dtype="f4")[:] = [1, 2, 3]
    inside.create_group("empty")


def second(root):
    root["a"][0, 0] = 7
    del root["shards"]
    root.create_array("new", shape=(2,), dtype="i4")[:] = 3


def export(repo, target, view_format, progress=lambda done: None, node=None, **options) -> Exported:
    session = repo.readonly_session("main")
    hierarchy = SessionHierarchy(session, branch="main")
    if node is not None:
        hierarchy = PartHierarchy(hierarchy, NodePath(node))
        options["node"] = node
    decoding = Decoding()
    try:
        view = parse_format(view_format).make().root(hierarchy, ZarrDecoder(hierarchy, decoding))
        request = ExportRequest(str(target), **{"state_dir": target.parent / "state"} | options)
        return export_view(view, hierarchy.facts, view_format, request, progress)
    finally:
        decoding.close()


def files_of(view: ViewDirectory, tmp_path: Path, name="expected"):
    return files(write_out(view, tmp_path / name))


@pytest.mark.parametrize("view_format", [*FORMATS, "netcdf", "netcdf,groups", "netcdf3"])
def test_every_byte_and_time_is_that_of_the_view(view_format, tmp_path):
    repo = repository_of(first)
    told = []
    done = export(repo, tmp_path / "out", view_format, lambda d: told.append((d.files, d.bytes)))
    expected = files_of(view_of(repo, parse_format(view_format).make()), tmp_path)
    assert files(tmp_path / "out") == expected
    assert (done.files, done.written_files, done.failed, done.left_out) == (len(expected),) * 2 + ([], [])
    assert done.bytes == done.written_bytes == sum(map(len, expected.values()))
    assert told[-1] == (done.files, done.bytes)
    times = {os.stat(tmp_path / "out" / path).st_mtime_ns for path in expected}
    assert times == {repo.readonly_session("main").snapshot.flushed_at * 1000}
    assert (tmp_path / "out/g/empty").is_dir() == (view_format in FORMATS)
    assert {path.name for path in tmp_path.iterdir()} == {"out", "state", "expected"}
    # The same again writes nothing.
    inodes = {path: os.stat(tmp_path / "out" / path).st_ino for path in expected}
    assert export(repo, tmp_path / "out", view_format).written_files == 0
    assert inodes == {path: os.stat(tmp_path / "out" / path).st_ino for path in expected}


@pytest.mark.parametrize("view_format", FORMATS)
def test_another_version_is_written_over_the_first(view_format, tmp_path):
    repo = repository_of(first)
    export(repo, tmp_path / "out", view_format)
    (tmp_path / "out/mine.txt").write_text("mine")
    commit_arrays(repo, second)
    dry = export(repo, tmp_path / "out", view_format, dry_run=True)
    done = export(repo, tmp_path / "out", view_format)
    expected = files_of(view_of(repo, parse_format(view_format).make()), tmp_path)
    assert dry.written_files == done.written_files == len(expected)
    assert dry.left == done.left == sorted(path for path in files(tmp_path / "out") if "shards" in path)
    assert done.left
    assert {path: data for path, data in files(tmp_path / "out").items() if path in expected} == expected
    assert export(repo, tmp_path / "out", view_format, delete=True).deleted == done.left
    assert files(tmp_path / "out") == expected | {"mine.txt": b"mine"}
    assert not (tmp_path / "out/shards").exists()


@pytest.mark.parametrize("view_format", FORMATS)
@pytest.mark.parametrize("after", [0, 1, 2, 4])
def test_an_interrupted_export_goes_on(view_format, after, tmp_path):
    repo = repository_of(first)

    def stopping(done):
        if done.files >= after:
            raise Stop

    with pytest.raises(Stop):
        export(repo, tmp_path / "out", view_format, stopping)
    there = files(tmp_path / "out")
    expected = files_of(view_of(repo, parse_format(view_format).make()), tmp_path)
    assert there.items() <= expected.items()
    done = export(repo, tmp_path / "out", view_format)
    assert files(tmp_path / "out") == expected
    assert done.written_files == len(expected) - len(there)


def test_what_is_left_out_is_listed(tmp_path):
    def write(root):
        root.create_array("texts", shape=(2,), dtype="U3")
        root.create_array("a", shape=(2,), dtype="i4")[:] = 1

    done = export(repository_of(write), tmp_path / "out", "zarr2")
    assert [one.path for one in done.left_out] == ["/texts"]
    assert "no arrays of texts" in done.left_out[0].reason
    assert done.failed == []


@pytest.mark.parametrize("view_format", ["netcdf", "netcdf,groups", "netcdf3"])
def test_what_netcdf_leaves_out_is_listed(view_format, tmp_path):
    def write(root):
        root.create_group("g").create_array("raw", shape=(2,), dtype="V3")
        root.create_array("a", shape=(2,), dtype="i4")[:] = 1

    done = export(repository_of(write), tmp_path / "out", view_format)
    [one] = done.left_out
    assert one == ("/g/raw", "NetCDF has no type for raw bits")


def test_a_chunk_that_does_not_decode_is_listed_and_all_else_is_there(tmp_path):
    repo = repository_of(first)
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"damaged")
    session.commit("damaged")
    done = export(repo, tmp_path / "v2", "zarr2")
    assert [one.path for one in done.failed] == ["a/1.1"]
    assert not (tmp_path / "v2/a/1.1").exists()
    assert (tmp_path / "v2/a/.zarray").exists()
    done = export(repo, tmp_path / "npy", "npy")
    assert [one.path for one in done.failed] == ["a.npy"]
    assert "chunk (1, 1) of /a does not decode" in done.failed[0].reason
    assert not (tmp_path / "npy/a.npy").exists()
    # What cannot be read now is not replaced by another version's.
    (tmp_path / "npy/a.npy").write_bytes(b"old")
    export(repo, tmp_path / "npy", "npy")
    assert not (tmp_path / "npy/a.npy").exists()


def test_a_part_of_it(tmp_path):
    repo = repository_of(first)
    export(repo, tmp_path / "g", "npy", node="/g")
    assert sorted(files(tmp_path / "g")) == ["b.json", "b.npy", "icefs_view.json"]
    export(repo, tmp_path / "b", "zarr2", node="/g/b")
    assert zarr.open_array(tmp_path / "b/root", mode="r")[...].tolist() == [1, 2, 3]


def test_zeros_are_holes(tmp_path):
    def write(root):
        root.create_array("a", shape=(64, 1 << 20), chunks=(1, 1 << 20), dtype="u1")[17] = 1

    export(repository_of(write), tmp_path / "out", "npy")
    found = os.stat(tmp_path / "out/a.npy")
    assert found.st_size == 128 + (64 << 20)
    assert found.st_blocks * 512 <= 3 << 20
    loaded = np.load(tmp_path / "out/a.npy", mmap_mode="r")
    assert loaded[17].all()
    assert not loaded[:17].any()
    assert not loaded[18:].any()


def test_a_directory_of_something_else_is_left_alone(tmp_path):
    repo = repository_of(first)
    export(repo, tmp_path / "out", "npy")
    with pytest.raises(NotEmptyError, match=r"of memory:#[0-9]+ as npy in it"):
        export(repo, tmp_path / "out", "zarr2")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.npy").write_bytes(b"mine")
    with pytest.raises(NotEmptyError, match="has files in it"):
        export(repo, tmp_path / "mine", "npy")
    export(repo, tmp_path / "mine", "npy", force=True)
    assert np.load(tmp_path / "mine/a.npy").tolist() == np.ones((6, 4)).tolist()


def test_something_else_in_the_place_of_a_file_is_listed(tmp_path):
    repo = repository_of(first)
    (tmp_path / "out/a.npy").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out/g").symlink_to(tmp_path / "elsewhere")
    done = export(repo, tmp_path / "out", "npy", force=True)
    assert [one.path for one in done.failed] == ["a.npy", "g/b.json", "g/b.npy"]
    assert all(one.reason.startswith("something else is in its place") for one in done.failed)
    assert list((tmp_path / "elsewhere").iterdir()) == []


class FullFile(ViewFile):
    time_ns = 0

    def layout(self) -> Layout:
        raise NoSpaceError("the disk is full")


class FullDirectory(ViewDirectory):
    time_ns = 0

    def find(self, name):
        return FullFile()

    def list(self):
        return [("a", FullFile())]


def test_an_error_that_is_not_of_one_file_ends_it(tmp_path):
    facts = SketchedHierarchy({}).facts
    with pytest.raises(NoSpaceError):
        export_view(FullDirectory(), facts, "npy", ExportRequest(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_names_that_exports_use_are_listed(tmp_path):
    documents = dict.fromkeys(["/.icefs-export.tmp", "/a"], array_document())
    hierarchy = SketchedHierarchy(documents)
    view = parse_format("zarr2").make().root(hierarchy, SketchedDecoder())
    done = export_view(view, hierarchy.facts, "zarr2", ExportRequest(str(tmp_path / "out")))
    assert [one.path for one in done.failed] == [".icefs-export.tmp"]
    assert (tmp_path / "out/a/.zarray").exists()

"""A view becomes plain files: its own bytes, interrupted anywhere, and again."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from icefs.engine.history.lineage import Lineages
from icefs.errors import NoSpaceError, NotEmptyError, NotShownError
from icefs.format.ids import SnapshotId
from icefs.paths import NodePath
from icefs.transfer.directory_export import Exported, ExportRequest
from icefs.transfer.view_export import export_view
from icefs.views.decoder import Decoding, ZarrDecoder
from icefs.views.formats import parse_format
from icefs.views.hierarchy import SessionHierarchy, times_of_history
from icefs.views.interface import Hierarchy, HierarchyFacts, Layout, ViewDirectory, ViewFile
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


def opened(repo, snapshot, branch, view_format, decoding, node=None) -> tuple[ViewDirectory, HierarchyFacts]:
    session = repo.session_at(SnapshotId.parse(snapshot))
    times = times_of_history(Lineages(repo.context), session)
    hierarchy: Hierarchy = SessionHierarchy(session, branch=branch, times=times)
    if node is not None:
        hierarchy = PartHierarchy(hierarchy, NodePath(node))
    view = parse_format(view_format).make().root(hierarchy, ZarrDecoder(hierarchy, decoding))
    return view, hierarchy.facts


def export(
    repo, target, view_format, progress=lambda done: None, node=None, ref="main", branch="main", **options
) -> Exported:
    decoding = Decoding()
    if node is not None:
        options["node"] = node
    request = ExportRequest(str(target), **{"state_dir": target.parent / "state"} | options)
    try:
        view, facts = opened(repo, str(repo.resolve_ref(ref)), branch, view_format, decoding, node)

        def earlier(snapshot, its_branch):
            return opened(repo, snapshot, its_branch, view_format, decoding, node)[0]

        return export_view(view, facts, view_format, request, progress, earlier)
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
    inodes = inodes_of(tmp_path / "out")
    with contextlib.ExitStack() as held:
        for path in inodes:  # so that no new file gets the number of a removed one
            held.enter_context((tmp_path / "out" / path).open("rb"))
        commit_arrays(repo, second)
        dry = export(repo, tmp_path / "out", view_format, dry_run=True)
        done = export(repo, tmp_path / "out", view_format)
        written = sorted(path for path, inode in inodes_of(tmp_path / "out").items() if inodes.get(path) != inode)
    expected = files_of(view_of(repo, parse_format(view_format).make()), tmp_path)
    changed = {
        "zarr2": [".zattrs", ".zmetadata", "a/.zarray", "a/0.0", "new/.zarray", "new/.zattrs", "new/0"],
        "npy": ["a.npy", "icefs_view.json", "new.json", "new.npy"],
    }
    assert written == changed[view_format.partition(",")[0]]
    assert done.written_files == len(written)
    # The description of the array that changes is taken away meanwhile.
    assert dry.written_files == done.written_files - written.count("a/.zarray")
    assert dry.left == done.left == sorted(path for path in files(tmp_path / "out") if "shards" in path)
    assert done.left
    assert {path: data for path, data in files(tmp_path / "out").items() if path in expected} == expected
    assert export(repo, tmp_path / "out", view_format, delete=True).deleted == done.left
    assert files(tmp_path / "out") == expected | {"mine.txt": b"mine"}
    assert not (tmp_path / "out/shards").exists()


def inodes_of(place):
    return {path: os.stat(place / path).st_ino for path in files(place)}


def test_only_what_changed_is_read(tmp_path):
    """The chunks that did not change are taken out of the repository between two exports."""

    def write(root):
        root.create_array("a", shape=(4, 4096), chunks=(1, 4096), dtype="f8", compressors=None)[:] = 1
        root.create_array("b", shape=(4096,), dtype="f8", compressors=None)[:] = 2

    repo = repository_of(write)
    formats = [*FORMATS, "netcdf", "netcdf,groups", "netcdf3"]
    for name in formats:
        export(repo, tmp_path / name, name)
    storage = repo.context.storage
    chunks = [found.key for found in storage.iter_objects("chunks/")]
    assert len(chunks) == 5
    commit_arrays(repo, lambda root: root["a"].__setitem__(2, 7))
    expected = {
        name: files_of(view_of(repo, parse_format(name).make()), tmp_path, f"{name} expected") for name in formats
    }
    storage.delete(chunks)
    for name in formats:
        done = export(repo, tmp_path / name, name)
        assert done.failed == []
        assert files(tmp_path / name) == expected[name]
        assert done.written_files < len(expected[name]) or "netcdf" in name
        # The record says now which version it is.
        assert export(repo, tmp_path / name, name).written_files == 0
    # All of it cannot be had any more.
    assert export(repo, tmp_path / "new", "npy").failed


@pytest.mark.parametrize("view_format", ["npy", "zarr2", "netcdf"])
@pytest.mark.parametrize("after", [0, 1, 3])
def test_an_export_over_another_version_that_was_interrupted_goes_on(view_format, after, tmp_path):
    repo = repository_of(first)
    export(repo, tmp_path / "out", view_format, branch="")
    commit_arrays(repo, second)

    def stopping(done):
        if done.files >= after:
            raise Stop

    for _ in range(2):
        with contextlib.suppress(Stop):  # the second one may have little to do
            export(repo, tmp_path / "out", view_format, stopping)
    export(repo, tmp_path / "out", view_format, delete=True)
    assert files(tmp_path / "out") == files_of(view_of(repo, parse_format(view_format).make()), tmp_path)


@pytest.mark.parametrize("view_format", ["npy", "zarr2", "netcdf"])
def test_files_that_were_written_to_are_written_again(view_format, tmp_path):
    repo = repository_of(first)
    export(repo, tmp_path / "out", view_format)
    commit_arrays(repo, lambda root: root["a"].attrs.__setitem__("k", "v"))
    big = max(files(tmp_path / "out").items(), key=lambda item: (item[0] != ".zmetadata", len(item[1])))[0]
    with (tmp_path / "out" / big).open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"mine")
    export(repo, tmp_path / "out", view_format)
    assert files(tmp_path / "out") == files_of(view_of(repo, parse_format(view_format).make()), tmp_path)


def test_a_file_of_somebody_else_is_not_trusted_for_its_length_and_time(tmp_path):
    repo = repository_of(first)
    export(repo, tmp_path / "true", "npy")
    (tmp_path / "out").mkdir()
    false = tmp_path / "out/a.npy"
    false.write_bytes(bytes((tmp_path / "true/a.npy").stat().st_size))
    time = (tmp_path / "true/a.npy").stat().st_mtime_ns
    os.utime(false, ns=(time, time))
    export(repo, tmp_path / "out", "npy", force=True)
    assert files(tmp_path / "out") == files(tmp_path / "true")


def test_the_same_version_under_another_name_differs_in_the_name_alone(tmp_path):
    repo = repository_of(first)
    repo.create_tag("v1", repo.lookup_branch("main"))
    export(repo, tmp_path / "out", "zarr2", ref="v1", branch="")
    done = export(repo, tmp_path / "out", "zarr2")
    assert files(tmp_path / "out") == files_of(view_of(repo, parse_format("zarr2").make()), tmp_path)
    assert done.written_files == 2  # .zattrs, .zmetadata


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
    repo.create_tag("good", repo.lookup_branch("main"))
    session = repo.writable_session("main")
    session.chunks.set("/a", (1, 1), b"damaged")
    session.commit("damaged")
    done = export(repo, tmp_path / "v2", "zarr2")
    assert [one.path for one in done.failed] == [".zmetadata", "a/.zarray", "a/1.1"]
    assert "in place of the chunk 1.1" in done.failed[1].reason
    assert not (tmp_path / "v2/a/1.1").exists()
    with pytest.raises(FileNotFoundError):
        zarr.open_array(tmp_path / "v2/a", mode="r", zarr_format=2)
    assert zarr.open_array(tmp_path / "v2/g/b", mode="r", zarr_format=2)[...].tolist() == [1, 2, 3]
    # Nor is the array of an earlier version left, with a hole.
    assert export(repo, tmp_path / "over", "zarr2", ref="good").failed == []
    export(repo, tmp_path / "over", "zarr2")
    assert not (tmp_path / "over/a/.zarray").exists()
    assert not (tmp_path / "over/.zmetadata").exists()
    done = export(repo, tmp_path / "npy", "npy")
    assert [one.path for one in done.failed] == ["a.npy"]
    assert "chunk (1, 1) of /a does not decode" in done.failed[0].reason
    assert not (tmp_path / "npy/a.npy").exists()
    # What cannot be read now is not replaced by another version's.
    (tmp_path / "npy/a.npy").write_bytes(b"old")
    export(repo, tmp_path / "npy", "npy")
    assert not (tmp_path / "npy/a.npy").exists()
    # When the chunk is written again, all is there.
    commit_arrays(repo, lambda root: root["a"].__setitem__((slice(2, 4), slice(2, 4)), 5))
    assert export(repo, tmp_path / "over", "zarr2").failed == []
    assert zarr.open_group(tmp_path / "over", mode="r", zarr_format=2)["a"][3].tolist() == [1, 1, 5, 5]


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


def test_missing_chunks_are_holes_that_nobody_reads(tmp_path):
    """Reading the zeros of a tebibyte would take hours."""

    def write(root):
        root.create_array("a", shape=(1 << 40,), chunks=(1 << 16,), dtype="u1")[5] = 1

    for view_format, name in (("npy", "a.npy"), ("netcdf", "root.nc")):
        export(repository_of(write), tmp_path / view_format, view_format)
        found = os.stat(tmp_path / view_format / name)
        assert found.st_size > 1 << 40
        assert found.st_blocks * 512 <= 1 << 20
    assert np.load(tmp_path / "npy/a.npy", mmap_mode="r")[:7].tolist() == [0, 0, 0, 0, 0, 1, 0]


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


class FailingFile(ViewFile):
    time_ns = 0

    def __init__(self, error):
        self._error = error

    def layout(self) -> Layout:
        raise self._error


class FailingDirectory(ViewDirectory):
    """A directory with a file `a` that cannot be worked out."""

    time_ns = 0

    def __init__(self, error):
        self._file = FailingFile(error)

    def find(self, name):
        return self._file

    def list(self):
        return [("a", self._file)]


def test_an_error_that_is_not_of_one_file_ends_it(tmp_path):
    facts = SketchedHierarchy({}).facts
    view = FailingDirectory(NoSpaceError("the disk is full"))
    with pytest.raises(NoSpaceError):
        export_view(view, facts, "npy", ExportRequest(str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_a_file_that_would_be_too_large_for_its_format_is_listed(tmp_path):
    view = FailingDirectory(NotShownError("it would be too large"))
    done = export_view(view, SketchedHierarchy({}).facts, "netcdf3", ExportRequest(str(tmp_path / "out")))
    assert done.failed == [("a", "it would be too large")]


def test_names_that_exports_use_are_listed(tmp_path):
    documents = dict.fromkeys(["/.icefs-export.tmp", "/a"], array_document())
    hierarchy = SketchedHierarchy(documents)
    view = parse_format("zarr2").make().root(hierarchy, SketchedDecoder())
    done = export_view(view, hierarchy.facts, "zarr2", ExportRequest(str(tmp_path / "out")))
    assert [one.path for one in done.failed] == [".icefs-export.tmp", ".zmetadata"]
    assert (tmp_path / "out/a/.zarray").exists()

"""`icefs ls --view`: the files of a view, their sizes, and what is left out, without a mount."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from icefs.cli.main import main
from icefs.cli.support.exit_codes import NOT_FOUND, STORAGE, USAGE
from icefs.cli.support.view_listing import list_view
from icefs.engine.write.repository import WritableRepository
from icefs.errors import NoSpaceError, NotShownError, ObjectNotFoundError
from icefs.storage.local.store import LocalStorage
from icefs.views.formats import parse_format
from tests.support.view_files import view_of, write_out
from tests.support.viewed import commit_arrays
from tests.unit.cli.conftest import PROJECT
from tests.unit.transfer.test_directory_export import files
from tests.unit.transfer.test_view_export import FailingDirectory

FORMATS = ["netcdf", "netcdf,groups", "netcdf3", "zarr2", "npy"]


def write_arrays(root):
    root.create_array("g/a", shape=(3,), dtype="i4")[:] = [1, 2, 3]
    root.create_array("texts", shape=(1,), dtype="U3")[:] = "abc"
    root.create_group("empty")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A repository whose array `texts` is not in the view `zarr2`."""
    return tmp_path_factory.mktemp("views") / "repo"


@pytest.fixture(scope="module")
def repository(place):
    with WritableRepository.create(LocalStorage(place)) as repository:
        commit_arrays(repository, write_arrays)
        repository.create_tag("v1", repository.lookup_branch("main"))
        yield repository


@pytest.mark.parametrize("view_format", FORMATS)
def test_the_files_are_those_that_a_mount_and_an_export_have(view_format, place, repository, run_json, tmp_path):
    expected = files(write_out(view_of(repository, parse_format(view_format).make()), tmp_path / "expected"))
    told = run_json("ls", f"{place}@main", "--view", view_format)
    assert {one["path"]: one["size_bytes"] for one in told["files"]} == {
        path: len(data) for path, data in expected.items()
    }
    assert (told["format"], told["failed"]) == (view_format, [])
    assert told["snapshot_id"] == str(repository.lookup_branch("main"))
    assert [one["path"] for one in told["left_out"]] == (["texts"] if view_format == "zarr2" else [])


def test_people_see_sizes_and_what_is_left_out(place, repository, capsysbinary):
    assert main(["ls", str(place), "--view", "zarr2"]) == 0
    printed = capsysbinary.readouterr()
    rows = [line.split("\t") for line in printed.out.decode().splitlines()]
    assert ["12", "g/a/0"] in rows
    assert printed.err.decode().startswith("not shown as zarr2: /texts: programs that read Zarr v2 as NetCDF")


def test_a_part_and_a_tag_are_listed(place, repository, run, run_json):
    def paths(*arguments):
        return [one["path"] for one in run_json("ls", *arguments, "--view", "npy")["files"]]

    assert paths(f"{place}@v1", "g") == paths(place, "/g/") == ["a.json", "a.npy", "icefs_view.json"]
    assert "texts.npy" in run("ls", place, "--ref", "v1", "--view", "npy")
    # Files of a view name the branch, and are shorter without it.
    branch, tag = (run_json("ls", f"{place}@{ref}", "--view", "zarr2")["files"] for ref in ("main", "v1"))
    assert [one["path"] for one in branch] == [one["path"] for one in tag]
    assert branch != tag


def test_an_empty_view_has_no_files(tmp_path, capsysbinary):
    WritableRepository.create(LocalStorage(tmp_path / "repo")).close()
    assert main(["ls", str(tmp_path / "repo"), "--view", "netcdf3", "--json"]) == 0
    told = json.loads(capsysbinary.readouterr().out)
    assert (told["left_out"], told["failed"]) == ([], [])


def test_what_cannot_be_listed_is_one_line(place, repository, fail):
    assert "the formats are netcdf" in fail(USAGE, "ls", place, "--view", "hdf4")
    assert fail(NOT_FOUND, "ls", place, "nothing", "--view", "npy").startswith("no group or array")
    for option in ("-l", "-R", "--keys"):
        assert "goes with none of -l, -R and --keys" in fail(USAGE, "ls", place, option, "--view", "npy")


def test_a_file_without_a_size_is_listed_as_such_and_a_store_that_fails_ends_it():
    for error in (ObjectNotFoundError("chunks/1 is gone"), NotShownError("it is too large")):
        assert list_view(FailingDirectory(error)).failed == [("a", error.own_message)]
    with pytest.raises(NoSpaceError):
        list_view(FailingDirectory(NoSpaceError("the disk is full")))


def test_a_file_whose_size_depends_on_a_lost_chunk_is_named(tmp_path, capsysbinary):
    with WritableRepository.create(LocalStorage(tmp_path / "repo")) as repository:
        texts = np.random.default_rng(1).bytes(9000).hex()
        commit_arrays(
            repository, lambda root: root.create_array("a", shape=(2,), dtype=str).__setitem__(..., [texts, "b"])
        )
    shutil.rmtree(tmp_path / "repo/chunks")
    for arguments in ([], ["--json"]):
        assert main(["ls", str(tmp_path / "repo"), "--view", "npy", *arguments]) == STORAGE
        printed = capsysbinary.readouterr()
        if arguments:
            told = json.loads(printed.out)
            assert [one["path"] for one in told["failed"]] == ["a.npy"]
            assert "a.json" in [one["path"] for one in told["files"]]
        else:
            assert printed.err.decode().startswith("cannot be read: a.npy: ")


def test_without_a_view_nothing_that_only_views_need_is_imported(demo):
    script = (
        "import sys; from icefs.cli.main import main; main(sys.argv[1:]);"
        " print(*{'h5py', 'zarr', 'icefs.views.decoder'} & {*sys.modules}, file=sys.stderr)"
    )
    for arguments in ([], ["weather", "-l"]):
        done = subprocess.run(
            [sys.executable, "-c", script, "ls", demo, *arguments],
            cwd=PROJECT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stderr.strip() == ""
        assert done.stdout

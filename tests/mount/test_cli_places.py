"""A path in a mount stands for what is there: commands that take one look at, and act on, no more than that."""

import json
import os

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from tests.support.mounting import mounted


@pytest.fixture(scope="module")
def repo(tmp_path_factory):
    place = tmp_path_factory.mktemp("places") / "repo"
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(place)))
    session = repository.writable_session("main")
    for path in ("surface/t2m", "surface/wind/u", "soil"):
        zarr.create_array(session.store, name=path, data=np.ones((4, 4), "i4"), chunks=(2, 4))
    session.commit("made")
    repository.create_branch("dev", session.snapshot_id)
    repository.create_tag("v1", session.snapshot_id)
    return place


@pytest.fixture
def icefs(capsysbinary, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))

    def call(*arguments, code=0):
        done = main([str(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        assert done == code, captured.err
        return captured.out.decode() if code == 0 else captured.err.decode()

    return call


def test_paths_in_a_mount_restrict_what_is_shown(repo, icefs, tmp_path, monkeypatch):
    with mounted(repo) as mount:
        tree = mount / "branches/main"
        assert icefs("ls", tree) == icefs("ls", repo) == "soil\nsurface/\n"
        assert icefs("ls", tree / "surface") == "t2m\nwind/\n"
        assert icefs("ls", tree / "surface", "wind") == "u\n"
        assert icefs("ls", tree / "surface/t2m").splitlines() == [
            f"surface/t2m/{key}" for key in ("zarr.json", "c/0/0", "c/1/0")
        ]
        assert list(json.loads(icefs("stats", "--json", tree / "surface"))["arrays"]) == [
            "surface/t2m",
            "surface/wind/u",
        ]
        assert icefs("ls", mount.path) == icefs("ls", mount / "branches") == "soil\nsurface/\n"
        monkeypatch.chdir(tree / "surface")  # which is left again, so that the mount can go
        assert icefs("ls", ".", "wind") == "u\n"
        assert icefs("cat", ".", "t2m/zarr.json") == (tree / "surface/t2m/zarr.json").read_text()
        assert icefs("export", ".", tmp_path / "out").startswith(os.readlink(tree / ".icefs/head").rpartition("/")[2])
        assert sorted(path.name for path in (tmp_path / "out").iterdir() if path.name[0] != ".") == [
            "t2m",
            "wind",
            "zarr.json",
        ]
        monkeypatch.chdir(tmp_path)


def test_an_import_goes_to_the_branch_and_place_that_the_path_names(repo, icefs, tmp_path):
    zarr.create_array(tmp_path / "z", data=np.zeros(3), chunks=(3,))
    with mounted(repo) as mount:
        icefs("import", tmp_path / "z", mount / "branches/dev/surface", "--path", "new")
        mount.refresh()
        assert (mount / "branches/dev/surface/new/zarr.json").exists()
        assert not (mount / "branches/main/surface/new").exists()
        error = icefs("import", tmp_path / "z", mount / "tags/v1", code=2)
        assert error.startswith("icefs: the mounted tree is a tag, which nothing can be imported into")


def test_a_diff_of_uncommitted_changes_draws_them(repo, icefs):
    with mounted(repo, branch="main") as mount:
        array = zarr.open_array(mount / "surface/t2m", mode="r+")
        array[2:] = 5
        (mount / "surface/wind/u/c/0/0").unlink()
        text = icefs("diff", mount.path, "--map")
        assert text.endswith("\n/surface/t2m\n  ·\n  ~\n\n/surface/wind/u\n  -\n  ·\n")
        assert "·" not in icefs("diff", mount.path)
        assert "·" not in icefs("diff", mount.path, "--no-map")


@pytest.mark.parametrize("view_format", [None, "npy"])
def test_an_export_says_that_uncommitted_changes_are_not_in_it(repo, tmp_path, monkeypatch, capsys, view_format):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg-state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg-cache"))
    options = [] if view_format is None else ["--format", view_format]

    def warning(place, *more):
        assert main(["export", str(place), str(tmp_path / "out"), "--dry-run", *options, *more]) == 0
        return capsys.readouterr().err

    with mounted(repo) as mount:
        tree = mount / "branches/dev"
        assert warning(tree) == ""
        zarr.open_array(tree / "surface/t2m", mode="r+")[0, 0] = 7
        shown = tree if view_format is None else tree / f".icefs/views/{view_format}"
        expected = (
            f"icefs: warning: the uncommitted changes of branch dev are not in it; 'icefs commit {tree}' first, or copy"
            f" {shown}, which shows them\n"
        )
        assert warning(tree) == warning(tree / "surface") == warning(mount.path, "--ref", "dev") == expected
        for other in (mount.path, mount / "branches/main", mount / "tags/v1", f"{mount.path}@v1", repo):
            assert warning(other) == ""
        # Of a branch as it was, nobody expects what was changed since.
        assert warning(tree, "--as-of", "2100-01-01") == ""


def test_an_export_of_a_mounted_branch_has_the_files_of_its_view(repo, icefs, tmp_path):
    with mounted(repo) as mount:
        tree = mount / "branches/dev"
        files = [".zmetadata", ".zattrs", "surface/t2m/0.0"]
        listed = json.loads(icefs("ls", "--json", "--view", "zarr2", tree))["files"]
        sizes = {one["path"]: one["size_bytes"] for one in listed}
        icefs("export", tree, tmp_path / "out", "--format", "zarr2")
        assert json.loads((tmp_path / "out/.zattrs").read_text())["icefs_branch"] == "dev"
        for file in files:
            shown = (tree / ".icefs/views/zarr2" / file).read_bytes()
            assert (tmp_path / "out" / file).read_bytes() == shown
            assert sizes[file] == len(shown)

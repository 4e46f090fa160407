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

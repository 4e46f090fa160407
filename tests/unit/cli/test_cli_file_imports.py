"""`icefs import --virtual` and `--copy` as they are typed."""

import json
import os
import sys

import h5py
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from tests.support.copied_samples import dataset, write
from tests.support.virtual_samples import PACKED, days, series, settled
from tests.unit.cli.test_cli_json import DOCUMENTED

pytestmark = pytest.mark.filterwarnings("ignore")
WAYS = ["--virtual", "--copy"]


@pytest.fixture
def place(tmp_path, monkeypatch, run):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "files").mkdir()
    run("init", tmp_path / "repo")
    return tmp_path


def hard(path):
    """Writes a file with an array that cannot be imported, and one that can."""
    with h5py.File(path, "w") as file:
        file["good"] = np.arange(5)
        file["compound"] = np.zeros(3, [("x", "i4"), ("y", "f8")])
    return settled(path)


@pytest.mark.parametrize("way", WAYS)
def test_files_are_joined_and_appended(way, place, run, run_json):
    paths = series(place / "files")
    repo = place / "repo"
    told = run("import", way, *paths[:2], repo, "--concat", "time", "--dry-run")
    assert told.startswith("would refer to 4 arrays of 2 files" if way == "--virtual" else "would copy 4 arrays of 2")
    assert "t2m  8 x 10 x 12" in told
    assert len(run_json("log", repo)) == 1

    done = run_json("import", way, *paths[:2], repo, "--concat", "time", "-m", "two", "--meta", "by=ada")
    assert list(done) == DOCUMENTED[f"import {way}"]
    assert (done["files"], done["invalid"], done["dry_run"]) == (2, [], False)
    assert {array["path"] for array in done["arrays"]} == {"t2m", "time", "x", "y"}
    [newest, *_] = run_json("log", repo)
    assert (newest["id"], newest["message"]) == (done["snapshot_id"], "two")
    assert newest["metadata"]["by"] == "ada"

    told = run("import", way, paths[2], repo, "--concat", "time", "--append")
    assert told.startswith("committed ")
    [shape] = [node["shape"] for node in run_json("ls", "-l", repo) if node["path"].strip("/") == "t2m"]
    assert shape == [12, 10, 12]
    if way == "--copy":
        assert run_json("stats", repo)["virtual_bytes"] == 0


@pytest.mark.parametrize("way", WAYS)
def test_what_is_left_out_is_said_and_the_rest_committed(way, place, run_json, capsysbinary):
    path = hard(place / "files/hard.h5")
    assert main(["import", way, str(path), str(place / "repo")]) == 7
    told = capsysbinary.readouterr()
    assert told.out.startswith(b"committed ")
    assert told.err.decode() == f"left out compound of {path}: it has a compound type\n"
    assert main(["import", way, str(path), str(place / "repo"), "--path", "again", "--json"]) == 7
    done = json.loads(capsysbinary.readouterr().out)
    assert done["invalid"] == [{"file": str(path), "path": "compound", "reason": "it has a compound type"}]
    assert [array["path"] for array in done["arrays"]] == ["again/good"]
    assert len(run_json("log", place / "repo")) == 3


@pytest.mark.parametrize("way", WAYS)
def test_nothing_that_can_be_imported_is_an_error(way, place, fail):
    path = place / "files/none.h5"
    with h5py.File(path, "w") as file:
        file["compound"] = np.zeros(3, [("x", "i4"), ("y", "f8")])
    told = fail(2, "import", way, settled(path), place / "repo")
    assert "compound: it has a compound type" in told


def test_a_library_that_is_not_there_is_named_with_the_line_that_installs_it(place, fail, monkeypatch):
    netcdf3 = write(dataset("netcdf3"), "netcdf3", place / "files/old.nc")
    netcdf4 = write(dataset("netcdf4"), "netcdf4", place / "files/new.nc")
    for name in [name for name in sys.modules if name.partition(".")[0] == "virtualizarr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "virtualizarr", None)
    for way, path in (("--virtual", netcdf3), ("--virtual", netcdf4), ("--copy", netcdf3)):
        told = fail(1, "import", way, path, place / "repo")
        assert "VirtualiZarr, which is not installed" in told
        assert "pip install 'icefs[virtual]'" in told
    monkeypatch.setitem(sys.modules, "h5py", None)
    told = fail(1, "import", "--copy", netcdf4, place / "repo")
    assert "h5py" in told
    assert "pip install 'icefs[virtual]'" in told


def test_hdf5_is_copied_without_virtualizarr(place, run, monkeypatch):
    path = write(dataset("netcdf4"), "netcdf4", place / "files/new.nc")
    for name in [name for name in sys.modules if name.partition(".")[0] == "virtualizarr"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "virtualizarr", None)
    assert run("import", "--copy", path, place / "repo").startswith("committed ")


def test_options_that_do_not_go_together(place, fail):
    path, repo = series(place / "files", 1)[0], place / "repo"
    assert "exclude each other" in fail(2, "import", "--virtual", "--copy", path, repo)
    assert "goes with --virtual or --copy only" in fail(2, "import", "--concat", "time", path, repo)
    assert "goes with --virtual only" in fail(2, "import", "--copy", "--loadable", "x", path, repo)
    assert "does not go with --copy" in fail(2, "import", "--copy", "--skip-invalid", path, repo)
    assert "--concat DIM" in fail(2, "import", "--copy", "--append", path, repo)


@pytest.mark.parametrize("way", WAYS)
def test_files_that_do_not_fit_and_arrays_that_exist(way, place, run, fail):
    paths, repo = series(place / "files", 2), place / "repo"
    packed = {**PACKED, "t2m": {**PACKED["t2m"], "scale_factor": 0.5}}
    days(8).to_netcdf(place / "files/other.nc", encoding=packed)
    told = fail(2, "import", way, paths[0], settled(place / "files/other.nc"), repo, "--concat", "time")
    assert "attributes scale_factor of t2m differ" in told
    run("import", way, paths[0], repo, "--concat", "time")
    assert "--append" in fail(4, "import", way, paths[1], repo, "--concat", "time")
    assert "there is no" in fail(3, "import", way, place / "none.nc", repo)


def test_a_directory_of_zarr_v2_is_copied(place, run, fail):
    group = zarr.open_group(place / "files/v2.zarr", mode="w", zarr_format=2)
    group.create_array("a", data=np.arange(6.0), chunks=(2,))
    told = fail(1, "import", place / "files/v2.zarr", place / "repo")
    assert "--copy" in told
    run("import", "--copy", settled(place / "files/v2.zarr"), place / "repo", "--group", "old")
    assert run("ls", place / "repo", "old").split() == ["a"]


@pytest.mark.parametrize("way", WAYS)
def test_a_terminal_sees_how_far_it_is(way, place, monkeypatch):
    monkeypatch.setattr("icefs.cli.support.transfers.PATIENCE_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    paths = series(place / "files")
    ours, terminals = os.openpty()
    with open(terminals, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert main(["import", way, *map(str, paths), str(place / "repo"), "--concat", "time"]) == 0
        monkeypatch.undo()
        terminal.flush()
        shown = os.read(ours, 1 << 20).decode()
    os.close(ours)
    assert "importing" in shown
    assert "/3 files" in shown

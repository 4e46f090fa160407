"""`icefs import` and `icefs export` as they are typed; and killed in the middle."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.format.layout import chunk_key
from icefs.storage.local.store import LocalStorage
from tests.support.viewed import commit_arrays
from tests.unit.cli.test_cli_json import DOCUMENTED
from tests.unit.transfer.test_directory_export import files
from tests.unit.transfer.test_directory_import import array, few, read, write


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write(tmp_path / "z", few())
    return tmp_path


def test_there_and_back(place, run, run_json, fail):
    run("init", place / "repo")
    assert run("import", place / "z", place / "repo", "--dry-run").startswith("would import 6 nodes")
    done = run_json("import", place / "z", place / "repo", "--path", "a/b", "-m", "from afar", "--meta", "by=ada")
    assert list(done) == DOCUMENTED["import"]
    assert (done["chunks"], done["repeated"], done["dry_run"]) == (len(few()) - 6, False, False)
    [newest, *_] = run_json("log", place / "repo")
    assert (newest["id"], newest["message"]) == (done["snapshot_id"], "from afar")
    assert newest["metadata"]["by"] == "ada"
    assert run("import", place / "z", place / "repo", "--path", "a/b").startswith("imported already")
    (place / "z/scalar/c").write_bytes(b"other" * 200)
    assert "--overwrite" in fail(4, "import", place / "z", place / "repo", "--path", "a/b")
    assert run("import", place / "z", place / "repo", "--path", "a/b", "--overwrite", "--json")

    told = run_json("export", place / "repo", place / "out", "a/b")
    assert list(told) == DOCUMENTED["export"]
    assert files(place / "out") == few() | {"scalar/c": b"other" * 200}
    assert "wrote 0 of" in run("export", place / "repo", place / "out", "a/b")
    assert "would write 1 of" in run("export", f"{place}/repo@{done['snapshot_id']}", place / "out", "a/b", "--dry-run")
    assert "--force" in fail(4, "export", place / "repo", place / "z")
    assert fail(3, "export", place / "repo", place / "other", "nothing").startswith("no group or array")


def test_views_are_exported(place, run, run_json, fail, capsysbinary):
    from icefs.cli.main import main

    run("init", place / "repo")
    repository = WritableRepository.open(LocalStorage(place / "repo"))

    def write_arrays(root):
        root.create_array("g/a", shape=(3,), dtype="i4")[:] = [1, 2, 3]
        root.create_array("texts", shape=(1,), dtype="U3")[:] = "abc"

    commit_arrays(repository, write_arrays)
    told = run_json("export", place / "repo", place / "npy", "--format", "npy")
    assert list(told) == DOCUMENTED["export"]
    assert (told["format"], told["left_out"], told["files"]) == ("npy", [], 5)
    assert np.load(place / "npy/g/a.npy").tolist() == [1, 2, 3]
    assert "wrote 0 of 5 files" in run("export", place / "repo", place / "npy", "--format", "npy")
    assert "wrote 3 of 3 files" in run("export", place / "repo", place / "part", "g", "--format", "npy")
    assert fail(3, "export", place / "repo", place / "other", "nothing", "--format", "npy").startswith(
        "no group or array"
    )
    assert "the formats are netcdf" in fail(2, "export", place / "repo", place / "x", "--format", "hdf4")
    assert main(["export", str(place / "repo"), str(place / "v2"), "--format", "zarr2"]) == 7
    printed = capsysbinary.readouterr().err.decode()
    assert "not shown as zarr2: /texts: programs that read Zarr v2 as NetCDF know no arrays of texts" in printed
    assert "damaged" not in printed
    assert main(["export", str(place / "repo"), str(place / "x2"), "--format", "zarr2", "--json"]) == 7
    told = json.loads(capsysbinary.readouterr().out)
    assert [one["path"] for one in told["left_out"]] == ["/texts"]
    assert json.loads((place / "v2/.zattrs").read_text())["icefs_branch"] == "main"
    assert main(["export", f"{place}/repo@{told['snapshot_id']}", str(place / "x3"), "--format", "zarr2"]) == 7
    assert "icefs_branch" not in json.loads((place / "x3/.zattrs").read_text())


def test_an_export_of_a_branch_as_it_was(place, run, run_json, fail):
    run("init", place / "repo")
    repository = WritableRepository.open(LocalStorage(place / "repo"))
    times = []
    for value in (1, 2):
        commit_arrays(
            repository,
            lambda root, value=value: root.create_array("a", shape=(2,), dtype="i4", overwrite=True).__setitem__(
                0, value
            ),
        )
        times.append(run_json("log", place / "repo")[0]["written_at"])
    for view in ("npy", "zarr2"):
        told = run_json("export", place / "repo", place / view, "--format", view, "--as-of", times[0])
        assert told["snapshot_id"] == run_json("log", place / "repo")[1]["id"]
    assert np.load(place / "npy/a.npy").tolist() == [1, 0]
    # What a mount of the branch as it was shows is a snapshot, too.
    assert "icefs_branch" not in json.loads((place / "zarr2/.zattrs").read_text())
    run("export", place / "repo", place / "npy", "--format", "npy", "--as-of", times[1])
    assert np.load(place / "npy/a.npy").tolist() == [2, 0]
    run("export", place / "repo", place / "plain", "--as-of", times[0])
    assert zarr.open_array(place / "plain/a", mode="r")[:].tolist() == [1, 0]
    assert "no snapshot as old as" in fail(3, "export", place / "repo", place / "x", "--as-of", "1990-01-01")
    assert "is not a time" in fail(2, "export", place / "repo", place / "x", "--as-of", "yesterday")
    assert "v1" in fail(3, "export", f"{place}/repo@v1", place / "x", "--as-of", times[0])


def test_over_another_version_only_what_differs_is_written(place, run, run_json):
    run("init", place / "repo")
    repository = WritableRepository.open(LocalStorage(place / "repo"))
    commit_arrays(repository, lambda root: root.create_array("a", shape=(6,), chunks=(2,), dtype="i4")[:].fill(0))
    commit_arrays(repository, lambda root: root["a"].__setitem__(slice(None), 1))
    run("export", place / "repo", place / "v2", "--format", "zarr2")
    commit_arrays(repository, lambda root: root["a"].__setitem__(5, 7))
    told = run_json("export", place / "repo", place / "v2", "--format", "zarr2")
    assert (told["files"], told["written_files"]) == (8, 4)  # .zattrs, .zmetadata, a/.zarray, a/2


def test_zarr_v2_is_refused(place, run, fail):
    run("init", place / "repo")
    write(place / "v2", {".zgroup": b"{}"})
    assert "Zarr v2" in fail(1, "import", place / "v2", place / "repo")


def test_a_chunk_that_is_gone(place, run, capsysbinary):
    from icefs.cli.main import main

    run("init", place / "repo")
    run("import", place / "z", place / "repo")
    repo = WritableRepository.open(LocalStorage(place / "repo"))
    ref = repo.readonly_session("main").chunk_ref("/big", (1,))
    repo.storage.delete([chunk_key(ref.chunk_id)])
    assert main(["export", str(place / "repo"), str(place / "out"), "--json"]) == 7
    told = json.loads(capsysbinary.readouterr().out)
    assert [problem["path"] for problem in told["failed"]] == ["big/c/1"]
    assert files(place / "out") == {key: data for key, data in few().items() if key != "big/c/1"}


def test_killed_and_run_again(place, run, run_json):
    """Whatever was stored before a `kill -9` was remembered, and the repository is as it was until the end."""
    keys = {"zarr.json": array([300])} | {f"c/{number}": os.urandom(70_000) for number in range(300)}
    write(place / "many", keys)
    run("init", place / "repo")
    program = """
import os, signal, sys
from icefs.transfer.ledger import Ledger
add = Ledger.add
def add_and_die(ledger, rows):
    # Where the disk is slow, the first to be remembered are all there are: half of them are left to do in any case.
    stored = list(rows)
    add(ledger, stored[: len(stored) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
Ledger.add = add_and_die
from icefs.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    command = [sys.executable, "-c", program]
    for _ in range(2):
        arguments = ["import", place / "many", place / "repo"]
        died = subprocess.run([*command, *arguments], stdout=subprocess.DEVNULL, check=False)
        assert died.returncode == -signal.SIGKILL
        repo = WritableRepository.open(LocalStorage(place / "repo"))
        assert len(list(repo.ancestry(branch="main"))) == 1
    done = run_json("import", place / "many", place / "repo")
    repo = WritableRepository.open(LocalStorage(place / "repo"))
    assert read(repo) == keys
    assert len(list(repo.ancestry(branch="main"))) == 2
    assert 0 < done["stored_chunks"] < 300

    for delay in (0.0, 0.1):
        child = subprocess.Popen([*command, "export", place / "repo", place / "out"], stdout=subprocess.DEVNULL)
        while child.poll() is None and not (place / "out").exists():
            time.sleep(0.001)
        time.sleep(delay)
        child.send_signal(signal.SIGKILL)
        child.wait()
        assert all(data == keys[path] for path, data in files(place / "out").items())
    run("export", place / "repo", place / "out")
    assert files(place / "out") == keys
    assert not list(place.glob(".out*"))

"""Commits of renames, amended from the shell: message, further renames, manifests; the official library looks on."""

import itertools

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.cli.support.exit_codes import STATE
from tests.support.mounting import mounted

ROOT = "Repository initialized"


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def official(tmp_path):
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "repo")))
    session = repository.writable_session("main")
    for number, name in enumerate(("g/a", "b")):
        zarr.create_array(session.store, name=name, data=np.full(4, number, "i4"), chunks=(2,))
    session.commit("base")
    return repository


def reopened(tmp_path):
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(tmp_path / "repo")))


# What a commit may consist of: how it is done to a tree, after earlier steps or not.
def rename(tree, step):
    (tree / ("g" if (tree / "g").exists() else "g1")).rename(tree / f"g{step + 1}")


def write(tree, step):
    zarr.open_array(str(tree / "b"))[step] = 70 + step


def make(tree, step):
    zarr.create_array(str(tree / f"new{step}"), data=np.full(2, 5), chunks=(2,))


def nothing(tree, step):
    pass


def rename_new(tree, step):
    (tree / "new0").rename(tree / "newer")


def rename_back(tree, step):
    (tree / "g1").rename(tree / "g")


STEPS = {one.__name__: one for one in (rename, write, make, nothing, rename_new, rename_back)}
CASES = [
    pair
    for pair in itertools.product(("rename", "write", "make"), STEPS)
    if (pair[1] == "rename_new") <= (pair[0] == "make") and (pair[1] == "rename_back") <= (pair[0] == "rename")
]


def content(where):
    """Returns the values of all arrays, and None for groups, by path."""
    members = zarr.open_group(where, mode="r").members(max_depth=None)
    return {path: node[:].tolist() if isinstance(node, zarr.Array) else None for path, node in members}


@pytest.mark.parametrize(("first", "then"), CASES)
def test_an_amended_commit_is_what_both_steps_made_of_its_parent(tmp_path, official, capsys, first, then):
    base = official.lookup_branch("main")
    before = content(official.readonly_session("main").store)
    with mounted(tmp_path / "repo", branch="main") as mount:
        STEPS[first](mount.path, 0)
        assert main(["commit", str(mount.path), "-m", "first"]) == 0
        tip = reopened(tmp_path).lookup_branch("main")
        STEPS[then](mount.path, 1)
        shown = content(str(mount.path))
        code = main(["commit", str(mount.path), "--amend", "-m", "amended"])
        err = capsys.readouterr().err
        if first == "rename" and then in ("write", "make"):
            assert code == STATE
            assert f"the newest commit {tip} moved nodes" in err
            assert err.endswith("; commit without --amend\n")
            assert main(["commit", str(mount.path), "-m", "amended"]) == 0
            assert content(reopened(tmp_path).readonly_session("main").store) == shown
            return
        assert (code, err) == (0, "")
        assert content(str(mount.path)) == shown
        capsys.readouterr()
        assert main(["diff", str(mount.path)]) == 0
        assert capsys.readouterr().out == ""
    repository = reopened(tmp_path)
    amended = repository.lookup_branch("main")
    assert [info.message for info in repository.ancestry(branch="main")] == ["amended", "base", ROOT]
    after = content(repository.readonly_session("main").store)
    assert after == shown
    diff = repository.diff(from_snapshot_id=base, to_snapshot_id=amended)
    new = {path.lstrip("/") for path in diff.new_arrays | diff.new_groups}
    sources = {source.lstrip("/") for source, _ in map(tuple, diff.moved_nodes)}
    targets = {target.lstrip("/") for _, target in map(tuple, diff.moved_nodes)}
    assert sources == before.keys() - after.keys()
    assert (new | targets, new & targets) == (after.keys() - before.keys(), set())
    written = {path.lstrip("/") for path in diff.updated_chunks}
    assert written == {path for path in new if after[path]} | {path for path in ("b",) if before[path] != after[path]}


def test_a_message_of_several_lines_is_that_of_a_commit_of_renames(tmp_path, official):
    with mounted(tmp_path / "repo", branch="main") as mount:
        rename(mount.path, 0)
        with (mount / ".icefs/commit").open("w", buffering=1) as file:
            file.write("renamed\n")
            file.write("for good\n")
    [head, *_] = reopened(tmp_path).ancestry(branch="main")
    assert head.message == "renamed\nfor good"


def test_manifests_of_a_commit_of_renames_are_rewritten_in_its_place(tmp_path, official, capsys):
    repo = str(tmp_path / "repo")
    with mounted(repo, branch="main") as mount:
        rename(mount.path, 0)
        assert main(["commit", str(mount.path), "-m", "renamed"]) == 0
    assert main(["rewrite-manifests", repo, "--amend", "-m", "rewritten"]) == 0
    repository = reopened(tmp_path)
    history = list(repository.ancestry(branch="main"))
    assert [info.message for info in history] == ["rewritten", "base", ROOT]
    diff = repository.diff(from_snapshot_id=history[1].id, to_snapshot_id=history[0].id)
    assert sorted(map(tuple, diff.moved_nodes)) == [("/g", "/g1"), ("/g/a", "/g1/a")]
    assert content(repository.readonly_session("main").store)["g1/a"] == [0, 0, 0, 0]
    assert main(["fsck", repo]) == 0

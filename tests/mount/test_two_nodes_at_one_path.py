"""A mounted snapshot with two nodes at one path: the newer one is shown, all else is read, a commit mends it."""

import json
import shutil
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.cli.main import main
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from tests.support.mounting import mounted

icechunk.set_logs_filter("off")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    repo = icechunk.Repository.create(icechunk.local_filesystem_storage(str(tmp_path / "dup")))
    session = repo.writable_session("main")
    for name in "ab":
        zarr.create_array(session.store, name=name, shape=(4,), chunks=(1,), dtype="i4")[:] = 1
    session.commit("base")
    ours, theirs = repo.writable_session("main"), repo.writable_session("main")
    for session, who in ((ours, "ours"), (theirs, "theirs")):
        zarr.create_array(
            session.store, name="a", overwrite=True, shape=(8,), dtype="f8", chunks=(4,), attributes={"who": who}
        )
    theirs.commit("theirs")
    ours.rebase(icechunk.ConflictDetector())
    ours.commit("ours")
    return tmp_path / "dup"


@pytest.mark.parametrize("change", ["delete", "rewrite", "another"])
def test_a_mount_shows_the_newer_node_and_a_commit_keeps_only_that(path: Path, change: str) -> None:
    with mounted(path, branch="main", may_complain=True) as mount:
        tree = mount.path
        assert sorted(each.name for each in tree.iterdir()) == ["a", "b", "zarr.json"]
        assert np.all(zarr.open_array(str(tree / "b"), mode="r")[:] == 1)
        document = json.loads((tree / "a" / "zarr.json").read_text())
        assert document["attributes"] == {"who": "ours"}
        assert [each.name for each in (tree / "a").iterdir()] == ["zarr.json"]
        if change == "delete":
            shutil.rmtree(tree / "a")
        elif change == "rewrite":
            zarr.open_array(str(tree / "a"), mode="r+")[:] = 3.0
        else:
            zarr.open_array(str(tree / "b"), mode="r+")[:] = 2
        assert main(["commit", str(tree), "-m", "mended"]) == 0
        if change == "rewrite":
            assert np.all(zarr.open_array(str(tree / "a"), mode="r")[:] == 3.0)
    session = WritableRepository.open(LocalStorage(path)).readonly_session(branch="main")
    paths = [node.path for node in session.snapshot.nodes()]
    assert sorted(paths) == (["/", "/b"] if change == "delete" else ["/", "/a", "/b"])
    store = icechunk.Repository.open(icechunk.local_filesystem_storage(str(path))).readonly_session("main").store
    assert np.all(zarr.open_array(store, path="b", mode="r")[:] == (2 if change == "another" else 1))
    if change == "rewrite":
        assert np.all(zarr.open_array(store, path="a", mode="r")[:] == 3.0)


def test_a_mounted_snapshot_of_two_nodes_is_read(path: Path) -> None:
    tip = WritableRepository.open(LocalStorage(path)).lookup_branch("main")
    with mounted(path, may_complain=True) as mount:
        tree = mount / f"snapshots/{tip}"
        assert sorted(each.name for each in tree.iterdir()) == ["a", "b", "zarr.json"]
        assert np.all(zarr.open_array(str(tree / "b"), mode="r")[:] == 1)

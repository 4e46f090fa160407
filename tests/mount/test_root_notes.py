"""What status says of a mount whose nodes have no group above them at the root."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.support.mounting import mounted

LINE = "there is no group at /; open the nodes below by their paths, or make it with zarr.create_group"


def icefs(*arguments):
    command = [Path(sys.executable).with_name("icefs"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def notes(mount):
    """Returns the notes of status, which are the same in all of its forms."""
    told = mount.control("status.json")["notes"]
    assert json.loads(icefs("status", "--json", mount.path))["notes"] == told
    for text in ((mount / ".icefs/status").read_text(), icefs("status", mount.path)):
        assert [line for line in text.splitlines() if line.startswith("Note: ")] == [f"Note: {note}" for note in told]
    return told


def add_array(mount, path="surface/t"):
    zarr.create_array(str(mount.path / path), data=np.ones((5, 4)), chunks=(1, 4))


@pytest.fixture
def mount(tmp_path):
    WritableRepository.create(open_storage(str(tmp_path / "repo"))).close()
    with mounted(tmp_path / "repo", branch="main", state_dir=str(tmp_path / "trees")) as mount:
        yield mount


def test_an_empty_tree_is_not_noted(mount):
    assert notes(mount) == []
    (mount / "surface").mkdir()
    (mount / "readme.txt").write_text("not a node")
    assert notes(mount) == []


def test_a_tree_without_a_root_group_is_noted_until_it_has_one(mount, tmp_path):
    add_array(mount)
    assert notes(mount) == [LINE]
    with pytest.raises(FileNotFoundError):
        zarr.open_group(str(mount.path), mode="r")
    icefs("commit", mount.path, "-m", "an array")
    assert notes(mount) == [LINE]
    with mounted(tmp_path / "repo", branch="main") as fresh:
        assert [path.name for path in fresh.path.iterdir()] == ["surface"]
        assert notes(fresh) == [LINE]
    zarr.create_group(str(mount.path))
    assert notes(mount) == []
    assert "surface/t" in zarr.open_group(str(mount.path), mode="r")
    icefs("commit", mount.path, "-m", "a group")
    assert notes(mount) == []


def test_nodes_that_are_removed_do_not_count(mount):
    add_array(mount)
    add_array(mount, "other/u")
    icefs("commit", mount.path, "-m", "two arrays")
    shutil.rmtree(mount / "other")
    assert notes(mount) == [LINE]
    shutil.rmtree(mount / "surface")
    assert notes(mount) == []
    add_array(mount, "again")
    assert notes(mount) == [LINE]


def test_a_root_group_that_is_removed_is_missed(mount):
    zarr.create_group(str(mount.path))
    add_array(mount, "t")
    assert notes(mount) == []
    icefs("commit", mount.path, "-m", "a group with an array")
    (mount / "zarr.json").unlink()
    assert notes(mount) == [LINE]


def test_a_renamed_node_counts_where_it_is(mount):
    add_array(mount)
    icefs("commit", mount.path, "-m", "an array")
    (mount / "surface").rename(mount / "ground")
    assert notes(mount) == [LINE]


@pytest.mark.parametrize("kind", [{"tag": "v"}, {"branch": "main", "read_only": True}])
def test_a_tree_that_is_only_read_has_the_note_without_the_way_that_it_does_not_have(mount, tmp_path, kind):
    add_array(mount)
    icefs("commit", mount.path, "-m", "an array")
    icefs("tag", "create", "v", "main", "--repo", mount.path)
    with mounted(tmp_path / "repo", **kind) as reading:
        assert notes(reading) == []  # no program has looked, and status asks the store for nothing
        assert [path.name for path in reading.path.iterdir()] == ["surface"]
        assert notes(reading) == ["there is no group at /; open the nodes below by their paths"]


def test_a_tree_nobody_has_looked_into_has_no_note(mount, tmp_path):
    add_array(mount)
    icefs("commit", mount.path, "-m", "an array")
    with mounted(tmp_path / "repo") as whole:
        assert whole.control("status.json", "branches/main")["notes"] == []
        assert [path.name for path in (whole / "branches/main").iterdir()] == ["surface"]
        assert whole.control("status.json", "branches/main")["notes"] == [LINE]

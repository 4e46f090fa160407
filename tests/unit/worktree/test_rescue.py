"""What a tree shows that only its old base has, and copies up before the base changes."""

from pathlib import Path

import pytest

from icefs.worktree.core.content import Content
from icefs.worktree.model.nodes import FROM_BASE
from icefs.worktree.tree import WorkTree
from tests.support.base_plans import parts_of
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import Driver, options

BASE = {"a/c/0": b"zero", "a/c/1": b"one", "b/c/0": b"other"}


@pytest.fixture
def snapshots():
    return Snapshots(BASE)


@pytest.fixture
def driver(tmp_path: Path, snapshots: Snapshots):
    driver = Driver(WorkTree(tmp_path / "state", options(snapshots)))
    yield driver
    driver.tree.close()


def found_at(parts):
    with parts.core.lock:
        found = parts.rescue.find()
        return sorted(map(parts.core.path_of, [*found.files, *found.directories]))


def test_what_the_new_base_has_as_well_needs_no_rescue(driver, snapshots):
    driver.rename("a/c/0", "a/c/9")
    driver.rename("b", "d")
    snapshots.add("theirs", BASE | {"x": b"x"}, on="base", changed=["x"])
    parts = parts_of(driver.tree, "theirs")
    assert found_at(parts) == []
    with parts.core.lock:
        assert not parts.rescue.find()


def test_a_renamed_file_that_others_changed_is_rescued(driver, snapshots):
    driver.rename("a/c/0", "a/c/9")
    snapshots.add("theirs", BASE | {"a/c/0": b"new!"}, on="base", changed=["a/c/0"])
    assert found_at(parts_of(driver.tree, "theirs")) == ["a/c/9"]
    assert found_at(parts_of(driver.tree, "theirs", yielded=["a/c/9"])) == []


def test_a_file_of_the_base_in_its_place_is_the_bases(driver, snapshots):
    driver.chmod("a/c/0", 0o600)
    snapshots.add("theirs", {"b/c/0": b"other"}, on="base")
    assert found_at(parts_of(driver.tree, "theirs")) == []


def test_a_renamed_directory_that_others_removed_is_rescued_as_a_whole(driver, snapshots):
    driver.rename("a", "d")
    snapshots.add("theirs", {"b/c/0": b"other"}, on="base")
    parts = parts_of(driver.tree, "theirs")
    with parts.core.lock:
        found = parts.rescue.find()
    assert [directory.path() for directory in found.directories] == ["d"]
    parts.rescue.copy_up(Content(parts.core, 0), found)
    for name, data in {"d/c/0": b"zero", "d/c/1": b"one"}.items():
        assert not parts.node(name).flags & FROM_BASE
        assert driver.read(name) == data
    assert found_at(parts) == []


def test_a_copied_file_keeps_its_time_and_is_remembered(driver, snapshots):
    driver.rename("a/c/0", "a/c/9")
    before = driver.stat("a/c/9").mtime_ns
    snapshots.add("theirs", {"b/c/0": b"other"}, on="base")
    parts = parts_of(driver.tree, "theirs")
    with parts.core.lock:
        found = parts.rescue.find()
    parts.rescue.copy_up(Content(parts.core, 0), found)
    node = parts.node("a/c/9")
    assert parts.rescue.copied == {node: ("a/c/0", node.spool_id, before)}
    assert driver.stat("a/c/9").mtime_ns == before
    snapshots.trees["base"].files.clear()
    assert driver.read("a/c/9") == b"zero"


def test_what_was_not_committed_of_a_renamed_directory_is_rescued(driver, snapshots):
    driver.rename("a", "d")
    frozen = driver.tree.freeze()
    snapshots.add("next", {"d/c/0": b"zero", "b/c/0": b"other"}, on="base", changed=["d/c/0"])
    assert found_at(parts_of(driver.tree, "next", frozen, left_out=["d/c/1"])) == ["d/c/1"]
    driver.tree.abandon(frozen)

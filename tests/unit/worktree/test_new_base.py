"""Where the directories and files of a working tree are on a new base."""

from pathlib import Path

import pytest

from icefs.worktree.freeze.frozen_index import FrozenIndex
from icefs.worktree.rebase.new_base import AskedOnce, find_kept_back
from icefs.worktree.tree import WorkTree
from tests.support.base_plans import parts_of, plan_of_commit
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


def test_a_base_is_asked_once_for_each_path(snapshots):
    asked = AskedOnce(snapshots("base"))
    assert asked.has_file("a/c/0", 4)
    snapshots.trees["base"].files.clear()
    assert asked.has_file("a/c/0", 4)
    assert not asked.has_file("a/c/0", 5)
    assert not asked.has_file("a/c", 0)
    assert asked.has_directory("a/c")
    assert not asked.has_directory("a/c/0")
    assert asked.stat("nothing") is None


def test_what_others_made_is_at_its_own_path(driver, snapshots):
    snapshots.add("theirs", BASE | {"a/c/1": b"1!"}, on="base", changed=["a/c/1"])
    driver.write("a/c/5", b"mine")
    new = parts_of(driver.tree, "theirs").new
    assert new.new_path("a/c/1") == "a/c/1"
    assert new.is_same("a/c/0", "a/c/0")
    assert not new.is_same("a/c/1", "a/c/1")


def test_a_committed_rename_takes_files_and_directories_along(driver, snapshots):
    driver.rename("a", "d")
    driver.rename("b/c/0", "b/c/7")
    frozen = driver.tree.freeze()
    files = {"d/c/0": b"zero", "d/c/1": b"one", "b/c/7": b"other"}
    snapshots.add("next", files, on="base", changed=files)
    parts = parts_of(driver.tree, "next", frozen)
    assert parts.new.new_path("a/c/1") == "d/c/1"
    assert parts.new.new_path("b/c/0") == "b/c/7"
    assert parts.new.moved_files == {"b/c/0": "b/c/7"}
    assert parts.new.directory(parts.directory("d")) == "d"
    assert parts.new.below(parts.directory("b/c"), "9") == "b/c/9"
    assert parts.new.source(parts.node("b/c/7")) == "b/c/7"
    driver.tree.abandon(frozen)


def test_a_directory_that_the_new_base_lacks_stands_over_nothing(driver, snapshots):
    driver.write("a/c/5", b"mine")
    driver.mkdir("notes")
    driver.write("notes/x", b"untracked")
    frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"a/c/5": b"mine"}, on="base", changed=["a/c/5"])
    parts = parts_of(driver.tree, "next", frozen, left_out=["notes/x"])
    assert parts.new.directory(parts.directory("notes")) is None
    assert parts.new.below(parts.directory("notes"), "x") is None
    assert parts.new.directory(parts.directory("a/c")) == "a/c"
    driver.tree.abandon(frozen)


def test_a_directory_made_here_joins_the_one_that_others_made(driver, snapshots):
    driver.mkdir("n")
    driver.write("n/mine", b"mine")
    snapshots.add("theirs", BASE | {"n/theirs": b"theirs"}, on="base", changed=["n/theirs"])
    parts = parts_of(driver.tree, "theirs")
    made = parts.directory("n")
    assert parts.new.directory(made) is None
    parts.new.join_made([parts.core.root, made])
    assert parts.new.directory(made) == "n"
    assert list(parts.new.hidden_names(made)) == []


def test_what_a_made_directory_hid_of_the_old_base_stays_hidden(driver, snapshots):
    for name in "01":
        driver.unlink(f"a/c/{name}")
    driver.rmdir("a/c")
    driver.mkdir("a/c")
    driver.write("a/c/5", b"mine")
    snapshots.add("theirs", BASE | {"a/c/2": b"theirs"}, on="base", changed=["a/c/2"])
    parts = parts_of(driver.tree, "theirs")
    made = parts.directory("a/c")
    parts.new.join_made([parts.core.root, parts.directory("a"), made])
    assert parts.new.directory(made) == "a/c"
    assert sorted(parts.new.hidden_names(made)) == ["0", "1"]


def test_what_the_new_base_has_otherwise_is_kept_back(driver, snapshots):
    driver.write("a/c/5", b"five")
    driver.write("a/c/6", b"six")
    driver.write("a/c/8", b"eight")
    frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"a/c/5": b"five", "a/c/6": b"another"}, on="base", changed=["a/c/5", "a/c/6"])
    committed = FrozenIndex.of(frozen, frozenset({"a/c/8"}))
    asked = AskedOnce(snapshots("next"))
    assert find_kept_back(asked, committed, frozenset()) == ["a/c/6"]
    assert find_kept_back(asked, committed, frozenset({"a/c/6"})) == []
    left = committed.leaving_out(["a/c/6"])
    assert [left.is_left_out(f"a/c/{name}") for name in (5, 6, 8)] == [False, True, True]
    assert not committed.is_left_out("a/c/6")
    driver.tree.abandon(frozen)


def test_a_name_shows_the_new_base_where_only_others_changed_it(driver, snapshots):
    driver.link("a/c/0", "a/c/5")
    snapshots.add("theirs", BASE | {"a/c/0": b"new!"}, on="base", changed=["a/c/0"])
    snapshots.add("same", BASE | {"b/c/0": b"new!"}, on="base", changed=["b/c/0"])
    for base, names in {"theirs": ["0"], "same": []}.items():
        parts = parts_of(driver.tree, base)
        assert [name for _, name in parts.new.outdated_names(parts.node("a/c/5"), "a/c/0")] == names


def test_a_file_put_back_after_the_freeze_keeps_that_name(driver, snapshots):
    """The snapshot lacks the name since the tree itself had moved the file away, not since others removed it."""
    driver.rename("a/c/0", "a/c/5")
    frozen = driver.tree.freeze()
    driver.link("a/c/5", "a/c/0")
    driver.tree.record_intent(frozen, "next", driver.tree.base, [])
    kept = {path: data for path, data in BASE.items() if path != "a/c/0"}
    snapshots.add("next", {**kept, "a/c/5": BASE["a/c/0"]}, on="base", changed=["a/c/0", "a/c/5"])
    driver.tree.change_base(plan_of_commit(frozen, "next", []))
    assert driver.read("a/c/0") == driver.read("a/c/5") == BASE["a/c/0"]

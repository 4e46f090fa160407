"""What becomes of the files and whiteouts of a tree that is put on another base."""

import os
from pathlib import Path

import pytest

from icefs.worktree.rebase.decisions import Dropped, ReadsBase, Stays, Vanishes, WhiteoutDecision
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


@pytest.fixture
def committed(driver, snapshots):
    """Writes, freezes, and returns the parts of the change to what was frozen."""
    driver.write("a/c/5", b"five")
    driver.frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"a/c/5": b"five"}, on="base", changed=["a/c/5"])
    yield lambda **facts: parts_of(driver.tree, "next", driver.frozen, **facts)
    driver.tree.abandon(driver.frozen)


def test_a_committed_file_is_dropped(committed):
    parts = committed()
    assert parts.decisions.of_file(parts.node("a/c/5")) == Dropped(("a/c/5",), None, False)


def test_a_committed_file_that_is_open_reads_the_base(driver, committed):
    handle = driver.open("a/c/5", os.O_RDONLY)
    parts = committed()
    assert parts.decisions.of_file(parts.node("a/c/5")) == ReadsBase("a/c/5", None)
    driver.close(handle)
    assert parts.decisions.of_file(parts.node("a/c/5")) == Dropped(("a/c/5",), None, False)


def test_a_file_written_since_stays(driver, committed):
    driver.write("a/c/5", b"again")
    parts = committed()
    assert parts.decisions.of_file(parts.node("a/c/5")) == Stays(None)


def test_a_file_renamed_since_is_the_bases_under_its_new_name(driver, committed):
    driver.rename("a/c/5", "a/c/6")
    parts = committed()
    assert parts.decisions.of_file(parts.node("a/c/6")) == ReadsBase("a/c/5", None)
    assert parts.decisions.removed_since(parts.directory("a/c")) == ["5"]


def test_a_file_that_no_commit_took_stays(committed):
    parts = committed(left_out=["a/c/5"])
    assert parts.decisions.of_file(parts.node("a/c/5")) == Stays(None)


def test_a_committed_file_gives_way_where_it_yields(committed):
    parts = committed(yielded=["a/c/5"])
    assert parts.decisions.yields(parts.node("a/c/5"))
    assert parts.decisions.of_file(parts.node("a/c/5")) == Vanishes()


def test_names_of_one_file_become_files_of_their_own(driver, snapshots):
    driver.write("a/c/5", b"five")
    driver.link("a/c/5", "a/c/6")
    frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"a/c/5": b"five", "a/c/6": b"five"}, on="base", changed=["a/c/5", "a/c/6"])
    parts = parts_of(driver.tree, "next", frozen)
    assert parts.decisions.of_file(parts.node("a/c/5")) == Dropped(("a/c/5", "a/c/6"), None, True)
    driver.tree.abandon(frozen)


def test_a_file_of_the_base_follows_the_base(driver, snapshots):
    driver.chmod("a/c/0", 0o600)
    driver.rename("b/c/0", "b/c/9")
    snapshots.add("theirs", BASE | {"x": b""}, on="base", changed=["x"])
    snapshots.add("gone", {"a/c/1": b"one"}, on="base")
    parts = parts_of(driver.tree, "theirs")
    assert parts.decisions.of_file(parts.node("a/c/0")) == Stays("a/c/0")
    assert parts.decisions.of_file(parts.node("b/c/9")) == Stays("b/c/0")
    assert parts.decisions.is_provided(parts.node("b/c/9"))
    parts = parts_of(driver.tree, "gone")
    assert parts.decisions.of_file(parts.node("a/c/0")) == Vanishes()
    assert not parts.decisions.is_provided(parts.node("b/c/9"))


def test_a_renamed_file_whose_removal_no_commit_took_has_a_twin(driver, snapshots):
    driver.rename("a/c/0", "b/c/5")
    frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"b/c/5": b"zero"}, on="base", changed=["b/c/5"])
    parts = parts_of(driver.tree, "next", frozen, left_out=["a/c/0"])
    assert parts.decisions.of_file(parts.node("b/c/5")) == Dropped(("b/c/5",), "a/c/0", False)
    driver.tree.abandon(frozen)


def test_whiteouts_stay_go_and_open(driver, snapshots):
    for name in "01":
        driver.unlink(f"a/c/{name}")
    driver.rmdir("a/c")
    driver.rmdir("a")
    snapshots.add("theirs", BASE | {"a/c/2": b"theirs"}, on="base", changed=["a/c/2"])
    snapshots.add("gone", {"b/c/0": b"other"}, on="base")
    expected = {
        ("theirs", ()): WhiteoutDecision.STAYS,
        ("theirs", ("a",)): WhiteoutDecision.GOES,
        ("theirs", ("a/c/2",)): WhiteoutDecision.OPENS,
        ("gone", ()): WhiteoutDecision.GOES,
    }
    for (base, yielded), decision in expected.items():
        parts = parts_of(driver.tree, base, yielded=yielded)
        assert parts.decisions.of_whiteout(parts.core.root, "", "a") is decision
        assert parts.decisions.is_above_yielded("a/c") == (yielded == ("a/c/2",))


def test_a_committed_whiteout_hides_nothing_that_others_made_there(driver, snapshots):
    driver.unlink("a/c/0")
    frozen = driver.tree.freeze()
    snapshots.add("next", BASE | {"a/c/0": b"theirs"}, on="base", changed=["a/c/0"])
    for left, decision in {(): WhiteoutDecision.GOES, ("a/c/0",): WhiteoutDecision.STAYS}.items():
        parts = parts_of(driver.tree, "next", frozen, left_out=left)
        assert parts.decisions.of_whiteout(parts.directory("a/c"), "a/c", "0") is decision
    driver.tree.abandon(frozen)

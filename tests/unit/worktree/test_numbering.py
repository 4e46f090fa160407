"""Inode numbers and times over a change of base, and what the kernel has to ask for again."""

from pathlib import Path

import pytest

from icefs.errors import SessionStateError, StorageError
from icefs.inode import Invalidations
from icefs.worktree.model.retained_regions import RetainedAttr
from icefs.worktree.rebase import numbering
from icefs.worktree.rebase.plan import BasePlan, RenamedChunks, TreeChangedError
from icefs.worktree.tree import WorkTree
from tests.support.base_plans import plan_of_commit
from tests.support.dict_base import DictBase, Snapshots
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


def commit(driver, snapshots, name, files, changed, **facts):
    """Commits everything: the tree stands on a new snapshot with these files."""
    frozen = driver.tree.freeze()
    snapshots.add(name, files, on=driver.tree.base, changed=changed)
    outcome = driver.tree.change_base(plan_of_commit(frozen, name), **facts)
    driver.tree.check_invariants()
    return outcome


def test_a_committed_file_keeps_its_number_until_others_change_it(driver, snapshots):
    driver.write("a/c/5", b"five")
    before = driver.stat("a/c/5")
    commit(driver, snapshots, "next", BASE | {"a/c/5": b"five"}, ["a/c/5"])
    assert (driver.stat("a/c/5").ino, driver.stat("a/c/5").mtime_ns) == (before.ino, before.mtime_ns)
    snapshots.add("theirs", BASE | {"a/c/5": b"5!!!"}, on="next", changed=["a/c/5"])
    outcome = driver.tree.change_base(BasePlan("theirs", changed=["a/c/5"]))
    driver.tree.check_invariants()
    after = driver.stat("a/c/5")
    assert after.ino != before.ino
    assert not driver.tree.entries.knows(before.ino)
    assert outcome.remaining == 0


def test_a_retained_name_that_others_removed_is_looked_up_again(driver, snapshots):
    driver.write("a/c/5", b"five")
    commit(driver, snapshots, "next", BASE | {"a/c/5": b"five"}, ["a/c/5"])
    snapshots.add("theirs", BASE, on="next")
    outcome = driver.tree.change_base(BasePlan("theirs", changed=["a/c/5"]))
    assert not driver.exists("a/c/5")
    assert outcome.changed.entries == [(driver.stat("a/c").ino, b"5")]


def test_directories_above_what_others_changed_have_another_time(driver, snapshots):
    driver.mkdir("n")
    driver.write("n/5", b"five")
    commit(driver, snapshots, "next", BASE | {"n/5": b"five"}, ["n/5"])
    before = driver.stat("n")
    snapshots.add("theirs", BASE | {"n/5": b"five", "n/6": b"six"}, on="next", changed=["n/6"])
    outcome = driver.tree.change_base(BasePlan("theirs", changed=["n/6"]))
    after = driver.stat("n")
    assert after.ino == before.ino
    assert after.mtime_ns > before.mtime_ns
    assert set(outcome.changed.inodes) == {before.ino, driver.tree.root_ino}


def test_a_base_that_cannot_be_read_any_more_fails_no_change(driver, snapshots, monkeypatch):
    driver.mkdir("n")
    driver.write("n/5", b"five")
    commit(driver, snapshots, "next", BASE | {"n/5": b"five"}, ["n/5"])
    before = driver.stat("n").ino
    snapshots.add("theirs", BASE | {"n/5": b"five", "n/6": b"six"}, on="next", changed=["n/6"])
    stat = DictBase.stat

    def fail(base, path):
        raise StorageError("unreachable", kind="unreachable")

    def break_store():
        monkeypatch.setattr(DictBase, "stat", fail)

    driver.tree.change_base(BasePlan("theirs", changed=["n/6"]), break_store)
    monkeypatch.setattr(DictBase, "stat", stat)
    assert driver.tree.base == "theirs"
    driver.tree.check_invariants()
    assert driver.stat("n").ino != before  # given up, as nobody could tell whether it is there


def test_names_beyond_the_grid_and_yielded_ones_are_looked_up_again(driver, snapshots):
    driver.write("a/c/0", b"ours")
    snapshots.add("theirs", BASE | {"a/c/0": b"new!"}, on="base", changed=["a/c/0"])
    plan = BasePlan("theirs", yielded=frozenset({"a/c/0"}), cut_off=["b/c/0"])
    outcome = driver.tree.change_base(plan)
    inos = {path: driver.stat(path).ino for path in ("", "a", "a/c", "b/c")}
    expected = {(inos["a/c"], b"0"), (inos["a"], b"c"), (inos[""], b"a"), (inos["b/c"], b"0")}
    assert set(outcome.changed.entries) == expected
    assert driver.read("a/c/0") == b"new!"


def test_further_names_of_a_committed_file_are_looked_up_again(driver, snapshots):
    driver.write("a/c/5", b"five")
    driver.link("a/c/5", "a/c/6")
    outcome = commit(driver, snapshots, "next", BASE | {"a/c/5": b"five", "a/c/6": b"five"}, ["a/c/5", "a/c/6"])
    assert list(outcome.changed.entries) == [(driver.stat("a/c").ino, b"6")]
    assert outcome.changed.inodes == [driver.stat("a/c/5").ino]


def test_renamed_directories_are_told_and_their_files_keep_the_numbers_of_the_plan(driver, snapshots):
    driver.rename("a/c", "a/d")
    frozen = driver.tree.freeze()
    files = {"a/d/0": b"zero", "a/d/1": b"one", "b/c/0": b"other"}
    snapshots.add("next", files, on="base", changed=files)
    committed = plan_of_commit(frozen, "next").committed
    renamed = RenamedChunks(names={"a/d/0": RetainedAttr(77, 5), "a/nothing": RetainedAttr(78, 5)})
    outcome = driver.tree.change_base(BasePlan("next", committed, renamed=renamed))
    driver.tree.check_invariants()
    assert list(outcome.renamed) == [(driver.stat("a").ino, b"d")]
    assert (driver.stat("a/d/0").ino, driver.stat("a/d/0").mtime_ns) == (77, 5)
    assert not driver.tree.entries.knows(78)


def test_the_branch_changes_while_the_tree_is_locked_and_stands_on_the_new_base(driver, snapshots):
    snapshots.add("theirs", BASE | {"x": b"x"}, on="base", changed=["x"])
    seen = []
    core = driver.tree._core
    driver.tree.change_base(BasePlan("theirs"), lambda: seen.append((core.lock.locked(), driver.tree.base)))
    assert seen == [(True, "theirs")]


def test_a_plan_about_another_revision_is_refused(driver, snapshots):
    snapshots.add("theirs", BASE | {"x": b"x"}, on="base", changed=["x"])
    plan = BasePlan("theirs", revision=driver.tree.revision)
    driver.write("a/c/5", b"late")
    with pytest.raises(TreeChangedError):
        driver.tree.change_base(plan)
    assert (driver.tree.base, driver.read("a/c/5")) == ("base", b"late")


def test_no_other_base_while_a_commit_is_under_way(driver, snapshots):
    driver.write("a/c/5", b"five")
    frozen = driver.tree.freeze()
    snapshots.add("theirs", BASE | {"x": b"x"}, on="base", changed=["x"])
    with pytest.raises(SessionStateError, match="while a commit is under way"):
        driver.tree.change_base(BasePlan("theirs"))
    driver.tree.abandon(frozen)
    assert driver.tree.change_base(BasePlan("theirs")).remaining > 0
    assert driver.read("a/c/5") == b"five"


def test_entries_are_those_of_directories_that_are_there(driver):
    driver.rename("a/c", "a/d")
    core = driver.tree._core
    with core.lock:
        found = list(numbering.tree_entries(core, ["a/d/9", "a/c/9", "b/c/0/x", "a/d/9", "top"]))
        base = list(numbering.base_entries(core, ["a/c/9", "nothing/9"]))
    renamed, root = driver.stat("a/d").ino, driver.tree.root_ino
    assert found == [(renamed, b"9"), (root, b"top")]
    assert base == [(renamed, b"9")]


def test_invalidations_add_up():
    one, other = Invalidations([(1, b"a")], [2]), Invalidations([(1, b"b")])
    assert one + other == Invalidations([(1, b"a"), (1, b"b")], [2])
    assert sum([one, other], Invalidations()) == one + other

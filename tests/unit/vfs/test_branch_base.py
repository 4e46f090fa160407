"""The base of a writable branch: what keeps the branch where it is, how it follows its tip, whose a number is."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.errors import StaleError
from icefs.inode import Ino, Invalidations
from icefs.paths import NodePath, TreePath
from tests.support.branch_bench import BranchBench, ask


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[BranchBench]:
    """A branch with one group `/a`, whose directory and metadata file were looked at."""
    bench = BranchBench(tmp_path)
    tip = bench.commit("/a")
    bench.below.restart(tip, 0)
    ask(lambda: bench.below.files.lookup(bench.below.inodes.root_ino, "a"))
    yield bench
    bench.close()


def test_a_branch_is_pinned_by_changes_by_a_commit_and_by_what_was_left(bench: BranchBench, tmp_path: Path) -> None:
    base = bench.base
    assert not base.is_pinned
    ask(bench.life.require)
    assert not base.is_pinned
    base.is_committing = True
    assert base.is_pinned
    base.is_committing = False
    bench.create("draft")
    assert base.is_pinned
    bench.close()
    again = BranchBench(tmp_path, bench.repository)
    assert again.life.is_left
    assert again.base.is_pinned
    again.close()


async def test_without_a_working_tree_a_branch_shows_what_was_planned(bench: BranchBench) -> None:
    tip = bench.commit("/b")
    changed = await bench.base.follow(bench.plan(), [])
    assert changed is not None
    assert (bench.below.inodes.root_ino, b"b") in changed.entries
    assert bench.below.snapshot_id == tip
    assert bench.base.work is None


async def test_a_clean_working_tree_goes_along(bench: BranchBench) -> None:
    work = ask(bench.life.require)
    tip = bench.commit("/b")
    changed = await bench.base.follow(bench.plan(), [])
    assert changed is not None
    assert bench.below.snapshot_id == tip
    assert work.base == str(tip)
    found = work.entries.lookup(bench.base.where(bench.below.inodes.root_ino), "b")
    assert found is not None
    assert found.attr.is_dir


async def test_a_branch_with_changes_stays(bench: BranchBench) -> None:
    work = ask(bench.life.require)
    bench.create("draft")
    before = bench.below.snapshot_id
    bench.commit("/b")
    assert await bench.base.follow(bench.plan(), []) is None
    assert bench.below.snapshot_id == before
    assert work.base == str(before)


async def test_no_two_changes_of_a_base_at_once(bench: BranchBench) -> None:
    bench.commit("/b")
    plan = bench.plan()
    with bench.operations.moving():
        assert await bench.base.follow(plan, []) is None
        assert bench.base.used_numbers() is None
    assert bench.base.used_numbers() == []


async def test_nothing_is_asked_where_no_commit_is_in_doubt(bench: BranchBench) -> None:
    assert await bench.base.find_out([]) is None
    ask(bench.life.require)
    assert await bench.base.find_out([]) is None
    assert not bench.base.is_committing


def test_a_number_is_the_working_trees_or_leads_to_a_path_of_the_base(bench: BranchBench) -> None:
    base, inodes = bench.base, bench.below.inodes
    below = inodes.known_directory("/a")
    assert below is not None
    assert base.where(below) == below  # as long as there is nothing but the base
    ask(bench.life.require)
    assert base.where(below) == base.find_path(below) == "a"
    own = bench.create("draft")
    assert base.where(own) == own
    control, nobodys = Ino(inodes.fixed.start + 2), Ino(1 << 50)
    assert base.paths_of([below, own, control, nobodys]) == ["a"]
    with pytest.raises(StaleError):
        base.where(nobodys)


def test_names_are_invalidated_in_the_directories_that_the_kernel_knows(bench: BranchBench) -> None:
    """A directory that was changed in the working tree has the number that it has there."""
    base, below = bench.base, bench.below.inodes.known_directory("/a")
    assert below is not None
    changed = Invalidations([(below, b"zarr.json")], [below])
    assert base.translated(changed) == changed
    work = ask(bench.life.require)
    assert base.translated(changed) == changed
    bench.create("draft", below)
    known = work.entries.attr(base.find_path(below)).ino
    assert base.translated(changed) == Invalidations([(known, b"zarr.json")], [below])


def test_the_base_can_be_asked_by_path(bench: BranchBench) -> None:
    attr = bench.base.ask(lambda below: below.attr_at(TreePath("a")))
    assert attr is not None
    assert attr.is_dir
    assert (bench.base.name, bench.base.label) == ("main", "branches/main")
    assert bench.base.session is bench.below.session
    assert bench.base.inodes.known_directory(NodePath("/a")) == attr.ino

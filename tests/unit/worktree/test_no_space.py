"""A full disk: the operation fails, and the tree is as it was before it."""

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icefs.errors import NoSpaceError
from icefs.worktree.model.nodes import Attr
from icefs.worktree.ops.namespace import RENAME_EXCHANGE
from icefs.worktree.tree import WorkTree
from tests.support.base_plans import complete_recovered, plan_of_commit
from tests.support.ci import IN_CI
from tests.support.dict_base import Snapshots
from tests.support.faulty_disk import FullDisk, Fuse, full_journal
from tests.support.tree_driver import Driver, Ticks, open_tree, options

BASE = {"zarr.json": b"root", "a/zarr.json": b"{}", "a/c/0": b"chunk 0", "a/c/1": b"chunk 1", "b/zarr.json": b"b"}


def state(driver: Driver) -> tuple[dict[str, Attr], dict[str, bytes]]:
    return {path: entry.attr for path, entry in driver.walk() if not entry.attr.is_dir}, driver.files()


OPERATIONS: dict[str, Callable[[Driver], object]] = {
    "mkdir": lambda driver: driver.mkdir("dir"),
    "unlink base file": lambda driver: driver.unlink("a/c/0"),
    "unlink own": lambda driver: driver.unlink("own"),
    "unlink linked": lambda driver: driver.unlink("linked"),
    "rmdir": lambda driver: driver.rmdir("empty"),
    "link": lambda driver: driver.link("a/c/0", "a/c/2"),
    "rename base file": lambda driver: driver.rename("a/c/0", "a/c/2"),
    "rename over": lambda driver: driver.rename("own", "a/c/1"),
    "rename over linked": lambda driver: driver.rename("own", "linked"),
    "rename directory": lambda driver: driver.rename("a", "empty"),
    "exchange": lambda driver: driver.rename("a", "own", RENAME_EXCHANGE),
    "exchange links": lambda driver: driver.rename("linked", "own", RENAME_EXCHANGE),
    "chmod": lambda driver: driver.chmod("a/c/0", 0o600),
    "utime": lambda driver: driver.utime("own", 1, 2),
    "discard": lambda driver: driver.tree.discard("a/c/1"),
    "discard all": lambda driver: driver.tree.discard(),
    "freeze": lambda driver: driver.tree.freeze(),
}


def prepared(tmp_path: Path, fuse: Fuse) -> Driver:
    opts = options(Snapshots(BASE), Ticks())
    driver = Driver(WorkTree(tmp_path, replace(opts, io=FullDisk(fuse), open_journal=full_journal(fuse))))
    driver.write("own", b"my own bytes")
    driver.link("zarr.json", "linked")
    driver.mkdir("empty")
    driver.unlink("a/c/1")
    driver.write("a/c/1", b"over a whiteout")
    return driver


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_meets_a_full_disk_does_nothing(tmp_path: Path, name: str) -> None:
    """At every place where it could meet one; afterwards, with space again, it works."""
    operation = OPERATIONS[name]
    fuse = Fuse()
    for place in range(20):
        driver = prepared(tmp_path / str(place), fuse)
        before = state(driver)
        fuse.blow(place)
        try:
            operation(driver)
            is_done = True
        except NoSpaceError:
            is_done = False
        fuse.mend()
        driver.tree.check_invariants()
        if is_done:
            driver.tree.close()
            break
        assert state(driver) == before
        operation(driver)
        driver.tree.check_invariants()
        files = driver.files()
        driver.tree.close()
        driver = open_tree(tmp_path / str(place), Snapshots(BASE))
        assert driver.files() == files
        driver.tree.close()
    assert place > 0, "no place to fail was found"


def test_a_write_that_fails_changes_nothing_and_a_flush_can_be_repeated(tmp_path: Path) -> None:
    fuse = Fuse()
    driver = prepared(tmp_path, fuse)
    handle = driver.open("own", os.O_RDWR)
    before = driver.tree.files.getattr(handle)
    fuse.blow()
    with pytest.raises(NoSpaceError):
        driver.tree.files.write(handle, 3, b"will not do")
    with pytest.raises(NoSpaceError):
        driver.tree.files.truncate(handle, 1 << 20)
    assert driver.tree.files.getattr(handle) == before
    fuse.mend()
    driver.tree.files.write(handle, 12, b" and more")
    fuse.blow()
    with pytest.raises(NoSpaceError):
        driver.tree.files.flush(handle)
    assert driver.tree.files.read(handle, 0, 99) == b"my own bytes and more"
    fuse.mend()
    driver.close(handle)
    driver.tree.close()
    driver = open_tree(tmp_path, Snapshots(BASE))
    assert driver.read("own") == b"my own bytes and more"
    driver.tree.close()


def test_a_commit_that_cannot_be_completed_can_be_completed_later(tmp_path: Path) -> None:
    fuse = Fuse()
    snapshots = Snapshots(BASE)
    opts = replace(options(snapshots, Ticks()), io=FullDisk(fuse), open_journal=full_journal(fuse))
    driver = Driver(WorkTree(tmp_path, opts))
    driver.write("a/c/0", b"new chunk")
    driver.rename("b", "moved")
    files = driver.files()
    frozen = driver.tree.freeze()
    driver.write("a/c/1", b"meanwhile")
    fuse.blow()
    with pytest.raises(NoSpaceError):
        driver.tree.record_intent(frozen, "next", "base")
    assert driver.tree.pending_intent is None
    fuse.mend()
    driver.tree.record_intent(frozen, "next", "base")
    snapshots.add("next", files, on="base", changed=["a/c/0"])
    before = state(driver)
    fuse.blow()
    with pytest.raises(NoSpaceError):
        driver.tree.change_base(plan_of_commit(frozen, "next"))
    assert state(driver) == before
    assert driver.tree.base == "base"
    assert driver.tree.pending_intent is not None
    driver.tree.check_invariants()
    fuse.mend()
    complete_recovered(driver.tree)
    assert driver.tree.pending_intent is None
    assert driver.tree.base == "next"
    assert driver.files() == {**files, "a/c/1": b"meanwhile"}
    driver.tree.check_invariants()
    driver.tree.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    directory = tmp_path / "small"
    directory.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "icefs-test", str(directory)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        if IN_CI and not os.geteuid():
            pytest.fail("cannot mount a tmpfs")
        pytest.skip("mounting a small tmpfs takes root")
    try:
        yield directory
    finally:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_disk_that_really_is_full(small_disk: Path) -> None:
    """Files are written until nothing goes any more; every one that could be closed is whole, then and later."""
    snapshots = Snapshots(BASE)
    driver = open_tree(small_disk / "state", snapshots)
    expected = dict(BASE)
    failures = 0
    for size in (100_000, 10_000, 1000, 10):
        for number in range(10_000):
            path, data = f"a/{size}-{number}", bytes([number % 251]) * size
            handle = None
            try:
                handle = driver.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
                if driver.tree.files.write(handle, 0, data) < size:
                    raise NoSpaceError("a short write")
                driver.tree.files.flush(handle)
            except NoSpaceError:
                failures += 1
                if handle is not None:
                    with contextlib.suppress(NoSpaceError):
                        driver.unlink(path)
                    with contextlib.suppress(NoSpaceError):
                        driver.tree.files.release(handle)
                if driver.exists(path):
                    expected[path] = driver.read(path)
                break
            driver.tree.files.release(handle)
            expected[path] = data
        driver.tree.check_invariants()
    assert failures == 4
    assert driver.files() == expected
    driver.write("a/c/0", b"", os.O_WRONLY)
    for path in [path for path in expected if path.startswith("a/100000-")][:5]:
        driver.unlink(path)
        del expected[path]
    driver.write("a/again", b"there is space")
    expected["a/again"] = b"there is space"
    assert driver.files() == expected
    driver.tree.close()
    driver = open_tree(small_disk / "state", snapshots)
    assert driver.files() == expected
    assert driver.tree.recovery.lost == []
    driver.tree.close()


@pytest.mark.parametrize("size", [5, 100])
def test_a_truncation_that_meets_a_full_disk_is_done_or_not(tmp_path: Path, size: int) -> None:
    """Its bytes may be cut before its row cannot be written; the content seen then is found later."""
    fuse = Fuse()
    for place in range(3):
        driver = prepared(tmp_path / str(place), fuse)
        before = driver.files()
        fuse.blow(place)
        with contextlib.suppress(NoSpaceError):
            driver.truncate("own", size)
        fuse.mend()
        driver.tree.check_invariants()
        found = driver.files()
        assert found["own"] in {before["own"], before["own"][:size].ljust(size, b"\0")}
        assert found == {**before, "own": found["own"]}
        driver.tree.close()
        driver = open_tree(tmp_path / str(place), Snapshots(BASE))
        assert driver.files() == found
        driver.tree.close()


def test_what_makes_room_works_on_a_disk_without_any(small_disk: Path) -> None:
    """Names are removed, changes discarded, a commit is completed; others then have to do without."""
    snapshots = Snapshots(BASE)
    driver = open_tree(small_disk / "state", snapshots)
    for number in range(100):
        driver.write(f"a/{number}", b"1234")
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while filler.write(bytes(4096)):
            pass
    failures = 0
    for number in range(100, 200):
        try:
            driver.write(f"a/{number}", b"1234")
        except NoSpaceError:
            failures += 1
    assert failures
    files = driver.files()
    for number in range(50):
        driver.unlink(f"a/{number}")
        del files[f"a/{number}"]
    assert driver.files() == files
    frozen = driver.tree.freeze()
    driver.tree.record_intent(frozen, "next", "base")
    snapshots.add("next", {path: data for path, data in files.items() if data}, on="base")
    driver.tree.change_base(plan_of_commit(frozen, "next", [path for path, data in files.items() if not data]))
    assert driver.files() == files
    driver.unlink("a/70")
    del files["a/70"]
    driver.tree.close()
    driver = open_tree(small_disk / "state", snapshots)
    assert driver.files() == files
    driver.tree.discard()
    assert driver.files() == snapshots.trees["next"].files
    driver.tree.close()

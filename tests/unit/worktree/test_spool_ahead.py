"""Spool files that are made before they are wanted."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from icefs.errors import NoSpaceError
from icefs.worktree.model.nodes import FileNode
from icefs.worktree.model.open_state import SpoolFile
from icefs.worktree.spool.ahead import SpoolAhead
from icefs.worktree.spool.files import DiskIo, Spool
from icefs.worktree.tree import WorkTree
from tests.support.dict_base import Snapshots
from tests.support.faulty_disk import FullDisk, Fuse
from tests.support.tree_driver import Driver, options

AHEAD = 8


def open_ahead(directory: Path, snapshots: Snapshots, io: DiskIo | None = None) -> Driver:
    return Driver(WorkTree(directory, replace(options(snapshots), files_ahead=AHEAD, io=io or DiskIo())))


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots({})


@pytest.fixture
def driver(tmp_path: Path, snapshots: Snapshots) -> Iterator[Driver]:
    driver = open_ahead(tmp_path / "state", snapshots)
    yield driver
    driver.tree.check_invariants()
    driver.tree.close()


def files_in(directory: Path) -> int:
    return sum(1 for path in (directory / "spool").rglob("*") if path.is_file())


def write_many(driver: Driver, prefix: str, count: int = 100) -> dict[str, bytes]:
    written = {f"{prefix}{number}": f"{prefix}, {number}".encode() for number in range(count)}
    for name, data in written.items():
        driver.write(name, data)
    return written


def is_making() -> bool:
    return any(thread.name == "icefs-spool" for thread in threading.enumerate())


def test_every_file_has_its_own_bytes(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_ahead(tmp_path, snapshots)
    written = write_many(driver, "file")
    assert is_making()
    assert driver.files() == written
    driver.tree.check_invariants()
    driver.tree.close()
    assert not is_making()
    assert files_in(tmp_path) == len(written), "what nobody wanted is gone"
    again = open_ahead(tmp_path, snapshots)
    assert again.tree.recovery.swept == 0
    assert again.files() == written
    again.tree.close()


def test_what_was_made_before_a_death_is_swept(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_ahead(tmp_path, snapshots)
    written = write_many(driver, "file")
    driver.tree.close()
    (tmp_path / "spool" / "0" / "fff").touch()  # as after a kill
    again = open_ahead(tmp_path, snapshots)
    assert again.tree.recovery.swept == 1
    assert again.files() == written
    again.tree.close()


def test_files_made_before_a_freeze_are_not_used_after_it(driver: Driver) -> None:
    before = write_many(driver, "before")
    frozen = driver.tree.freeze()
    after = write_many(driver, "after")
    for name in before:
        driver.write(name, b"changed")
    assert {path: frozen.read(entry) for path, entry in frozen.walk()} == before  # type: ignore[arg-type]
    nodes = [node for node in driver.tree._core.by_ino.values() if isinstance(node, FileNode)]
    assert all(node.spool_id > frozen.view.limit for node in nodes)
    driver.tree.abandon(frozen)
    assert driver.files() == after | dict.fromkeys(before, b"changed")


def test_a_full_disk_is_told_to_who_writes(tmp_path: Path, snapshots: Snapshots) -> None:
    fuse = Fuse()
    driver = open_ahead(tmp_path, snapshots, FullDisk(fuse))
    written = write_many(driver, "file", 40)
    fuse.blow()
    with pytest.raises(NoSpaceError):
        write_many(driver, "more")
    fuse.mend()
    more = write_many(driver, "more")
    assert driver.files() == written | more
    driver.tree.close()


def test_nothing_is_made_for_who_writes_little(tmp_path: Path) -> None:
    ids = iter(range(2, 100))
    made = SpoolAhead(Spool(tmp_path, DiskIo()), lambda: next(ids), AHEAD)
    files: list[SpoolFile | None] = [made.take(0) for _ in range(5)]
    made.close()
    assert files == [None] * 5
    assert next(ids) == 2

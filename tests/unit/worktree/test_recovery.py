"""What is there after the process died, and what is said about it."""

import contextlib
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from icefs.errors import SessionStateError, StorageError
from icefs.worktree.spool import journal
from icefs.worktree.tree import WorkTree
from tests.support.dict_base import Snapshots
from tests.support.forked import Child
from tests.support.tree_driver import Driver, open_tree, options

BASE = {"a/zarr.json": b"{}", "a/c/0": b"chunk 0", "a/c/1": b"chunk 1", "b/zarr.json": b"b"}


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots(BASE)


def die_after(directory: Path, snapshots: Snapshots, work: Callable[[Driver], None]) -> None:
    """Does some work in a process that is then killed."""

    def child(report: Callable[[str], None]) -> None:
        driver = open_tree(directory, snapshots)
        work(driver)
        report("done")
        signal.pause()

    process = Child(child)
    assert process.lines(1) == ["done"]
    process.kill()
    process.wait()


def test_everything_closed_or_renamed_is_there(tmp_path: Path, snapshots: Snapshots) -> None:
    def work(driver: Driver) -> None:
        driver.write("a/c/0", b"new chunk 0")
        driver.write("a/c/7.partial", b"chunk 7")
        driver.rename("a/c/7.partial", "a/c/7")
        driver.unlink("a/c/1")
        driver.rename("b", "renamed")
        driver.mkdir("empty")
        driver.link("a/zarr.json", "empty/linked")
        driver.chmod("empty", 0o700)
        driver.utime("a/c/7", 11, 12)
        driver.open("never closed", os.O_WRONLY | os.O_CREAT)

    die_after(tmp_path, snapshots, work)
    driver = open_tree(tmp_path, snapshots)
    assert driver.files() == {
        "a/zarr.json": b"{}",
        "a/c/0": b"new chunk 0",
        "a/c/7": b"chunk 7",
        "renamed/zarr.json": b"b",
        "empty/linked": b"{}",
    }
    assert driver.stat("empty").mode == 0o040700
    assert (driver.stat("a/c/7").atime_ns, driver.stat("a/c/7").mtime_ns) == (11, 12)
    assert driver.stat("empty/linked").ino == driver.stat("a/zarr.json").ino
    assert driver.stat("empty/linked").nlink == 2
    assert not driver.tree.recovery.is_new
    assert driver.tree.recovery.entries == 10
    assert driver.tree.recovery.rewritten == []
    driver.tree.check_invariants()
    driver.tree.close()


def test_a_file_that_was_being_written_has_what_was_written(tmp_path: Path, snapshots: Snapshots) -> None:
    times = []

    def work(driver: Driver) -> None:
        driver.write("closed", b"1234")
        handle = driver.open("closed", os.O_RDWR)
        driver.tree.files.write(handle, 0, b"ABCDEFGH")
        other = driver.open("renamed while open.partial", os.O_RDWR | os.O_CREAT)
        driver.tree.files.write(other, 0, b"first")
        driver.rename("renamed while open.partial", "renamed while open")
        driver.tree.files.write(other, 5, b" second")
        base_tree = driver.open("a/c/0", os.O_RDWR)
        driver.tree.files.write(base_tree, 0, b"CH")

    die_after(tmp_path, snapshots, work)
    driver = open_tree(tmp_path, snapshots)
    assert driver.read("closed") == b"ABCDEFGH"
    assert driver.stat("closed").size == 8
    times.append(driver.stat("closed").mtime_ns)
    assert driver.read("renamed while open") == b"first second"
    assert driver.read("a/c/0") == b"chunk 0", "never flushed: as it was before"
    assert driver.tree.recovery.rewritten == ["renamed while open"]
    assert driver.tree.recovery.set_aside == 1, "the copy of a/c/0, which no close had reached"
    assert [path.read_bytes() for path in (tmp_path / "spool.lost").iterdir()] == [b"CHunk 0"]
    damage = driver.tree.damage()
    assert damage.changed == ("closed",)
    assert (damage.aside_files, damage.aside_bytes) == (1, 7)
    driver.tree.close()
    driver = open_tree(tmp_path, snapshots)
    assert driver.tree.recovery.rewritten == driver.tree.recovery.changed == []
    assert driver.tree.damage().changed == ("closed",), "until it is written again, or committed"
    assert driver.stat("closed").mtime_ns == times[0]
    driver.tree.close()


def test_a_file_removed_while_open_is_swept(tmp_path: Path, snapshots: Snapshots) -> None:
    def work(driver: Driver) -> None:
        driver.write("x", b"bytes")
        driver.open("x", os.O_RDONLY)
        driver.unlink("x")

    die_after(tmp_path, snapshots, work)
    driver = open_tree(tmp_path, snapshots)
    assert not driver.exists("x")
    assert driver.tree.recovery.swept == 1
    driver.tree.close()


def test_lost_bytes_are_reported_and_can_be_replaced(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_tree(tmp_path, snapshots)
    for name in ("one", "two", "three"):
        driver.write(name, b"bytes")
    driver.tree.close()
    for path in list((tmp_path / "spool").rglob("*")):
        if path.is_file():
            path.unlink()
    driver = open_tree(tmp_path, snapshots)
    assert sorted(driver.tree.recovery.lost) == ["one", "three", "two"]
    assert driver.stat("one").size == 5
    with pytest.raises(StorageError, match="were lost"):
        driver.read("one")
    with pytest.raises(StorageError):
        driver.write("one", b"x", os.O_WRONLY)
    assert [change.is_lost for change in driver.tree.changes()] == [True, True, True]
    driver.write("one", b"written anew")
    driver.unlink("two")
    driver.rename("three", "four")
    driver.tree.check_invariants()
    driver.tree.close()
    driver = open_tree(tmp_path, snapshots)
    assert driver.tree.recovery.lost == ["four"]
    assert driver.read("one") == b"written anew"
    driver.tree.close()


def spool_files(directory: Path) -> list[Path]:
    return [path for path in (directory / "spool").rglob("*") if path.is_file()]


def test_a_shorter_spool_file_is_cut_until_it_is_written_again(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_tree(tmp_path, snapshots)
    driver.write("one", b"0123456789")
    driver.tree.close()
    os.truncate(spool_files(tmp_path)[0], 4)
    for _ in range(2):
        driver = open_tree(tmp_path, snapshots)
        assert driver.tree.damage().cut == ("one",)
        assert [change.is_cut for change in driver.tree.changes()] == [True]
        assert driver.read("one") == b"0123"
        driver.tree.close()
    driver = open_tree(tmp_path, snapshots)
    driver.write("one", b"0123456789")
    assert not driver.tree.damage()
    driver.tree.close()
    driver = open_tree(tmp_path, snapshots)
    assert not driver.tree.damage()
    driver.tree.close()


def test_a_spool_file_that_is_brought_back_is_no_longer_lost(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_tree(tmp_path, snapshots)
    driver.write("one", b"0123456789")
    driver.tree.close()
    [path] = spool_files(tmp_path)
    path.rename(tmp_path / "elsewhere")
    driver = open_tree(tmp_path, snapshots)
    assert driver.tree.damage().lost == ("one",)
    driver.tree.close()
    (tmp_path / "elsewhere").rename(path)
    driver = open_tree(tmp_path, snapshots)
    assert not driver.tree.damage()
    assert driver.read("one") == b"0123456789"
    driver.tree.close()


@pytest.mark.parametrize("is_empty", [False, True])
def test_without_any_rows_the_bytes_are_kept_and_that_is_said(
    tmp_path: Path, snapshots: Snapshots, *, is_empty: bool
) -> None:
    """The state directory of an older icefs has no row log."""
    driver = open_tree(tmp_path, snapshots)
    driver.write("one", b"0123456789")
    driver.unlink("a/c/0")
    driver.tree.close()
    for name in ("rows.log", "rows.end", "tree.db"):
        (tmp_path / name).unlink()
    if is_empty:
        (tmp_path / "tree.db").touch()
    for _ in range(2):
        driver = open_tree(tmp_path, snapshots)
        damage = driver.tree.damage()
        assert len(damage.notes) == 1
        assert "gone; the tree had 4 entries" in damage.notes[0]
        assert (damage.aside_files, damage.aside_bytes) == (1, 10)
        assert [path.read_bytes() for path in (tmp_path / "spool.lost").iterdir()] == [b"0123456789"]
        driver.tree.close()


def test_foreign_files_in_the_spool_are_left_alone(tmp_path: Path, snapshots: Snapshots) -> None:
    open_tree(tmp_path, snapshots).tree.close()
    (tmp_path / "spool" / "0").mkdir()
    (tmp_path / "spool" / "0" / "README").write_text("mine")
    (tmp_path / "spool" / "0" / "00ff").write_text("not canonical")
    (tmp_path / "spool" / "0" / "ff").write_text("an orphan")
    driver = open_tree(tmp_path, snapshots)
    assert driver.tree.recovery.swept == 1, "the tree was closed, and its rows are whole"
    driver.write("x", b"1")
    driver.tree.close()
    assert sorted(path.name for path in (tmp_path / "spool" / "0").iterdir())[:2] == ["00ff", "101"]


def test_one_process_at_a_time(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_tree(tmp_path, snapshots)
    with pytest.raises(SessionStateError, match=f"in use by process {os.getpid()}"):
        open_tree(tmp_path, snapshots)
    driver.write("x", b"1")
    driver.tree.close()
    die_after(tmp_path, snapshots, lambda driver: driver.write("y", b"2"))
    driver = open_tree(tmp_path, snapshots)
    assert driver.read("x") + driver.read("y") == b"12"
    driver.tree.close()


def test_a_tree_of_another_branch_or_repository_is_refused(tmp_path: Path, snapshots: Snapshots) -> None:
    open_tree(tmp_path, snapshots).tree.close()
    for changed in ({"branch": "dev"}, {"repository": "memory:other"}):
        with pytest.raises(SessionStateError, match="holds the working tree of branch main"):
            WorkTree(tmp_path, replace(options(snapshots), **changed))
    open_tree(tmp_path, snapshots).tree.close()


def test_the_base_of_an_existing_tree_counts(tmp_path: Path, snapshots: Snapshots) -> None:
    open_tree(tmp_path, snapshots).tree.close()
    snapshots.add("newer", {"x": b""})
    tree = WorkTree(tmp_path, replace(options(snapshots), base="newer"))
    assert tree.base == "base"
    tree.close()


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and path.name != "lock"}


def without_row_log(directory: Path) -> None:
    for name in ("rows.log", "rows.end"):
        (directory / name).unlink()


@pytest.mark.parametrize("is_killed", [False, True])
def test_a_damaged_database_without_row_log_is_one_clear_error(
    tmp_path: Path, snapshots: Snapshots, *, is_killed: bool
) -> None:
    if is_killed:
        die_after(tmp_path, snapshots, lambda driver: driver.write("x", b"1"))
    else:
        open_tree(tmp_path, snapshots).tree.close()
    without_row_log(tmp_path)
    for path in tmp_path.glob("tree.db*"):
        path.write_bytes(b"no database" * 1000)
    before = contents(tmp_path)
    for _ in range(2):
        with pytest.raises(StorageError, match="is damaged, and its files are unknown") as caught:
            open_tree(tmp_path, snapshots)
        assert "export" in (caught.value.hint or "")
        assert "discard" in (caught.value.hint or "")
        assert contents(tmp_path) == before


def test_rows_without_their_directory_are_an_error_and_stay(tmp_path: Path, snapshots: Snapshots) -> None:
    driver = open_tree(tmp_path, snapshots)
    driver.mkdir("d")
    driver.write("d/x", b"1")
    driver.tree.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "tree.db")) as db:
        db.execute("delete from node where name = 'd'")
        db.commit()
    copy = tmp_path.with_name("copy")
    shutil.copytree(tmp_path, copy)
    without_row_log(tmp_path)
    with pytest.raises(StorageError, match="damaged"):
        open_tree(tmp_path, snapshots)
    assert spool_files(tmp_path)
    driver = open_tree(copy, snapshots)
    assert driver.read("d/x") == b"1"
    assert driver.tree.damage().notes == ("the database was damaged; 1 entry restored from its row log",)
    driver.tree.close()


def test_fsync_reaches_the_disk_in_order(tmp_path: Path, snapshots: Snapshots) -> None:
    """The bytes, the spool directory, then the log with the row that refers to them."""
    calls: list[str] = []
    opts = options(snapshots)

    class Io(type(opts.io)):  # type: ignore[misc]
        def sync(self, fd: int) -> None:
            calls.append("data")
            super().sync(fd)

        def sync_dir(self, path: str) -> None:
            calls.append(f"dir {Path(path).name}")
            super().sync_dir(path)

    class Log(journal.Journal):
        def apply(self, batch: journal.Batch) -> None:
            calls.append("row")
            super().apply(batch)

        def sync(self) -> None:
            calls.append("log")
            super().sync()

    driver = Driver(WorkTree(tmp_path, replace(opts, io=Io(), open_journal=Log)))
    calls.clear()
    handle = driver.open("x", os.O_WRONLY | os.O_CREAT)
    driver.tree.files.write(handle, 0, b"1")
    driver.tree.files.fsync(handle)
    assert calls == ["data", "dir 0", "dir spool", "row", "log"]
    calls.clear()
    driver.tree.files.write(handle, 1, b"2")
    driver.tree.files.fsync(handle)
    assert calls == ["data", "row", "log"]
    driver.close(handle)
    calls.clear()
    driver.mkdir("d")
    driver.tree.names.fsync()
    assert calls[-1] == "log"
    driver.tree.close()

"""Open files: where bytes come from, when they are copied, and the times of their changes."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from icefs.errors import (
    BadHandleError,
    EntryNotFoundError,
    InvalidInputError,
    IsADirectoryTreeError,
    StaleError,
    StorageError,
)
from icefs.worktree.ops.attributes import AttrChange
from tests.support.base_plans import plan_of_commit
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import Driver, Ticks, open_tree

BASE = {"a/zarr.json": b"{}", "a/c/0": bytes(range(256)) * 40, "a/c/1": b"small", "a/empty": b""}


@pytest.fixture
def snapshots() -> Snapshots:
    return Snapshots(BASE)


@pytest.fixture
def driver(tmp_path: Path, snapshots: Snapshots) -> Iterator[Driver]:
    driver = open_tree(tmp_path / "state", snapshots, Ticks(step=0))
    yield driver
    driver.tree.check_invariants()
    driver.tree.close()


def spool_files(driver: Driver) -> int:
    return sum(1 for path in (driver.tree.directory / "spool").rglob("*") if path.is_file())


def test_reads_are_exact(driver: Driver) -> None:
    data = BASE["a/c/0"]
    driver.write("new", data)
    for path in ("a/c/0", "new"):
        handle = driver.open(path, os.O_RDONLY)
        assert driver.tree.files.read(handle, 0, len(data)) == data
        assert driver.tree.files.read(handle, 100, 50) == data[100:150]
        assert driver.tree.files.read(handle, len(data) - 3, 100) == data[-3:]
        assert driver.tree.files.read(handle, len(data), 1) == b""
        assert driver.tree.files.read(handle, len(data) + 99, 1) == b""
        driver.close(handle)


def test_copy_up_happens_at_the_first_write_only(driver: Driver, snapshots: Snapshots) -> None:
    base_tree = snapshots.trees["base"]
    driver.chmod("a/c/0", 0o600)
    driver.rename("a/c/0", "a/c/9")
    driver.link("a/c/9", "other")
    handle = driver.open("a/c/9", os.O_RDWR)
    assert base_tree.reads == []
    assert spool_files(driver) == 0
    driver.tree.files.write(handle, 3, b"XYZ")
    assert base_tree.reads == ["a/c/0"]
    expected = BASE["a/c/0"][:3] + b"XYZ" + BASE["a/c/0"][6:]
    assert driver.tree.files.read(handle, 0, 1 << 20) == expected
    driver.close(handle)
    assert driver.read("other") == expected


@pytest.mark.parametrize("how", ["open", "truncate", "handle"])
def test_truncating_to_nothing_copies_nothing(driver: Driver, snapshots: Snapshots, how: str) -> None:
    before = driver.stat("a/c/0")
    if how == "open":
        driver.close(driver.open("a/c/0", os.O_WRONLY | os.O_TRUNC))
    elif how == "truncate":
        driver.truncate("a/c/0", 0)
    else:
        handle = driver.open("a/c/0", os.O_WRONLY)
        driver.tree.files.truncate(handle, 0)
        driver.close(handle)
    assert snapshots.trees["base"].reads == []
    assert driver.stat("a/c/0").size == 0
    assert driver.stat("a/c/0").ino == before.ino
    assert driver.stat("a/c/0").mtime_ns > before.mtime_ns
    assert driver.read("a/c/0") == b""


def test_truncating_up_and_down(driver: Driver) -> None:
    driver.truncate("a/c/1", 3)
    assert driver.read("a/c/1") == b"sma"
    driver.truncate("a/c/1", 6)
    assert driver.read("a/c/1") == b"sma\0\0\0"
    driver.truncate("a/empty", 2)
    assert driver.read("a/empty") == b"\0\0"
    with pytest.raises(IsADirectoryTreeError):
        driver.truncate("a", 0)
    with pytest.raises(InvalidInputError):
        driver.truncate("a/c/1", -1)


def test_opening_for_writing_without_writing_leaves_nothing(driver: Driver, snapshots: Snapshots) -> None:
    before = driver.stat("a/c/0")
    driver.close(driver.open("a/c/0", os.O_RDWR))
    driver.close(driver.open("a/c/0", os.O_RDWR | os.O_CREAT))
    assert driver.stat("a/c/0") == before
    assert driver.where("a/c/0") == "a/c/0"
    assert not driver.tree.has_changes()
    assert snapshots.trees["base"].reads == []


def test_a_reader_of_a_base_file_sees_what_is_written_meanwhile(driver: Driver) -> None:
    reader = driver.open("a/c/1", os.O_RDONLY)
    assert driver.tree.files.read(reader, 0, 9) == b"small"
    driver.write("a/c/1", b"BIGGER", os.O_WRONLY)
    assert driver.tree.files.read(reader, 0, 9) == b"BIGGER"
    assert driver.tree.files.getattr(reader) == driver.stat("a/c/1")
    driver.close(reader)


def test_a_removed_file_is_there_while_it_is_open(driver: Driver) -> None:
    base_tree, upper = driver.open("a/c/1", os.O_RDONLY), driver.open("new", os.O_RDWR | os.O_CREAT)
    driver.tree.files.write(upper, 0, b"bytes")
    inos = [driver.tree.files.getattr(handle).ino for handle in (base_tree, upper)]
    driver.unlink("a/c/1")
    driver.unlink("new")
    assert not driver.exists("a/c/1")
    assert driver.tree.files.read(base_tree, 0, 9) == b"small"
    driver.tree.files.write(upper, 5, b" more")
    assert driver.tree.files.read(upper, 0, 99) == b"bytes more"
    for handle, ino in zip((base_tree, upper), inos, strict=True):
        attr = driver.tree.files.getattr(handle)
        assert (attr.ino, attr.nlink) == (ino, 0)
        assert driver.tree.entries.attr(ino) == attr
    driver.write("a/c/1", b"another file")
    assert driver.stat("a/c/1").ino not in inos
    assert spool_files(driver) == 2
    driver.close(base_tree)
    driver.close(upper)
    assert spool_files(driver) == 1
    with pytest.raises(StaleError):
        driver.tree.entries.attr(inos[1])


def test_a_removed_open_file_cannot_be_linked(driver: Driver) -> None:
    handle = driver.open("new", os.O_RDWR | os.O_CREAT)
    ino = driver.tree.files.getattr(handle).ino
    driver.unlink("new")
    with pytest.raises(EntryNotFoundError):
        driver.tree.names.link(ino, driver.tree.root_ino, "again")
    with pytest.raises(EntryNotFoundError):
        driver.tree.entries.path_of(ino)
    driver.tree.attributes.set(ino, AttrChange(mode=0o600))
    driver.close(handle)


def test_renaming_over_an_open_base_file_keeps_it_readable(driver: Driver) -> None:
    reader = driver.open("a/c/1", os.O_RDONLY)
    driver.write("t.partial", b"new chunk")
    driver.rename("t.partial", "a/c/1")
    assert driver.tree.files.read(reader, 0, 99) == b"small"
    assert driver.read("a/c/1") == b"new chunk"
    driver.close(reader)


def test_a_lock_file_renamed_while_it_is_open(driver: Driver) -> None:
    """As tensorstore writes."""
    handle = driver.open("a/c/1.__lock", os.O_WRONLY | os.O_CREAT)
    ino = driver.tree.files.getattr(handle).ino
    assert driver.stat("a/c/1.__lock").ino == ino
    driver.tree.files.write(handle, 0, b"written under lock")
    driver.tree.files.fsync(handle)
    driver.rename("a/c/1.__lock", "a/c/1")
    driver.tree.names.fsync()
    assert driver.stat("a/c/1").ino == driver.tree.files.getattr(handle).ino == ino
    driver.close(handle)
    assert driver.read("a/c/1") == b"written under lock"


def test_appending(driver: Driver) -> None:
    one, two = (driver.open("a/c/1", os.O_WRONLY | os.O_APPEND) for _ in range(2))
    driver.tree.files.write(one, 0, b" one")
    driver.tree.files.write(two, 0, b" two")
    driver.tree.files.write(one, 3, b" three")
    assert driver.read("a/c/1") == b"small one two three"
    driver.close(one)
    driver.close(two)


def test_writing_behind_the_end_leaves_zeros(driver: Driver) -> None:
    """As acquire-zarr writes: no O_TRUNC, growing offsets, then a cut."""
    handle = driver.open("shard", os.O_WRONLY | os.O_CREAT)
    driver.tree.files.write(handle, 100, b"tail")
    driver.tree.files.write(handle, 0, b"head")
    assert driver.tree.files.getattr(handle).size == 104
    driver.tree.files.truncate(handle, 102)
    driver.close(handle)
    assert driver.read("shard") == b"head" + bytes(96) + b"ta"


def test_handles_allow_what_they_were_opened_for(driver: Driver) -> None:
    reader, writer = driver.open("a/c/1", os.O_RDONLY), driver.open("a/c/1", os.O_WRONLY)
    for refused in (
        lambda: driver.tree.files.write(reader, 0, b"x"),
        lambda: driver.tree.files.truncate(reader, 0),
        lambda: driver.tree.files.read(writer, 0, 1),
        lambda: driver.tree.files.read(99, 0, 1),
        lambda: driver.tree.files.flush(99),
    ):
        with pytest.raises(BadHandleError):
            refused()
    driver.close(reader)
    with pytest.raises(BadHandleError):
        driver.tree.files.release(reader)
    with pytest.raises(InvalidInputError):
        driver.tree.files.write(writer, -1, b"x")
    with pytest.raises(IsADirectoryTreeError):
        driver.open("a", os.O_RDONLY)
    driver.close(writer)


def test_mtime_grows_with_every_change_of_content_though_the_clock_stands(driver: Driver) -> None:
    times = [driver.stat("a/c/1").mtime_ns]

    def changed() -> None:
        times.append(driver.stat("a/c/1").mtime_ns)

    handle = driver.open("a/c/1", os.O_RDWR)
    driver.tree.files.write(handle, 0, b"1")
    changed()
    driver.tree.files.write(handle, 0, b"2")
    changed()
    driver.tree.files.truncate(handle, 1)
    changed()
    driver.close(handle)
    driver.write("a/c/1", b"3")
    changed()
    driver.truncate("a/c/1", 0)
    changed()
    assert times == sorted(set(times))
    before = driver.stat("a/c/1")
    driver.chmod("a/c/1", 0o600)
    driver.rename("a/c/1", "moved")
    driver.link("moved", "linked")
    driver.close(driver.open("moved", os.O_RDWR))
    after = driver.stat("moved")
    assert after.mtime_ns == before.mtime_ns
    assert after.ctime_ns > before.ctime_ns
    driver.utime("moved", 1, times[1])
    driver.write("moved", b"4", os.O_WRONLY)
    assert driver.stat("moved").mtime_ns not in times


def test_size_and_times_in_one_call(driver: Driver) -> None:
    attr = driver.tree.attributes.set(driver.where("a/c/1"), AttrChange(size=2, mtime_ns=77, mode=0o640))
    assert (attr.size, attr.mtime_ns, attr.mode) == (2, 77, 0o100640)
    assert driver.read("a/c/1") == b"sm"


def test_a_base_file_that_cannot_be_had_stays_as_it_is(driver: Driver, snapshots: Snapshots) -> None:
    base_tree = snapshots.trees["base"]
    handle = driver.open("a/c/0", os.O_RDWR)
    bytes_of = base_tree.files.pop("a/c/0")
    with pytest.raises(KeyError):
        driver.tree.files.write(handle, 0, b"x")
    base_tree.files["a/c/0"] = bytes_of[:-1]
    with pytest.raises(StorageError, match="were expected"):
        driver.tree.files.write(handle, 0, b"x")
    base_tree.files["a/c/0"] = bytes_of
    assert spool_files(driver) == 0
    driver.tree.files.write(handle, 0, b"x")
    driver.close(handle)
    assert driver.read("a/c/0") == b"x" + bytes_of[1:]


@pytest.mark.parametrize("seed", range(3))
def test_random_operations_on_one_file(driver: Driver, tmp_path: Path, seed: int) -> None:
    """As fsx does: writes, appends, cuts, reads and reopenings against a plain file."""
    rng = random.Random(seed)
    model = os.open(tmp_path / "model", os.O_RDWR | os.O_CREAT)
    os.write(model, BASE["a/c/0"])
    path = "a/c/0"
    handle = driver.open(path, os.O_RDWR)
    views = []
    for step in range(15_000):
        kind, offset = rng.random(), rng.randrange(1 << rng.randrange(1, 17))
        data = rng.randbytes(rng.randrange(1 << rng.randrange(1, 14)))
        if kind < 0.4:
            assert driver.tree.files.write(handle, offset, data) == os.pwrite(model, data, offset)
        elif kind < 0.75:
            assert driver.tree.files.read(handle, offset, len(data)) == os.pread(model, len(data), offset), step
        elif kind < 0.85:
            driver.tree.files.truncate(handle, offset)
            os.ftruncate(model, offset)
        elif kind < 0.9:
            driver.tree.files.flush(handle)
            driver.tree.files.release(handle)
            if rng.random() < 0.3:
                driver.rename(path, path := f"a/c/{step}")
            if rng.random() < 0.2:
                driver.truncate(path, 0)
                os.ftruncate(model, 0)
            handle = driver.open(path, os.O_RDWR)
        elif kind < 0.93 and len(views) < 3:
            views.append((driver.tree.view(), path, os.pread(model, 1 << 20, 0)))
        elif kind < 0.96 and views:
            view, name, expected = views.pop(rng.randrange(len(views)))
            found = view.find(name)
            assert found is not None
            assert view.read(found) == expected  # type: ignore[arg-type]
            driver.tree.release_view(view)
        else:
            appender = driver.open(path, os.O_WRONLY | os.O_APPEND)
            driver.tree.files.write(appender, 0, data[:100])
            os.pwrite(model, data[:100], os.fstat(model).st_size)
            driver.close(appender)
        assert driver.tree.files.getattr(handle).size == os.fstat(model).st_size, step
        driver.tree.check_invariants()
    assert driver.tree.files.read(handle, 0, 1 << 20) == os.pread(model, 1 << 20, 0)
    driver.close(handle)
    os.close(model)
    for view, _, _ in views:
        driver.tree.release_view(view)
    assert spool_files(driver) == 1


def test_a_file_that_was_open_while_its_renamed_directory_was_committed_is_given_back(
    driver: Driver, snapshots: Snapshots
) -> None:
    driver.rename("a", "b")
    handle = driver.open("b/c/1", os.O_RDONLY)
    frozen = driver.tree.freeze()
    files = {f"b{path[1:]}": data for path, data in BASE.items()}
    snapshots.add("next", files, on="base", changed=files)
    driver.tree.change_base(plan_of_commit(frozen, "next"))
    driver.tree.check_invariants()
    assert driver.tree.files.read(handle, 0, 100) == b"small"
    driver.close(handle)
    number = driver.stat("b/c/1").ino
    driver.unlink("b/c/1")
    assert not driver.tree.entries.knows(number), "it is kept as if somebody had it open"

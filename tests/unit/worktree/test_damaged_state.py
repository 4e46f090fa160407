"""Every file of a state directory, damaged in every way, at every moment: no change is lost without a word.

The files are those that a real working tree has: a new one is covered by itself. One file is damaged at a time. The
tree is compared with itself before the damage: a damaged spool file may cost the bytes of the path
that it belongs to, which is then named; any other damage costs nothing. `ICEFS_SOAK=1` tries each file and kind many
times, on larger trees.
"""

import contextlib
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icefs.engine.write.collection_log import Collections
from icefs.engine.write.repository import WritableRepository
from icefs.errors import DamagedStateError, IcefsError, SessionStateError
from icefs.storage.memory import MemoryStorage
from icefs.worktree.core.damage import Damage
from icefs.worktree.spool.errors import database_error
from icefs.worktree.upload.options import UploadOptions
from tests.support.dict_base import Snapshots
from tests.support.forked import Child
from tests.support.soak import SOAK, depth
from tests.support.state_damage import Case, cases, copy, files_of
from tests.support.tree_driver import Driver, open_tree

TURNS = depth(1, 8)
MANY = depth(3, 8)

BASE = {
    "zarr.json": b"root",
    "a/zarr.json": b"array",
    "a/c/0": b"chunk 0" * 300,
    "a/c/1": b"chunk 1",
    "b/zarr.json": b"group",
    "b/x/zarr.json": b"inner",
    "gone": b"gone",
}


def first_work(driver: Driver) -> None:
    driver.write("a/c/2", b"an old chunk 2" * 100)
    driver.write("notes", b"old notes")
    driver.unlink("gone")
    driver.mkdir("made")


def later_work(driver: Driver) -> None:
    handle = driver.open("a/c/2", os.O_RDWR)
    driver.tree.files.write(handle, 5, b"the new chunk, in place")
    driver.close(handle)
    driver.write("a/c/0", b"chunk 0, written again")
    driver.write("notes", b"")
    driver.unlink("a/c/1")
    driver.rename("b", "made/b")
    driver.link("a/c/2", "made/linked")
    driver.chmod("made", 0o700)
    driver.utime("notes", 11, 12)
    for number in range(MANY):
        driver.write(f"made/{number}", b"%d" % number * 50)
    driver.unlink("made/0")


def begin_commit(driver: Driver) -> None:
    """Leaves a commit in doubt, and changes the tree after it."""
    frozen = driver.tree.freeze()
    driver.tree.record_intent(frozen, "next", "base", ["notes"])
    driver.write("a/c/0", b"chunk 0, for the next commit")
    driver.unlink("made/1")
    driver.rename("made/linked", "elsewhere")


def last_work(driver: Driver, failed: set[str]) -> None:
    """Works on a tree of which a file is damaged; records the paths at which that failed with an error."""
    with failing(failed, "late", "a/c/7"):
        driver.write("late", b"late")
        driver.rename("late", "a/c/7")
    with failing(failed, "notes"):
        driver.write("notes", b"the newest notes")
    with failing(failed, "a/c/0"):
        driver.unlink("a/c/0")
    with failing(failed, "zarr.json"):
        driver.write("zarr.json", b"new root")


@contextlib.contextmanager
def failing(failed: set[str], *paths: str) -> Iterator[None]:
    try:
        yield
    except IcefsError:
        failed.update(paths)


type Shown = dict[str, list[Any]]


def shown(driver: Driver) -> Shown:
    """Returns what a tree shows; of files that cannot be read no bytes."""
    found: Shown = {}
    for path, entry in driver.walk():
        attr = entry.attr
        told: list[Any] = [attr.mode, attr.nlink, attr.uid, attr.gid]
        if not attr.is_dir:
            try:
                told += [attr.mtime_ns, driver.read(path)]
            except IcefsError:
                told += [attr.mtime_ns, None]
        found[path] = told
    return found


def snapshots() -> Snapshots:
    made = Snapshots(BASE)
    made.add("next", {})
    return made


def named(damage: Damage) -> set[str]:
    return {*damage.lost, *damage.cut, *damage.changed}


class Trees:
    """A state directory at three moments, and what is right of each."""

    def __init__(self, scratch: Path, *, is_committing: bool) -> None:
        self.scratch = scratch
        self.storage = MemoryStorage()
        self.collections = Collections(WritableRepository.create(self.storage).context)
        self.older = scratch / "older"
        driver = self.open(scratch / "tree", uploads=True)
        first_work(driver)
        copy(scratch / "tree", self.older)
        later_work(driver)
        driver.tree.close()
        driver = self.open(scratch / "tree", uploads=True)
        driver.write("a/c/3", b"chunk 3" * 500)
        if is_committing:
            begin_commit(driver)
        self.wait_for_uploads(driver)
        self.killed = copy(scratch / "tree", scratch / "killed")
        driver.tree.close()
        self.closed = scratch / "tree"

    def open(self, directory: Path, *, uploads: bool = False) -> Driver:
        driver = open_tree(directory, snapshots())
        if uploads:
            options = UploadOptions(quiet_s=0.001, pack_bytes=0)
            driver.tree.start_uploads(self.storage, 500, options, self.collections)
        return driver

    def wait_for_uploads(self, driver: Driver) -> None:
        uploads = driver.tree.uploads
        assert uploads is not None
        for _ in range(10_000):
            if uploads.state.stored == 2 and not uploads.state.pending:
                return
            os.sched_yield()
        raise AssertionError(uploads.state)

    def check_stored(self, driver: Driver) -> None:
        """Compares the chunks that a commit would refer to with what the tree shows."""
        uploads = driver.tree.uploads
        assert uploads is not None
        frozen = driver.tree.view()
        with uploads.paused(lambda: None) as known:
            rows = dict(known)
        try:
            for _, entry in frozen.walk():
                row = rows.get(getattr(entry, "spool_id", 0))
                if row is not None:
                    key = f"chunks/{row.chunk_id}"
                    assert self.storage.get(key, start=row.offset, end=row.offset + row.size).data == frozen.read(entry)  # type: ignore[arg-type]
        finally:
            driver.tree.release_view(frozen)


def path_of_spool(driver: Driver, file: str) -> set[str]:
    """Returns the paths whose bytes are in a spool file."""
    spool_id = int(file.rpartition("/")[2], 16)
    frozen = driver.tree.view()
    try:
        return {path for path, entry in frozen.walk() if getattr(entry, "spool_id", 0) == spool_id}
    finally:
        driver.tree.release_view(frozen)


def check(trees: Trees, directory: Path, case: Case, right: Shown, before: Damage, owners: set[str]) -> None:
    """Opens a damaged tree, and compares it with what it should be; twice, as it stays so."""
    for _ in range(2):
        has_uploads = SOAK or case.file.startswith(("uploads", "spool"))
        driver = trees.open(directory, uploads=has_uploads)
        driver.tree.check_invariants()
        damage = driver.tree.damage()
        found = shown(driver)
        told = named(damage) - named(before)
        assert told <= owners, (case, damage)
        assert found.keys() == right.keys(), (case, damage)
        differing = {path for path in right if found[path] != right[path]}
        assert differing <= owners, (case, damage, {path: (found[path], right[path]) for path in differing})
        assert not differing or named(damage) & owners, (case, damage)
        if has_uploads:
            trees.check_stored(driver)
        driver.tree.close()
        before = damage


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A directory in memory where there is any: what an fsync costs is no matter here."""
    directory = Path(tempfile.mkdtemp(prefix="icefs-damage-", dir="/dev/shm" if os.path.isdir("/dev/shm") else None))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.parametrize("is_committing", [False, True])
@pytest.mark.parametrize("moment", ["closed", "killed"])
def test_a_damaged_file_costs_nothing_or_is_named(scratch: Path, moment: str, *, is_committing: bool) -> None:
    trees = Trees(scratch, is_committing=is_committing)
    image = trees.closed if moment == "closed" else trees.killed
    driver = trees.open(copy(image, trees.scratch / "undamaged"))
    right, before = shown(driver), driver.tree.damage()
    assert len(right) > 12
    assert not before
    kinds = set()
    for number, case in enumerate(cases(image, TURNS)):
        directory = copy(image, trees.scratch / f"case {number}")
        if not case.inflict(directory, trees.older):
            shutil.rmtree(directory)
            continue
        kinds.add((case.file.partition("/")[0], case.kind))
        owners = path_of_spool(driver, case.file) if case.file.startswith("spool/") else set()
        check(trees, directory, case, right, before, owners)
        shutil.rmtree(directory)
    driver.tree.close()
    assert kinds >= {(file, kind) for file in ("tree.db", "rows.log", "spool") for kind in ("gone", "bit", "older")}
    assert {file.partition("/")[0] for file in files_of(image)} == {file for file, _ in kinds}


@pytest.mark.parametrize(
    ("end", "is_committing"),
    [("closed", False), ("killed", True), *([("closed", True), ("killed", False)] if SOAK else [])],
)
def test_a_file_that_is_damaged_while_the_tree_is_open_costs_nothing_or_is_named(
    scratch: Path, end: str, *, is_committing: bool
) -> None:
    trees = Trees(scratch, is_committing=is_committing)
    image = trees.closed
    probe = trees.open(copy(image, trees.scratch / "probe"))
    for number, case in enumerate(cases(trees.scratch / "probe", TURNS)):
        directory = copy(image, trees.scratch / f"case {number}")
        driver = trees.open(directory)
        if not (directory / case.file).is_file() or not case.inflict(directory, trees.older):
            driver.tree.close()
            shutil.rmtree(directory)
            continue
        owners = path_of_spool(probe, case.file) if case.file.startswith("spool/") else set()
        if case.file == "lock":
            check_alone(directory)
        failed: set[str] = set()
        last_work(driver, failed)
        right = shown(driver)
        if end == "closed":
            with contextlib.suppress(IcefsError):
                driver.tree.close()
        else:
            killed = copy(directory, trees.scratch / f"killed {number}")
            with contextlib.suppress(IcefsError):
                driver.tree.close()
            shutil.rmtree(directory)
            directory = killed
        driver = trees.open(directory)
        driver.tree.check_invariants()
        damage, found = driver.tree.damage(), shown(driver)
        driver.tree.close()
        assert found.keys() - failed == right.keys() - failed, (case, damage)
        differing = {path for path in right if path not in failed and found[path] != right[path]}
        assert differing <= owners, (case, damage, {path: (found[path], right[path]) for path in differing})
        assert not differing or named(damage) & owners, (case, damage)
        shutil.rmtree(directory)
    probe.tree.close()


def check_alone(directory: Path) -> None:
    """Checks that no other process gets a tree that is open, whatever became of its lock file."""

    def child(report: Any) -> None:
        try:
            open_tree(directory, snapshots())
        except SessionStateError:
            report("refused")

    process = Child(child)
    assert process.lines() == ["refused"]
    process.wait()


def test_a_disk_that_cannot_be_read_is_no_damaged_database(tmp_path: Path) -> None:
    garbage, unreadable = tmp_path / "garbage.db", tmp_path / "tree.db"
    garbage.write_bytes(b"no database" * 1000)
    unreadable.symlink_to("/proc/self/mem")  # whose first byte is EIO
    with contextlib.closing(sqlite3.connect(garbage)) as database, pytest.raises(sqlite3.DatabaseError) as caught:
        database.execute("select * from node")
    failed = database_error(caught.value, unreadable, "reading")
    assert not isinstance(failed, DamagedStateError)
    assert "Input/output error" in failed.message
    assert isinstance(database_error(caught.value, garbage, "reading"), DamagedStateError)

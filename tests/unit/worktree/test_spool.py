"""Where spool files are made: not where the disk takes long for it, and nothing is left of what was tried."""

import errno
import os
import threading
from pathlib import Path

import pytest

from icefs.errors import NoSpaceError
from icefs.worktree.spool.files import DiskIo, Spool

BUCKET = 4096
SLOW_NS = 1_000_000


class Disk(DiskIo):
    """A disk on which making files takes a time that depends on the place: counted, not waited for.

    Attributes:
        now_ns: The clock.
        is_spread: Whether directories have places of their own.
        slow_dirs: How many directories, of those that are made next, are in slow places.
        slow: The directories in slow places, by inode number.
        made: The names of all directories that were made.
    """

    def __init__(self, slow_dirs: int = 0, *, is_spread: bool = True) -> None:
        self.now_ns = 0
        self.is_spread = is_spread
        self.slow_dirs = slow_dirs
        self.slow: set[int] = set()
        self.made: list[str] = []

    def clock_ns(self) -> int:
        return self.now_ns

    def spread(self, path: str) -> bool:
        return self.is_spread

    def mkdir(self, path: str) -> None:
        super().mkdir(path)
        self.made.append(os.path.basename(path))
        if self.slow_dirs > 0:
            self.slow_dirs -= 1
            self.slow.add(os.stat(path).st_ino)

    def _spend(self, directory: str) -> None:
        self.now_ns += SLOW_NS if os.stat(directory).st_ino in self.slow else 50_000

    def try_place(self, path: str) -> None:
        super().try_place(path)
        self._spend(path)

    def create(self, path: str) -> int:
        fd = super().create(path)
        self._spend(os.path.dirname(path))
        return fd


def spool_on(disk: Disk, path: Path) -> Spool:
    return Spool(path, disk, disk.clock_ns)


def make(spool: Spool, count: int, next_id: int) -> int:
    """Makes files one after the other, as a tree does; returns the next id."""
    for _ in range(count):
        spool_id = spool.first_id(next_id)
        spool.create(spool_id).retire()
        next_id = spool_id + 1
    return next_id


def test_a_quick_place_is_taken_as_it_is(tmp_path):
    disk = Disk()
    assert make(spool_on(disk, tmp_path), 20, BUCKET) == BUCKET + 20
    assert len(disk.made) == 1
    assert os.listdir(tmp_path) == ["1"]


def test_a_slow_place_is_left_for_another(tmp_path):
    disk = Disk(slow_dirs=2)
    spool = spool_on(disk, tmp_path)
    make(spool, 1, BUCKET)
    assert len(disk.made) == 3
    assert os.listdir(tmp_path) == ["1"]
    assert os.stat(tmp_path / "1").st_ino not in disk.slow
    assert list(spool.scan()) == [BUCKET]


def test_a_place_that_becomes_slow_is_left(tmp_path):
    disk = Disk()
    spool = spool_on(disk, tmp_path)
    next_id = make(spool, 20, BUCKET)
    disk.slow.add(os.stat(tmp_path / "1").st_ino)
    next_id = make(spool, 20, next_id)
    assert next_id == 2 * BUCKET + 4  # sixteen were slow
    assert sorted(os.listdir(tmp_path)) == ["1", "2"]
    assert len(list(spool.scan())) == 40


def test_a_slow_file_now_and_then_says_nothing(tmp_path):
    disk = Disk()
    spool = spool_on(disk, tmp_path)
    next_id = make(spool, 1, BUCKET)
    inode = os.stat(tmp_path / "1").st_ino
    for _ in range(10):
        disk.slow.add(inode)
        next_id = make(spool, 15, next_id)
        disk.slow.discard(inode)
        next_id = make(spool, 1, next_id)
    assert os.listdir(tmp_path) == ["1"]


def test_where_all_places_are_slow_one_is_as_good_as_another(tmp_path):
    disk = Disk(slow_dirs=1000)
    spool = spool_on(disk, tmp_path)
    assert make(spool, 100, BUCKET) == BUCKET + 100
    assert len(disk.made) == 6
    assert os.listdir(tmp_path) == ["1"]


def test_other_file_systems_are_not_tried(tmp_path):
    disk = Disk(slow_dirs=1000, is_spread=False)
    assert make(spool_on(disk, tmp_path), 100, BUCKET) == BUCKET + 100
    assert disk.made == ["1"]


def test_what_was_tried_before_a_crash_is_removed(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1/1000").touch()
    (tmp_path / "2.7").mkdir()
    (tmp_path / "2.7/0").touch()
    assert list(spool_on(Disk(), tmp_path).scan()) == [BUCKET]
    assert os.listdir(tmp_path) == ["1"]


def test_two_threads_may_begin_the_same_bucket(tmp_path):
    both = threading.Barrier(2)

    class Meeting(Disk):
        def try_place(self, path: str) -> None:
            super().try_place(path)
            both.wait(20)

    disk = Meeting()
    spool = spool_on(disk, tmp_path)
    other = threading.Thread(target=lambda: spool.create(BUCKET + 1).retire())
    other.start()
    spool.create(BUCKET).retire()
    other.join()
    assert sorted(spool.scan()) == [BUCKET, BUCKET + 1]
    assert os.listdir(tmp_path) == ["1"]


def test_a_disk_that_is_full_leaves_nothing(tmp_path):
    class Full(Disk):
        def try_place(self, path: str) -> None:
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(NoSpaceError):
        spool_on(Full(), tmp_path).create(BUCKET)
    assert not os.listdir(tmp_path)

"""Writes that nobody waits for, on a disk that loses them: the tree knows which bytes, and nothing takes them.

The model is, for each file, its bytes and which of them are lost. From it follow the bytes that
programs read, the answers of `close` and `fsync`, what a commit would take, and what is found after the daemon's death.
"""

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from icefs.errors import StorageError
from icefs.worktree.model import lost
from icefs.worktree.tree import WorkTree
from tests.support.dict_base import Snapshots
from tests.support.faulty_disk import LosingDisk
from tests.support.tree_driver import Driver, options

UNIT = 1 << 10  # the longest writes go past the lock, the others do not
BASE = {"base": bytes(range(1, 41)) * UNIT}
PATHS = st.sampled_from(["base", "own", "other"])
PLACES = st.integers(0, 48)
LENGTHS = st.integers(1, 40)


@dataclass
class File:
    """A file as a program knows it; `gone[i]` is 1 where byte i is lost."""

    data: bytearray
    gone: bytearray

    @property
    def is_lost(self) -> bool:
        return any(self.gone)

    def resize(self, size: int) -> None:
        for values in (self.data, self.gone):
            del values[size:]
            values.extend(bytes(size - len(values)))

    def put(self, start: int, data: bytes) -> None:
        self.resize(max(len(self.data), start + len(data)))
        self.data[start : start + len(data)] = data
        self.gone[start : start + len(data)] = bytes(len(data))

    def lose(self, start: int, end: int) -> None:
        self.gone[start:end] = bytes([1]) * (end - start)


class LosingMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(prefix="icefs-lost-"))
        self.disk = LosingDisk()
        self.snapshots = Snapshots(BASE)
        self.files = {path: File(bytearray(data), bytearray(len(data))) for path, data in BASE.items()}
        self.lives = 0
        self.fill = 0
        self.driver = self.open()

    def open(self) -> Driver:
        directory = self.scratch / str(self.lives)
        return Driver(WorkTree(directory, replace(options(self.snapshots), io=self.disk)))

    def teardown(self) -> None:
        self.driver.tree.close()
        shutil.rmtree(self.scratch)

    def some_bytes(self, length: int) -> bytes:
        self.fill = self.fill % 200 + 1
        return bytes([self.fill + 40]) * length

    def begin(self, path: str) -> tuple[File, int]:
        handle = self.driver.open(path, os.O_RDWR | os.O_CREAT)
        return self.files.setdefault(path, File(bytearray(), bytearray())), handle

    def end(self, file: File, handle: int) -> None:
        """Closes a file; that fails exactly where bytes are lost."""
        tree = self.driver.tree
        try:
            assert fails(tree.files.flush, handle) == file.is_lost
        finally:
            tree.files.release(handle)

    @rule(path=PATHS, start=PLACES, length=LENGTHS, room=st.none() | st.integers(0, 60))
    def write_back(self, path: str, start: int, length: int, room: int | None) -> None:
        """The kernel writes what was mapped, which never reaches beyond the end of the file."""
        file, handle = self.begin(path)
        first = min(start * UNIT, len(file.data))
        data = self.some_bytes(length * UNIT)[: len(file.data) - first]
        self.disk.room = None if room is None else room * UNIT
        if fails(self.driver.tree.files.write_back, handle, first, data):
            assert room is not None
            count = self.stored(handle, first, data)
            assert count <= room * UNIT
            assert count < len(data)
            file.put(first, data[:count])
            file.lose(first + count, first + len(data))
        else:
            file.put(first, data)
        self.disk.room = None
        self.end(file, handle)

    def stored(self, handle: int, first: int, data: bytes) -> int:
        """Returns how many bytes of a write that failed can be read."""
        tree = self.driver.tree
        for count in range(0, len(data), UNIT):
            if fails(tree.files.read, handle, first + count, UNIT):
                return count
            assert tree.files.read(handle, first + count, UNIT) == data[count : count + UNIT]
        return len(data)

    @rule(path=PATHS, start=PLACES, length=LENGTHS)
    def write(self, path: str, start: int, length: int) -> None:
        file, handle = self.begin(path)
        data = self.some_bytes(length * UNIT)
        assert self.driver.tree.files.write(handle, start * UNIT, data) == len(data)
        file.put(start * UNIT, data)
        self.end(file, handle)

    @rule(path=PATHS, size=PLACES, is_open=st.booleans())
    def truncate(self, path: str, size: int, is_open: bool) -> None:
        file, handle = self.begin(path)
        if is_open:
            self.driver.tree.files.truncate(handle, size * UNIT)
        else:
            self.driver.truncate(path, size * UNIT)
        file.resize(size * UNIT)
        self.end(file, handle)

    @rule(path=PATHS)
    def open_anew(self, path: str) -> None:
        self.driver.close(self.driver.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))
        self.files[path] = File(bytearray(), bytearray())

    @rule(path=PATHS, syncs=st.booleans())
    def fsync(self, path: str, syncs: bool) -> None:
        """After a sync that failed nobody knows which bytes the disk has."""
        file, handle = self.begin(path)
        self.disk.syncs = syncs
        before = self.disk.failed_syncs
        assert fails(self.driver.tree.files.fsync, handle) == (file.is_lost or self.disk.failed_syncs > before)
        if self.disk.failed_syncs > before:
            file.lose(0, len(file.data))
        self.disk.syncs = True
        self.end(file, handle)

    @rule(old=PATHS, new=PATHS)
    def rename(self, old: str, new: str) -> None:
        if old in self.files and old != new:
            self.driver.rename(old, new)
            self.files[new] = self.files.pop(old)

    @rule(path=PATHS)
    def unlink(self, path: str) -> None:
        if self.files.pop(path, None) is not None:
            self.driver.unlink(path)

    @precondition(lambda self: "base" in self.files)
    @rule()
    def discard(self) -> None:
        """All is as in the base."""
        self.driver.tree.discard()
        self.files = {path: File(bytearray(data), bytearray(len(data))) for path, data in BASE.items()}

    @rule()
    def die(self) -> None:
        """The daemon is killed, and another one opens what it left."""
        before = self.scratch / str(self.lives)
        self.lives += 1
        shutil.copytree(before, self.scratch / str(self.lives), ignore=shutil.ignore_patterns("lock"))
        self.driver.tree.close()
        self.driver = self.open()

    @invariant()
    def is_as_the_model_says(self) -> None:
        assert {path for path, _ in self.driver.walk()} == self.files.keys()
        view = self.driver.tree.view()
        for path, file in self.files.items():
            found = view.find(path)
            assert found is not None
            assert getattr(found, "is_lost", False) == file.is_lost, path
            if file.is_lost:
                assert fails(view.read, found)
            else:
                assert view.read(found) == file.data
            self.check_reading(path, file)
        self.driver.tree.release_view(view)
        self.driver.tree.check_invariants()

    def check_reading(self, path: str, file: File) -> None:
        handle = self.driver.open(path, os.O_RDONLY)
        try:
            for first in range(0, len(file.data), UNIT):
                if any(file.gone[first : first + UNIT]):
                    assert fails(self.driver.tree.files.read, handle, first, UNIT), (path, first)
                else:
                    assert self.driver.tree.files.read(handle, first, UNIT) == file.data[first : first + UNIT], (
                        path,
                        first,
                    )
        finally:
            self.driver.tree.files.flush(handle)  # a reader's close never fails
            self.driver.tree.files.release(handle)


def fails(function: object, *args: object) -> bool:
    """Calls something; tells whether it failed because of the disk."""
    try:
        function(*args)  # type: ignore[operator]
    except StorageError:
        return True
    return False


TestLosingMachine = LosingMachine.TestCase


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 60), st.integers(0, 20)), max_size=40))
def test_ranges_are_sets_of_bytes(steps: list[tuple[bool, int, int]]) -> None:
    """Adding, removing, writing down and reading ranges is the same as with sets of numbers."""
    ranges: lost.Ranges = ()
    model: set[int] = set()
    for is_added, start, length in steps:
        if is_added:
            ranges, model = lost.add(ranges, start, start + length), model | {*range(start, start + length)}
        else:
            ranges, model = lost.remove(ranges, start, start + length), model - {*range(start, start + length)}
        assert {number for first, end in ranges for number in range(first, end)} == model
        assert all(one[1] < two[0] for one, two in pairwise(ranges))
        assert lost.from_text(lost.to_text(ranges)) == ranges
        assert lost.overlaps(ranges, 10, 20) == bool(model & {*range(10, 20)})


def test_many_ranges_become_one() -> None:
    ranges: lost.Ranges = ()
    for number in range(1000):
        ranges = lost.add(ranges, number * 10, number * 10 + 1)
        assert len(ranges) <= 256
    assert all(lost.overlaps(ranges, number * 10, number * 10 + 1) for number in range(1000))


def test_what_a_damaged_row_says_is_an_error() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        lost.from_text("0-x")

"""Writes that nobody waits for, on a disk that is full now and then: they are stored, or their file is known as lost.

A real file system of a few MiB holds the state directory. Programs of their own write through mappings, whose pages the
kernel writes when the program has closed its file; others write, truncate, sync, rename over and remove. The disk is
filled and emptied, the daemon is killed and started again. The oracle knows what each program wrote.
"""

import contextlib
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import icechunk
import numpy as np
import pytest
import zarr

from icefs.engine.write.repository import WritableRepository
from icefs.storage.url import open_storage
from tests.mount.test_disk_full import small_disk
from tests.support.killing import Place, killing_place, rounds
from tests.support.soak import depth

CHUNK = 256 << 10
CHUNKS = 6
PAGE = mmap.PAGESIZE

MAPPING = """
import mmap, os, sys
path, first, length, value, syncs = sys.argv[1], *map(int, sys.argv[2:])
fd = os.open(path, os.O_RDWR)
mapped = mmap.mmap(fd, 0)
os.close(fd)
mapped[first : first + length] = bytes([value]) * length
if syncs:
    mapped.flush()
mapped.close()
"""
"""Writes through a mapping: as numpy.memmap does, with no descriptor left to tell anything."""


@pytest.fixture
def place() -> Iterator[Place]:
    with killing_place() as place, small_disk(place.root / "small", 6):
        WritableRepository.create(open_storage(str(place.repository))).close()
        session = official(place).writable_session("main")
        array = zarr.create_group(session.store).create_array(
            "a", shape=(CHUNKS, CHUNK), chunks=(1, CHUNK), dtype="u1", compressors=None
        )
        array[:2] = 1
        session.commit("the array")
        place.state_dir = place.root / "small" / "trees"
        place.mount()
        yield place
        place.kill()
        place.clear()


def official(place: Place) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.repository)))


def committed(place: Place) -> list[bytes]:
    array = zarr.open_group(official(place).readonly_session("main").store, mode="r")["a"]
    assert isinstance(array, zarr.Array)
    return [np.asarray(array[row]).tobytes() for row in range(CHUNKS)]


class Programs:
    """What programs do to the chunks of a mount, and what they know of them.

    Attributes:
        files: What each file is to hold, by chunk; a program that got an error has removed its file.
        was_lost: How often a file was found to be lost.
    """

    def __init__(self, place: Place, seed: int) -> None:
        self.place = place
        self.random = random.Random(seed)
        self.files: dict[int, bytearray] = {row: bytearray(b"\1" * CHUNK) for row in (0, 1)}
        self.was_lost = self.was_stored = 0
        self.filler = place.root / "small" / "filler"

    def path(self, row: int) -> Path:
        return self.place.path / "a" / "c" / str(row) / "0"

    def some_file(self) -> int:
        return self.random.choice(list(self.files) or [0])

    def remove(self, row: int) -> None:
        try:
            self.path(row).unlink(missing_ok=True)
        except OSError:  # what was kept back to remove something was taken by the filler
            self.empty()
            self.path(row).unlink(missing_ok=True)
        self.files.pop(row, None)

    def map(self) -> None:
        row, value = self.some_file(), self.random.randrange(1, 256)
        first = self.random.randrange(0, CHUNK, PAGE)
        length = min(self.random.choice([PAGE, 16 * PAGE, CHUNK]), CHUNK - first)
        file = self.files.get(row)
        if file is None or len(file) < first + length:
            return
        command = [sys.executable, "-S", "-E", "-c", MAPPING, self.path(row), first, length, value]
        syncs = self.random.random() < 0.5
        done = subprocess.run([*map(str, command), str(int(syncs))], check=False, capture_output=True, text=True)
        if not done.returncode:
            file[first : first + length] = bytes([value]) * length
        else:  # a page that is lost cannot be mapped; msync says that one is
            assert done.returncode == -signal.SIGBUS or "OSError" in done.stderr, done
            self.remove(row)

    def write(self) -> None:
        row, value = self.random.randrange(CHUNKS), self.random.randrange(1, 256)
        data = bytes([value]) * CHUNK
        try:
            self.path(row).parent.mkdir(exist_ok=True)
            self.path(row).write_bytes(data)
            self.files[row] = bytearray(data)
        except OSError:
            self.remove(row)

    def replace(self) -> None:
        row, value = self.some_file(), self.random.randrange(1, 256)
        new, data = self.place.path / f"new-{row}", bytes([value]) * CHUNK
        with contextlib.suppress(OSError):
            new.write_bytes(data)
            new.rename(self.path(row))
            self.files[row] = bytearray(data)
        new.unlink(missing_ok=True)

    def cut(self) -> None:
        row = self.some_file()
        with contextlib.suppress(OSError):
            os.truncate(self.path(row), 0)
            self.files[row] = bytearray()

    def extend(self) -> None:
        """Makes a file of one hole, as a program that maps a new file does."""
        row = self.some_file()
        try:
            os.truncate(self.path(row), 0)
            os.truncate(self.path(row), CHUNK)
            self.files[row] = bytearray(CHUNK)
        except OSError:
            self.remove(row)

    def sync(self) -> None:
        """Syncs a file; it says that it is lost if it is, or that the disk is full."""
        row = self.some_file()
        with contextlib.suppress(OSError):
            fd = os.open(self.path(row), os.O_RDWR)
            try:
                os.fsync(fd)
            except OSError:
                return
            finally:
                with contextlib.suppress(OSError):
                    os.close(fd)
            assert f"a/c/{row}/0" not in self.lost()

    def fill(self) -> None:
        """Leaves some pages on the disk."""
        with self.filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(bytes(PAGE)):
                pass
        size = self.filler.stat().st_size
        os.truncate(self.filler, max(0, size - self.random.choice([0, 0, 3, 20]) * PAGE))

    def empty(self) -> None:
        self.filler.unlink(missing_ok=True)

    def kill(self) -> None:
        self.place.kill()
        self.place.clear()
        self.place.mount()
        try:
            os.listdir(self.place.path)
        except OSError:  # to open the tree takes a page, and the filler has what was kept back for that
            self.empty()

    def invalid(self) -> dict[str, str]:
        return {one["path"]: one["reason"] for one in self.place.control("status.json")["invalid"]}

    def lost(self) -> set[str]:
        return {path for path, reason in self.invalid().items() if "lost" in reason}

    def check(self) -> None:
        """A file has the bytes that were written, or is known as lost, and says so when it is synced and closed."""
        lost = self.lost()
        for row, file in self.files.items():
            if f"a/c/{row}/0" in lost:
                self.was_lost += 1
                for call in (os.fsync, os.close):
                    fd = os.open(self.path(row), os.O_RDWR)
                    with pytest.raises(OSError, match=r"Errno (5|28)"):
                        call(fd)
                    if call is not os.close:
                        with contextlib.suppress(OSError):
                            os.close(fd)
            else:
                self.was_stored += 1
                fd = os.open(self.path(row), os.O_RDONLY)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                    assert os.pread(fd, 2 * CHUNK, 0) == file, row
                finally:
                    os.close(fd)

    def commit(self) -> None:
        """No commit takes what is lost; it has all that is not."""
        before = committed(self.place)
        invalid = self.invalid()
        self.empty()
        fd = os.open(self.place.path / ".icefs" / "rpc", os.O_RDWR)
        try:
            os.write(fd, b'{"op": "commit", "message": "m", "skip_invalid": true}')
            while os.read(fd, 1 << 16):
                pass
        finally:
            os.close(fd)
        after = committed(self.place)
        for row, file in self.files.items():
            if f"a/c/{row}/0" in invalid:
                assert after[row] == before[row]
            else:
                assert after[row] == file


@pytest.mark.parametrize("seed", range(depth(3, 40)))
def test_what_nobody_waits_for_is_stored_or_known_as_lost(place: Place, seed: int) -> None:
    programs = Programs(place, seed)
    steps = [programs.map] * 8 + [programs.extend, programs.fill] * 3 + [programs.empty]
    steps += [programs.write, programs.replace, programs.cut, programs.sync, programs.kill, programs.commit]
    opening = [programs.extend, programs.extend, programs.fill, *[programs.map] * 5]
    for step in [*opening, *programs.random.choices(steps, k=rounds(40))]:
        step()
        programs.check()
    programs.empty()
    programs.commit()
    assert programs.was_lost
    assert programs.was_stored


def test_lost_bytes_are_whole_again_when_they_are_written_again(place: Place) -> None:
    """Also after the daemon was killed; until then `commit` refuses, and names the file and why."""
    programs = Programs(place, 0)
    path = programs.path(1)
    (place.path / "notes").write_bytes(b"")
    os.truncate(place.path / "notes", CHUNK)
    programs.fill()
    with programs.filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(PAGE)):
            pass
    command = [sys.executable, "-S", "-E", "-c", MAPPING, str(path), str(PAGE), str(4 * PAGE), "7", "0"]
    assert subprocess.run(command, check=False).returncode == 0
    command[5] = str(place.path / "notes")
    assert subprocess.run(command, check=False).returncode == 0
    for _ in range(2):
        assert place.control("status.json")["lost"] == ["a/c/1/0", "notes"]
        assert "notes (its bytes were lost)" in (place.path / ".icefs" / "status").read_text()
        assert programs.invalid() == {"a/c/1/0": "its bytes were lost"}
        with pytest.raises(OSError, match="Errno 22"):
            (place.path / ".icefs" / "commit").write_text("no")
        assert "its bytes were lost" in place.control("commit")["message"]
        programs.kill()
    assert committed(place)[1] == b"\1" * CHUNK
    programs.empty()
    fd = os.open(path, os.O_RDWR)
    assert os.pread(fd, PAGE, 0) == b"\1" * PAGE
    with pytest.raises(OSError, match="Errno 5"):
        os.pread(fd, PAGE, PAGE)
    os.pwrite(fd, b"\2" * (4 * PAGE), PAGE)
    os.fsync(fd)
    os.close(fd)
    assert programs.invalid() == {}
    assert place.control("status.json")["lost"] == ["notes"]
    (place.path / ".icefs" / "commit").write_text("yes")
    assert committed(place)[1] == b"\1" * PAGE + b"\2" * (4 * PAGE) + b"\1" * (CHUNK - 5 * PAGE)

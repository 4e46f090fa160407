"""Disks that are full, and state directories that cannot be used: files stay, and the error gives the reason."""

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import icechunk
import numpy as np
import numpy.typing as npt
import pytest
import zarr

from icefs.daemon.options import MountOptions
from icefs.daemon.spawn import spawn
from icefs.engine.write.repository import WritableRepository
from icefs.errors import TreeInUseError
from icefs.storage.url import open_storage
from icefs.worktree.spool.state import is_in_use
from tests.support.ci import IN_CI
from tests.support.killing import Place, killing_place
from tests.support.killing_scripts import content_of
from tests.support.mounting import unmount, wait_until

MIB = 1 << 20
CHUNK = 100_000


@pytest.fixture
def place() -> Iterator[Place]:
    """A place whose root has a small file system at `small`."""
    with killing_place() as place:
        place.small = place.root / "small"  # type: ignore[attr-defined]
        with small_disk(place.root / "small", 6):
            yield place
            if place.daemon:
                place.kill()
                place.clear()


@contextlib.contextmanager
def small_disk(path: Path, size_mib: int) -> Iterator[None]:
    """Mounts a file system of so many MiB, which takes root; CI has it."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "icefs-test", str(path)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        (pytest.fail if IN_CI else pytest.skip)(f"cannot mount a tmpfs: {done.stderr}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", path], check=True)


def make_repository(place: Place, path: Path | None = None) -> None:
    if path is not None:
        place.repository = path
    WritableRepository.create(open_storage(str(place.repository))).close()
    session = official(place).writable_session("main")
    array = zarr.create_group(session.store).create_array(
        "a", shape=(200, CHUNK), chunks=(1, CHUNK), dtype="u1", compressors=None
    )
    array[:2] = 9
    session.commit("the array")


def official(place: Place) -> icechunk.Repository:
    return icechunk.Repository.open(icechunk.local_filesystem_storage(str(place.repository)))


def committed(place: Place) -> npt.NDArray[Any]:
    array = zarr.open_group(official(place).readonly_session("main").store, mode="r")["a"]
    assert isinstance(array, zarr.Array)
    return np.asarray(array[:, 0])


def messages(place: Place) -> list[str]:
    return [info.message for info in official(place).ancestry(branch="main")]


def write(path: Path, data: bytes) -> None:
    """Writes a file; raises what `write` or `close` said, once."""
    path.parent.mkdir(exist_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        done = 0
        while done < len(data):
            done += os.write(fd, data[done:])
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(fd)
        raise
    os.close(fd)


def control(place: Place, name: str, text: str) -> None:
    fd = os.open(place.path / ".icefs" / name, os.O_WRONLY)
    try:
        os.write(fd, text.encode() + b"\n")
    finally:
        os.close(fd)


def write_until_full(directory: Path, first: int, size: int) -> list[int]:
    """Writes chunk after chunk until the disk is full; returns those that could be closed. The last one is removed."""
    written = []
    for number in range(first, 10_000):
        path = directory / f"{number}" / "0"
        try:
            write(path, bytes([number % 251]) * size)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                path.parent.rmdir()
            return written
        written.append(number)
    raise AssertionError("the disk is never full")


def test_a_full_state_directory(place: Place) -> None:
    """ENOSPC on what needs space; everything else works: reading, removing, committing, discarding, remounting."""
    make_repository(place)
    place.state_dir = place.root / "small" / "trees"
    place.mount()
    chunks = place.path / "a" / "c"
    written = write_until_full(chunks, 2, CHUNK)
    assert 20 < len(written) < 70
    for size in (4096, 1):
        write_until_full(place.path, 1000, size)
    filler = place.root / "small" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    expected = content_of(place.path)
    assert {path for path, data in expected[0].items() if len(data) == CHUNK} >= {f"a/c/{n}/0" for n in written}
    with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
        write(chunks / "1" / "0", b"x" * CHUNK)  # copied up before it is written, or cut
    files = content_of(place.path)[0]
    assert {path: data for path, data in files.items() if path != "a/c/1/0"} == {
        path: data for path, data in expected[0].items() if path != "a/c/1/0"
    }
    assert place.control("status.json")["staged"]["chunks"]["a"]["written"] >= len(written)

    # Removing makes room, for what is kept back first.
    for number in written[-20:]:
        (chunks / str(number) / "0").unlink()
        written.remove(number)
    write(chunks / "90" / "0", bytes([90]) * CHUNK)
    write(chunks / "1" / "0", bytes([1]) * CHUNK)
    written += [1, 90, *write_until_full(chunks, 91, CHUNK)]
    for path in place.path.iterdir():
        if path.name.isdigit():
            (path / "0").unlink()
            path.rmdir()
    with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass

    # A daemon that dies, and one that ends at a signal, on a full disk.
    expected = content_of(place.path)
    place.kill()
    place.clear()
    place.mount()
    assert content_of(place.path) == expected
    place.unmount()
    place.mount()
    assert content_of(place.path) == expected

    control(place, "commit", "from a full disk")
    assert content_of(place.path) == expected
    values = committed(place)
    assert messages(place)[0] == "from a full disk"
    np.testing.assert_array_equal(values[[0, *written]], [9, *written])
    write(chunks / "0" / "0", bytes([7]) * CHUNK)
    write(chunks / "1" / "0", bytes([8]) * CHUNK)
    control(place, "discard", "a/c/1/0")
    assert (chunks / "1" / "0").read_bytes() == bytes([1]) * CHUNK
    control(place, "commit", "and more")
    place.unmount()
    assert committed(place)[0] == 7


def test_discarding_on_a_full_disk(place: Place) -> None:
    make_repository(place)
    place.state_dir = place.root / "small" / "trees"
    place.mount()
    before = content_of(place.path)
    write_until_full(place.path / "a" / "c", 2, CHUNK)
    write_until_full(place.path, 1000, 10)
    with contextlib.suppress(OSError):  # what is removed from the base makes no room
        (place.path / "a" / "c" / "0" / "0").unlink()
    control(place, "discard", "yes")
    assert content_of(place.path) == before
    assert write_until_full(place.path / "a" / "c", 2, CHUNK)
    place.unmount()
    assert messages(place) == ["the array", "Repository initialized"]


def test_a_full_repository(place: Place) -> None:
    """The commit fails with ENOSPC and says why; nothing is lost, and with space again it works."""
    make_repository(place, place.root / "small" / "repo")
    filler = place.root / "small" / "filler"
    filler.write_bytes(bytes(3 * MIB))
    place.mount()
    for number in range(2, 62):
        path = place.path / "a" / "c" / str(number) / "0"
        write(path, bytes([number]) * CHUNK)
    expected = content_of(place.path)
    changes = place.control("status.json")["staged"]
    for _ in range(2):
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            control(place, "commit", "too much")
        told = place.control("commit")
        assert not told["ok"]
        assert "no space left" in told["message"].lower()
        assert content_of(place.path) == expected
        assert place.control("status.json")["staged"] == changes
        assert messages(place) == ["the array", "Repository initialized"]
    subprocess.run(["mount", "-o", "remount,size=32m", place.root / "small"], check=True)
    control(place, "commit", "room for it")
    assert content_of(place.path) == expected
    place.unmount()
    assert messages(place)[0] == "room for it"
    np.testing.assert_array_equal(committed(place), [9, 9, *range(2, 62), *[0] * 138])


# State directories that cannot be used.


def start(place: Place, **options: Any) -> int:
    """Mounts as a user does, so that errors come back."""
    chosen = {"branch": "main", "poll_interval_s": 0.0, "state_dir": str(place.state_dir), **options}
    return spawn(
        MountOptions(repository=str(place.repository), mountpoint=str(place.path), log_file=str(place.log), **chosen)
    )


def some_work(place: Place) -> tuple[dict[str, bytes], frozenset[str]]:
    """Leaves a working tree with changes behind; returns what it shows."""
    make_repository(place)
    start(place)
    write(place.path / "a" / "c" / "3" / "0", bytes([3]) * CHUNK)
    (place.path / "notes.txt").write_text("mine")
    expected = content_of(place.path)
    unmount(place.path)
    return expected


@contextlib.contextmanager
def mounted(place: Place, **options: Any) -> Iterator[None]:
    start(place, **options)
    try:
        yield
    finally:
        unmount(place.path)


def database(place: Place) -> Path:
    [found] = place.state_dir.glob("*/tree.db")
    return found


def broken(path: Path, damage: str) -> bytes:
    whole = path.read_bytes()
    return {
        "random": os.urandom(len(whole)),
        "truncated": whole[: len(whole) // 2],
        "header": bytes(100) + whole[100:],
    }[damage]


@pytest.mark.parametrize("damage", ["random", "truncated", "header"])
def test_a_damaged_database_is_made_again(place: Place, damage: str) -> None:
    """Every change is there; mount, status and log say what happened, and the damaged one is kept."""
    expected = some_work(place)
    wait_for_end(place)
    path = database(place)
    path.write_bytes(broken(path, damage))
    damaged = path.read_bytes()
    with mounted(place):
        assert content_of(place.path) == expected
        assert "Damage: the database was damaged; " in (place.path / ".icefs" / "status").read_text()
    wait_for_end(place)
    assert "restored from its row log" in place.log.read_text()
    assert [file.read_bytes() for file in (path.parent / "damaged").iterdir()] == [damaged]


@pytest.mark.parametrize("damage", ["random", "truncated", "header"])
def test_a_damaged_database_without_row_log(place: Place, damage: str) -> None:
    """The branch says that it cannot be shown, and why; nothing is deleted, and other trees can be read."""
    expected = some_work(place)
    wait_for_end(place)
    path = database(place)
    whole = path.read_bytes()
    for file in path.parent.glob("rows.*"):
        file.unlink()
    path.write_bytes(broken(path, damage))
    before = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file() and file.name != "lock"}
    with mounted(place):
        with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            os.listdir(place.path)
        with pytest.raises(OSError, match=rf"\[Errno {errno.EIO}\]"):
            (place.path / "new").write_text("")
        assert (place.path / ".icefs" / "info.json").read_text()
    wait_for_end(place)
    assert "database" in place.log.read_text()
    after = {file: file.read_bytes() for file in path.parent.rglob("*") if file.is_file()}
    assert {file: after[file] for file in before} == before
    with mounted(place, read_only=True):
        assert (place.path / "a" / "c" / "0" / "0").read_bytes() == bytes([9]) * CHUNK
        assert not (place.path / "notes.txt").exists()
    wait_for_end(place)
    path.write_bytes(whole)
    with mounted(place):
        assert content_of(place.path) == expected


def wait_for_end(place: Place) -> None:
    """Waits until the daemon of a mount that was just taken down has given its state directory free."""
    locks = list(place.state_dir.glob("*"))
    wait_until(lambda: not any(is_in_use(directory) for directory in locks), "the daemon ends")


def test_a_state_directory_that_is_in_use(place: Place) -> None:
    """Of a branch that is mounted at the same place already, by a daemon that somebody took the mount from."""
    expected = some_work(place)
    wait_for_end(place)
    start(place)
    assert content_of(place.path) == expected
    with (place.path / "notes.txt").open() as held:
        subprocess.run(["fusermount3", "-uz", place.path], check=True)
        with pytest.raises(TreeInUseError, match=r"an earlier mount of this branch, process \d+, has not ended"):
            start(place)
        assert not place.path.is_mount()
        assert held.read() == "mine"
    with mounted(place):
        assert content_of(place.path) == expected


def test_a_state_directory_that_cannot_be_written(place: Place) -> None:
    """Reading works where nothing was ever written; writing says what is wrong."""
    make_repository(place)
    place.state_dir = place.root / "small" / "trees"
    subprocess.run(["mount", "-o", "remount,ro", place.root / "small"], check=True)
    with mounted(place):
        assert (place.path / "a" / "c" / "0" / "0").read_bytes() == bytes([9]) * CHUNK
        with pytest.raises(OSError, match=rf"\[Errno {errno.EACCES}\]"):
            (place.path / "new").write_text("")
        assert "read-only" in place.log.read_text().lower()
        subprocess.run(["mount", "-o", "remount,rw", place.root / "small"], check=True)
        (place.path / "new").write_text("now it works")
    wait_for_end(place)
    with mounted(place):
        assert (place.path / "new").read_text() == "now it works"


def test_a_state_directory_without_space_at_the_start(place: Place) -> None:
    """A new tree cannot begin there, and says so; one that is there already is opened."""
    make_repository(place)
    place.state_dir = place.root / "small" / "trees"
    filler = place.root / "small" / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with mounted(place):
        assert (place.path / "a" / "c" / "0" / "0").read_bytes() == bytes([9]) * CHUNK
        with pytest.raises(OSError, match=rf"\[Errno {errno.ENOSPC}\]"):
            (place.path / "new").write_text("")
        filler.unlink()
        (place.path / "new").write_text("now it works")
    wait_for_end(place)
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with mounted(place):
        assert (place.path / "new").read_text() == "now it works"

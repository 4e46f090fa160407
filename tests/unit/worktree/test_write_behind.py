"""The disk begins with files that were closed, but for the last of them."""

import os
import threading
from pathlib import Path

import pytest

from icefs.engine.write.collection_log import Collections
from icefs.engine.write.repository import WritableRepository
from icefs.storage.local.store import LocalStorage
from icefs.worktree.spool.write_behind import SPARED_BYTES, WriteBehind, begin_writing
from icefs.worktree.tree import WorkTree
from icefs.worktree.upload.options import UploadOptions
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import Driver, options

MIB = 1 << 20
SPARED = SPARED_BYTES // MIB


class Disk:
    """Records the files that it was to begin with; a file that is not there cannot be opened."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.missing: set[str] = set()
        self.threads: set[str] = set()

    def begin(self, path: str) -> None:
        self.threads.add(threading.current_thread().name)
        if path in self.missing:
            raise FileNotFoundError(path)
        self.begun.append(path)


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest.fixture
def behind(disk: Disk) -> WriteBehind:
    return WriteBehind(str, disk.begin)


def test_the_oldest_are_begun_with_and_the_last_are_spared(behind: WriteBehind, disk: Disk) -> None:
    for spool_id in range(SPARED + 20):
        behind.closed(spool_id, MIB)
    behind.close()
    # Several at once, so that the thread is not woken for each.
    assert disk.begun == [str(spool_id) for spool_id in range(16)]
    assert disk.threads == {"icefs-write-behind"}
    assert behind.begun_bytes == 16 * MIB


def test_little_is_left_to_the_kernel(behind: WriteBehind, disk: Disk) -> None:
    for spool_id in range(10_000):
        behind.closed(spool_id, 32 << 10)
    for spool_id in range(SPARED):
        behind.closed(spool_id, MIB)
    behind.close()
    assert disk.begun == []


def test_what_was_removed_meanwhile_holds_nothing_up(behind: WriteBehind, disk: Disk) -> None:
    disk.missing = {"0", "3"}
    for spool_id in range(SPARED + 8):
        behind.closed(spool_id, MIB)
    behind.close()
    assert disk.begun == ["1", "2", "4", "5", "6", "7"]
    assert behind.begun_bytes == 6 * MIB


def test_a_file_is_begun_with(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(MIB))
    begin_writing(str(path))
    with pytest.raises(FileNotFoundError):
        begin_writing(str(tmp_path / "missing"))


def test_a_tree_over_a_local_repository_writes_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, disk: Disk
) -> None:
    monkeypatch.setattr("icefs.worktree.spool.write_behind.SPARED_BYTES", 2 * MIB)
    monkeypatch.setattr("icefs.worktree.core.content.WriteBehind", lambda path_of: WriteBehind(path_of, disk.begin))
    driver = Driver(WorkTree(tmp_path / "state", options(Snapshots({}))))
    repository = WritableRepository.create(LocalStorage(tmp_path / "repo"))
    driver.tree.start_uploads(repository.storage, 512, UploadOptions(), Collections(repository.context))
    for number in range(16):
        driver.write(f"file{number}", bytes([number]) * MIB)
    driver.tree.close()
    # Those of the first fourteen files, in the order in which they were closed.
    assert [Path(path).read_bytes()[0] for path in disk.begun] == list(range(8))
    assert not any(thread.name == "icefs-write-behind" for thread in threading.enumerate())

"""Files that were opened before their branch had a working tree."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

from icefs.errors import StaleError
from icefs.paths import TreePath
from icefs.vfs.branches.metadata_checks import MetadataChecks
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.session_base import Guarded
from icefs.vfs.branches.working_handles import EarlyHandle, EarlyHandles, WorkingHandles
from icefs.vfs.fetches import Fetches
from icefs.vfs.interface import FileHandle
from icefs.vfs.threads import Threads
from tests.support.dict_base import Snapshots
from tests.support.fake_vfs import FakeNotifier
from tests.support.tree_driver import Driver, open_tree

LIFE: Any = SimpleNamespace()


class BaseFile(FileHandle):
    """A file of the base."""

    size = 11

    def read_nowait(self, offset: int, size: int) -> bytes:
        return b"of the base"[offset : offset + size]


class Table(NamedTuple):
    """What was opened early, with the working tree that is about to answer."""

    driver: Driver
    early: EarlyHandles
    handle: EarlyHandle


def opened(tmp_path: Path, path_of: Callable[[EarlyHandle], TreePath] = lambda handle: TreePath("a")) -> Table:
    handles: list[EarlyHandle] = []
    threads = Threads(1, "unused")
    operations = Operations("main", LIFE, Fetches(threads), threads)
    files = WorkingHandles(operations, MetadataChecks(2), FakeNotifier())
    early = EarlyHandles(Guarded(), lambda ino: path_of(handles[0]), files)
    handles.append(early.add(BaseFile(7)))
    return Table(open_tree(tmp_path, Snapshots({"a": b"of the base"})), early, handles[0])


def test_a_handle_is_adopted_and_shows_what_is_written_later(tmp_path: Path) -> None:
    driver, early, handle = opened(tmp_path)
    early.adopt(driver.tree)
    writer = driver.open("a", os.O_WRONLY)
    driver.tree.files.write(writer, 0, b"changed base and longer")
    assert handle.size == 23
    assert bytes(handle.read_nowait(0, 7) or b"") == b"changed"


def test_a_handle_that_is_released_meanwhile_is_not_adopted(tmp_path: Path) -> None:
    def release_first(handle: EarlyHandle) -> TreePath:
        handle.release()
        return TreePath("a")

    driver, early, handle = opened(tmp_path, release_first)
    early.adopt(driver.tree)
    assert handle.adopted is None
    assert not len(driver.tree.files)


def test_a_handle_of_a_file_that_the_branch_has_left_stays_what_it_was(tmp_path: Path) -> None:
    def is_gone(handle: EarlyHandle) -> TreePath:
        raise StaleError("gone", ino=handle.ino)

    driver, early, handle = opened(tmp_path, is_gone)
    early.adopt(driver.tree)
    early.finish(driver.tree, is_gone=False)
    assert handle.adopted is None
    assert bytes(handle.read_nowait(0, 100) or b"") == b"of the base"


def test_what_was_opened_while_the_tree_was_being_opened_is_adopted_at_the_end(tmp_path: Path) -> None:
    driver, early, handle = opened(tmp_path)
    early.adopt(driver.tree)
    late = early.add(BaseFile(8))
    early.finish(driver.tree, is_gone=False)
    assert handle.adopted is not None
    assert late.adopted is not None


def test_nothing_is_adopted_by_the_tree_of_a_branch_that_is_gone(tmp_path: Path) -> None:
    driver, early, handle = opened(tmp_path)
    early.adopt(driver.tree)
    early.finish(driver.tree, is_gone=True)
    assert handle.adopted is None

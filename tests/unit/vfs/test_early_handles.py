"""Files that were opened before their branch had a working tree."""

import os
from pathlib import Path
from types import SimpleNamespace

from icefs.vfs.interface import FileHandle
from icefs.vfs.trees.base import Guarded
from icefs.vfs.trees.working_handles import EarlyHandle
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import Driver, open_tree


class BaseFile(FileHandle):
    """A file of the base."""

    size = 11

    def read_nowait(self, offset: int, size: int) -> bytes:
        return b"of the base"[offset : offset + size]


def opened(tmp_path: Path) -> tuple[Driver, SimpleNamespace, EarlyHandle]:
    tree = SimpleNamespace(guarded=Guarded(), early={})
    handle = EarlyHandle(tree, BaseFile(7))  # type: ignore[arg-type]
    tree.early[handle] = None
    return open_tree(tmp_path, Snapshots({"a": b"of the base"})), tree, handle


def test_a_handle_is_adopted_and_shows_what_is_written_later(tmp_path: Path) -> None:
    driver, _, handle = opened(tmp_path)
    handle.adopt(driver.tree, "a")
    writer = driver.open("a", os.O_WRONLY)
    driver.tree.write(writer, 0, b"changed base and longer")
    assert handle.size == 23
    assert bytes(handle.read_nowait(0, 7) or b"") == b"changed"


def test_a_handle_that_was_released_meanwhile_is_not_adopted(tmp_path: Path) -> None:
    driver, tree, handle = opened(tmp_path)
    handle.release()
    handle.adopt(driver.tree, "a")
    assert handle.adopted is None
    assert not len(driver.tree.files)
    assert not tree.early

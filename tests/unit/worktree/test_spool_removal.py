"""Spool files that nothing refers to go in the background where there are many, and none is forgotten."""

import threading
from pathlib import Path

from icefs.worktree.spool.files import DiskIo, Spool
from icefs.worktree.spool.removal import SpoolRemovals
from tests.support.dict_base import Snapshots
from tests.support.tree_driver import open_tree


class SlowIo(DiskIo):
    """Removes no file before it is let."""

    def __init__(self) -> None:
        self.may_remove = threading.Event()

    def unlink(self, path: str) -> None:
        assert self.may_remove.wait(10)
        super().unlink(path)


def make_files(spool: Spool, count: int) -> list[int]:
    for spool_id in range(1, count + 1):
        spool.create(spool_id).retire()
    return list(range(1, count + 1))


def test_few_are_gone_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, DiskIo())
    SpoolRemovals(spool).remove(make_files(spool, 8))
    assert not list(spool.scan())


def test_many_go_while_nobody_waits(tmp_path: Path) -> None:
    io = SlowIo()
    spool = Spool(tmp_path, io)
    ids = make_files(spool, 20)
    removals = SpoolRemovals(spool, at_once=8)
    removals.remove(ids[:10])
    removals.remove(ids[10:])
    assert sorted(spool.scan()) == ids
    assert len(removals) >= len(ids) - 1
    io.may_remove.set()
    removals.close()
    assert not list(spool.scan())
    assert not len(removals)


def test_one_thread_after_the_other(tmp_path: Path) -> None:
    spool = Spool(tmp_path, DiskIo())
    removals = SpoolRemovals(spool, at_once=0)
    for spool_id in make_files(spool, 200):
        removals.remove([spool_id])
    removals.close()
    assert not list(spool.scan())


def test_closing_is_patient_but_not_for_ever(tmp_path: Path) -> None:
    io = SlowIo()
    spool = Spool(tmp_path, io)
    ids = make_files(spool, 20)
    removals = SpoolRemovals(spool, at_once=8)
    removals.remove(ids)
    threading.Timer(0.1, io.may_remove.set).start()
    removals.close(patience_s=0.02)
    assert len(list(spool.scan())) >= len(ids) - 1


def test_what_is_left_is_swept_when_the_tree_is_opened(tmp_path: Path) -> None:
    snapshots = Snapshots({})
    driver = open_tree(tmp_path, snapshots)
    spool = driver.tree._core.spool
    ids = [driver.tree._core.take_id() for _ in range(300)]
    for spool_id in ids:
        spool.create(spool_id).retire()
    driver.write("kept", b"bytes")
    driver.tree.close()
    again = open_tree(tmp_path, snapshots)
    assert again.tree.recovery.swept == 300
    again.tree.close()  # waits for them
    assert len(list(spool.scan())) == 1
    last = open_tree(tmp_path, snapshots)
    assert last.read("kept") == b"bytes"
    last.tree.close()

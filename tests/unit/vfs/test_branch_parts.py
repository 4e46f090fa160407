"""The parts of a writable branch, each by itself."""

import stat
import threading
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from icefs.errors import IsADirectoryTreeError, StaleError
from icefs.inode import Invalidations
from icefs.vfs.attrs import Ownership
from icefs.vfs.branches.operations import Operations
from icefs.vfs.branches.removed_directories import RemovedDirectories
from icefs.vfs.fetches import Fetches
from icefs.vfs.inodes.table import InodeSpace
from icefs.vfs.interface import AttrChanges, NotInMemoryError
from icefs.vfs.refs import loaded_trees
from icefs.vfs.refs.loaded_trees import LoadedTrees
from icefs.vfs.threads import Threads
from tests.support.fake_vfs import FakeNotifier

DIRECTORY = Ownership(7, 8).attr(40, stat.S_IFDIR | 0o755, nlink=2, size=0, time_ns=5)


class Life:
    """The life of a working tree that is opened when it is first needed."""

    def __init__(self) -> None:
        self.work: Any = None
        self.is_left = False
        self.opened = 0

    def require(self) -> Any:
        if self.work is None:
            raise NotInMemoryError("work", self._open, self._take)
        return self.work

    def _open(self) -> Any:
        self.opened += 1
        return SimpleNamespace(name="tree")

    def _take(self, work: Any) -> None:
        self.work = work


@pytest.fixture
async def branch():
    threads = Threads(2, "test")
    life = Life()
    yield life, Operations("main", life, Fetches(threads), threads)  # type: ignore[arg-type]
    threads.close()


async def test_an_operation_opens_the_working_tree_once_for_all_that_wait(branch) -> None:
    life, operations = branch
    names: list[str] = []

    async def run() -> None:
        names.append(await operations.change(lambda work: work.name))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(run)
    assert names == ["tree"] * 5
    assert life.opened == 1
    assert not operations.is_busy


async def test_looking_opens_only_what_an_earlier_mount_left(branch) -> None:
    life, operations = branch
    await operations.look()
    assert life.opened == 0
    life.is_left = True
    await operations.look()
    assert life.opened == 1


async def test_an_operation_that_may_wait_runs_in_a_thread_and_the_branch_is_busy(branch) -> None:
    _, operations = branch
    seen: list[Any] = []

    def work(tree: Any) -> str:
        seen.append((threading.get_ident(), operations.is_busy))
        return str(tree.name)

    assert await operations.change(work, may_wait=True) == "tree"
    [(thread, is_busy)] = seen
    assert thread != threading.get_ident()
    assert is_busy
    assert not operations.is_busy


async def test_what_writes_waits_while_the_branch_changes_its_base(branch) -> None:
    _, operations = branch
    done: list[str] = []

    async def write() -> None:
        done.append(await operations.change(lambda work: work.name))

    async with trio.open_nursery() as nursery:
        with operations.moving():
            assert operations.is_moving
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert done == []
    assert done == ["tree"]
    assert not operations.is_moving


def test_a_removed_directory_keeps_its_attributes_until_the_kernel_forgets_it() -> None:
    removed = RemovedDirectories()
    removed.add(DIRECTORY)
    assert removed.get(40) == DIRECTORY._replace(nlink=0)
    changed = removed.change(40, AttrChanges(mode=0o700, mtime_ns=9))
    assert (changed.mode, changed.mtime_ns, changed.nlink) == (stat.S_IFDIR | 0o700, 9, 0)
    assert removed.get(40) == changed
    with pytest.raises(IsADirectoryTreeError):
        removed.change(40, AttrChanges(size=0))
    removed.forget(41)
    assert 40 in removed
    removed.forget(40)
    with pytest.raises(StaleError):
        removed.get(40)


class Tree:
    """A tree that counts how often it lets its snapshot go."""

    def __init__(self, name: str) -> None:
        self.label = f"tags/{name}"
        self.unloaded = 0

    def unload(self) -> None:
        self.unloaded += 1


def test_the_tree_that_was_loaded_first_goes_first_and_is_invalidated_unless_it_is_open(monkeypatch) -> None:
    monkeypatch.setattr(loaded_trees, "MAX_LOADED", 2)
    told: list[Invalidations] = []
    notifier: Any = FakeNotifier()
    notifier.invalidate = told.append
    forgotten: list[Any] = []
    trees: list[Any] = [Tree(name) for name in "abcd"]
    loaded = LoadedTrees(InodeSpace(), notifier, lambda tree: tree is trees[1], lambda name: 3, forgotten.append)
    for tree in trees:
        loaded.note_loaded(tree)
    assert [tree.unloaded for tree in trees] == [1, 1, 0, 0]
    assert [one.entries for one in told] == [[(3, b"a")]]
    assert len(loaded) == 2
    loaded.note_unused(trees[3])
    assert forgotten == [trees[3]]
    assert len(loaded) == 1

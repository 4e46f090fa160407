"""The life of a branch's working tree: opened when it is needed, gone with its branch."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from icefs.engine.write.repository import WritableRepository
from icefs.errors import DamagedStateError, IcefsError, SessionStateError, StaleError
from icefs.storage.memory import MemoryStorage
from icefs.vfs.interface import NotInMemoryError
from icefs.worktree.spool.state import is_in_use
from icefs.worktree.tree import WorkTree
from tests.support.branch_bench import BranchBench, ask
from tests.support.vfs_driver import until


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[BranchBench]:
    bench = BranchBench(tmp_path)
    yield bench
    bench.close()


def left_behind(tmp_path: Path) -> WritableRepository:
    """Leaves a working tree with a change, as a mount does that ends."""
    repository = WritableRepository.create(MemoryStorage())
    bench = BranchBench(tmp_path, repository)
    ask(bench.life.require)
    bench.create("draft")
    bench.close()
    return repository


def test_a_working_tree_is_opened_in_a_thread_and_taken_before_it_answers(bench: BranchBench) -> None:
    life = bench.life
    assert (life.work, life.is_left, life.state_directory.exists()) == (None, False, False)
    ask(bench.below.files.finder.require_session)
    with pytest.raises(NotInMemoryError) as caught:
        life.require()
    work = caught.value.load()
    assert (bench.hooks.calls, life.work) == (["opened"], None)
    caught.value.store(work)
    assert bench.hooks.calls == ["opened", "taken"]
    assert life.require() is life.work is work
    assert work.base == str(bench.below.snapshot_id)
    assert is_in_use(life.state_directory)


def test_a_look_opens_only_what_was_left(bench: BranchBench) -> None:
    bench.life.open_left()
    assert bench.life.work is None


def test_a_working_tree_with_nothing_to_keep_goes_when_it_is_closed(bench: BranchBench) -> None:
    ask(bench.life.require)
    assert bench.life.state_directory.exists()
    bench.life.close()
    assert bench.life.work is None
    assert not bench.life.state_directory.exists()
    bench.life.close()  # of nothing


def test_what_was_left_is_found_and_opened_at_its_base_although_the_branch_has_moved(tmp_path: Path) -> None:
    repository = left_behind(tmp_path)
    base = repository.lookup_branch("main")
    BranchBench(tmp_path / "another", repository).commit("/theirs")
    bench = BranchBench(tmp_path, repository)
    assert bench.life.is_left
    assert bench.below.snapshot_id != base
    ask(bench.life.open_left)
    assert not bench.life.is_left
    assert bench.life.work is not None
    assert bench.life.work.has_changes()
    assert bench.below.snapshot_id == base
    bench.close()
    assert bench.life.state_directory.exists()


def test_a_state_directory_that_cannot_be_opened_is_named_until_it_can(tmp_path: Path) -> None:
    bench = BranchBench(tmp_path, left_behind(tmp_path))
    whole = {path: path.read_bytes() for path in bench.life.state_directory.iterdir() if path.is_file()}
    for path in whole:
        if path.name.startswith("rows."):
            path.unlink()
    (bench.life.state_directory / "tree.db").write_bytes(b"nothing")
    with pytest.raises(DamagedStateError) as caught:
        ask(bench.life.open_left)
    assert bench.life.unusable is caught.value
    assert (bench.life.work, bench.life.is_left) == (None, True)
    for path, data in whole.items():
        path.write_bytes(data)
    ask(bench.life.open_left)
    assert bench.life.unusable is None
    assert bench.life.work is not None
    bench.close()


def test_a_working_tree_that_cannot_be_brought_up_is_closed_again(bench: BranchBench) -> None:
    def fail(work: WorkTree) -> None:
        raise SessionStateError("planted")

    bench.hooks.on_opened = fail
    with pytest.raises(SessionStateError, match="planted"):
        ask(bench.life.require)
    assert not is_in_use(bench.life.state_directory)
    bench.hooks.on_opened = lambda work: None
    assert ask(bench.life.require) is bench.life.work


def test_numbers_go_on_above_those_that_files_have(bench: BranchBench) -> None:
    ask(bench.life.require)
    first, second = bench.create("one"), bench.create("two")
    assert first != second
    space = bench.below.inodes.space
    assert space.tree_of(first) is space.tree_of(second) is bench.below


async def test_a_working_tree_that_is_being_opened_goes_with_its_branch(bench: BranchBench) -> None:
    begun, may_go_on = threading.Event(), threading.Event()

    def slowly(work: WorkTree) -> None:
        begun.set()
        assert may_go_on.wait(60)

    bench.hooks.on_opened = slowly
    refused: list[IcefsError] = []

    async def write() -> None:
        with pytest.raises(StaleError) as caught:
            await bench.operations.change(lambda work: work.has_changes())
        refused.append(caught.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        assert await trio.to_thread.run_sync(begun.wait, 60)
        bench.below.retire()
        may_go_on.set()
    assert refused
    assert bench.life.work is None
    assert not bench.life.state_directory.exists()


async def test_a_branch_stays_where_it_is_while_a_thread_works_that_nobody_waits_for(
    bench: BranchBench, nursery: trio.Nursery
) -> None:
    begun, gate, scope = threading.Event(), threading.Event(), trio.CancelScope()

    def work() -> None:
        begun.set()
        assert gate.wait(60)

    async def run() -> None:
        with scope:
            await bench.operations.in_thread(work)

    nursery.start_soon(run)
    assert await trio.to_thread.run_sync(begun.wait, 60)
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert scope.cancelled_caught
    assert bench.base.is_pinned
    gate.set()
    await until(lambda: not bench.pools.pending()["write"])
    assert not bench.base.is_pinned

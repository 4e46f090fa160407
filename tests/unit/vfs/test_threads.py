"""Worker threads, and the things that they bring into memory, for waiters that are cancelled or not."""

import threading

import pytest
import trio

from icefs.errors import UnreachableError
from icefs.vfs.fetches import Fetches
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.threads import Threads
from tests.support.vfs_driver import until


@pytest.fixture
async def threads():
    pool = Threads(4, "test")
    yield pool
    pool.close()


@pytest.fixture
def fetches(threads):
    return Fetches(threads)


class Load:
    """Something that is loaded when it is let."""

    def __init__(self, *, is_for_asker=False, error=None, store_error=None):
        self.gate = threading.Event()
        self.loads = 0
        self.stored = []
        self.missing = NotInMemoryError("key", self._load, self._store, is_for_asker=is_for_asker)
        self._error = error
        self._store_error = store_error

    def _load(self):
        self.loads += 1
        number = self.loads
        assert self.gate.wait(30)
        if self._error is not None:
            raise self._error
        return number

    def _store(self, value):
        if self._store_error is not None:
            raise self._store_error
        self.stored.append(value)


class Asker:
    """A waiter for something missing."""

    def __init__(self, fetches, load, nursery):
        self.scope = trio.CancelScope()
        self.outcome = None
        nursery.start_soon(self._ask, fetches, load)

    async def _ask(self, fetches, load):
        with self.scope:
            try:
                await fetches.bring(load.missing)
            except UnreachableError as error:
                self.outcome = error
            else:
                self.outcome = "there"


async def landed(threads):
    await trio.testing.wait_all_tasks_blocked()  # the tasks that were just started have asked
    await until(lambda: not threads.pending)
    await trio.testing.wait_all_tasks_blocked()


@pytest.mark.parametrize("gone", [0, 1])
async def test_who_is_cancelled_takes_nothing_from_the_others(fetches, threads, nursery, gone):
    load = Load()
    askers = []
    for _ in range(3):
        askers.append(Asker(fetches, load, nursery))
        await trio.testing.wait_all_tasks_blocked()  # so that the first has it begun
    askers[gone].scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert (load.loads, len(fetches)) == (1, 1)
    load.gate.set()
    await landed(threads)
    assert [asker.outcome for asker in askers] == [None if number == gone else "there" for number in range(3)]
    assert (load.loads, load.stored, len(fetches)) == (1, [1], 0)


async def given_up(fetches, load, nursery):
    """Asks, and gives up while it is being loaded."""
    asker = Asker(fetches, load, nursery)
    await trio.testing.wait_all_tasks_blocked()
    asker.scope.cancel()


async def test_a_fetch_that_nobody_waits_for_serves_the_next_reader(fetches, threads, nursery):
    load = Load()
    await given_up(fetches, load, nursery)
    await trio.testing.wait_all_tasks_blocked()
    later = Asker(fetches, load, nursery)
    await trio.testing.wait_all_tasks_blocked()
    later.scope.cancel()
    load.gate.set()
    await landed(threads)
    assert (load.loads, load.stored, len(fetches)) == (1, [1], 0)


async def test_what_is_for_the_asker_alone_is_made_anew_for_the_next(fetches, threads, nursery):
    load = Load(is_for_asker=True)
    await given_up(fetches, load, nursery)
    await trio.testing.wait_all_tasks_blocked()
    assert len(fetches) == 0
    second = Asker(fetches, load, nursery)
    await trio.testing.wait_all_tasks_blocked()
    load.gate.set()
    await landed(threads)
    assert second.outcome == "there"
    assert (load.loads, load.stored, len(fetches)) == (2, [2], 0)


async def test_what_is_for_the_asker_alone_is_not_stored_when_it_comes_too_late(fetches, threads, nursery):
    load = Load(is_for_asker=True)
    await given_up(fetches, load, nursery)
    load.gate.set()
    await landed(threads)
    assert (load.loads, load.stored, len(fetches)) == (1, [], 0)


@pytest.mark.parametrize("where", ["error", "store_error"])
async def test_a_failure_goes_to_all_who_wait_and_is_not_remembered(fetches, threads, nursery, where):
    error = UnreachableError("away")
    load = Load(**{where: error})
    load.gate.set()
    askers = [Asker(fetches, load, nursery) for _ in range(3)]
    await landed(threads)
    assert [asker.outcome for asker in askers] == [error] * 3
    assert len(fetches) == 0
    again = Load()
    again.gate.set()
    await fetches.bring(again.missing)
    assert again.stored == [1]


@pytest.mark.parametrize("where", ["error", "store_error"])
async def test_a_failure_that_nobody_waits_for_is_the_end_of_it(fetches, threads, nursery, where):
    load = Load(**{where: UnreachableError("away")})
    asker = Asker(fetches, load, nursery)
    await trio.testing.wait_all_tasks_blocked()
    asker.scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    load.gate.set()
    await landed(threads)
    again = Load()
    again.gate.set()
    await fetches.bring(again.missing)
    assert again.stored == [1]


async def test_the_end_is_told_also_where_nobody_waits_for_it(threads, nursery):
    gate, ended, told = threading.Event(), [], []

    async def run(scope):
        with scope:
            told.append(await threads.run(lambda: gate.wait(30), lambda: ended.append(True)))

    scope = trio.CancelScope()
    nursery.start_soon(run, scope)
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert not ended
    gate.set()
    await landed(threads)
    assert (ended, told) == ([True], [])

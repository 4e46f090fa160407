"""Questions that are asked again until everything that their answer takes is in memory."""

import threading
from typing import Any

import pytest

from icefs.errors import InternalError, StaleError, UnreachableError
from icefs.vfs.branches.session_base import Guarded
from icefs.vfs.fetches import ask, ask_in_thread
from icefs.vfs.interface import NotInMemoryError


class Shelf:
    """Answers once it has all of some things, for which it asks one after another."""

    def __init__(self, *wanted: str) -> None:
        self.wanted = wanted
        self.there: dict[str, int] = {}

    def answer(self) -> int:
        for name in self.wanted:
            if name not in self.there:
                raise NotInMemoryError(name, lambda name=name: len(name), lambda size, name=name: self.put(name, size))
        return sum(self.there.values())

    def put(self, name: str, size: int) -> None:
        self.there[name] = size

    async def bring(self, missing: NotInMemoryError) -> None:
        missing.store(missing.load())


async def test_a_question_is_asked_until_all_is_there() -> None:
    shelf = Shelf("a", "bb", "ccc")
    assert await ask(shelf.answer, shelf.bring) == 6


async def test_what_was_asked_for_before_is_brought_first() -> None:
    shelf = Shelf("a", "bb")
    with pytest.raises(NotInMemoryError) as caught:
        shelf.answer()
    asked: list[Any] = []

    async def bring(missing: NotInMemoryError) -> None:
        asked.append(missing.key)
        await shelf.bring(missing)

    assert await ask(shelf.answer, bring, caught.value) == 3
    assert asked == ["a", "bb"]


async def test_what_is_always_gone_again_is_an_error() -> None:
    shelf = Shelf("a")

    async def lose(missing: NotInMemoryError) -> None:
        return

    with pytest.raises(InternalError, match="always gone again: a"):
        await ask(shelf.answer, lose)


async def test_what_cannot_be_fetched_answers_the_question() -> None:
    async def fail(missing: NotInMemoryError) -> None:
        raise UnreachableError("down")

    with pytest.raises(UnreachableError):
        await ask(Shelf("a").answer, fail)


def test_in_a_thread_the_lock_is_held_to_ask_and_to_store_but_not_to_fetch() -> None:
    lock, held = threading.RLock(), []

    def is_free() -> bool:
        found: list[bool] = []

        def probe() -> None:
            found.append(lock.acquire(blocking=False))
            if found[0]:
                lock.release()

        other = threading.Thread(target=probe)
        other.start()
        other.join()
        return found[0]

    there: list[int] = []

    def question() -> int:
        held.append(("ask", is_free()))
        if not there:
            raise NotInMemoryError("x", load, store)
        return there[0]

    def load() -> int:
        held.append(("load", is_free()))
        return 4

    def store(value: int) -> None:
        held.append(("store", is_free()))
        there.append(value)

    assert ask_in_thread(question, lock) == 4
    assert held == [("ask", False), ("load", True), ("store", False), ("ask", False)]


def test_on_the_event_loops_thread_the_missing_is_passed_on_and_stored_with_the_lock_held() -> None:
    guarded, shelf = Guarded(), Shelf("a")
    with pytest.raises(NotInMemoryError) as caught:
        guarded.call(shelf.answer)
    caught.value.store(caught.value.load())
    assert guarded.call(shelf.answer) == 1

    def is_gone() -> None:
        raise StaleError("gone")

    with pytest.raises(StaleError):
        guarded.call(is_gone)


def test_in_a_worker_thread_the_missing_is_fetched_at_once() -> None:
    guarded, shelf, found = Guarded(), Shelf("a", "bb"), []
    worker = threading.Thread(target=lambda: found.append(guarded.call(shelf.answer)))
    worker.start()
    worker.join()
    assert found == [3]

"""Actors that take turns at random, one call of their storages at a time: interleavings that a seed brings back.

turns = Turns(random.Random(seed), ["commit", "collect"])
storage.interfere(lambda: turns.wait("commit"), times=None)  # each actor has a storage of its own
turns.run({"commit": …, "collect": …})
"""

import random
import threading
from collections.abc import Callable, Mapping, Sequence

DEADLINE_S = 60


class Turns:
    """Lets one of several actors make its next call, drawn again for each."""

    def __init__(self, rng: random.Random, actors: Sequence[str]) -> None:
        self._rng = rng
        self._at_work = list(actors)
        self._changed = threading.Condition()
        self._next = rng.choice(self._at_work)
        # One interleaving switches at nearly each call, another one hardly ever.
        self._stays = rng.choice([0.2, 0.5, 0.8, 0.95])

    def wait(self, actor: str) -> None:
        """Waits for an actor's turn, and draws whose is the next; its threads count as one."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._next == actor or actor not in self._at_work, DEADLINE_S):
                raise TimeoutError(f"{actor} waits for {self._next} for more than {DEADLINE_S} s")
            self._draw()

    def _draw(self) -> None:
        if self._at_work and (self._next not in self._at_work or self._rng.random() > self._stays):
            self._next = self._rng.choice(self._at_work)
        self._changed.notify_all()

    def _end(self, actor: str) -> None:
        with self._changed:
            self._at_work.remove(actor)
            self._draw()

    def run(self, actors: Mapping[str, Callable[[], object]]) -> None:
        """Runs all actors, each in a thread, and raises the first error that one of them met."""
        errors: list[BaseException] = []

        def act(actor: str, work: Callable[[], object]) -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)
            finally:
                self._end(actor)

        threads = [threading.Thread(target=act, args=each, daemon=True) for each in actors.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

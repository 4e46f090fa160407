"""Fetches bytes in threads, and keeps what was used last in a bounded memory.

What is wanted now is fetched at once. What is fetched ahead waits its turn: as many at a time as hide the distance
of the store, and no more, since beyond that threads only take the interpreter from each other. From a store nearby,
32 threads bring 1 MiB chunks at half the speed of 4.
"""

import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from icefs.vfs.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future


_MIN_AHEAD: Final = 4
_FIRST_AHEAD: Final = 8
_MAX_AHEAD: Final = 32
# About what a request costs of the interpreter: so many fit into the time that one takes.
_REQUEST_S: Final = 0.001
_SAMPLES: Final = 16


class Flight:
    """Bytes on their way, for all who wait for them.

    Attributes:
        done: Set when they have arrived, or failed to.
        data: The bytes, once they are there.
        error: Why they are not.
    """

    __slots__ = ("data", "done", "error")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.data: bytes | None = None
        self.error: BaseException | None = None


@dataclass(slots=True, eq=False)
class _Ahead:
    """A fetch that nobody waits for yet.

    Attributes:
        keys: What it brings, of which there may be several.
        flights: The same, for whoever comes to want it.
        fetch: Brings it, in that order; blocks.
    """

    keys: Sequence[Hashable]
    flights: Sequence[Flight]
    fetch: Callable[[], Sequence[bytes]]

    def timed(self) -> tuple[float, Sequence[bytes]]:
        """Fetches, and tells how many seconds that took."""
        began = time.perf_counter()
        parts = self.fetch()
        return time.perf_counter() - began, parts


class ChunkFetcher:
    """Fetches bytes in threads, each once at a time, and keeps what was used last.

    Concurrency: on the event loop's thread alone; only the fetching itself runs in worker threads, and touches
    nothing here.

    INVARIANT: `held_bytes` is the sum of the lengths of what is kept, and at most `max_bytes`.
    INVARIANT: what waits its turn has a flight, and nobody waits for it: whoever wants it has it fetched at once.
    """

    def __init__(self, threads: Threads, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0
        self.fetched_bytes = 0
        self._threads = threads
        self._kept: OrderedDict[Hashable, bytes] = OrderedDict()
        self._flights: dict[Hashable, Flight] = {}
        self._waiting: OrderedDict[_Ahead, None] = OrderedDict()
        self._waiting_keys: dict[Hashable, _Ahead] = {}
        self._running_ahead = 0
        self._seconds: deque[float] = deque(maxlen=_SAMPLES)

    @property
    def in_flight(self) -> int:
        """How many fetches are under way."""
        return len(self._flights)

    def get_nowait(self, key: Hashable) -> bytes | None:
        """Returns what is kept under a key."""
        data = self._kept.get(key)
        if data is not None:
            self._kept.move_to_end(key)
        return data

    def start(self, key: Hashable, fetch: Callable[[], bytes]) -> Flight:
        """Begins to fetch what is neither kept nor under way, and returns what to wait for."""
        flight = self._flights.get(key)
        if flight is not None:
            ahead = self._waiting_keys.get(key)
            if ahead is not None:
                del self._waiting[ahead]
                self._launch(ahead)
            return flight
        flight = Flight()
        data = self.get_nowait(key)
        if data is not None:
            self.hits += 1
            flight.data = data
            flight.done.set()
            return flight
        self.misses += 1
        self._flights[key] = flight
        self._threads.start(fetch, lambda future: self._land(key, flight, future))
        return flight

    def is_known(self, key: Hashable) -> bool:
        """Tells whether bytes are kept or under way."""
        return key in self._kept or key in self._flights

    def start_ahead(self, keys: Sequence[Hashable], fetch: Callable[[], Sequence[bytes]]) -> None:
        """Plans to fetch, all at once, several things that are neither kept nor under way, and not wanted yet."""
        ahead = _Ahead(keys, [Flight() for _ in keys], fetch)
        self._flights.update(zip(keys, ahead.flights, strict=True))
        self.misses += len(keys)
        self._waiting[ahead] = None
        self._waiting_keys.update(dict.fromkeys(keys, ahead))
        self._launch_waiting()

    @property
    def max_ahead(self) -> int:
        """How many fetches ahead may run at a time, by how long the quickest of the last ones took."""
        if not self._seconds:
            return _FIRST_AHEAD
        return max(_MIN_AHEAD, min(_MAX_AHEAD, int(min(self._seconds) / _REQUEST_S)))

    def _launch_waiting(self) -> None:
        # What ends after the threads were closed must not begin anything.
        while self._waiting and self._running_ahead < self.max_ahead and not self._threads.is_closed:
            ahead, _ = self._waiting.popitem(last=False)
            self._launch(ahead)

    def _launch(self, ahead: _Ahead) -> None:
        for key in ahead.keys:
            del self._waiting_keys[key]
        self._running_ahead += 1
        self._threads.start(ahead.timed, lambda future: self._land_ahead(ahead, future))

    def _land_ahead(self, ahead: _Ahead, future: "Future[tuple[float, Sequence[bytes]]]") -> None:
        self._running_ahead -= 1
        error = future.exception()
        parts: Sequence[bytes] = [b""] * len(ahead.keys)
        if error is None:
            seconds, parts = future.result()
            self._seconds.append(seconds)
        for key, flight, data in zip(ahead.keys, ahead.flights, parts, strict=True):
            del self._flights[key]
            if error is not None:
                flight.error = error
            else:
                flight.data = data
                self.fetched_bytes += len(data)
                self._keep(key, data)
            flight.done.set()
        self._launch_waiting()

    async def get(self, key: Hashable, fetch: Callable[[], bytes]) -> bytes:
        """Returns the bytes of a key; what `fetch` raises goes to all who wait, and is not kept."""
        flight = self.start(key, fetch)
        await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None  # a flight that is done has one of the two
        return flight.data

    def _land(self, key: Hashable, flight: Flight, future: "Future[bytes]") -> None:
        del self._flights[key]
        flight.error = future.exception()
        if flight.error is None:
            flight.data = data = future.result()
            self.fetched_bytes += len(data)
            self._keep(key, data)
        flight.done.set()

    def _keep(self, key: Hashable, data: bytes) -> None:
        if len(data) > self.max_bytes:
            return
        self._kept[key] = data
        self.held_bytes += len(data)
        while self.held_bytes > self.max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self.held_bytes -= len(dropped)

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        assert self.held_bytes == sum(map(len, self._kept.values())) <= self.max_bytes
        assert set(self._waiting_keys) == {key for ahead in self._waiting for key in ahead.keys}
        assert self._waiting_keys.keys() <= self._flights.keys()

"""Fetches bytes in threads, and keeps what was used last in a bounded memory."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import trio

from icefs.vfs.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future


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


class ChunkFetcher:
    """Fetches bytes in threads, each once at a time, and keeps what was used last.

    Concurrency: on the event loop's thread alone; only the fetching itself runs in worker threads, and touches
    nothing here.

    INVARIANT: `held_bytes` is the sum of the lengths of what is kept, and at most `max_bytes`.
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

    def start_many(self, keys: Sequence[Hashable], fetch: Callable[[], Sequence[bytes]]) -> None:
        """Begins to fetch, all at once, several things that are neither kept nor under way."""
        flights = [Flight() for _ in keys]
        self._flights.update(zip(keys, flights, strict=True))
        self.misses += len(keys)
        self._threads.start(fetch, lambda future: self._land_many(keys, flights, future))

    def _land_many(
        self, keys: Sequence[Hashable], flights: Sequence[Flight], future: "Future[Sequence[bytes]]"
    ) -> None:
        error = future.exception()
        parts = [b""] * len(keys) if error is not None else future.result()
        for key, flight, data in zip(keys, flights, parts, strict=True):
            del self._flights[key]
            if error is not None:
                flight.error = error
            else:
                flight.data = data
                self.fetched_bytes += len(data)
                self._keep(key, data)
            flight.done.set()

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

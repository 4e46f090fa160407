"""Fetches bytes, and keeps what was used last in a bounded memory.

Where the store can read without a thread for each request, that is how it is done, and in threads what remains.
Chunks that a reader waits for are fetched at once. Chunks fetched ahead wait their turn: as many at a time as hide the
distance of the store, and no more, since beyond that threads only take the interpreter from each other. From a store
nearby, 32 threads bring 1 MiB chunks at half the speed of 4.
"""

import contextlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from icefs.locks import Rank, new_lock
from icefs.vfs.threads import Threads

if TYPE_CHECKING:
    from concurrent.futures import Future


_MIN_AHEAD: Final = 4
_FIRST_AHEAD: Final = 8
_MAX_AHEAD: Final = 32
# About what a request costs of the interpreter: so many fit into the time that one takes.
_REQUEST_S: Final = 0.001
_SAMPLES: Final = 16

type Data = bytes | bytearray
type Begin = Callable[[Callable[[Data | None], None]], bool]
"""Begins to fetch without a thread, if it can, and tells whether it does; see `Storage.start_read`."""


class Flight:
    """Bytes on their way, for all readers that wait for them.

    Attributes:
        done: Set when they have arrived, or failed to.
        data: The bytes, once they are there.
        error: Why they are not.
        failed_together: Whether they were fetched together with others, one of which may be the reason for the error.
    """

    __slots__ = ("data", "done", "error", "failed_together")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.data: Data | None = None
        self.error: BaseException | None = None
        self.failed_together = False


@dataclass(slots=True, eq=False)
class _Ahead:
    """A fetch that nobody waits for yet.

    Attributes:
        keys: The keys that it brings, one or several.
        flights: The same, for later readers.
        fetch: Brings it, in that order; blocks.
        begin: Brings the only one without a thread, if it can.
    """

    keys: Sequence[Hashable]
    flights: Sequence[Flight]
    fetch: Callable[[], Sequence[Data]]
    begin: Begin | None

    def timed(self) -> tuple[float, Sequence[Data]]:
        """Fetches, and tells how many seconds that took."""
        began = time.perf_counter()
        parts = self.fetch()
        return time.perf_counter() - began, parts


class ChunkFetcher:
    """Fetches bytes in threads, each once at a time, and keeps what was used last.

    Concurrency: on the event loop's thread alone; only the fetching itself runs in worker threads, and touches
    nothing here. Bytes that were fetched without them are left in `_arrived`, under `_lock`, for the event loop to
    take.

    INVARIANT: `held_bytes` is the sum of the lengths of what is kept, and at most `max_bytes`.
    INVARIANT: a fetch that waits its turn has a flight, and no reader waits for it: a reader has it launched at once.
    """

    def __init__(self, threads: Threads, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.held_bytes = 0
        self.hits = 0
        self.misses = 0
        self.fetched_bytes = 0
        self._threads = threads
        self._kept: OrderedDict[Hashable, Data] = OrderedDict()
        self._flights: dict[Hashable, Flight] = {}
        self._waiting: OrderedDict[_Ahead, None] = OrderedDict()
        self._waiting_keys: dict[Hashable, _Ahead] = {}
        self._running_ahead = 0
        self._seconds: deque[float] = deque(maxlen=_SAMPLES)
        self._lock = new_lock(Rank.LEAF, "chunks that arrived")
        self._arrived: list[Callable[[], None]] = []

    @property
    def in_flight(self) -> int:
        """How many fetches are under way."""
        return len(self._flights)

    def get_nowait(self, key: Hashable) -> Data | None:
        """Returns what is kept under a key."""
        data = self._kept.get(key)
        if data is not None:
            self._kept.move_to_end(key)
        return data

    def start(self, key: Hashable, fetch: Callable[[], Data], begin: Begin | None = None) -> Flight:
        """Begins to fetch what is neither kept nor under way, and returns what to wait for.

        Args:
            key: What is fetched.
            fetch: Fetches it; blocks.
            begin: Fetches it without a thread, if it can.
        """
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

        def in_thread() -> None:
            self._threads.start(fetch, lambda future: self._land(key, flight, future))

        def land(data: Data | None) -> None:
            if data is None:
                in_thread()
            else:
                del self._flights[key]
                self._set(key, flight, data)

        if begin is None or not begin(self._deliver_to(land)):
            in_thread()
        return flight

    def _deliver_to(self, land: Callable[[Data | None], None]) -> Callable[[Data | None], None]:
        """Returns what may be called from any thread, and has the event loop call `land`."""
        token = trio.lowlevel.current_trio_token()

        def deliver(data: Data | None) -> None:
            with self._lock:
                self._arrived.append(lambda: land(data))
                is_first = len(self._arrived) == 1
            if is_first:  # the others go with it
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(self._take_arrived)

        return deliver

    def _take_arrived(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, []
        if not self._threads.is_closed:
            for land in arrived:
                land()

    def is_known(self, key: Hashable) -> bool:
        """Tells whether bytes are kept or under way."""
        return key in self._kept or key in self._flights

    def start_ahead(
        self, keys: Sequence[Hashable], fetch: Callable[[], Sequence[Data]], begin: Begin | None = None
    ) -> None:
        """Plans to fetch, all at once, several things that are neither kept nor under way, and not wanted yet.

        Args:
            keys: What is fetched.
            fetch: Fetches it, in that order; blocks.
            begin: Fetches it without a thread, if it can; for one thing alone.
        """
        ahead = _Ahead(keys, [Flight() for _ in keys], fetch, begin)
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

        def in_thread() -> None:
            self._threads.start(ahead.timed, lambda future: self._land_ahead(ahead, future))

        if ahead.begin is None:
            in_thread()
            return
        began = time.perf_counter()

        def land(data: Data | None) -> None:
            if data is None:
                in_thread()
            else:
                self._take_ahead(ahead, time.perf_counter() - began, [data])

        if not ahead.begin(self._deliver_to(land)):
            in_thread()

    def _land_ahead(self, ahead: _Ahead, future: "Future[tuple[float, Sequence[Data]]]") -> None:
        error = future.exception()
        if error is None:
            self._take_ahead(ahead, *future.result())
            return
        self._running_ahead -= 1
        for key, flight in zip(ahead.keys, ahead.flights, strict=True):
            del self._flights[key]
            flight.error = error
            flight.failed_together = len(ahead.keys) > 1
            flight.done.set()
        self._launch_waiting()

    def _take_ahead(self, ahead: _Ahead, seconds: float, parts: Sequence[Data]) -> None:
        self._running_ahead -= 1
        self._seconds.append(seconds)
        for key, flight, data in zip(ahead.keys, ahead.flights, parts, strict=True):
            del self._flights[key]
            self._set(key, flight, data)
        self._launch_waiting()

    def _set(self, key: Hashable, flight: Flight, data: Data) -> None:
        flight.data = data
        self.fetched_bytes += len(data)
        self._keep(key, data)
        flight.done.set()

    async def get(self, key: Hashable, fetch: Callable[[], Data]) -> Data:
        """Returns the bytes of a key; an exception of `fetch` goes to all waiters, and is not kept."""
        flight = self.start(key, fetch)
        await flight.done.wait()
        while flight.failed_together:
            flight = self.start(key, fetch)
            await flight.done.wait()
        if flight.error is not None:
            raise flight.error
        assert flight.data is not None  # a flight that is done has one of the two
        return flight.data

    def _land(self, key: Hashable, flight: Flight, future: "Future[Data]") -> None:
        del self._flights[key]
        flight.error = future.exception()
        if flight.error is None:
            self._set(key, flight, future.result())
        else:
            flight.done.set()

    def _keep(self, key: Hashable, data: Data) -> None:
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

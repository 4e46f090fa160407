"""A weighted, bounded cache of immutable values that loads each key once at a time."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import CancelledError, Future


class WeightedCache[K: Hashable, V]:
    """Keeps what was used last, up to a total weight, and never loads the same key twice at once.

    Concurrency: `_lock` guards the two tables and is never held while a value loads. A thread that asks for a key
    that another thread is loading waits for that thread's answer, or for its error; errors are not kept.

    INVARIANT: `_weight` is the sum of the weights of `_entries`.
    INVARIANT: `_weight <= max_weight`, unless a single entry is heavier than that: the newest entry always
        stays, because evicting a large manifest between two lookups in it would decode it for every lookup.
    """

    def __init__(self, max_weight: int) -> None:
        self.max_weight = max_weight
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._loading: dict[K, Future[V]] = {}
        self._weight = 0
        self.hits = 0
        self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def weight(self) -> int:
        """The total weight of what is kept."""
        return self._weight

    def peek(self, key: K) -> V | None:
        """Returns the value if it is in memory, without loading it."""
        with self._lock:
            entry = self._entries.get(key)
            return None if entry is None else entry[0]

    def get(self, key: K, load: Callable[[], tuple[V, int]]) -> V:
        """Returns the value of `key`, loading it if needed.

        Args:
            key: What to look up.
            load: Returns the value and its weight. Runs in the calling thread without a lock, once for all the
                threads that ask meanwhile; an error goes to all of them.
        """
        while True:
            with self._lock:
                entry = self._entries.get(key)
                if entry is not None:
                    self._entries.move_to_end(key)
                    self.hits += 1
                    return entry[0]
                future = self._loading.get(key)
                if future is None:
                    self.misses += 1
                    mine = self._loading[key] = Future()
                    break
            try:
                return future.result()
            except CancelledError:
                continue  # the loading thread was interrupted, which says nothing about the key
        return self._load(key, load, mine)

    def _load(self, key: K, load: Callable[[], tuple[V, int]], future: Future[V]) -> V:
        try:
            value, weight = load()
        except BaseException as error:
            with self._lock:
                del self._loading[key]
            if isinstance(error, Exception):
                future.set_exception(error)
            else:
                future.cancel()
            raise
        with self._lock:
            del self._loading[key]
            self._insert(key, value, weight)
        future.set_result(value)
        return value

    def put(self, key: K, value: V, weight: int) -> None:
        """Keeps a value that was made elsewhere."""
        with self._lock:
            self._insert(key, value, weight)

    def _insert(self, key: K, value: V, weight: int) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self._weight -= old[1]
        self._entries[key] = (value, weight)
        self._weight += weight
        while self._weight > self.max_weight and len(self._entries) > 1:
            _, (_, evicted) = self._entries.popitem(last=False)
            self._weight -= evicted

    def discard(self, key: K) -> None:
        """Forgets a key, if it is kept."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._weight -= entry[1]

    def clear(self) -> list[V]:
        """Forgets everything that is kept, and returns it; loads under way go on."""
        with self._lock:
            values = [value for value, _ in self._entries.values()]
            self._entries.clear()
            self._weight = 0
            return values

    def check_invariants(self) -> None:
        """Raises AssertionError if a stated invariant does not hold; for tests."""
        with self._lock:
            assert self._weight == sum(weight for _, weight in self._entries.values())
            assert self._weight <= self.max_weight or len(self._entries) <= 1

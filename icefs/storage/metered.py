"""Counts the requests to a store: how many of which kind, how long they took, how they failed, how many bytes.

`MeteredStorage` stands between a store and its users, and passes everything on. One `StoreMeter` may count for
several stores, such as those of virtual chunks. A request here is one call: what a backend tries again is one request
that takes longer, and its further tries are counted besides.
"""

import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from icefs.errors import IcefsError
from icefs.storage.base import Done, FileOpener, Object, ObjectInfo, RangeReader, Storage, Version
from icefs.storage.settings import StoreSettings

OPERATIONS: Final = ("get", "head", "put", "copy", "list", "delete", "read_range")
"""The kinds of requests."""

BUCKETS: Final = 37
"""Durations are counted by the power of two, in nanoseconds, that they stay below; the last one has all longer."""

_MAX_KINDS: Final = 32
_OTHER: Final = "other"


class Timing:
    """How many requests of one kind there were, and how long they took.

    Attributes:
        buckets: How many took less than 2**n nanoseconds and not less than 2**(n-1); the last has all longer ones.
        total_ns: How long they took altogether.
    """

    __slots__ = ("buckets", "total_ns")

    def __init__(self) -> None:
        self.buckets = [0] * BUCKETS
        self.total_ns = 0

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.buckets)

    def add(self, elapsed_ns: int) -> None:
        """Counts one."""
        bucket = elapsed_ns.bit_length()
        self.buckets[bucket if bucket < BUCKETS else BUCKETS - 1] += 1
        self.total_ns += elapsed_ns

    def copy(self) -> "Timing":
        """Returns the present counts, which change no more."""
        other = Timing()
        other.buckets, other.total_ns = self.buckets.copy(), self.total_ns
        return other


class StoreCounts:
    """The counts of a meter, at one moment.

    Attributes:
        timings: Durations by kind of request.
        objects: How many requests concerned which kind of object (the first part of its key), by kind of request.
        errors: How many requests failed how, by kind of request and of error.
        retries: How many tries were repeated, by what they did (a verb, as `Storage.watch_retries` has them) and by why
            they failed.
        read_bytes: How many bytes came.
        written_bytes: How many bytes went.
        in_flight: How many requests are under way.
    """

    __slots__ = ("errors", "in_flight", "objects", "read_bytes", "retries", "timings", "written_bytes")

    def __init__(self) -> None:
        self.timings = {operation: Timing() for operation in OPERATIONS}
        self.objects: dict[tuple[str, str], int] = {}
        self.errors: dict[tuple[str, str], int] = {}
        self.retries: dict[tuple[str, str], int] = {}
        self.read_bytes = 0
        self.written_bytes = 0
        self.in_flight = 0


class StoreMeter:
    """Counts. Several threads may count at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = StoreCounts()

    def counts(self) -> StoreCounts:
        """Returns a copy of the counts so far."""
        now, counts = StoreCounts(), self._counts
        with self._lock:
            now.timings = {operation: timing.copy() for operation, timing in counts.timings.items()}
            now.objects, now.errors = counts.objects.copy(), counts.errors.copy()
            now.retries = counts.retries.copy()
            now.read_bytes, now.written_bytes = counts.read_bytes, counts.written_bytes
            now.in_flight = counts.in_flight
        return now

    def begin(self) -> None:
        """Counts a request that begins."""
        with self._lock:
            self._counts.in_flight += 1

    def end(self, operation: str, kind: str, elapsed_ns: int, *, read: int = 0, written: int = 0) -> None:
        """Counts a request that was answered."""
        counts = self._counts
        with self._lock:
            counts.in_flight -= 1
            counts.timings[operation].add(elapsed_ns)
            self._count_object(operation, kind)
            counts.read_bytes += read
            counts.written_bytes += written

    def fail(self, operation: str, kind: str, elapsed_ns: int, error: BaseException) -> None:
        """Counts a request that failed; a missing object counts as well, under its own error."""
        counts = self._counts
        what = operation, error.kind if isinstance(error, IcefsError) else type(error).__name__
        with self._lock:
            counts.in_flight -= 1
            counts.timings[operation].add(elapsed_ns)
            self._count_object(operation, kind)
            counts.errors[what] = counts.errors.get(what, 0) + 1

    def run[T](
        self, operation: str, kind: str, request: Callable[[], T], read: Callable[[T], int], written: int = 0
    ) -> T:
        """Carries out a request and counts it.

        Args:
            operation: The operation, one of `OPERATIONS`.
            kind: The kind of object that it is about.
            request: Carries it out.
            read: Tells from its answer how many bytes were read.
            written: How many bytes it writes.
        """
        self.begin()
        started = perf_counter_ns()
        try:
            answer = request()
        except BaseException as error:
            self.fail(operation, kind, perf_counter_ns() - started, error)
            raise
        self.end(operation, kind, perf_counter_ns() - started, read=read(answer), written=written)
        return answer

    def withdraw(self) -> None:
        """Takes back a request that began, and is made in another way."""
        with self._lock:
            self._counts.in_flight -= 1

    def retry(self, verb: str, reason: str) -> None:
        """Counts a try that is repeated."""
        retries = self._counts.retries
        with self._lock:
            retries[verb, reason] = retries.get((verb, reason), 0) + 1

    def _count_object(self, operation: str, kind: str) -> None:
        objects = self._counts.objects
        what = operation, kind
        if what not in objects and len(objects) >= _MAX_KINDS * len(OPERATIONS):
            what = operation, _OTHER  # keys are the repository's, which may hold anything
        objects[what] = objects.get(what, 0) + 1


class MeteredStorage(Storage):
    """A store whose requests are counted.

    Attributes:
        meter: The counter.
    """

    def __init__(self, inner: Storage, meter: StoreMeter, kind: str | None = None) -> None:
        """Takes a store and a counter.

        Args:
            inner: The store.
            meter: The counter.
            kind: The kind of all its objects; None for the first part of their keys.
        """
        self._inner = inner
        self.meter = meter
        self._kind = kind
        self.capabilities = inner.capabilities
        inner.watch_retries(meter.retry)

    def __reduce__(self) -> tuple[Any, ...]:
        # Counts stay in the process that they are of.
        return _metered, (self._inner, self._kind)

    @property
    def url(self) -> str:
        """The location of the store."""
        return self._inner.url

    @property
    def identity(self) -> str:
        """The identity of the store."""
        return self._inner.identity

    def _kind_of(self, key: str) -> str:
        return key.partition("/")[0] if self._kind is None else self._kind

    def _run[T](
        self, operation: str, key: str, request: Callable[[], T], read: Callable[[T], int], written: int = 0
    ) -> T:
        return self.meter.run(operation, self._kind_of(key), request, read, written)

    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        """Reads bytes of an object."""
        return self._run("get", key, lambda: self._inner.get(key, start=start, end=end), _length)

    def start_read(self, key: str, start: int, end: int, done: Done) -> bool:
        """Begins to read bytes of an object; counted when they are there."""
        meter, kind, started = self.meter, self._kind_of(key), perf_counter_ns()

        def finished(data: bytes | bytearray | None) -> None:
            if data is None:
                meter.withdraw()
            else:
                meter.end("get", kind, perf_counter_ns() - started, read=len(data))
            done(data)

        meter.begin()
        begins = self._inner.start_read(key, start, end, finished)
        if not begins:
            meter.withdraw()
        return begins

    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        """Reads an object unless it is known."""
        return self._run("get", key, lambda: self._inner.get_if_changed(key, known), _length)

    def head(self, key: str) -> ObjectInfo:
        """Describes an object."""
        return self._run("head", key, lambda: self._inner.head(key), _nothing)

    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        """Writes an object."""

        def request() -> Version:
            return self._inner.put(key, data, if_match=if_match, create_only=create_only)

        return self._run("put", key, request, _nothing, memoryview(data).nbytes)

    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        """Writes an object from a file."""

        def request() -> Version:
            return self._inner.put_file(key, path, is_final=is_final)

        return self._run("put", key, request, _nothing, _file_size(path))

    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        """Copies an object."""
        self._run("copy", target, lambda: self._inner.copy(source, target, if_match=if_match), _nothing)

    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Lists objects; one request, which takes as long as the store does, and not the caller that iterates."""
        return self._listed(prefix, lambda: self._inner.iter_objects(prefix))

    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Lists names; counted as `iter_objects`."""
        return self._listed(prefix, lambda: self._inner.list_dir(prefix))

    def _listed[T](self, prefix: str, begin: Callable[[], Iterator[T]]) -> Iterator[T]:
        # Wrong prefixes are refused by the call, as the store does it, and not by the first step.
        entries = begin()
        return self._counted(prefix, entries)

    def _counted[T](self, prefix: str, entries: Iterator[T]) -> Iterator[T]:
        meter, kind = self.meter, self._kind_of(prefix)
        meter.begin()
        elapsed = 0
        error: BaseException | None = None
        try:
            while True:
                started = perf_counter_ns()
                try:
                    entry = next(entries)
                except StopIteration:
                    return
                except BaseException as failure:
                    error = failure
                    raise
                finally:
                    elapsed += perf_counter_ns() - started
                yield entry
        finally:
            if error is None:
                meter.end("list", kind, elapsed)
            else:
                meter.fail("list", kind, elapsed, error)

    def delete(self, keys: Iterable[str]) -> list[str]:
        """Deletes objects; one request, of the kind of the first."""
        listed = list(keys)
        return self._run("delete", listed[0] if listed else "", lambda: self._inner.delete(listed), _nothing)

    def with_settings(self, settings: StoreSettings) -> "MeteredStorage":
        """Returns a store that obeys the settings, and whose requests are counted together with this one's."""
        obeying = self._inner.with_settings(settings)
        return self if obeying is self._inner else MeteredStorage(obeying, self.meter, self._kind)

    def usual_settings(self) -> StoreSettings:
        """Returns the settings that hold where nothing is set."""
        return self._inner.usual_settings()

    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        """Returns the names of the fields that the store cannot obey."""
        return self._inner.unheeded_settings(settings)

    @property
    def local_root(self) -> Path | None:
        """The directory that the store is."""
        return self._inner.local_root

    def local_opener(self, prefix: str) -> FileOpener | None:
        """Returns a function that opens the files of objects; reads of them are no requests."""
        return self._inner.local_opener(prefix)

    def list_foreign(self) -> Iterator[tuple[str, str]]:
        """Yields the entries that cannot be objects."""
        return self._inner.list_foreign()

    def current_time(self) -> int:
        """Returns the time by the store's clock."""
        return self._inner.current_time()

    def sync(self) -> None:
        """Makes everything durable."""
        self._inner.sync()

    def watch_retries(self, tell: Callable[[str, str], None]) -> None:
        """Calls `tell` as well as the meter."""

        def both(verb: str, reason: str) -> None:
            self.meter.retry(verb, reason)
            tell(verb, reason)

        self._inner.watch_retries(both)

    def close(self) -> None:
        """Closes the store."""
        self._inner.close()


class MeteredRanges:
    """Reads ranges through another reader, and counts the requests."""

    def __init__(self, inner: RangeReader, meter: StoreMeter, kind: str) -> None:
        """Takes a reader and a counter.

        Args:
            inner: The reader.
            meter: The counter.
            kind: The kind of all its objects.
        """
        self._inner = inner
        self._meter = meter
        self._kind = kind
        if isinstance(inner, Storage):
            inner.watch_retries(meter.retry)

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of an object outside of the repository; see `RangeReader`."""

        def request() -> bytes:
            return self._inner.read_range(
                key, start, end, if_match_etag=if_match_etag, if_unmodified_since_s=if_unmodified_since_s
            )

        return self._meter.run("read_range", self._kind, request, len)


def _metered(inner: Storage, kind: str | None) -> MeteredStorage:
    return MeteredStorage(inner, StoreMeter(), kind)


def _length(answer: Object | None) -> int:
    return 0 if answer is None else len(answer.data)


def _nothing(answer: object) -> int:
    return 0


def _file_size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError:
        return 0  # the store itself says what is wrong with it

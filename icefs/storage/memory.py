"""Objects in this process's memory: for tests, and for `memory:` locations.

A verified fake: it passes the contract suite that the real stores pass.
"""

import itertools
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import override

from icefs.clock import Clock, system_clock
from icefs.errors import ObjectModifiedError, ObjectNotFoundError, PreconditionFailedError
from icefs.storage.base import (
    Capabilities,
    Object,
    ObjectInfo,
    Storage,
    Version,
    check_conditions,
    check_key,
    check_prefix,
    check_range,
    range_end,
)
from icefs.storage.settings import OF_THIS_MACHINE, StoreSettings


@dataclass(frozen=True, slots=True)
class _Stored:
    data: bytes
    version: Version
    last_modified: int


@dataclass(eq=False, slots=True, weakref_slot=True)
class _Space:
    """The objects that all storages of one name share. `lock` protects `objects`; nothing waits under it."""

    name: str
    objects: dict[str, _Stored] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))


_named: dict[str, _Space] = {}
_spaces: weakref.WeakValueDictionary[str, _Space] = weakref.WeakValueDictionary()
_spaces_lock = threading.Lock()
_private_numbers = itertools.count(1)


def _space(name: str | None) -> _Space:
    with _spaces_lock:
        if name is None:
            name = f"#{next(_private_numbers)}"
        space = _spaces.get(name)
        if space is None:
            space = _spaces[name] = _Space(name)
        if not name.startswith("#"):
            _named[name] = space
        return space


class MemoryStorage(Storage):
    """An object store in memory.

    Storages of one name share their objects for as long as the process lives; one without a name has its own,
    which it shares with its pickled copies only (within this process).
    """

    capabilities = Capabilities(conditional_update=True, local_files=False, concurrency=4)

    def __init__(self, name: str | None = None, *, clock: Clock = system_clock) -> None:
        self._space = _space(name or None)
        self._clock = clock

    def __reduce__(self) -> tuple[Callable[..., "MemoryStorage"], tuple[str]]:
        return (MemoryStorage, (self._space.name,))

    @property
    @override
    def url(self) -> str:
        return f"memory:{self._space.name}"

    @override
    def facts(self) -> Mapping[str, str]:
        return {"type": "in-memory"}

    def _stored(self, key: str) -> _Stored:
        check_key(key)
        stored = self._space.objects.get(key)
        if stored is None:
            raise ObjectNotFoundError(f"no object at {self.url}/{key}", key=key)
        return stored

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        stored = self._stored(key)
        end = range_end(len(stored.data), start, end, name=f"{self.url}/{key}")
        return Object(stored.data[start:end], stored.version)

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        stored = self._stored(key)
        return None if stored.version == known else Object(stored.data, stored.version)

    @override
    def head(self, key: str) -> ObjectInfo:
        return _info(key, self._stored(key))

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_key(key)
        check_conditions(if_match, create_only)
        copied = bytes(data)
        with self._space.lock:
            present = self._space.objects.get(key)
            if (create_only and present is not None) or (
                if_match is not None and (present is None or present.version != if_match)
            ):
                raise PreconditionFailedError(f"{self.url}/{key} is not the version to be replaced", key=key)
            stored = _Stored(copied, str(next(self._space.numbers)), self._clock())
            self._space.objects[key] = stored
        return stored.version

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        check_key(target)
        with self._space.lock:
            stored = self._stored(source)
            if if_match is not None and stored.version != if_match:
                raise PreconditionFailedError(f"{self.url}/{source} is not the version to be copied", key=source)
            self._space.objects[target] = _Stored(stored.data, str(next(self._space.numbers)), self._clock())

    @override
    def usual_settings(self) -> StoreSettings:
        return replace(OF_THIS_MACHINE, conditional_update=None, metadata=None)

    @override
    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        return settings.given(OF_THIS_MACHINE)  # all are about requests over a network, which there are none of

    @override
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._space.lock:
            found = [_info(key, stored) for key, stored in self._space.objects.items() if key.startswith(prefix)]
        return iter(found)

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        names: dict[str, None] = {}
        for info in self.iter_objects(prefix):
            name, slash, _ = info.key[len(prefix) :].partition("/")
            names[name + slash] = None
        return iter(names)

    @override
    def current_time(self) -> int:
        return self._clock()

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        for key in keys:
            check_key(key)
            with self._space.lock:
                self._space.objects.pop(key, None)
        return []

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range if the object is still the same; see `RangeReader.read_range`."""
        stored = self._stored(key)
        if (if_match_etag is not None and if_match_etag.strip('"') != stored.version) or (
            if_unmodified_since_s is not None and stored.last_modified // 1_000_000 > if_unmodified_since_s
        ):
            raise ObjectModifiedError(f"{self.url}/{key} was modified after it was referenced", key=key)
        check_range(start, end)
        return stored.data[start : range_end(len(stored.data), start, end, name=f"{self.url}/{key}")]


def _info(key: str, stored: _Stored) -> ObjectInfo:
    return ObjectInfo(key, len(stored.data), stored.last_modified, stored.version)

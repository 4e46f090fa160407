"""A store as it would be after some writes: they stay in memory, and the store itself is only read."""

import itertools
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Never, override

from icefs.clock import system_clock
from icefs.errors import ObjectNotFoundError, PreconditionFailedError
from icefs.storage.base import (
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


@dataclass(frozen=True, slots=True)
class _Written:
    info: ObjectInfo
    version: Version
    data: bytes


class RehearsalStorage(Storage):
    """Another storage, with the writes of this process over it.

    Writes of others show, but for the objects that were written or deleted here.
    """

    def __init__(self, inner: Storage) -> None:
        """Takes the store, which stays its opener's to close."""
        self._inner = inner
        self._lock = threading.Lock()
        self._here: dict[str, _Written | None] = {}  # None for an object that was deleted here
        self._numbers = itertools.count(1)
        self.capabilities = replace(
            inner.capabilities, conditional_update=True, local_files=False, is_writable=True, must_be_tried=False
        )

    def __reduce__(self) -> Never:
        raise TypeError("a rehearsal cannot be pickled: a copy of it would know none of its writes")

    @property
    @override
    def url(self) -> str:
        return self._inner.url

    @property
    @override
    def identity(self) -> str:
        return self._inner.identity

    def _find(self, key: str) -> _Written | None:
        """Returns an object that was written here; None for one that the store has.

        Raises:
            ObjectNotFoundError: it was deleted here.
        """
        check_key(key)
        if key not in self._here:
            return None
        found = self._here[key]
        if found is None:
            raise ObjectNotFoundError(f"no object at {self.url}/{key}", key=key)
        return found

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        found = self._find(key)
        if found is None:
            return self._inner.get(key, start=start, end=end)
        end = range_end(len(found.data), start, end, name=f"{self.url}/{key}")
        return Object(found.data[start:end], found.version)

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        found = self._find(key)
        if found is None:
            return self._inner.get_if_changed(key, known)
        return None if found.version == known else Object(found.data, found.version)

    @override
    def head(self, key: str) -> ObjectInfo:
        found = self._find(key)
        return self._inner.head(key) if found is None else found.info

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_key(key)
        check_conditions(if_match, create_only)
        with self._lock:
            if create_only or if_match is not None:
                try:
                    present = self.head(key).version
                except ObjectNotFoundError:
                    present = None
                if present != if_match:
                    raise PreconditionFailedError(f"{self.url}/{key} is not the version to be replaced", key=key)
            version = f"rehearsed-{next(self._numbers)}"
            self._here[key] = _Written(ObjectInfo(key, len(data), system_clock(), version), version, bytes(data))
        return version

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        check_key(target)
        found = self.get(source)
        if if_match is not None and found.version != if_match:
            raise PreconditionFailedError(f"{self.url}/{source} is not the version to be copied", key=source)
        self.put(target, found.data)

    @override
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        with self._lock:
            here = self._here.copy()
        written = [each.info for key, each in here.items() if each is not None and key.startswith(prefix)]
        there = (info for info in self._inner.iter_objects(prefix) if info.key not in here)
        return itertools.chain(written, there)

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        names: dict[str, None] = {}
        for info in self.iter_objects(prefix):
            name, slash, _ = info.key[len(prefix) :].partition("/")
            names[name + slash] = None
        return iter(names)

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        for key in keys:
            check_key(key)
            with self._lock:
                self._here[key] = None
        return []

    @override
    def current_time(self) -> int:
        return system_clock()

"""The interface of an object store, and the promises of every backend.

A `Storage` holds objects: immutable byte strings under string keys, each write making a new version. Keys are
relative to the repository's root, have no leading slash and no `.`, `..` or empty segment. Every method is
synchronous and may be called from several threads at once. The one contract suite that all backends pass is
`tests/support/storage_contract.py`.

Backends translate their driver's exceptions at this edge into `StorageError`s and retry what is transient
themselves: an error that leaves a `Storage` is final for that call. A conditional write whose answer was lost is
settled by the backend (it reads back and compares) before it returns or raises.

Durability: a plain `put` or `copy` is visible to every reader when it returns, and survives a power failure once
`sync` has returned. A conditional `put` is how a repository publishes: it first makes everything durable that was
written through the same storage before, then itself, and only then returns.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from icefs.clock import to_datetime
from icefs.errors import InvalidInputError, InvalidObjectSizeError, StorageError
from icefs.storage.settings import StoreSettings

type Version = str
"""Names one version of one object; opaque, comparable for equality only."""

type Done = Callable[[bytes | bytearray | None], None]
"""Is called once, from any thread, with the bytes that were read; with None where they must be read by `get`."""

type FileOpener = Callable[[str], tuple[int, os.stat_result]]
"""Opens the file of an object, given its name; see `Storage.local_opener`."""

MAX_WHOLE_READ_BYTES = 1 << 32
"""Larger objects are read by range only: nothing of that size is metadata, and a store may be hostile."""


def check_key(key: str) -> None:
    """Refuses a key that cannot name an object: empty, absolute, `.`, `..` or empty segments, NUL, lone surrogates.

    Raises:
        InvalidInputError: the key is not valid.
    """
    if "\0" in key or (not key.isascii() and not _is_unicode(key)):
        raise InvalidInputError(f"{key!r} cannot name an object", key=key)
    for segment in key.split("/"):
        if segment in ("", ".", ".."):
            raise InvalidInputError(f"{key!r} cannot name an object: it has a segment {segment!r}", key=key)


def is_key(text: str) -> bool:
    """Tells whether a listed name is one of ours; tools leave zero-byte objects called `directory/` behind."""
    try:
        check_key(text)
    except InvalidInputError:
        return False
    return True


def check_prefix(prefix: str) -> None:
    """Refuses a prefix that is neither empty nor a valid key followed by `/`.

    Raises:
        InvalidInputError: the prefix is not valid.
    """
    if prefix:
        if not prefix.endswith("/"):
            raise InvalidInputError(f"the prefix {prefix!r} does not end with '/'", key=prefix)
        check_key(prefix[:-1])


def check_range(start: int, end: int | None) -> None:
    """Refuses a byte range that runs backwards or starts before the object.

    Raises:
        InvalidInputError: the range is not valid.
    """
    if start < 0 or (end is not None and end < start):
        raise InvalidInputError(f"bytes {start} to {end} are not a range", kind="invalid-byte-range")


def check_conditions(if_match: Version | None, create_only: bool) -> None:
    """Refuses the two conditions of `put` together.

    Raises:
        InvalidInputError: both are asked for.
    """
    if create_only and if_match is not None:
        raise InvalidInputError("a write is either create-only or over a version, not both")


def range_end(size_bytes: int, start: int, end: int | None, *, name: str) -> int:
    """Returns where a read of `[start, end)` of an object of `size_bytes` ends.

    Raises:
        InvalidObjectSizeError: the object is too short, or too long to be read whole.
    """
    if end is None and size_bytes - start > MAX_WHOLE_READ_BYTES:
        raise InvalidObjectSizeError(
            f"{name} has {size_bytes} bytes, too many to read at once", actual_bytes=size_bytes
        )
    if size_bytes < start or (end is not None and size_bytes < end):
        wanted = start if end is None else end
        raise InvalidObjectSizeError(
            f"{name} has {size_bytes} bytes, and at least {wanted} are expected",
            actual_bytes=size_bytes,
            expected_bytes=wanted,
        )
    return size_bytes if end is None else end


def read_file(path: str, start: int = 0, size: int | None = None) -> bytes:
    """Reads a local file that is to become an object: all of it, or `size` bytes from `start` on.

    Raises:
        StorageError: it cannot be read, or is shorter.
    """
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0) as file:
            wanted = os.fstat(file.fileno()).st_size if size is None else size
            if start:
                file.seek(start)
            data = file.read(wanted)
            while len(data) < wanted and (more := file.read(wanted - len(data))):
                data += more
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}", kind="io", path=path) from error
    if len(data) != wanted:
        raise StorageError(f"{path} became shorter while it was read", kind="io", path=path)
    return data


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """The facts of an object that are known without reading it.

    Attributes:
        key: The object's key, relative to the repository's root.
        size_bytes: The object's length.
        last_modified: When the store took the version, in microseconds since the epoch.
        version: The present version, or None where listing does not tell.
    """

    key: str
    size_bytes: int
    last_modified: int
    version: Version | None


@dataclass(frozen=True, slots=True)
class StorageObjectInfo:
    """An object as programs see it listed; the official library's names.

    Attributes:
        key: The object's key, relative to the directory that was listed.
        size_bytes: The object's length.
        created_at: When the store took it.
    """

    key: str
    size_bytes: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Object:
    """Bytes read from a store, and the version that they belong to."""

    data: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class Capabilities:
    """The abilities of a backend, as data: asked for, never guessed.

    Attributes:
        conditional_update: Whether `put(if_match=…)` is atomic against every other client of the store.
        local_files: Whether `local_opener` opens objects as files.
        concurrency: How many requests are worth having in flight.
        is_writable: Whether it stores anything at all.
        must_be_tried: Whether the conditions of writes are kept by a service, and not all such services do.
    """

    conditional_update: bool
    local_files: bool
    concurrency: int
    is_writable: bool = True
    must_be_tried: bool = False


class Storage(ABC):
    """An object store, rooted at one repository.

    Every method raises `InvalidInputError` for a key, prefix or range that cannot be one.
    """

    capabilities: Capabilities

    def __repr__(self) -> str:
        return "<icefs.Storage>\n" + "".join(f"{name}: {value}\n" for name, value in self.facts().items())

    def _repr_html_(self) -> str:
        return f"<pre>{escape(repr(self))}</pre>"

    def facts(self) -> Mapping[str, str]:
        """Returns the kind of the store and its place, by the official library's names and without secrets."""
        return {"type": type(self).__name__, "url": self.url}

    @property
    @abstractmethod
    def url(self) -> str:
        """The location as a user writes it, without secrets."""

    @property
    def identity(self) -> str:
        """A text that identifies the location, whatever the environment says; may ask for credentials."""
        return self.url

    def remarks(self) -> tuple[str, ...]:
        """Returns what is unusual about the place, as parts of sentences about it; may ask the store."""
        return ()

    @abstractmethod
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        """Reads the bytes `[start, end)` of an object.

        Args:
            key: The object's key.
            start: The first byte.
            end: One past the last byte; None reads to the end.

        Raises:
            ObjectNotFoundError: no object is at the key.
            InvalidObjectSizeError: the object ends before `end`, or before `start`; or it is read to the end and that
                is more than `MAX_WHOLE_READ_BYTES`.
            StorageError: anything else.
        """

    def start_read(self, key: str, start: int, end: int, done: Done) -> bool:
        """Begins to read the bytes `[start, end)` of an object, where the store can do so without a thread for it.

        A read returns the same bytes as `get`. After a failure the caller uses `get`, which retries and
        reports.

        Args:
            key: The object's key.
            start: The first byte.
            end: One past the last byte.
            done: Gets the result; must not raise, nor wait for anything.

        Returns:
            Whether it begins; where it does not, `done` is not called.
        """
        return False

    @abstractmethod
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        """Reads a whole object unless its version is still `known`; None means that it is.

        Raises:
            ObjectNotFoundError: no object is at the key.
        """

    @abstractmethod
    def head(self, key: str) -> ObjectInfo:
        """Describes an object; its `version` is never None.

        Raises:
            ObjectNotFoundError: no object is at the key.
        """

    @abstractmethod
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        """Writes a whole object, and makes it visible at once and whole, or not at all.

        Args:
            key: The object's key.
            data: The bytes.
            if_match: Write only over this version.
            create_only: Write only if no object is at the key. Not together with `if_match`.

        Raises:
            PreconditionFailedError: another version (with `create_only`: any) is there; nothing was written. Or, if
                `facts["maybe_written"]` is true: the answer to an earlier try was lost, and the present version
                was written by another writer, before it or over it; only the object's own content can tell which.
            ReadOnlyError: the backend only reads.
            NoSpaceError: the disk or a quota is full; nothing was written.
            UnreachableError: `facts["maybe_written"]` tells whether a conditional write may have happened.
        """

    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        """Writes a whole object from a local file, as a `put` without conditions does.

        Args:
            key: The object's key.
            path: The file; its bytes do not change during the call.
            is_final: Its bytes never change again, so that a store in the file system may keep the file itself
                under a second name. It may get another mode and modification time.

        Raises:
            StorageError: as `put`; or the file cannot be read.
            ReadOnlyError, NoSpaceError: as `put`.
        """
        return self.put(key, read_file(path))

    @abstractmethod
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        """Copies an object within the store, on the server's side where it can; overwrites the target.

        Raises:
            ObjectNotFoundError: no object is at `source`.
            PreconditionFailedError: the source's version is not `if_match`, as far as the backend can tell.
        """

    def copy_from(self, source: "Storage", key: str) -> bool:
        """Copies an object of another store to the same key here, without its bytes passing through this process.

        Args:
            source: The other store.
            key: The object's key, in both.

        Returns:
            Whether it was done; False where the two stores cannot, and nothing has happened.

        Raises:
            ObjectNotFoundError: the other store has no such object.
            StorageError: as `put`.
        """
        return False

    @abstractmethod
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields all objects whose key starts with `prefix`, in no promised order.

        `prefix` is empty or ends with `/`. A prefix without objects yields nothing. A half-written file of a
        crashed writer is not an object and is not listed.
        """

    def list_objects(self, settings: object = None, prefix: str | None = None) -> list[tuple[str, int]]:
        """Returns the key and size of each object, in the order of their keys; for programs.

        Args:
            settings: Accepted; the storage's own count.
            prefix: A directory, to which keys are relative; by default the repository's root.
        """
        return [(each.key, each.size_bytes) for each in self.list_objects_metadata(settings, prefix)]

    def list_objects_metadata(self, settings: object = None, prefix: str | None = None) -> list[StorageObjectInfo]:
        """Returns each object with its time, too; arguments as of `list_objects`."""
        below = f"{prefix.strip('/')}/" if prefix else ""
        return [
            StorageObjectInfo(each.key.removeprefix(below), each.size_bytes, to_datetime(each.last_modified))
            for each in sorted(self.iter_objects(below), key=attrgetter("key"))
        ]

    def default_settings(self) -> Any:
        """Returns the settings that hold where a configuration has none, as a `StorageSettings`; for programs."""
        # That class is one of the configuration, which storages know nothing of; programs have loaded it already.
        return import_module("icefs.engine.read.store_settings").settings_of(self.usual_settings())

    def usual_settings(self) -> StoreSettings:
        """Returns the settings that hold where nothing is set."""
        return StoreSettings()

    @abstractmethod
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Yields the distinct first path components of the keys below `prefix` (which is empty or ends in `/`).

        A component that is part of a longer key ends with `/`; it may outlive the last object below it, as a
        local directory does.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> list[str]:
        """Deletes objects, in bulk where the store can; a missing one counts as deleted.

        Returns:
            The keys that could not be deleted.
        """

    def current_time(self) -> int:
        """Returns the time by the clock that gives objects their `last_modified`, in microseconds since the epoch.

        Stores an empty object below `overwritten/`, and deletes it.

        Raises:
            StorageError: nothing can be stored.
        """
        key = f"overwritten/clock.{os.urandom(8).hex()}"
        self.put(key, b"")
        try:
            return self.head(key).last_modified
        finally:
            self.delete([key])

    @property
    def local_root(self) -> Path | None:
        """The directory that the store is, or None where it is none; for comparing places, not for opening files."""
        return None

    def local_opener(self, prefix: str) -> FileOpener | None:
        """Returns what opens the files that hold exactly the bytes of the objects directly below a prefix.

        None unless `capabilities.local_files`. The opener takes an object's name below the prefix, and returns a
        descriptor for reading, which is its caller's to close, and the file's status. It raises as `get`.
        """
        return None

    def list_foreign(self) -> Iterator[tuple[str, str]]:
        """Yields the entries among the objects that cannot be objects: links, FIFOs, sockets, devices.

        Only a local directory can have such. Yields the path below the root, and what it is: "a symbolic link".
        """
        return iter(())

    def sync(self) -> None:  # noqa: B027  (an object store's answer already says that the object is safe)
        """Makes everything durable that was written through this storage before the call.

        Raises:
            StorageError: it could not be; what was written since the last successful call is in doubt, and stays so:
                no later call succeeds.
        """

    def watch_retries(self, tell: Callable[[str, str], None]) -> None:  # noqa: B027  (not every backend tries again)
        """Has `tell` called, in any thread, at each try that is repeated.

        Args:
            tell: Takes what was tried (`read`, `write`, `copy`, `list` or `delete`), and why it failed (`throttled`,
                `unreachable`).
        """

    def with_settings(self, settings: StoreSettings) -> "Storage":
        """Returns a storage of the same place that obeys the settings, as far as it can; may be this one.

        Fields that are None change nothing, nor do those that the opener of this storage has named. The storage that is
        returned has connections of its own; its closing leaves this one open.
        """
        return self

    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        """Returns the names of the fields that ask for something that `with_settings` cannot do."""
        return settings.given()

    def close(self) -> None:  # noqa: B027  (most backends hold nothing that needs closing)
        """Gives back connections and threads; the storage is not used afterwards."""


@runtime_checkable
class RangeReader(Protocol):
    """Reads virtual chunks: objects outside of the repository, if they are still the same."""

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads exactly the bytes `[start, end)` of an object that was not written by Icechunk.

        Args:
            key: The object's key below the storage's root. Any name that the store can hold: neither the rules for
                keys nor the local encoding of names apply. Must not leave the root.
            start: The first byte.
            end: One past the last byte.
            if_match_etag: Read only if the object's entity tag is this one, quoted or not.
            if_unmodified_since_s: Read only if the object was last modified in this second since the epoch or before.

        Raises:
            ObjectModifiedError: the object is not the one that was referenced.
            ObjectNotFoundError: no object is at the key.
            InvalidObjectSizeError: the object ends before `end`.
            StorageError: anything else.
        """
        ...

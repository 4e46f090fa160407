"""What icefs asks of an object store, and what a backend promises.

A `Storage` holds objects: immutable byte strings under string keys, each write making a new version. Keys are
relative to the repository's root, have no leading slash and no `.`, `..` or empty segment. Every method is
synchronous and may be called from several threads at once. The one contract suite that all backends pass is
`tests/support/storage_contract.py`.

Backends translate their driver's exceptions at this edge into `StorageError`s and retry what is transient
themselves: an error that leaves a `Storage` is final for that call. A conditional write whose answer was lost is
settled by the backend (it reads back and compares) before it returns or raises.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

type Version = str
"""Names one version of one object; opaque, comparable for equality only."""


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it.

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
class Object:
    """Bytes read from a store, and the version that they belong to."""

    data: bytes
    version: Version


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a backend can do, as data: asked for, never guessed.

    Attributes:
        conditional_update: Whether `put(if_match=…)` is atomic against every other client of the store.
        local_files: Whether `local_file` names files that can be opened directly.
        concurrency: How many requests are worth having in flight.
    """

    conditional_update: bool
    local_files: bool
    concurrency: int


class Storage(ABC):
    """An object store, rooted at one repository."""

    capabilities: Capabilities

    @property
    @abstractmethod
    def url(self) -> str:
        """The location as a user writes it, without secrets."""

    @abstractmethod
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        """Reads the bytes `[start, end)` of an object.

        Args:
            key: The object's key.
            start: The first byte.
            end: One past the last byte; None reads to the end.

        Raises:
            ObjectNotFoundError: no object is at the key.
            InvalidObjectSizeError: the object ends before `end`, or before `start`.
            StorageError: anything else.
        """

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
            PreconditionFailedError: another version (with `create_only`: any) is there; nothing was written.
            ReadOnlyError: the backend only reads.
            NoSpaceError: the disk or a quota is full; nothing was written.
        """

    @abstractmethod
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        """Copies an object within the store, on the server's side where it can; overwrites the target.

        Raises:
            ObjectNotFoundError: no object is at `source`.
            PreconditionFailedError: the source's version is not `if_match`, as far as the backend can tell.
        """

    @abstractmethod
    def list_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Yields all objects whose key starts with `prefix`, in no promised order.

        `prefix` is empty or ends with `/`. A prefix without objects yields nothing. What a crashed writer left
        half-written is not an object and is not listed.
        """

    @abstractmethod
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        """Yields the distinct first path components of the keys below `prefix` (which is empty or ends in `/`).

        A component that stands for a longer key ends with `/`.
        """

    @abstractmethod
    def delete(self, keys: Iterable[str]) -> list[str]:
        """Deletes objects, in bulk where the store can; a missing one counts as deleted.

        Returns:
            The keys that could not be deleted.
        """

    def local_file(self, key: str) -> Path | None:
        """Returns the path of the file that holds exactly this object's bytes, if there can be one.

        Only for reading, and only where `capabilities.local_files`. The file need not exist.
        """
        return None

    def close(self) -> None:  # noqa: B027  (most backends hold nothing that needs closing)
        """Gives back connections and threads; the storage is not used afterwards."""

"""What formats, decoding, mounts and exports ask of each other.

    Hierarchy ── nodes, chunk keys ──► Format ── directories, files ──► a mount, an export
        └────── bytes of chunks ─────► Elements (decoded) ──► Extent ──┘

A *view* shows the groups and arrays of one `Hierarchy` in one `Format`, as directories and files. A file's layout, and
with it the exact size, depends on metadata and small arrays alone; bytes of elements are decoded when they are read.

Everything here may block, raises errors of `icefs.errors`, and is safe to use from any thread. A caller that must not
wait runs it in a thread.
"""

from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from icefs.paths import NodePath
from icefs.zarr.keys import ChunkIndex


@dataclass(frozen=True, slots=True)
class HierarchyFacts:
    """What a view's files tell of where they come from.

    Attributes:
        repository: The repository's URL, without secrets.
        snapshot: The id of the snapshot, or of the base snapshot of uncommitted changes.
        branch: The branch; empty for a tag or snapshot.
        is_staged: Whether uncommitted changes are shown.
    """

    repository: str
    snapshot: str
    branch: str = ""
    is_staged: bool = False


@dataclass(frozen=True, slots=True)
class ViewedNode:
    """A group or an array.

    Attributes:
        path: Its path.
        document: Its `zarr.json`.
        time_ns: When it or one of its chunks was changed last, as far as the hierarchy knows; nanoseconds since the
            epoch.
    """

    path: NodePath
    document: bytes
    time_ns: int


class Hierarchy(ABC):
    """The nodes and chunks of a tree, at one moment: a snapshot, or a base snapshot with uncommitted changes."""

    @property
    @abstractmethod
    def facts(self) -> HierarchyFacts:
        """Where it comes from."""

    @property
    @abstractmethod
    def version(self) -> Hashable:
        """Equal for equal content; never equal again after a change."""

    @abstractmethod
    def nodes(self) -> Sequence[ViewedNode]:
        """Returns all groups and arrays, ordered by path: a node comes before those below it.

        Raises:
            StorageError, FormatError: they cannot be read.
        """

    @abstractmethod
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        """Reads a range of bytes of a Zarr key's value, which may end early; None if there is no such key.

        Args:
            key: The key.
            start: The first byte; a negative one counts from the end, and reaches at most back to the first byte.
            stop: One past the last byte, never negative; None for the end.

        Raises:
            StorageError, FormatError: it cannot be read.
            StaleError: the hierarchy was uncommitted changes, and is no more.
        """

    def size(self, key: str) -> int | None:
        """Returns the length in bytes of a Zarr key's value; None if there is no such key.

        Raises:
            StorageError, FormatError, StaleError: as `read`.
        """
        data = self.read(key)
        return None if data is None else len(data)

    @abstractmethod
    def chunk_indices(self, array: NodePath) -> Iterator[ChunkIndex]:
        """Yields the indices of an array's chunks that exist, in C order; of shards, where it has shards.

        Raises:
            StorageError, FormatError: they cannot be read.
        """

    @abstractmethod
    def has_chunk(self, array: NodePath, index: ChunkIndex) -> bool:
        """Tells whether a chunk exists."""


class Elements(ABC):
    """The elements of one array in C order, decoded.

    Attributes:
        shape: The array's shape.
        dtype: What `read` returns: the array's own type, in the byte order that decoding gives.
        chunk_shape: The shape of what is decoded at once; of inner chunks, where the array has shards.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    chunk_shape: tuple[int, ...]

    @abstractmethod
    def read(self, start: int, stop: int) -> np.ndarray:
        """Returns the elements `[start, stop)` of the array in C order, as an array of one dimension.

        Raises:
            DecodeError: a chunk that they need does not decode.
            StorageError, FormatError: a chunk cannot be read.
        """

    @abstractmethod
    def chunk(self, index: ChunkIndex) -> np.ndarray:
        """Returns one chunk of `chunk_shape`, whole also at the array's edge; a missing one has the fill value.

        Raises:
            DecodeError, StorageError, FormatError: as `read`.
        """


class Decoder(ABC):
    """Opens the arrays of one hierarchy."""

    @abstractmethod
    def open(self, array: NodePath) -> Elements:
        """Opens an array.

        Raises:
            NotShownError: no view can show it: its type or a codec is not known here.
        """


class Source(ABC):
    """The bytes of a part of a file."""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Returns the bytes `[start, stop)` of the part, all of them.

        Raises:
            DecodeError, StorageError, FormatError: they cannot be made.
        """


@dataclass(frozen=True, slots=True)
class Extent:
    """A part of a file.

    Attributes:
        offset: Where it begins, in bytes.
        size: How many bytes it has.
        source: What makes them.
    """

    offset: int
    size: int
    source: Source


class Layout(ABC):
    """A file with its exact size, ready to be read.

    Attributes:
        size: Its bytes.
    """

    size: int

    @abstractmethod
    def read(self, offset: int, size: int) -> bytes | memoryview:
        """Returns up to `size` bytes, fewer only at the end of the file.

        Raises:
            DecodeError, StorageError, FormatError: they cannot be made.
        """


class ViewFile(ABC):
    """A file of a view, of which nothing may have been worked out yet.

    Attributes:
        time_ns: Its modification time: the newest of its arrays.
    """

    time_ns: int

    @abstractmethod
    def layout(self) -> Layout:
        """Works out the file; callers keep the result for as long as they need it.

        Raises:
            UnsupportedError: a library that the format needs is not installed; or, as NotShownError, the file would be
                larger than the format or its limits allow.
            DecodeError, StorageError, FormatError: what the layout depends on cannot be read.
        """


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A node that a view does not show, or not wholly.

    Attributes:
        path: Its path.
        reason: Why, as the end of a sentence: "its codec x is not installed".
    """

    path: NodePath
    reason: str


class ViewDirectory(ABC):
    """A directory of a view.

    Attributes:
        time_ns: Its modification time: the newest below it.
    """

    time_ns: int

    @abstractmethod
    def find(self, name: str) -> "ViewFile | ViewDirectory | None":
        """Returns the entry of a name; None if there is none."""

    @abstractmethod
    def list(self) -> Iterable[tuple[str, "ViewFile | ViewDirectory"]]:
        """Returns all entries, ordered by name; there may be millions."""

    def left_out(self) -> Iterable[LeftOut]:
        """Returns what is left out of this directory and of those below it; may open each array.

        Raises:
            StorageError: an array cannot be opened now.
        """
        return ()


class Format(ABC):
    """One format.

    Attributes:
        name: As `--view` and `.icefs/views` have it.
    """

    name: str

    @abstractmethod
    def root(self, hierarchy: Hierarchy, decoder: Decoder) -> ViewDirectory:
        """Makes the view of a hierarchy.

        Raises:
            StorageError, FormatError: its nodes cannot be read.
        """

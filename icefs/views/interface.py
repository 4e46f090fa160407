"""What formats, decoding, mounts and exports ask of each other.

    Hierarchy ── nodes, chunk keys ──► Format ── directories, files ──► a mount, an export
        └────── bytes of chunks ─────► Elements (decoded) ──► Extent ──┘

A *view* shows the groups and arrays of one `Hierarchy` in one `Format`, as directories and files. A file's layout, and
with it the exact size, depends on metadata and small arrays alone; bytes of elements are decoded when they are read.

Everything here but `at_hand` may block, raises errors of `icefs.errors`, and is safe to use from any thread. A caller
that must not wait runs it in a thread.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from icefs.paths import NodePath
from icefs.views.ranges import Range
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


@dataclass(frozen=True, slots=True)
class LastingValue:
    """The value of a Zarr key, of which other hierarchies may have the same: versions share most of their chunks.

    Attributes:
        identity: Equal for equal bytes, in all hierarchies of a repository and for ever.
        read: Reads a range of it, with the arguments and errors of `Hierarchy.read`.
    """

    identity: Hashable
    read: Callable[[int, int | None], bytes | None]


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

    def lasting(self, key: str) -> LastingValue | None:
        """Returns a Zarr key's value if its bytes can never change; None for others, and for a missing one.

        Raises:
            StorageError, FormatError, StaleError: as `read`.
        """
        return None

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

    def changed_chunks(self, array: NodePath, earlier: "Hierarchy") -> Collection[ChunkIndex] | None:
        """Returns the indices of the chunks, or shards, of an array that may differ from another hierarchy's.

        Args:
            array: The array, which both have.
            earlier: The other hierarchy: another version of the same.

        Returns:
            The indices in C order; None where any chunk may differ.

        Raises:
            StorageError, FormatError: that cannot be read.
        """
        return None


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

    def at_hand(self, start: int, stop: int) -> np.ndarray | None:
        """Returns the same as `read` if no work is left but to copy a little; else None, and at once."""
        return None

    @abstractmethod
    def chunk(self, index: ChunkIndex) -> np.ndarray:
        """Returns one chunk of `chunk_shape`, whole also at the array's edge; a missing one has the fill value.

        Raises:
            DecodeError, StorageError, FormatError: as `read`.
        """

    def subject(self) -> Hashable | None:
        """Returns what is equal for two versions of an array whose elements have the same positions in C order.

        None where two versions have nothing in common.
        """
        return None

    def fill(self) -> np.ndarray | None:
        """Returns what missing chunks are full of, as an array of one element; None where that is not known."""
        return None

    def present(self) -> Iterable[Range]:
        """Yields ranges of elements; all others are in missing chunks.

        Raises:
            StorageError, FormatError: the chunks cannot be listed.
        """
        yield 0, math.prod(self.shape)

    def changed(self, earlier: "Elements") -> Iterable[Range]:
        """Yields ranges of elements; all others are as in another version with the same `subject`, if it has them.

        Raises:
            StorageError, FormatError: as `Hierarchy.changed_chunks`.
        """
        yield 0, math.prod(self.shape)

    def is_changed(self, index: ChunkIndex, earlier: "Elements") -> bool:
        """Tells whether a chunk may differ from that of another version; raises as `changed`."""
        return True


class Decoder(ABC):
    """Opens the arrays of one hierarchy."""

    @abstractmethod
    def open(self, array: NodePath) -> Elements:
        """Opens an array.

        Raises:
            NotShownError: no view can show it: its type or a codec is not known here.
        """


@dataclass(frozen=True, slots=True)
class Stretch:
    """A range of bytes, and how a copy of a file comes by them.

    Attributes:
        start: The first byte.
        stop: One past the last byte.
        kept_at: Where an earlier version's file has the same bytes; None where they have to be read.
    """

    start: int
    stop: int
    kept_at: int | None = None


class Source(ABC):
    """The bytes of a part of a file."""

    @abstractmethod
    def read(self, start: int, stop: int) -> bytes | memoryview:
        """Returns the bytes `[start, stop)` of the part, all of them.

        Raises:
            DecodeError, StorageError, FormatError: they cannot be made.
        """

    def at_hand(self, start: int, stop: int) -> bytes | memoryview | None:
        """Returns the same as `read` if no work is left but to copy a little; else None, and at once."""
        return None

    def subject(self) -> Hashable | None:
        """Returns what is equal for two versions that may have bytes in common; None where none has."""
        return None

    def stretches(self, size: int, earlier: "Source | None") -> Iterable[Stretch]:
        """Yields the ranges of the part that may be other than zeros, in order.

        Args:
            size: The bytes of the part.
            earlier: Another version with the same `subject`, from whose first byte `Stretch.kept_at` counts; or None.

        Raises:
            DecodeError, StorageError, FormatError: that cannot be found out.
        """
        yield Stretch(0, size)


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

    def at_hand(self, offset: int, size: int) -> bytes | memoryview | None:
        """Returns the same as `read` if no work is left but to copy a little; else None, and at once."""
        return None

    def known(self) -> Iterable[tuple[int, memoryview]]:
        """Yields the bytes that are in memory, each part with its offset: headers, which tell versions apart."""
        return ()

    def stretches(self, earlier: "Layout | None" = None) -> Iterable[Stretch]:
        """Yields the ranges of bytes that may be other than zeros, in order.

        Args:
            earlier: The file of another version, for `Stretch.kept_at`.

        Raises:
            DecodeError, StorageError, FormatError: that cannot be found out.
        """
        yield Stretch(0, self.size)


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

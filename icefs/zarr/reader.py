"""A snapshot read by its Zarr keys, synchronously and without zarr-python.

Which array a chunk key belongs to is decided by the nodes that exist: the array with the longest path of whose chunk
keys it is one (see `keys.split_candidates`). Keys that no Zarr hierarchy can have are refused with
`invalid-key`, as the official library does; keys that one could have, and this one has not, are missing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import numpy.typing as npt

from icefs.engine.read.chunks import ALL_ROWS, ArrayChunks
from icefs.engine.read.session import Session
from icefs.engine.write.edited_chunks import EditedChunks
from icefs.errors import InvalidInputError, NodeNotFoundError
from icefs.format.manifest.refs import ChunkRef, InlineRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath, TreePath, node_path
from icefs.zarr.keys import (
    METADATA_NAME,
    V2_METADATA_NAMES,
    ChunkIndex,
    ChunkKeyLayout,
    Column,
    is_zarr_key,
    metadata_key,
    node_prefix,
    normalize_key,
    parse_metadata_key,
    split_candidates,
)


class KeyMissingError(NodeNotFoundError, FileNotFoundError):
    """A key that could exist does not; a `FileNotFoundError` too, which zarr-python's stores promise."""

    default_kind = "key-not-found"


@dataclass(frozen=True, slots=True)
class ByteRange:
    """Which bytes of a value are wanted; `None` where a caller does not limit that side.

    Attributes:
        start: The first byte; a negative one counts from the end, and reaches at most back to the first byte.
        end: One past the last byte; beyond the value's end means its end.
    """

    start: int
    end: int | None

    def resolve(self, length: int, key: str) -> tuple[int, int]:
        """Returns the half-open range of a value of `length` bytes that is meant.

        Raises:
            InvalidInputError: it starts behind the value's end, or ends before it starts.
        """
        if self.start < 0:
            return max(0, length + self.start), length
        end = length if self.end is None else min(self.end, length)
        is_empty = self.end is not None and self.start == self.end
        if (self.start >= length and not (is_empty and self.start == length)) or end < self.start:
            raise InvalidInputError(
                f"bytes {self.start} to {'the end' if self.end is None else self.end} of {key}, which has {length}",
                kind="invalid-byte-range",
                key=key,
                length_bytes=length,
                range=f"From({self.start})" if self.end is None else f"Bounded({self.start}..{self.end})",
                length=length,
            )
        return self.start, end


@dataclass(frozen=True, slots=True)
class OpenArray:
    """An array whose keys are being read: its chunk references and how its keys are written."""

    path: NodePath
    chunks: ArrayChunks | EditedChunks
    layout: ChunkKeyLayout

    def is_loaded(self, index: ChunkIndex) -> bool:
        """Tells whether looking an index up surely needs no request."""
        return isinstance(self.chunks, ArrayChunks) and self.chunks.is_loaded(index)

    def keys(self, columns: Sequence[Column], rows: int) -> list[str]:
        """Writes the keys of many chunks from the columns of their indices."""
        prefix = node_prefix(self.path)
        if not columns:
            return [prefix + self.layout.format(())] * rows
        layout = self.layout
        start = f"{prefix}{layout.prefix}{layout.separator}" if layout.prefix else prefix
        pattern = start.replace("%", "%%") + layout.separator.join(["%d"] * len(columns))
        return list(map(pattern.__mod__, zip(*(column.tolist() for column in columns), strict=True)))

    def batches_below(self, index: ChunkIndex, max_rows: int) -> Iterator[tuple[list[Column], npt.NDArray[np.uint64]]]:
        """Yields the columns of the indices, and the lengths, of the chunks whose index starts with `index`."""
        for batch in self.chunks.iter_batches(max_rows):
            columns = batch.coords
            if not index:
                yield list(columns), batch.lengths
                continue
            mask = columns[0] == index[0]
            for column, coordinate in zip(columns[1:], index[1:], strict=False):
                mask &= column == coordinate
            yield [column[mask] for column in columns], batch.lengths[mask]

    def names(self, index: ChunkIndex, level: int) -> list[str]:
        """Returns the names of the components at `level` of the chunk keys whose first coordinates are `index`."""
        width = self.layout.widths[level]
        if width == 0:
            return [self.layout.format_component(level, ())] if self.chunks.has_prefix(()) else []
        if width == 1:
            columns: list[list[Column]] = [[self.chunks.children(index)]]
        else:
            columns = [list(batch.coords) for batch in self.chunks.iter_batches()]
        return [name.decode() for each in columns for name in self.layout.format_names(level, each)]


class KeyReader:
    """Reads one session by key, with the changes that it has.

    Safe to use from any thread: the tables below only ever gain entries that any thread would compute alike.

    INVARIANT: while the session can write, nothing of it is kept here; a session that stopped writing does not start
        again.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._arrays: dict[NodePath, OpenArray | None] = {}
        self._paths: frozenset[NodePath] | None = None

    # Finding what a key names.

    def _node(self, path: NodePath) -> NodeSnapshot | None:
        if self.session.read_only:
            # Most paths that are asked for are parts of chunk keys, where no node is: a set knows that at once.
            if self._paths is None:
                self._paths = frozenset(self.session.snapshot.paths)
            if path not in self._paths:
                return None
        return self.session.get_node(path)

    def open_array(self, path: NodePath) -> OpenArray | None:
        """Returns the array at a path; None if no node or a group is there."""
        try:
            return self._arrays[path]
        except KeyError:
            pass
        keeps = self.session.read_only
        node = self._node(path)
        opened = None
        if node is not None and node.array is not None:
            layout = ChunkKeyLayout.of_metadata(node.user_data, len(node.array.shape))
            opened = OpenArray(path, self.session.array_chunks(node), layout)
        if node is not None and keeps:  # what no node is at is not remembered: there is no end of such paths
            self._arrays[path] = opened
        return opened

    def locate(self, key: str) -> tuple[OpenArray, ChunkIndex] | NodeSnapshot | None:
        """Tells what a key names, without reading a manifest.

        Returns:
            The node whose metadata it is; the array and index of the chunk, which may not exist; or None.

        Raises:
            InvalidInputError: no Zarr hierarchy has such a key (`invalid-key`).
        """
        key = normalize_key(key)
        path = parse_metadata_key(key)
        if path is not None:
            return self.session.get_node(path)
        for path, relative in split_candidates(key):
            opened = self.open_array(path)
            if opened is not None and (index := opened.layout.parse(relative)) is not None:
                return opened, index
        if key[key.rfind("/") + 1 :] not in V2_METADATA_NAMES and not is_zarr_key(key):
            raise InvalidInputError(f"{key!r} is not a key of a Zarr hierarchy", kind="invalid-key", key=key)
        return None

    def find(self, key: str) -> ChunkRef | NodeSnapshot | None:
        """Returns the node whose metadata, or the reference of the chunk, that a key names; None if it is missing.

        Raises:
            InvalidInputError: no Zarr hierarchy has such a key (`invalid-key`).
            FormatError, StorageError: the manifest that answers for it cannot be read.
        """
        located = self.locate(key)
        if isinstance(located, tuple):
            opened, index = located
            return opened.chunks.find(index)
        return located

    def chunk_lengths(self, keys: Sequence[str]) -> list[int | None]:
        """Returns the lengths in bytes of many chunks at once, None for keys that are no chunk's there is.

        Args:
            keys: Without leading, trailing or doubled slashes; a key that has such is not found.

        Raises:
            FormatError, StorageError: a manifest that answers for one of them cannot be read.
        """
        found: list[int | None] = [None] * len(keys)
        asked: dict[NodePath, tuple[OpenArray, list[int], list[ChunkIndex]]] = {}
        directories: dict[str, list[tuple[OpenArray, int, ChunkIndex]]] = {}
        for position, key in enumerate(keys):
            directory, _, name = key.rpartition("/")
            places = directories.get(directory)
            if places is None:
                places = directories[directory] = list(self._leaf_places(TreePath(directory)))
            for opened, level, prefix in places:
                part = opened.layout.parse_component(level, name)
                if part is not None:
                    _, positions, indices = asked.setdefault(opened.path, (opened, [], []))
                    positions.append(position)
                    indices.append(prefix + part)
                    break
        for opened, positions, indices in asked.values():
            rows = np.array(indices, np.uint32).reshape(len(indices), opened.chunks.ndim)
            is_there, lengths = opened.chunks.lengths(rows)
            for position, exists, length in zip(positions, is_there.tolist(), lengths.tolist(), strict=True):
                if exists:
                    found[position] = length
        return found

    def _leaf_places(self, directory: TreePath) -> Iterator[tuple[OpenArray, int, ChunkIndex]]:
        """Yields the arrays that may have chunks in a directory: the longest path first.

        Yields:
            The array, the level of the chunks' names in their keys, and the coordinates that all of them share.
        """
        for path, relative in split_candidates(TreePath(f"{directory}/") if directory else directory):
            opened = self.open_array(path)
            components = relative.split("/")[:-1]
            if opened is not None and len(components) == opened.layout.depth - 1:
                index = opened.layout.parse_prefix(components)
                if index is not None:
                    yield opened, len(components), index

    # Values.

    def read(self, key: str, byte_range: ByteRange | None = None) -> bytes | None:
        """Returns the bytes of a key's value, or some of them; None if the key is missing.

        Raises:
            InvalidInputError: the key or the range is not valid.
            IcefsError: the bytes cannot be read.
        """
        found = self.find(key)
        return None if found is None else self.read_found(found, key, byte_range)

    def read_found(self, found: ChunkRef | NodeSnapshot, key: str, byte_range: ByteRange | None) -> bytes:
        """Returns the bytes, or some of them, of what `find` returned for `key`."""
        if isinstance(found, NodeSnapshot | InlineRef):
            data = found.user_data if isinstance(found, NodeSnapshot) else found.data
            if byte_range is None:
                return data
            start, end = byte_range.resolve(len(data), key)
            return data[start:end]
        if byte_range is None:
            return self.session.read_chunk(found)
        return self.session.read_chunk(found, *byte_range.resolve(found.length_bytes, key))

    def exists(self, key: str) -> bool:
        """Tells whether a key exists; raises as `find`."""
        return self.find(key) is not None

    def size(self, key: str) -> int:
        """Returns the length of a key's value in bytes, without reading it.

        Raises:
            KeyMissingError: the key is missing.
        """
        found = self.find(key)
        if found is None:
            raise KeyMissingError(f"no such key: {key}", key=key)
        return len(found.user_data) if isinstance(found, NodeSnapshot) else found.length_bytes

    # Listing.

    def list_batches(self, prefix: str = "", max_rows: int = 10_000) -> Iterator[list[str]]:
        """Yields the keys below a directory in batches: metadata first, then the chunks of each array.

        Args:
            prefix: A node's path, a directory of chunks, or any directory of keys; `""` is the root.
            max_rows: The most keys in a batch.
        """
        prefix = normalize_key(prefix)
        nodes = list(self.session.list_nodes(node_path(prefix)))
        for start in range(0, len(nodes), max_rows):
            yield [metadata_key(node.path) for node in nodes[start : start + max_rows]]
        inside = self.directory_of_chunks(prefix)
        if inside is not None and inside[2]:
            above, index, _ = inside
            for columns, lengths in above.batches_below(index, max_rows):
                yield above.keys(columns, len(lengths))
        for node in nodes:
            opened = self.open_array(node.path)
            if opened is not None:
                for columns, lengths in opened.batches_below((), max_rows):
                    yield opened.keys(columns, len(lengths))

    def list_directory(self, prefix: str = "") -> list[str]:
        """Returns the names in a directory of keys, each once, in no promised order; none if it does not exist."""
        prefix = normalize_key(prefix)
        path = node_path(prefix)
        names = dict.fromkeys(self.session.children(path))
        if self._node(path) is not None:
            names[METADATA_NAME] = None
        inside = self.directory_of_chunks(prefix)
        if inside is not None:
            opened, index, level = inside
            names |= dict.fromkeys(opened.names(index, level))
        return list(names)

    def is_empty(self, prefix: str = "") -> bool:
        """Tells whether no key lies below a directory."""
        return not any(self.list_batches(prefix, 1))

    def size_below(self, prefix: str = "") -> int:
        """Returns the total length in bytes of the values below a directory, without reading them."""
        prefix = normalize_key(prefix)
        total = 0
        for node in self.session.list_nodes(node_path(prefix)):
            total += len(node.user_data)
            opened = self.open_array(node.path)
            if opened is not None:
                total += sum(int(lengths.sum()) for _, lengths in opened.batches_below((), ALL_ROWS))
        inside = self.directory_of_chunks(prefix)
        if inside is not None and inside[2]:
            above, index, _ = inside
            total += sum(int(lengths.sum()) for _, lengths in above.batches_below(index, ALL_ROWS))
        return total

    def directory_of_chunks(self, prefix: TreePath) -> tuple[OpenArray, ChunkIndex, int] | None:
        """Finds the array that may have chunk keys in the directory `prefix`.

        Returns:
            The array; the coordinates that all its chunk keys in the directory share; and the level of the path
            components in the directory, 0 where the directory is that of the array itself.
        """
        for path, relative in chain([(node_path(prefix), "")], split_candidates(prefix) if prefix else ()):
            opened = self.open_array(path)
            components = relative.split("/") if relative else []
            if opened is not None and len(components) < opened.layout.depth:
                index = opened.layout.parse_prefix(components)
                if index is not None:
                    return opened, index, len(components)
        return None

"""A session written by Zarr keys, synchronously and without zarr-python.

The meaning of a key is decided as for reading: chunks belong to the array with the longest path of whose chunk keys the
key is one, in the array's own chunk key encoding (Divergence 10). A key that names nothing yet is refused with what is
wrong with it: no Zarr hierarchy has such a key, no node is there, a group is there, or an array with other keys.
"""

import re
from dataclasses import dataclass
from typing import Final

from icefs.engine.write.session import WritableSession
from icefs.errors import InvalidInputError, NodeNotFoundError, SessionStateError
from icefs.paths import NodePath, TreePath, node_path
from icefs.zarr.keys import (
    V2_METADATA_NAMES,
    ChunkIndex,
    is_zarr_key,
    normalize_key,
    parse_metadata_key,
    split_candidates,
)
from icefs.zarr.reader import KeyReader

# What the chunk keys of any array look like below it; the rest of the key is where the array would be.
_CHUNK_KEY: Final = re.compile(r"(?:(.*?)/)??(?:c|(?:c[/.])?[0-9]+(?:[/.][0-9]+)*)")
_DEFAULT_KEY: Final = re.compile(r"(?:.*/)?c(?:/[0-9]+)*")


@dataclass(frozen=True, slots=True)
class MetadataTarget:
    """The metadata of the node at a path."""

    path: NodePath


@dataclass(frozen=True, slots=True)
class ChunkTarget:
    """A chunk of the array at a path; the index may lie outside of the array's grid."""

    path: NodePath
    index: ChunkIndex


type Target = MetadataTarget | ChunkTarget


class KeyWriter:
    """Writes one session by key.

    Safe to use from any thread, as the session is.
    """

    def __init__(self, session: WritableSession, reader: KeyReader) -> None:
        self.session = session
        self._reader = reader

    def target(self, key: str) -> Target:
        """Tells what a key names, for writing it.

        Raises:
            InvalidInputError: no hierarchy has such a key (`invalid-key`), a group is where the array would be
                (`not-an-array`), or the array has no such key (`invalid-chunk-index`, or `invalid-key` for a key of
                another encoding).
            NodeNotFoundError: no node is where the array would be.
            SessionStateError: it names metadata of Zarr v2 (`unimplemented`).
        """
        key = normalize_key(key)
        target = self._find(key)
        if target is not None:
            return target
        if key[key.rfind("/") + 1 :] in V2_METADATA_NAMES:
            raise SessionStateError(
                f"Icechunk holds no metadata of Zarr v2, as {key} is", kind="unimplemented", zarr="Zarr V2 metadata"
            )
        match = _CHUNK_KEY.fullmatch(key)
        if match is None or not is_zarr_key(key):
            raise _invalid_key(key)
        path = node_path(TreePath(match[1] or ""))
        node = self.session.get_node(path)
        if node is None:
            raise NodeNotFoundError(f"{key} cannot be written: no array is at {path}", path=path, hint="create it")
        if node.array is None:
            raise InvalidInputError(
                f"{key} cannot be written: {path} is a group, not an array", kind="not-an-array", path=path
            )
        if _DEFAULT_KEY.fullmatch(key):
            raise InvalidInputError(f"{key} is no chunk key of {path}", kind="invalid-chunk-index", path=path)
        raise _invalid_key(key)

    def _find(self, key: TreePath) -> Target | None:
        path = parse_metadata_key(key)
        if path is not None:
            return MetadataTarget(path)
        for path, relative in split_candidates(key):
            opened = self._reader.open_array(path)
            if opened is not None and (index := opened.layout.parse(relative)) is not None:
                return ChunkTarget(path, index)
        return None

    def delete(self, key: str) -> None:
        """Deletes a group with all below it, an array with its chunks, or a chunk; nothing happens where there is none.

        Nodes below an array, which no Zarr library makes, stay, as in a mount.

        Raises:
            InvalidInputError: no Zarr hierarchy has such a key (`invalid-key`).
        """
        key = normalize_key(key)
        target = self._find(key)
        if isinstance(target, MetadataTarget):
            self._delete_node(target.path)
        elif target is not None:
            node = self.session.get_node(target.path)
            grid = () if node is None or node.array is None else node.array.shape
            if all(position < size.num_chunks for position, size in zip(target.index, grid, strict=False)):
                self.session.chunks.set_ref(target.path, target.index, None)
        elif key[key.rfind("/") + 1 :] not in V2_METADATA_NAMES and not is_zarr_key(key):
            raise _invalid_key(key)

    def _delete_node(self, path: NodePath) -> None:
        node = self.session.get_node(path)
        if node is not None and node.array is not None:
            self.session.nodes.delete_each([path])
        else:
            self.session.nodes.delete(path)

    def delete_directory(self, prefix: str) -> None:
        """Deletes all nodes and chunks whose keys lie below a directory.

        Raises:
            InvalidInputError: it has a `.` or `..` segment.
            FormatError, StorageError: the chunks cannot be listed.
        """
        prefix = normalize_key(prefix)
        inside = self._reader.directory_of_chunks(prefix)
        # First what may fail.
        if inside is not None and inside[2]:
            opened, index, _ = inside
            self.session.chunks.delete_below(opened.path, index)
        self.session.nodes.delete(node_path(prefix))


def _invalid_key(key: str) -> InvalidInputError:
    return InvalidInputError(f"{key!r} is not a key of a Zarr hierarchy", kind="invalid-key", key=key)

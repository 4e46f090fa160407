"""What a frozen working tree means in Zarr terms: nodes made, rewritten and deleted, chunks set and deleted.

Nodes come from `zarr.json` files, chunks from files under the keys of their arrays, deletions from whiteouts and
from what stands in the place of something else. Bytes that are still those of a file of the base, under whatever
name, are committed as the base's own reference. Other names are untracked.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from icefs.engine.session import Session
from icefs.errors import InvalidInputError, InvalidMetadataError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.manifest import ChunkRef
from icefs.format.nodes import NodeSnapshot, NodeType
from icefs.format.zarr_json import ZarrMetadata, parse_zarr_json
from icefs.worktree.core import Lowered
from icefs.worktree.frozen import FrozenDir, FrozenFile, FrozenTree
from icefs.worktree.nodes import WHITEOUT
from icefs.zarr.keys import METADATA_NAME, ChunkIndex, ChunkKeyLayout, is_zarr_key, split_candidates
from icefs.zarr.reader import KeyReader

type Source = FrozenFile | Lowered


class Invalid(NamedTuple):
    """A file that cannot be committed, and why."""

    path: str
    reason: str


@dataclass(slots=True)
class StagedArray:
    """The chunks of one array.

    Attributes:
        sets: The files of chunks that were written, by index.
        deletes: The chunks that are gone.
    """

    sets: dict[ChunkIndex, Source] = field(default_factory=dict)
    deletes: dict[ChunkIndex, None] = field(default_factory=dict)


@dataclass(slots=True)
class Staged:
    """What a commit of a frozen tree would do.

    Attributes:
        deleted: The paths of base nodes that are deleted, none below another one of them.
        nodes: The `zarr.json` of nodes that are made or rewritten, by path, parents first.
        made: Those of `nodes` that the base does not have, or has as another one.
        arrays: The chunks that change, by array.
        untracked: Paths that are no Zarr keys of the hierarchy.
        invalid: Files that ought to be part of it and cannot.
    """

    deleted: list[str] = field(default_factory=list)
    nodes: dict[str, bytes] = field(default_factory=dict)
    made: set[str] = field(default_factory=set)
    arrays: dict[str, StagedArray] = field(default_factory=dict)
    untracked: list[str] = field(default_factory=list)
    invalid: list[Invalid] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to commit."""
        return not (self.deleted or self.nodes or self.arrays)

    @property
    def left(self) -> list[str]:
        """The paths that stay in the working tree."""
        return sorted({*self.untracked, *(path for path, _ in self.invalid)})


def stage(frozen: FrozenTree, base: Session) -> Staged:
    """Works out what a frozen tree changes in its base.

    Raises:
        StorageError, FormatError: the base, or bytes of the working tree, cannot be read.
    """
    return _Staging(frozen, base).run()


class _Staging:
    def __init__(self, frozen: FrozenTree, base: Session) -> None:
        self._frozen = frozen
        self._base = base
        self._reader = KeyReader(base)
        self._files: dict[str, Source] = {}
        self._hidden: list[str] = []
        self._metadata: dict[str, ZarrMetadata] = {}
        self._gone: set[str] = set()
        self._staged = Staged()

    def run(self) -> Staged:
        """Goes through the tree, then through what was found."""
        self._collect(self._frozen.root)
        self._stage_deletions()
        for path in sorted(self._files, key=lambda path: path.count("/")):
            if path == METADATA_NAME or path.endswith(f"/{METADATA_NAME}"):
                self._stage_metadata(path)
        self._check_orphans()
        for path in self._hidden:
            self._stage_chunk_deletions(path)
        for path, source in self._files.items():
            if path != METADATA_NAME and not path.endswith(f"/{METADATA_NAME}"):
                self._stage_file(path, source)
        staged = self._staged
        for array in staged.arrays.values():
            for index in array.sets:
                array.deletes.pop(index, None)
        staged.arrays = {path: array for path, array in staged.arrays.items() if array.sets or array.deletes}
        return staged

    # What differs, by path.

    def _collect(self, directory: FrozenDir) -> None:
        for name, entry in directory.entries.items():
            path = f"{directory.path}/{name}" if directory.path else name
            if entry is WHITEOUT:
                self._hidden.append(path)
            elif isinstance(entry, FrozenFile):
                if not entry.is_natural:
                    self._files[path] = entry
                    self._hide_other(path, is_dir=False)
            elif entry.is_natural:
                self._collect(entry)
            else:
                self._hide_other(path, is_dir=True)
                self._collect_all(path, entry)

    def _hide_other(self, path: str, *, is_dir: bool) -> None:
        """Notes what of the base stands behind something new; a file over a file is only rewritten."""
        attr = self._frozen.lower.stat(path)
        if attr is not None and (is_dir or attr.is_dir):
            self._hidden.append(path)

    def _collect_all(self, path: str, directory: FrozenDir | Lowered) -> None:
        """Takes everything in a directory that the base does not have at this place."""
        for name, entry in self._frozen.list(directory):
            below = f"{path}/{name}"
            if isinstance(entry, FrozenDir) or (isinstance(entry, Lowered) and entry.attr.is_dir):
                self._collect_all(below, entry)
            else:
                self._files[below] = entry

    # Nodes.

    def _stage_deletions(self) -> None:
        for path in self._hidden:
            if path == METADATA_NAME or path.endswith(f"/{METADATA_NAME}"):
                node = f"/{path[: -len(METADATA_NAME)].rstrip('/')}"
                if self._base.get_node(node) is not None:
                    self._gone.add(node)
            else:
                self._gone.update(node.path for node in self._base.list_nodes(f"/{path}"))

    def _stage_metadata(self, path: str) -> None:
        node_path = f"/{path[: -len(METADATA_NAME)].rstrip('/')}"
        data = self._frozen.read(self._files[path])
        version = self._base.repository.spec_version
        try:
            metadata = parse_zarr_json(data, name=path, spec_version=version)
        except InvalidMetadataError as error:
            self._staged.invalid.append(Invalid(path, error.message))
            return
        known = None if node_path in self._gone else self._base.get_node(node_path)
        if known is not None and known.node_type is not metadata.node_type:
            self._gone.update(node.path for node in self._base.list_nodes(node_path) if node.path == node_path)
            known = None
        self._metadata[node_path] = metadata
        if known is None or known.user_data != data:
            self._staged.nodes[node_path] = data
        if known is None:
            self._staged.made.add(node_path)

    def _check_orphans(self) -> None:
        """Lists the deleted nodes, the topmost of them; deleting a node deletes what is below it, too."""
        for path in sorted(self._gone):
            if any(path == above or path.startswith(f"{above.rstrip('/')}/") for above in self._staged.deleted[-1:]):
                continue
            survivors = [node.path for node in self._base.list_nodes(path) if node.path not in self._gone]
            if survivors:
                reason = f"was removed, but {survivors[0]} below it was not"
                self._staged.invalid.append(Invalid(f"{path}/{METADATA_NAME}".lstrip("/"), reason))
                continue
            self._staged.deleted.append(path)

    def _array(self, path: str) -> tuple[ChunkKeyLayout, tuple[int, ...]] | None:
        """Returns how the keys of the array at a path are written, and its grid; None if no array will be there."""
        metadata = self._metadata.get(path)
        if metadata is not None:
            if metadata.node_type is NodeType.GROUP:
                return None
            try:
                return ChunkKeyLayout.of(metadata.chunk_key_encoding, len(metadata.grid_shape)), metadata.grid_shape
            except InvalidInputError:
                return None
        node: NodeSnapshot | None = None if path in self._gone else self._base.get_node(path)
        if node is None or node.array is None:
            return None
        layout = ChunkKeyLayout.of_metadata(node.user_data, len(node.array.shape))
        return layout, tuple(dimension.num_chunks for dimension in node.array.shape)

    # Chunks.

    def _stage_chunk_deletions(self, path: str) -> None:
        for node_path, relative in split_candidates(path):
            if node_path in self._gone:
                continue
            node = self._base.get_node(node_path)
            if node is None or node.array is None:
                continue
            layout = ChunkKeyLayout.of_metadata(node.user_data, len(node.array.shape))
            prefix = layout.parse_prefix(relative.split("/"))
            if prefix is None or self._array(node_path) is None:
                continue
            deletes = self._staged.arrays.setdefault(node_path, StagedArray()).deletes
            deletes.update(dict.fromkeys(self._indices_below(node, prefix)))
            return

    def _indices_below(self, node: NodeSnapshot, prefix: ChunkIndex) -> Iterator[ChunkIndex]:
        chunks = self._base.array_chunks(node)
        if len(prefix) == chunks.ndim:
            if chunks.find(prefix) is not None:
                yield prefix
            return
        for batch in chunks.iter_batches(1 << 62):
            rows = zip(*(column.tolist() for column in batch.coords), strict=True)
            yield from (row for row in rows if row[: len(prefix)] == prefix)

    def _stage_file(self, path: str, source: Source) -> None:
        staged = self._staged
        for node_path, relative in split_candidates(path):
            array = self._array(node_path)
            if array is None:
                continue
            layout, grid = array
            index = layout.parse(relative)
            if index is None:
                continue
            size = source.attr.size if isinstance(source, Lowered) else source.size
            if not all(position < count for position, count in zip(index, grid, strict=True)):
                staged.invalid.append(Invalid(path, f"is outside of the grid {list(grid)} of {node_path}"))
            elif not size:
                staged.invalid.append(Invalid(path, "is empty; no chunk of an Icechunk array is"))
            elif isinstance(source, FrozenFile) and source.is_lost:
                staged.invalid.append(Invalid(path, "its bytes were lost"))
            else:
                staged.arrays.setdefault(node_path, StagedArray()).sets[index] = source
            return
        if is_zarr_key(path):
            staged.invalid.append(Invalid(path, "has the name of a chunk, but there is no array that it is one of"))
        else:
            staged.untracked.append(path)


def reused_ref(base: Session, reader: KeyReader, source: Source) -> ChunkRef | None:
    """Returns the base's own reference to the bytes of a file; None if they have to be stored."""
    lower_path = source.path if isinstance(source, Lowered) else source.lower_path
    if lower_path is None:
        return None
    found = reader.find(lower_path)
    return None if isinstance(found, NodeSnapshot) else found


def deletions(array: StagedArray) -> ChunkIndices | None:
    """Returns the deleted chunks of an array as columns."""
    if not array.deletes:
        return None
    indices = list(array.deletes)
    return ChunkIndices.from_indices(len(indices[0]), indices)

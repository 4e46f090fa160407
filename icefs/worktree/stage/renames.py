"""What renamed directories of the base come to: nodes under other paths, and chunk references under other indices.

A directory may be a node's, a group's with a whole hierarchy, one of chunks, or one above all of these. References are
taken over as columns. Only where names mean other coordinates in the new place than they did in the old one (another
chunk key encoding, arrays inside of arrays) each chunk is looked at by its name.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from icefs.engine.read.session import Session
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.inode import NO_INO
from icefs.paths import ROOT_NODE, NodePath, TreePath, node_path, split, tree_path
from icefs.words import plural
from icefs.worktree.base import BaseAttr, BaseEntry
from icefs.worktree.freeze.differences import RenamedDirectory
from icefs.worktree.stage.chunk_dirs import BaseChunks, ChunkDir, ChunkDirs, covered_rows
from icefs.worktree.stage.dropped import outside
from icefs.zarr.invalid import Invalid
from icefs.zarr.keys import metadata_key, node_prefix


@dataclass(frozen=True, slots=True)
class RenamedChunks:
    """References of the base to chunks of an array of the new hierarchy.

    Attributes:
        source: The array of the base that they are from.
        target: The array that they are of now.
        refs: The references, with their new indices.
        is_same: Whether the indices are the old ones.
        cut: References that lie outside of the new array's grid.
    """

    source: NodeSnapshot
    target: NodePath
    refs: ArrayRefs
    is_same: bool
    cut: ArrayRefs | None = None


@dataclass(frozen=True, slots=True)
class RenamedFile:
    """A chunk of the base whose name has to be read again."""

    directory: TreePath
    name: str
    base_entry: BaseEntry


class Renames:
    """Reads renamed directories against the base.

    Attributes:
        nodes: The base nodes that are elsewhere, by their new path.
    """

    def __init__(
        self, base: Session, chunks: BaseChunks, directories: list[RenamedDirectory], base_chunk_dirs: ChunkDirs
    ) -> None:
        self._base = base
        self._chunks = chunks
        self._directories = directories
        self._base_chunk_dirs = base_chunk_dirs
        self.nodes: dict[NodePath, NodeSnapshot] = {}
        for renamed in directories:
            excluded = frozenset(renamed.excluded)
            for node in base.list_nodes(node_path(renamed.base_path)):
                if not _is_covered(metadata_key(node.path), excluded):
                    self.nodes[_moved(node.path, renamed)] = node

    def chunks(
        self, chunk_dirs: ChunkDirs, has_array_below: Callable[[NodePath], bool]
    ) -> Iterator[RenamedChunks | RenamedFile | Invalid]:
        """Yields what becomes of the chunks in renamed directories.

        Args:
            chunk_dirs: Those of the new hierarchy.
            has_array_below: Tells whether an array lies below a node path of the new hierarchy.
        """
        for renamed in self._directories:
            excluded = frozenset(renamed.excluded)
            for chunk_dir in self._sources(renamed, excluded):
                node = self._base.node(chunk_dir.array.path)
                directory = _join(node_prefix(node.path), chunk_dir)
                rows = self._rows(node, chunk_dir, directory, renamed)
                if not len(rows):
                    continue
                target = tree_path(_moved(node_path(directory), renamed))
                there = chunk_dirs.of(target)
                if not there:
                    yield Invalid(target, f"holds {plural(len(rows), 'chunk')}, but there is no array above it")
                elif there[0].fits(chunk_dir) and not has_array_below(node_path(target)):
                    yield _columns(node, chunk_dir, there[0], rows)
                else:
                    yield from _singly(node, chunk_dir, rows, renamed)

    def _sources(self, renamed: RenamedDirectory, excluded: frozenset[TreePath]) -> Iterator[ChunkDir]:
        """Yields where chunks lie in a renamed directory: in an array above it, and in each array in it."""
        yield from (chunk_dir for chunk_dir in self._base_chunk_dirs.of(renamed.base_path) if chunk_dir.level)
        for node in self._base.list_nodes(node_path(renamed.base_path)):
            if node.array is not None and not _is_covered(tree_path(node.path), excluded):
                yield from (
                    chunk_dir for chunk_dir in self._base_chunk_dirs.of(tree_path(node.path)) if not chunk_dir.level
                )

    def _rows(
        self, node: NodeSnapshot, chunk_dir: ChunkDir, directory: TreePath, renamed: RenamedDirectory
    ) -> ArrayRefs:
        refs = self._chunks.refs(node)
        start, end = refs.range(chunk_dir.prefix)
        rows = np.zeros(len(refs), np.bool_)
        rows[start:end] = True
        stem = f"{directory}/" if directory else ""
        gone = []
        for path in renamed.excluded:
            if path.startswith(stem):
                index = chunk_dir.prefix
                level = chunk_dir.level
                for name in path[len(stem) :].split("/"):
                    part = (
                        chunk_dir.array.layout.parse_component(level, name)
                        if level < chunk_dir.array.layout.depth
                        else None
                    )
                    if part is None:
                        break
                    index, level = index + part, level + 1
                else:
                    gone.append(index)
        if gone:
            rows &= ~covered_rows(refs.indices, gone)
        return refs if rows.all() else refs.select(rows)


def _join(prefix: str, chunk_dir: ChunkDir) -> TreePath:
    """Returns the base path of a directory of chunks, given the prefix of its array's keys."""
    layout, names, index = chunk_dir.array.layout, [], list(chunk_dir.prefix)
    for level in range(chunk_dir.level):
        width = layout.widths[level]
        names.append(layout.format_component(level, index[:width]))
        index = index[width:]
    return TreePath((prefix + "/".join(names)).rstrip("/"))


def _moved(path: NodePath, renamed: RenamedDirectory) -> NodePath:
    """Returns where a node path of a renamed directory is now."""
    below = path[1:] if not renamed.base_path else path[len(renamed.base_path) + 2 :]
    return NodePath(f"/{renamed.path}/{below}".rstrip("/") or ROOT_NODE)


def _is_covered(path: TreePath, excluded: frozenset[TreePath]) -> bool:
    if not excluded:
        return False
    while path:
        if path in excluded:
            return True
        path, _ = split(path)
    return False


def _columns(node: NodeSnapshot, chunk_dir: ChunkDir, there: ChunkDir, rows: ArrayRefs) -> RenamedChunks:
    is_same = there.prefix == chunk_dir.prefix
    if not is_same:
        count = len(rows)
        fixed = [np.full(count, coordinate, np.uint32) for coordinate in there.prefix]
        rows = replace(rows, indices=ChunkIndices([*fixed, *rows.coords[len(chunk_dir.prefix) :]], count))
    # What lies outside of a smaller grid goes as it does when an array is resized where it is.
    cut = outside(rows, there.array.grid_shape)
    if not cut.any():
        return RenamedChunks(node, there.array.path, rows, is_same)
    return RenamedChunks(node, there.array.path, rows.select(~cut), is_same, rows.select(cut))


def _singly(
    node: NodeSnapshot, chunk_dir: ChunkDir, rows: ArrayRefs, renamed: RenamedDirectory
) -> Iterator[RenamedFile]:
    prefix = node_prefix(node.path)
    for index, length in zip(rows.indices, rows.lengths.tolist(), strict=True):
        base_path = TreePath(prefix + chunk_dir.array.layout.format(index))
        directory, name = split(tree_path(_moved(node_path(base_path), renamed)))
        yield RenamedFile(directory, name, BaseEntry(base_path, BaseAttr(NO_INO, False, length, -1)))

"""What a frozen working tree means in Zarr terms: nodes made, rewritten and deleted, chunks set and deleted.

Nodes come from `zarr.json` files, chunks from files under the keys of their arrays, deletions from whiteouts and
from what stands in the place of something else. Bytes that are still those of a file of the base, under whatever
name, are committed as the base's own reference. Other names are untracked.

    differences   the upper entries of the tree, by directory
    chunk_dirs    which array the names in a directory are chunks of
    renames       renamed directories of the base, as columns
    dropped       chunks for which a rewritten zarr.json has no place
    unfit         chunks of a size that their array's codecs rule out
    staged        the result

Only files that were written, or renamed one by one, are looked at one by one.
"""

from collections.abc import Mapping
from dataclasses import replace

from icefs.engine.read.session import Session
from icefs.engine.write.changeset import difference
from icefs.engine.write.node_editor import array_data
from icefs.errors import InvalidInputError, InvalidMetadataError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.manifest.refs import ArrayRefs, ChunkRef
from icefs.format.snapshot.nodes import NodeSnapshot, NodeType
from icefs.format.zarr_json import ZarrMetadata, parse_zarr_json
from icefs.paths import NodePath, TreePath, child, node_and_ancestors, node_path, parent_node, tree_path
from icefs.words import plural
from icefs.worktree.base import BaseEntry
from icefs.worktree.freeze.differences import differences
from icefs.worktree.freeze.frozen import FrozenFile, FrozenTree
from icefs.worktree.model import lost
from icefs.worktree.stage.chunk_dirs import BaseChunks, ChunkDir, ChunkDirs, GridArray
from icefs.worktree.stage.dropped import DroppedChunks, contained, outside, outside_reason
from icefs.worktree.stage.holding import OPEN, Holding
from icefs.worktree.stage.renames import RenamedChunks, RenamedFile, Renames
from icefs.worktree.stage.staged import Dropped, LeftOpen, Source, Staged, StagedArray, source_size
from icefs.worktree.stage.unfit import UnfitChunks
from icefs.zarr.invalid import Invalid, metadata_reason, no_chunk_reason
from icefs.zarr.keys import (
    METADATA_NAME,
    ChunkIndex,
    ChunkKeyLayout,
    is_zarr_key,
    lies_in_hidden,
    metadata_key,
    node_prefix,
)
from icefs.zarr.reader import KeyReader


def stage(frozen: FrozenTree, base: Session, *, includes_open: bool = False) -> Staged:
    """Works out what a frozen tree changes in its base.

    Args:
        frozen: The tree.
        base: Its base.
        includes_open: Take files that were open for writing and had changed as they were; otherwise they stay.

    Raises:
        StorageError, FormatError: the base, or bytes of the working tree, cannot be read.
    """
    refused: dict[NodePath, str] = {}
    while True:
        staging = _Staging(frozen, base, refused, includes_open=includes_open)
        staged = staging.run()
        # Which chunks an array keeps is known at the end; whether it may be edited decides about what came before.
        unfit = staging.unfit_edits()
        if not unfit:
            return staged
        refused |= unfit


def reused_ref(base: Session, reader: KeyReader, source: Source) -> ChunkRef | None:
    """Returns the base's own reference to the bytes of a file; None if they have to be stored."""
    base_path = source.path if isinstance(source, BaseEntry) else source.base_path
    if base_path is None:
        return None
    found = reader.find(base_path)
    return None if isinstance(found, NodeSnapshot) else found


class _Staging:
    def __init__(
        self, frozen: FrozenTree, base: Session, refused: Mapping[NodePath, str], *, includes_open: bool
    ) -> None:
        """Takes, besides the tree, the arrays whose edited `zarr.json` cannot be committed, and why."""
        self._frozen = frozen
        self._base = base
        self._paths = frozenset(base.snapshot.paths)
        self._chunks = BaseChunks(base)
        self._base_chunk_dirs = ChunkDirs(self._base_array)
        self._chunk_dirs = ChunkDirs(self._array)
        self._metadata: dict[NodePath, ZarrMetadata] = {}
        self._gone: set[NodePath] = set()
        self._staged = Staged()
        self._found = differences(frozen.root)
        self._renames = Renames(base, self._chunks, self._found.renamed, self._base_chunk_dirs)
        self._whole: dict[NodePath, NodePath] = {}
        self._dropped = DroppedChunks(base, self._chunks)
        self._retyped: set[NodePath] = set()
        self._cut: dict[NodePath, list[ArrayRefs]] = {}
        self._holding = Holding(base, frozen, self._found, refused, includes_open=includes_open)
        self._unfit = UnfitChunks(self._zarr_json)
        self._open_chunks: dict[NodePath, list[ChunkIndex]] = {}

    def run(self) -> Staged:
        """Goes through nodes, then through chunks, of which nodes decide."""
        staged = self._staged
        self._stage_deletions()
        self._stage_nodes()
        self._check_removed()
        for directory, names in self._found.hidden.items():
            self._hide_chunks(directory, names)
        for directory, files in self._found.files.items():
            self._stage_files(directory, files)
        self._relayout()
        self._stage_renamed_chunks()
        self._keep_open_chunks()
        staged.open += self._holding.left_open()
        staged.held += self._holding.held_paths(self._found.hidden)
        for array in staged.arrays.values():
            array.settle()
        self._find_dropped()
        staged.arrays = {path: array for path, array in staged.arrays.items() if array}
        staged.gone = sorted(self._gone)
        self._find_moves()
        return staged

    # Nodes.

    def _known(self, path: NodePath) -> NodeSnapshot | None:
        """Returns the base's node at a path, unless it is gone."""
        return self._base.get_node(path) if path in self._paths and path not in self._gone else None

    def _stage_deletions(self) -> None:
        for directory, names in self._found.hidden.items():
            for name in names:
                path = child(directory, name)
                if name == METADATA_NAME:
                    self._gone.update({node_path(directory)} & self._paths)
                elif self._has_nodes(path):
                    self._gone.update(node.path for node in self._base.list_nodes(node_path(path)))
        for directory, files in self._found.files.items():
            for name, _ in files:
                path = child(directory, name)
                if self._has_nodes(path):
                    self._gone.update(node.path for node in self._base.list_nodes(node_path(path)))
        # A directory that was moved away, and back to its place below something new, has not moved.
        self._gone.difference_update(path for path, node in self._renames.nodes.items() if path == node.path)
        self._gone -= self._holding.kept

    def _has_nodes(self, path: TreePath) -> bool:
        return node_path(path) in self._paths or self._base.has_children(node_path(path))

    def _stage_nodes(self) -> None:
        data = {path: node.user_data for path, node in self._renames.nodes.items()}
        invalid = []
        for path, file in self._found.metadata.items():
            if file.is_lost or file.is_cut:
                invalid.append(Invalid(metadata_key(path), _damage(file)))
                if file.is_lost:
                    self._staged.lost.append(metadata_key(path))
            elif path not in self._holding.nodes:
                data[path] = self._frozen.read(file)
        self._staged.invalid += invalid
        self._staged.invalid += self._holding.refused()
        for path in sorted(data, key=lambda path: (path.count("/") if path != "/" else 0, path)):
            if self._holding.holder(tree_path(path)) is not None:
                self._wait(metadata_key(path), tree_path(path))
            else:
                self._stage_node(path, data[path])

    def _stage_node(self, path: NodePath, data: bytes) -> None:
        key = metadata_key(path)
        try:
            metadata = parse_zarr_json(data, name=key, spec_version=self._base.context.spec_version)
            array_data(metadata, key)  # refuses a grid that no snapshot can hold
        except InvalidMetadataError as error:
            self._staged.invalid.append(Invalid(key, metadata_reason(error)))
            return
        known = self._known(path)
        if known is not None and self._holding.holds_encoding(path, known.user_data, data, metadata):
            self._gone -= self._holding.kept
            return
        if known is not None and known.node_type is not metadata.node_type:
            below = [node.path for node in self._base.list_nodes(path) if self._known(node.path) and node.path != path]
            if below and metadata.node_type is NodeType.ARRAY:
                self._staged.invalid.append(Invalid(key, f"makes an array of a group that has {below[0]} below it"))
                return
            self._gone.add(path)
            self._retyped.add(path)
            known = None
        self._metadata[path] = metadata
        if known is None or known.user_data != data:
            self._staged.nodes[path] = data
        if known is None:
            self._staged.made.add(path)

    def _check_removed(self) -> None:
        """Looks at nodes whose `zarr.json` was removed, but not the directory.

        Icechunk needs no parents: a group may go and its members stay, to be read by their paths. An array is its
        `zarr.json` and its chunks; while some of these are still to be seen, somebody would lose them.
        """
        staged = self._staged
        for directory, names in self._found.hidden.items():
            path = node_path(directory)
            if METADATA_NAME not in names or path not in self._gone or path in staged.nodes:
                continue
            node = self._base.node(path)
            if node.array is None:
                if any(below.path not in self._gone for below in self._base.list_nodes(path)):
                    staged.implicit.append(path)
                continue
            rest = len(self._chunks.refs(node)) - len(self._chunks.below(node, self._hidden_prefixes(node)))
            if rest:
                self._gone.discard(path)
                what = f"{plural(rest, 'chunk')} of the array {'was' if rest == 1 else 'were'}"
                reason = f"was removed, but {what} not; remove {directory} to delete the array"
                staged.invalid.append(Invalid(metadata_key(path), reason))

    def _hidden_prefixes(self, node: NodeSnapshot) -> list[ChunkIndex]:
        found = []
        for directory, names in self._found.hidden.items():
            for chunk_dir in self._base_chunk_dirs.of(directory):
                if chunk_dir.array.path == node.path:
                    found += [index for name in names if (index := chunk_dir.read(name)) is not None]
        return found

    # Arrays.

    def _base_array(self, path: NodePath) -> GridArray | None:
        node = self._base.get_node(path) if path in self._paths else None
        return None if node is None else _grid_array(node)

    def _array(self, path: NodePath) -> GridArray | None:
        """Returns the array that will be at a path, None if none will."""
        metadata = self._metadata.get(path)
        if metadata is None:
            node = self._known(path)
            return None if node is None else _grid_array(node)
        if metadata.node_type is NodeType.GROUP:
            return None
        try:
            layout = ChunkKeyLayout.of(metadata.chunk_key_encoding, len(metadata.grid_shape))
        except InvalidInputError:
            return None
        return GridArray(path, layout, metadata.grid_shape)

    def _staged_array(self, path: NodePath, ndim: int) -> StagedArray:
        found = self._staged.arrays.get(path)
        if found is None:
            found = self._staged.arrays[path] = StagedArray(ndim)
        return found

    # Chunks.

    def _hide_chunks(self, directory: TreePath, names: list[str]) -> None:
        """Notes the chunks of the base that are not to be seen any more."""
        found: dict[NodePath, list[ChunkIndex]] = {}
        chunk_dirs = self._base_chunk_dirs.of(directory)
        for name in names if chunk_dirs else ():
            for chunk_dir in chunk_dirs:
                index = chunk_dir.read(name)
                path = chunk_dir.array.path
                if path in self._holding.kept:
                    continue
                if index is not None and (path in self._retyped or self._known(path) is not None):
                    found.setdefault(path, []).append(index)
                    break
        for path, prefixes in found.items():
            indices = self._chunks.below(self._base.node(path), prefixes)
            known = self._dropped.removed.get(path)
            self._dropped.removed[path] = indices if known is None else indices.union(known)
            self._delete(path, indices)

    def _delete(self, path: NodePath, indices: ChunkIndices) -> None:
        node, array = self._base.node(path), self._array(path)
        assert node.array is not None  # only arrays have such directories
        if array is not None and len(array.grid_shape) == len(node.array.shape):
            staged = self._staged_array(path, len(array.grid_shape))
            staged.deletes = indices.union(staged.deletes)

    def _stage_files(self, directory: TreePath, files: list[tuple[str, FrozenFile]]) -> None:
        # A file where the base has a directory of chunks.
        above = [chunk_dir for chunk_dir in self._base_chunk_dirs.of(directory) if not chunk_dir.is_leaf]
        if above:
            self._hide_chunks(directory, [name for name, _ in files if any(p.read(name) is not None for p in above)])
        chunk_dirs = [chunk_dir for chunk_dir in self._chunk_dirs.of(directory) if chunk_dir.is_leaf]
        for name, file in files:
            self._stage_file(chunk_dirs, directory, name, file)

    def _stage_file(self, chunk_dirs: list[ChunkDir], directory: TreePath, name: str, source: Source) -> None:
        is_lost = isinstance(source, FrozenFile) and source.is_lost
        path = child(directory, name)
        if is_lost:
            self._staged.lost.append(path)
        if self._holding.holder(directory) is not None:
            if is_zarr_key(path):
                self._wait(path, directory)
            else:
                self._staged.untracked.append(path)
            return
        for chunk_dir in chunk_dirs:
            index = chunk_dir.read(name)
            if index is None:
                continue
            array = chunk_dir.array
            if self._holding.is_open(source):
                self._staged.open.append(LeftOpen(path, OPEN))
                self._open_chunks.setdefault(array.path, []).append(index)
                return
            reason = None
            for position, count in zip(index, array.grid_shape, strict=True):
                if position >= count:
                    reason = _outside(array)
            if isinstance(source, FrozenFile) and (is_lost or source.is_cut):
                reason = _damage(source)
            if reason is None:
                reason = self._unfit.reason(array.path, index, source_size(source))
            if reason is None:
                self._staged_array(array.path, len(index)).sets[index] = source
            else:
                self._staged.invalid.append(Invalid(path, reason))
            return
        if not is_zarr_key(path) or lies_in_hidden(path):
            self._staged.untracked.append(path)
        elif self._holding.is_open(source):
            self._staged.open.append(LeftOpen(path, OPEN))
        elif not self._waits(path, directory):
            self._staged.invalid.append(Invalid(path, self._no_chunk(directory)))

    def _no_chunk(self, directory: TreePath) -> str:
        """Says why a file with the name of a chunk is none, by the nearest array above it."""
        above = map(self._array, node_and_ancestors(node_path(directory)))
        array = next((array for array in above if array is not None), None)
        return no_chunk_reason(None if array is None else (array.path, array.layout))

    def _wait(self, path: TreePath, directory: TreePath) -> None:
        """Leaves something for the commit after the file that decides about it can be committed."""
        reason = self._holding.reason(directory)
        assert reason is not None  # which is why it waits
        if self._holding.is_refused(directory):
            self._staged.invalid.append(Invalid(path, reason))
        else:
            self._staged.open.append(LeftOpen(path, reason))

    def _waits(self, path: TreePath, directory: TreePath) -> bool:
        """Leaves what may become a chunk of an array whose `zarr.json` is open; tells whether there is such a file."""
        for above in node_and_ancestors(node_path(directory)):
            if above in self._holding.nodes:
                self._wait(path, directory)
                return True
            if above in self._metadata or self._known(above) is not None:
                return False
        return False

    def _keep_open_chunks(self) -> None:
        """Keeps what the base has of chunks that are open, also where the directory around them was made again."""
        for path, indices in self._open_chunks.items():
            known, array = self._known(path), self._staged.arrays.get(path)
            if known is None or array is None or not len(array.deletes):
                continue
            now, before = self._array(path), _grid_array(known)
            if now is not None and before is not None and now.layout == before.layout:
                array.deletes = difference(array.deletes, ChunkIndices.from_indices(array.ndim, indices))

    def _stage_renamed_chunks(self) -> None:
        parts: dict[NodePath, list[ArrayRefs]] = {}
        for found in self._renames.chunks(self._chunk_dirs, self._has_array_below):
            if isinstance(found, RenamedChunks) and found.target in self._holding.arrays:
                self._wait(tree_path(found.target), tree_path(found.target))
            elif isinstance(found, Invalid):
                if not self._waits(found.path, found.path):
                    self._staged.invalid.append(found)
            elif isinstance(found, RenamedFile):
                chunk_dirs = [chunk_dir for chunk_dir in self._chunk_dirs.of(found.directory) if chunk_dir.is_leaf]
                self._stage_file(chunk_dirs, found.directory, found.name, found.base_entry)
            else:
                self._take_over(found, parts)
        for path, refs in parts.items():
            alike = [replace(part, node_id=refs[0].node_id) for part in refs]
            self._staged_array(path, refs[0].ndim).reused = ArrayRefs.concat(alike)

    def _take_over(self, found: RenamedChunks, parts: dict[NodePath, list[ArrayRefs]]) -> None:
        source = found.source.path
        if found.is_same and source == found.target and self._known(source) is not None:
            # Back in its place: nothing of it was deleted.
            array = self._staged_array(source, found.refs.ndim)
            array.deletes = difference(array.deletes, found.refs.indices)
            back = found.refs.indices if found.cut is None else found.refs.indices.union(found.cut.indices)
            removed = self._dropped.removed
            removed[source] = difference(removed.get(source, back), back)
            return
        if found.cut is not None:
            if found.is_same and (source == found.target or self._known(found.target) is None):
                self._cut.setdefault(found.target, []).append(found.cut)
            else:  # the array did not shrink: somebody moved its chunks there
                self._refuse_outside(found.target, found.cut)
        refs = self._fitting(found)
        if not len(refs):
            return
        parts.setdefault(found.target, []).append(refs)
        if found.is_same and len(refs) == len(self._chunks.refs(found.source)):
            self._whole[source] = found.target

    def _refuse_outside(self, path: NodePath, cut: ArrayRefs) -> None:
        """Refuses renamed chunks that lie outside of the grid of the array that they come to."""
        array = self._array(path)
        assert array is not None  # of which they were found to be outside
        reason = _outside(array)
        for index in cut.indices:
            self._staged.invalid.append(Invalid(TreePath(node_prefix(path) + array.layout.format(index)), reason))

    def _fitting(self, found: RenamedChunks) -> ArrayRefs:
        """Refuses the chunks whose sizes the array that they come to does not allow; returns the others."""
        rows = self._unfit.taken_over(found.source, found.target, found.refs, is_same=found.is_same)
        if not rows.any():
            return found.refs
        array = self._array(found.target)
        assert array is not None  # which has directories for them
        bad = found.refs.select(rows)
        for index, length in zip(bad.indices, bad.lengths.tolist(), strict=True):
            reason = self._unfit.reason(array.path, index, length)
            assert reason is not None  # so much is known
            self._staged.invalid.append(Invalid(TreePath(node_prefix(array.path) + array.layout.format(index)), reason))
        return found.refs.select(~rows)

    def unfit_edits(self) -> dict[NodePath, str]:
        """Says of each array whose edited `zarr.json` rules out the sizes of chunks that it keeps which these are."""
        found = {}
        for path in self._staged.nodes:
            known, array = self._known(path), self._array(path)
            before = None if known is None else _grid_array(known)
            if known is None or before is None or array is None or path in self._staged.made:
                continue
            if before.layout != array.layout or not self._unfit.is_stricter(known, path):
                continue
            refs = self._chunks.refs(known)
            rows = ~outside(refs, array.grid_shape)
            changed = self._staged.arrays.get(path)
            if changed is not None:
                rows &= ~contained(refs.indices, changed.written().union(changed.deletes))
            refs = refs.select(rows)
            refs = refs.select(self._unfit.taken_over(known, path, refs, is_same=True))
            if len(refs):
                found[path] = self._unfit.edit_reason(path, refs)
        return found

    def _zarr_json(self, path: NodePath) -> bytes:
        """Returns what the `zarr.json` of an array says after the commit."""
        data = self._staged.nodes.get(path)
        return self._base.node(path).user_data if data is None else data

    def _has_array_below(self, path: NodePath) -> bool:
        stem = f"{path.rstrip('/')}/"
        if any(one.startswith(stem) and m.node_type is NodeType.ARRAY for one, m in self._metadata.items()):
            return True
        if not self._base.has_children(path):
            return False
        return any(node.path != path and self._array(node.path) for node in self._base.list_nodes(path))

    def _relayout(self) -> None:
        """Drops the chunks of arrays whose `zarr.json` names chunks otherwise now: their files are no chunks."""
        for path in self._staged.nodes:
            known, array = self._known(path), self._array(path)
            before = None if known is None else _grid_array(known)
            if before is not None and array is not None and before.layout != array.layout:
                self._delete(path, self._chunks.refs(self._base.node(path)).indices)

    def _find_dropped(self) -> None:
        """Notes the chunks that nobody removed and that are gone all the same."""
        staged = self._staged
        for path in staged.nodes:
            node = self._base.get_node(path) if path in self._paths else None
            before = None if node is None else _grid_array(node)
            if node is None or before is None or (path in staged.made and path not in self._retyped):
                continue
            changed = staged.arrays.get(path) or StagedArray(len(before.grid_shape))
            dropped = self._dropped.find(node, before, self._metadata[path], self._array(path), changed)
            if dropped is not None:
                staged.dropped.append((path, dropped))
                self._delete(path, dropped.indices)  # so that the transaction log has it, too
        for path, parts in self._cut.items():
            refs = ArrayRefs.concat([replace(part, node_id=parts[0].node_id) for part in parts])
            array = self._array(path)
            assert array is not None  # of which they were found to be outside
            staged.dropped.append((path, Dropped(refs.indices, refs.lengths, outside_reason(array.grid_shape))))
        staged.dropped.sort(key=lambda one: one[0])

    # Renames as moves.

    def _find_moves(self) -> None:
        """Works out whether the renames are all there is, and moves could express them."""
        staged = self._staged
        moved: dict[NodePath, NodePath] = {
            node.path: path
            for path, node in self._renames.nodes.items()
            if node.path in self._gone and path in staged.made and staged.nodes[path] == node.user_data
        }
        staged.renames = sorted(pair for pair in moved.items() if not _came_along(*pair, moved))
        if not moved or len(set(moved.values())) != len(moved) or "/" in moved:
            return
        is_all = moved.keys() == self._gone and set(moved.values()) == set(staged.nodes) == staged.made
        if is_all and self._chunks_moved(moved) and all(self._is_in_group(path) for path in moved.values()):
            staged.moves = sorted(moved.items())

    def _chunks_moved(self, moved: dict[NodePath, NodePath]) -> bool:
        sources = {target: source for source, target in moved.items()}
        for path, array in self._staged.arrays.items():
            source = sources.get(path)
            if source is None or array.sets or len(array.deletes) or self._whole.get(source) != path:
                return False
            if array.reused is None or len(array.reused) != len(self._chunks.refs(self._base.node(source))):
                return False
        for source, target in moved.items():
            node = self._base.node(source)
            if node.array is not None and target not in self._staged.arrays and len(self._chunks.refs(node)):
                return False
        return True

    def _is_in_group(self, path: NodePath) -> bool:
        above = parent_node(path)
        metadata = self._metadata.get(above)
        if metadata is not None:
            return metadata.node_type is NodeType.GROUP
        known = self._known(above)
        return known is not None and known.array is None


def _damage(file: FrozenFile) -> str:
    """Says what is wrong with a file of which bytes are missing."""
    return lost.REASON if file.is_lost else "its bytes are not all there; write it again, or remove it"


def _came_along(source: NodePath, target: NodePath, moved: dict[NodePath, NodePath]) -> bool:
    """Tells whether a node is elsewhere only because the one above it is."""
    above, _, name = source.rpartition("/")
    return above in moved and target == f"{moved[NodePath(above)]}/{name}"


def _outside(array: GridArray) -> str:
    """Says why a file with the name of a chunk is none."""
    return f"is outside of the grid {list(array.grid_shape)} of {array.path}"


def _grid_array(node: NodeSnapshot) -> GridArray | None:
    if node.array is None:
        return None
    layout = ChunkKeyLayout.of_metadata(node.user_data, len(node.array.shape))
    return GridArray(node.path, layout, tuple(dimension.num_chunks for dimension in node.array.shape))

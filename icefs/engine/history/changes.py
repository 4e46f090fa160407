"""How the keys of one snapshot differ from those of another: what a cache of the first must forget.

Nodes are compared by their snapshots. Chunks are looked at only in arrays whose manifest references or grid differ:
by the transaction logs in between where the new snapshot descends from the old one and its logs are all there, and
otherwise (a reset branch, an amended commit, pruned logs) by comparing the columns of those manifests that are not
in both. The answer may name a chunk that was written with the same content; it never leaves out one that differs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt

from icefs.engine.history.ancestry import ancestry_as_seen
from icefs.engine.history.diff import chain_between, fetch_logs, updated_chunks
from icefs.engine.read.chunks import ArrayChunks
from icefs.engine.read.session import Session
from icefs.errors import FormatError, NotAnObjectError, NotFoundError, ObjectNotFoundError, StorageError
from icefs.format.chunk_indices import ChunkIndices, pack_keys
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath

type BoolArray = npt.NDArray[np.bool_]
type Int64Array = npt.NDArray[np.int64]

# Beyond this many commits, comparing two manifests is less work than reading the logs of all.
_MAX_LOGS: Final = 64


@dataclass(frozen=True, slots=True)
class Changes:
    """How the tree of one snapshot differs from that of another; paths are absolute node paths.

    Attributes:
        old_id: The snapshot that is compared from.
        new_id: The snapshot that is compared to.
        new: Paths that have a node in the new snapshot only.
        deleted: Paths that have a node in the old snapshot only.
        updated: Paths whose zarr.json has other bytes; an array's may give its chunks other names.
        moved: Old and new path of each node that has another path; these are in the other sets too.
        chunks: For arrays that have the same path in both: the indices of chunks that were set, replaced or
            removed, or None where any of them may have been.
    """

    old_id: SnapshotId
    new_id: SnapshotId
    new: frozenset[NodePath] = frozenset()
    deleted: frozenset[NodePath] = frozenset()
    updated: frozenset[NodePath] = frozenset()
    moved: tuple[tuple[NodePath, NodePath], ...] = ()
    chunks: Mapping[NodePath, ChunkIndices | None] = MappingProxyType({})

    def is_empty(self) -> bool:
        """Tells whether every key has the same content in both."""
        return not (self.new or self.deleted or self.updated or self.moved or self.chunks)


def compare(old: Session, new: Session) -> Changes:
    """Compares two snapshots of one repository; of an array whose manifests cannot be read, any chunk may differ."""
    if old.snapshot_id == new.snapshot_id:
        return Changes(old.snapshot_id, new.snapshot_id)
    before, after = dict(_nodes(old)), dict(_nodes(new))
    old_paths = {node.id: path for path, node in before.items() if node is not None}
    moved = [
        (old_paths[node.id], path)
        for path, node in after.items()
        if node is not None and old_paths.get(node.id, path) != path
    ]
    updated = set()
    chunks: dict[NodePath, ChunkIndices | None] = {}
    candidates: list[tuple[NodePath, NodeSnapshot, NodeSnapshot]] = []
    for path in before.keys() & after.keys():
        one, other = before[path], after[path]
        if one is None or other is None:
            updated.add(path)
            chunks[path] = None
            continue
        if one.user_data != other.user_data:
            updated.add(path)
        if one.array is None or other.array is None:
            if one.array is not other.array:
                chunks[path] = None
        elif one.id != other.id or len(one.array.shape) != len(other.array.shape):
            chunks[path] = None
        elif one.array.manifests != other.array.manifests or _grid(one) != _grid(other):
            candidates.append((path, one, other))
    logged = _logged_chunks(old, new) if candidates else None
    for path, one, other in candidates:
        try:
            found = _array_changes(old.array_chunks(one), new.array_chunks(other), logged)
        except (FormatError, StorageError):
            found = None
        if found is None or len(found):
            chunks[path] = found
    return Changes(
        old.snapshot_id,
        new.snapshot_id,
        new=frozenset(after.keys() - before.keys()),
        deleted=frozenset(before.keys() - after.keys()),
        updated=frozenset(updated),
        moved=tuple(sorted(moved)),
        chunks=MappingProxyType(chunks),
    )


def _nodes(session: Session) -> Iterator[tuple[NodePath, NodeSnapshot | None]]:
    """Yields the path and node of each node; None for one that is malformed, which differs from everything."""
    for path in session.snapshot.paths:
        try:
            yield path, session.get_node(path)
        except FormatError:
            yield path, None


def _grid(node: NodeSnapshot) -> tuple[int, ...]:
    return () if node.array is None else tuple(dimension.num_chunks for dimension in node.array.shape)


def _logged_chunks(old: Session, new: Session) -> dict[NodeId, ChunkIndices] | None:
    """Returns what transaction logs say that changed between two snapshots; None where they do not say all."""
    try:
        history = ancestry_as_seen(new.context, new.snapshot_id)
        chain = chain_between(islice(history, _MAX_LOGS + 1), old.snapshot_id)
        if chain is None or sum(1 + len(info.pruned_ancestor_tx_logs) for info in chain) > _MAX_LOGS:
            return None
        logs, is_complete = fetch_logs(new.context.assets, chain)
    except (NotFoundError, ObjectNotFoundError, FormatError, NotAnObjectError):
        return None  # a snapshot that the history does not have, a log that is gone or malformed
    return updated_chunks(logs) if is_complete else None


def _array_changes(
    old: ArrayChunks, new: ArrayChunks, logged: Mapping[NodeId, ChunkIndices] | None
) -> ChunkIndices | None:
    if logged is not None and not _grid_hides(old, new):
        indices = logged.get(new.node.id)
        if indices is None:
            return ChunkIndices([np.empty(0, np.uint32)] * new.ndim, 0)
        return indices if indices.ndim == new.ndim or not len(indices) else None
    if old.ndim == 0:
        same = old.find(()) == new.find(())
        return ChunkIndices([], 0 if same else 1)
    return compare_refs(old.refs_besides(new), new.refs_besides(old))


def _grid_hides(old: ArrayChunks, new: ArrayChunks) -> bool:
    """Tells whether chunks may appear or vanish because the grid changed, which no log has to mention."""
    if old.grid_shape == new.grid_shape:
        return False
    smaller = tuple(map(min, old.grid_shape, new.grid_shape))
    return old.reaches_beyond(smaller) or new.reaches_beyond(new.grid_shape)


def compare_refs(old: ArrayRefs | None, new: ArrayRefs | None) -> ChunkIndices:
    """Returns the indices of the chunks that are in one of two sets of references only, or differ.

    Args:
        old: References of an array that has dimensions; None stands for no references.
        new: The same; at least one of the two must not be None, or nothing can differ.
    """
    if old is None or new is None:
        only = old if new is None else new
        return ChunkIndices([], 0) if only is None else only.indices
    old_keys, new_keys = pack_keys(old.coords, new.coords)
    at = np.minimum(new_keys.searchsorted(old_keys), max(0, len(new_keys) - 1))
    in_both = new_keys[at] == old_keys if len(new_keys) else np.zeros(len(old_keys), np.bool_)
    old_rows = np.flatnonzero(in_both)
    new_rows = at[old_rows]
    differs = _differing(old, old_rows, new, new_rows)
    kept = np.zeros(len(new), np.bool_)
    kept[new_rows[~differs]] = True
    gone = ~in_both
    return old.indices.select(gone).union(new.indices.select(~kept))


def _differing(old: ArrayRefs, old_rows: Int64Array, new: ArrayRefs, new_rows: Int64Array) -> BoolArray:
    """Tells for each pair of rows whether the references differ."""
    differs: BoolArray = (
        (old.kinds[old_rows] != new.kinds[new_rows])
        | (old.lengths[old_rows] != new.lengths[new_rows])
        | (old.offsets[old_rows] != new.offsets[new_rows])
        | (old.chunk_ids[old_rows] != new.chunk_ids[new_rows]).any(axis=1)
    )
    kinds = old.kinds[old_rows]
    if old.inline is not None and new.inline is not None:
        pairs = np.flatnonzero(~differs & (kinds == ChunkKind.INLINE))
        mine = old.inline.rows.searchsorted(old_rows[pairs]).tolist()
        theirs = new.inline.rows.searchsorted(new_rows[pairs]).tolist()
        data, new_data = old.inline.data, new.inline.data
        differs[pairs] = [data[i] != new_data[j] for i, j in zip(mine, theirs, strict=True)]
    if old.virtual is not None and new.virtual is not None:
        pairs = np.flatnonzero(~differs & (kinds == ChunkKind.VIRTUAL))
        if len(pairs):
            mine = old.virtual.rows.searchsorted(old_rows[pairs]).tolist()
            theirs = new.virtual.rows.searchsorted(new_rows[pairs]).tolist()
            one, other = _virtual_parts(old), _virtual_parts(new)
            differs[pairs] = [
                any(part[i] != counterpart[j] for part, counterpart in zip(one, other, strict=True))
                for i, j in zip(mine, theirs, strict=True)
            ]
    return differs


def _virtual_parts(refs: ArrayRefs) -> tuple[Sequence[object], ...]:
    virtual = refs.virtual
    assert virtual is not None  # asked for only where there are some
    return refs.virtual_locations(), list(virtual.etags), virtual.last_modified.tolist(), virtual.has_etag.tolist()

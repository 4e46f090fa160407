"""What is staged, in JSON: by node and chunk counts for `status`, down to the chunk indices for `diff`.

Paths are those of nodes, as programs have them: without a leading slash. A node is listed once: as new, updated,
deleted or renamed; what only came along with a renamed group is not listed at all.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import Any, Final, NamedTuple

from icefs.engine.read.chunks import ALL_ROWS, ArrayChunks
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import difference
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath, node_and_ancestors
from icefs.words import node_key
from icefs.worktree.stage.staged import Staged, StagedArray, source_size

NOTHING_STAGED: Final[Mapping[str, Any]] = {
    "new_nodes": [],
    "updated_nodes": [],
    "deleted_nodes": [],
    "renamed_nodes": [],
    "chunks": {},
    "dropped_chunks": [],
}
"""The staged part of a status without changes."""


class _Nodes(NamedTuple):
    """The paths of nodes as Icechunk has them, by what became of them."""

    new: list[NodePath]
    updated: list[NodePath]
    deleted: list[NodePath]
    renamed: list[tuple[NodePath, NodePath]]

    def facts(self) -> dict[str, Any]:
        """Returns them in JSON."""
        return {
            "new_nodes": list(map(node_key, self.new)),
            "updated_nodes": list(map(node_key, self.updated)),
            "deleted_nodes": list(map(node_key, self.deleted)),
            "renamed_nodes": [{"from": node_key(source), "to": node_key(target)} for source, target in self.renamed],
        }


class StagedReport:
    """Describes the staged changes over a base.

    Attributes:
        staged: What is described.
        base: What it is staged over.
    """

    def __init__(self, staged: Staged, base: Session) -> None:
        self.staged = staged
        self.base = base
        self._origins = {target: source for source, target in staged.renames}
        self._dropped = _by_array(staged)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """What `status` lists.

        Raises:
            FormatError, StorageError: manifests of the base cannot be read.
        """
        return {
            **self._nodes().facts(),
            "chunks": dict(self._chunks(self._count)),
            "dropped_chunks": dropped_counts(self.staged),
        }

    @property
    def num_nodes(self) -> int:
        """How many nodes it lists."""
        nodes = self._nodes()
        return len(nodes.new) + len(nodes.updated) + len(nodes.deleted) + len(nodes.renamed)

    @property
    def num_chunks(self) -> int:
        """How many written and deleted chunks it lists."""
        count = 0
        for path, array in self.staged.arrays.items():
            deleted = self._deleted(path, array)
            moved = 0 if self._origin(path) != path or array.reused is None else len(array.reused)
            count += len(array.sets) + moved + len(deleted)
        return count

    def details(self) -> dict[str, Any]:
        """Returns the same for `diff`: each chunk with its sizes, and each node's zarr.json with its."""
        nodes = self._nodes()
        metadata = {
            node_key(path): {"old_bytes": self._old_size(path), "new_bytes": len(self.staged.nodes[path])}
            for path in sorted([*nodes.new, *nodes.updated])
        }
        return {
            **nodes.facts(),
            "metadata": metadata,
            "chunks": dict(self._chunks(self._list)),
            "dropped_chunks": [
                {**counted, "chunks": _removed_rows(dropped.indices, dropped.lengths.tolist())}
                for counted, (_, dropped) in zip(dropped_counts(self.staged), self.staged.dropped, strict=True)
            ],
        }

    # Nodes.

    def _origin(self, path: NodePath) -> NodePath:
        """Returns where a node was in the base."""
        for above in node_and_ancestors(path):
            if above in self._origins:
                return NodePath(self._origins[above] + path[len(above) :])
        return path

    def _node_before(self, path: NodePath) -> NodeSnapshot | None:
        origin = self._origin(path)
        if origin == path and path in self.staged.made:
            return None
        return self.base.get_node(origin)

    def _old_size(self, path: NodePath) -> int | None:
        node = self._node_before(path)
        return None if node is None else len(node.user_data)

    def _nodes(self) -> "_Nodes":
        staged = self.staged
        new, updated = [], []
        for path, data in staged.nodes.items():
            before = self._node_before(path)
            if before is None:
                new.append(path)
            elif before.user_data != data:
                updated.append(path)
        left = {source for source, _ in staged.renames}
        deleted = [path for path in staged.deleted if path not in left]
        return _Nodes(sorted(new), sorted(updated), deleted, sorted(staged.renames))

    # Chunks.

    def _chunks(self, describe: "Describe") -> Iterable[tuple[str, dict[str, Any]]]:
        for path, array in sorted(self.staged.arrays.items()):
            node = self._node_before(path)
            before = None if node is None or node.array is None else self.base.array_chunks(node)
            came_along = self._origin(path) != path
            deleted = self._deleted(path, array)
            described = describe(array, deleted, before, came_along)
            if any(described.values()):
                yield node_key(path), described

    def _deleted(self, path: NodePath, array: StagedArray) -> ChunkIndices:
        """Returns which chunks are gone that no `zarr.json` drops."""
        deleted, dropped = array.deletes, self._dropped.get(path)
        origin = self._origin(path)
        if origin != path and not self.staged.moves:
            # A renamed array is made again, without the chunks that it has lost: nothing of it is deleted.
            node = self.base.get_node(origin)
            if node is not None and node.array is not None and len(node.array.shape) == array.ndim:
                batches = self.base.array_chunks(node).iter_batches(ALL_ROWS)
                had = [batch.refs.indices for batch in batches]
                if had:
                    deleted = difference(had[0].union(*had[1:]), array.written()).union(deleted)
        return deleted if dropped is None else difference(deleted, dropped)

    @staticmethod
    def _count(
        array: StagedArray, deleted: ChunkIndices, before: ArrayChunks | None, came_along: bool
    ) -> dict[str, Any]:
        rewritten = 0 if before is None else sum(before.length(index) is not None for index in array.sets)
        moved = 0 if came_along or array.reused is None else len(array.reused)
        return {"written": len(array.sets) + moved, "rewritten": rewritten, "deleted": len(deleted)}

    @staticmethod
    def _list(
        array: StagedArray, deleted: ChunkIndices, before: ArrayChunks | None, came_along: bool
    ) -> dict[str, Any]:
        def old(index: tuple[int, ...]) -> int | None:
            return None if before is None else before.length(index)

        written: list[dict[str, Any]] = [
            {"index": list(index), "old_bytes": old(index), "new_bytes": source_size(source)}
            for index, source in sorted(array.sets.items())
        ]
        if array.reused is not None and not came_along:
            lengths = array.reused.lengths.tolist()
            written += [
                {"index": list(index), "old_bytes": old(index), "new_bytes": length}
                for index, length in zip(array.reused.indices, lengths, strict=True)
            ]
            written.sort(key=lambda row: row["index"])
        return {"written": written, "deleted": _removed_rows(deleted, map(old, deleted))}


type Describe = Callable[[StagedArray, ChunkIndices, ArrayChunks | None, bool], dict[str, Any]]


def dropped_counts(staged: Staged) -> list[dict[str, Any]]:
    """Returns how many chunks of which array go with a rewritten zarr.json, and why."""
    return [
        {"path": node_key(path), "count": len(dropped.indices), "reason": dropped.reason}
        for path, dropped in staged.dropped
    ]


def count_changes(status: Mapping[str, Any]) -> int:
    """Counts the changes that a `status.json` lists: nodes, chunks, and files that no commit takes."""
    staged = status["staged"]
    nodes: int = sum(len(staged[kind]) for kind in ("new_nodes", "updated_nodes", "deleted_nodes", "renamed_nodes"))
    chunks: int = sum(counted["written"] + counted["deleted"] for counted in staged["chunks"].values())
    left = {*status["untracked"], *(one["path"] for kind in ("invalid", "open") for one in status[kind])}
    return nodes + chunks + len(left)


def _by_array(staged: Staged) -> dict[str, ChunkIndices]:
    found: dict[str, ChunkIndices] = {}
    for path, dropped in staged.dropped:
        found[path] = dropped.indices.union(found[path]) if path in found else dropped.indices
    return found


def _removed_rows(indices: ChunkIndices, sizes: Iterable[int | None]) -> list[dict[str, Any]]:
    return [
        {"index": list(index), "old_bytes": size, "new_bytes": None} for index, size in zip(indices, sizes, strict=True)
    ]

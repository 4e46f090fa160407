"""A group or an array of a hierarchy, as a hierarchy of its own."""

from collections.abc import Collection, Hashable, Iterator, Sequence
from typing import override

from icefs.paths import ROOT_NODE, NodePath
from icefs.views.interface import Hierarchy, HierarchyFacts, LastingValue, ViewedNode
from icefs.zarr.keys import ChunkIndex, node_prefix


class PartHierarchy(Hierarchy):
    """The nodes and chunks at and below one node, which is the root here."""

    def __init__(self, hierarchy: Hierarchy, top: NodePath) -> None:
        """Takes the hierarchy, and the path of the node in it."""
        self._hierarchy = hierarchy
        self._top = top

    @property
    @override
    def facts(self) -> HierarchyFacts:
        return self._hierarchy.facts

    @property
    @override
    def version(self) -> Hashable:
        return self._hierarchy.version, self._top

    @override
    def nodes(self) -> Sequence[ViewedNode]:
        stem = f"/{node_prefix(self._top)}"
        return [
            ViewedNode(NodePath(f"/{node.path[len(stem) :]}"), node.document, node.time_ns)
            for node in self._hierarchy.nodes()
            if node.path == self._top or node.path.startswith(stem)
        ]

    @override
    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes | None:
        return self._hierarchy.read(node_prefix(self._top) + key, start, stop)

    @override
    def lasting(self, key: str) -> LastingValue | None:
        return self._hierarchy.lasting(node_prefix(self._top) + key)

    @override
    def size(self, key: str) -> int | None:
        return self._hierarchy.size(node_prefix(self._top) + key)

    @override
    def chunk_indices(self, array: NodePath) -> Iterator[ChunkIndex]:
        return self._hierarchy.chunk_indices(self._path(array))

    @override
    def has_chunk(self, array: NodePath, index: ChunkIndex) -> bool:
        return self._hierarchy.has_chunk(self._path(array), index)

    @override
    def changed_chunks(self, array: NodePath, earlier: Hierarchy) -> Collection[ChunkIndex] | None:
        if not isinstance(earlier, PartHierarchy) or earlier._top != self._top:
            return None
        return self._hierarchy.changed_chunks(self._path(array), earlier._hierarchy)

    def _path(self, node: NodePath) -> NodePath:
        return self._top if node == ROOT_NODE else NodePath(self._top.rstrip("/") + node)

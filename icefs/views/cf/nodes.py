"""Groups and arrays of a hierarchy, with what their `zarr.json` says.

Documents are parsed when their group is looked at, not before: a hierarchy may have a million nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from icefs.errors import InvalidMetadataError
from icefs.format.snapshot.nodes import NodeType
from icefs.format.zarr_json import document_of, parse_zarr_json
from icefs.paths import ROOT_NODE, NodePath, node_and_ancestors
from icefs.views.interface import Hierarchy, ViewedNode


@dataclass(frozen=True, slots=True)
class ArrayNode:
    """An array as its `zarr.json` describes it.

    Attributes:
        path: Its path.
        name: The last component; `data` for an array that is the root.
        shape: Its shape.
        dimensions: The name of each dimension; None for one that has none.
        fill: The member `fill_value`.
        attributes: Its attributes.
        time_ns: When it was changed last.
    """

    path: NodePath
    name: str
    shape: tuple[int, ...]
    dimensions: tuple[str | None, ...]
    fill: Any
    attributes: Mapping[str, Any]
    time_ns: int

    @property
    def is_coordinate(self) -> bool:
        """Whether it is one-dimensional, along a dimension of its own name."""
        return self.dimensions == (self.name,)


@dataclass(frozen=True, slots=True)
class GroupNode:
    """A group.

    Attributes:
        path: Its path.
        attributes: Its attributes.
        arrays: The arrays in it, ordered by name.
        groups: The paths of the groups in it, ordered by name.
        unread: Arrays whose `zarr.json` no reader could read, by path, with the reason.
        time_ns: The newest of it and its arrays.
    """

    path: NodePath
    attributes: Mapping[str, Any]
    arrays: Sequence[ArrayNode]
    groups: Sequence[NodePath]
    unread: Mapping[NodePath, str]
    time_ns: int

    @property
    def name(self) -> str:
        """The last component of its path; empty for the root."""
        return self.path.rpartition("/")[2]


class Nodes:
    """The nodes of a hierarchy, found by path."""

    def __init__(self, hierarchy: Hierarchy) -> None:
        self._by_path: dict[NodePath, ViewedNode] = {}
        self._children: dict[NodePath, set[NodePath]] = {ROOT_NODE: set()}
        self._newest: dict[NodePath, int] = {}
        for node in hierarchy.nodes():
            self._by_path[node.path] = node
            below = None
            for path in node_and_ancestors(node.path):
                if below is not None:
                    self._children.setdefault(path, set()).add(below)
                self._newest[path] = max(self._newest.get(path, 0), node.time_ns)
                below = path

    def newest(self, path: NodePath) -> int:
        """Returns when a node or one below it was changed last; nanoseconds since the epoch."""
        return self._newest.get(path, 0)

    def group(self, path: NodePath) -> GroupNode:
        """Returns a group, with its children."""
        own = self._by_path.get(path)
        arrays, groups, unread = [], [], {}
        children = sorted(self._children.get(path, ()))
        if own is not None and path == ROOT_NODE and _is_array(document_of(own.document)):
            children, own = [ROOT_NODE], None
        for child in children:
            node = self._by_path.get(child)
            document = None if node is None else document_of(node.document)
            if node is None or not _is_array(document):
                groups.append(child)
                continue
            try:
                arrays.append(_array(node, document or {}))
            except InvalidMetadataError as error:
                unread[child] = error.own_message
        attributes = {} if own is None else _attributes(document_of(own.document))
        times = [array.time_ns for array in arrays] + ([] if own is None else [own.time_ns])
        return GroupNode(path, attributes, arrays, groups, unread, max(times, default=self.newest(path)))


def _is_array(document: Mapping[str, Any] | None) -> bool:
    return document is not None and document.get("node_type") == NodeType.ARRAY


def _array(node: ViewedNode, document: Mapping[str, Any]) -> ArrayNode:
    parsed = parse_zarr_json(node.document, name=f"{node.path}/zarr.json")
    names = parsed.dimension_names
    rank = len(parsed.shape)
    dimensions = names if names is not None and len(names) == rank else (None,) * rank
    name = node.path.rpartition("/")[2] or "data"
    fill, attributes = document.get("fill_value"), _attributes(document)
    return ArrayNode(
        node.path, name, parsed.shape, _without_two_sizes(dimensions, parsed.shape), fill, attributes, node.time_ns
    )


def _without_two_sizes(names: Sequence[str | None], shape: Sequence[int]) -> tuple[str | None, ...]:
    """Returns an array's dimensions; one that has a name again, with another size, has none."""
    sizes: dict[str, int] = {}
    return tuple(
        None if name is None or sizes.setdefault(name, size) != size else name
        for name, size in zip(names, shape, strict=True)
    )


def _attributes(document: Mapping[str, Any] | None) -> Mapping[str, Any]:
    found = None if document is None else document.get("attributes")
    return found if isinstance(found, dict) else {}

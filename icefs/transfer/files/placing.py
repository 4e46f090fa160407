"""Where a tree's groups and arrays go in a repository."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from icefs.engine.read.session import Session
from icefs.engine.write.session import WritableSession
from icefs.errors import AlreadyExistsError, InvalidInputError
from icefs.format.snapshot.nodes import NodeSnapshot, is_canonical_path
from icefs.paths import ROOT_NODE, NodePath, node_and_ancestors
from icefs.transfer.files.model import Document, FileArray, FileTree


@dataclass(slots=True)
class Placement:
    """What becomes of a repository's nodes, but for the arrays.

    Attributes:
        groups: The groups to make or to give attributes to, from the top down.
        replaced: The nodes that are deleted first.
    """

    groups: dict[NodePath, dict[str, Any]] = field(default_factory=dict)
    replaced: list[NodePath] = field(default_factory=list)

    def apply(self, session: WritableSession) -> None:
        """Deletes and makes these nodes."""
        for path in self.replaced:
            session.nodes.delete(path)
        for path, attributes in self.groups.items():
            document = {"zarr_format": 3, "node_type": "group", "attributes": attributes}
            session.nodes.put(path, json.dumps(document, indent=2).encode())


def check_request(path: NodePath, concat: str | None, *, append: bool, overwrite: bool) -> None:
    """Raises InvalidInputError for a place that none can be, or options that do not go together."""
    if not is_canonical_path(path):
        raise InvalidInputError(f"{path!r} is not the absolute path of a node", kind="invalid-path")
    if append and concat is None:
        raise InvalidInputError("--append needs the dimension that grows", hint="name it with --concat DIM")
    if append and overwrite:
        raise InvalidInputError("--append and --overwrite exclude each other")


def place_new[A: FileArray](base: Session, tree: FileTree[A], top: NodePath, *, overwrite: bool) -> Placement:
    """Returns what makes room for a tree's arrays, and its groups, below `top`.

    Raises:
        AlreadyExistsError: an array, or a group in an array's place, exists, and `overwrite` is off.
    """
    placement = Placement(_groups(base, tree, top))
    there = [above for above in placement.groups if _is_array(base, above)]
    there.extend(target for array in tree.arrays if base.get_node(target := below(top, array)) is not None)
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise AlreadyExistsError(
            f"{min(there)}{more} exists already in branch {base.branch or 'main'!r}",
            paths=sorted(there),
            hint="add to what is there with --append, choose another --path, or replace it with --overwrite",
        )
    placement.replaced = sorted(there)
    return placement


def place_appended[A: FileArray](
    base: Session, tree: FileTree[A], top: NodePath, dimension: str
) -> Sequence[tuple[A, NodeSnapshot]]:
    """Returns a tree's arrays with the nodes below `top` that they are added to along a dimension.

    Raises:
        InvalidInputError: an array is not there, or one that is there would not grow (kind `not-alike`).
    """
    found = []
    for array in tree.arrays.values():
        node = base.get_node(below(top, array.path))
        if node is None or node.array is None:
            raise InvalidInputError(
                f"{array.path} of {array.file} is not in the repository, and nothing can be appended to it",
                kind="not-alike",
                hint=f"leave it out with --drop {array.path}",
            )
        found.append((array, node))
    targets = {node.path for _, node in found}
    for node in base.list_nodes(top) if base.get_node(top) is not None else ():
        if node.array is not None and node.path not in targets and dimension in _dimensions(node):
            raise InvalidInputError(
                f"{node.path} has the dimension {dimension}, and is not in {tree.file}: it would stay shorter",
                kind="not-alike",
            )
    return found


def below(top: NodePath, path: str) -> NodePath:
    """Returns the node path of a file's path below `top`."""
    return NodePath(f"{top.rstrip('/')}/{path}".rstrip("/") or ROOT_NODE)


def document_of_node(node: NodeSnapshot) -> Document:
    """Returns a node's `zarr.json`."""
    document: Document = json.loads(node.user_data)
    return document


def _groups[A: FileArray](base: Session, tree: FileTree[A], top: NodePath) -> dict[NodePath, dict[str, Any]]:
    found: dict[NodePath, dict[str, Any]] = {}
    wanted = {below(top, path): attributes for path, attributes in tree.groups.items()}
    for path in (*wanted, *(below(top, array) for array in tree.arrays)):
        for above in reversed(list(node_and_ancestors(path))[1:]):
            if base.get_node(above) is None:
                found.setdefault(above, {})
    for path, attributes in wanted.items():
        node = base.get_node(path)
        if node is None or (node.array is None and not document_of_node(node).get("attributes")):
            found[path] = attributes
    return dict(sorted(found.items()))


def _dimensions(node: NodeSnapshot) -> Sequence[str | None]:
    return document_of_node(node).get("dimension_names") or ()


def _is_array(base: Session, path: NodePath) -> bool:
    node = base.get_node(path)
    return node is not None and node.array is not None

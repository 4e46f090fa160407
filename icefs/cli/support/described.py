"""Nodes and keys of a repository in JSON."""

from typing import Any

from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ChunkRef, NativeRef, VirtualRef
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.format.zarr_json import document_of
from icefs.words import node_key
from icefs.zarr.keys import normalize_key


def describe_node(node: NodeSnapshot) -> dict[str, Any]:
    """Describes a group or array for programs; what its zarr.json does not say is None.

    A zarr.json that cannot be read leaves the node with a `problem`; the others are described all the same.
    """
    metadata = document_of(node.user_data)
    told = metadata or {}
    grid = told.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    chunks = configuration if isinstance(configuration, dict) else {}
    return {
        "path": node_key(node.path),
        "type": str(node.node_type),
        "id": str(node.id),
        "shape": _list(told.get("shape")),
        "chunk_shape": _list(chunks.get("chunk_shape", chunks.get("chunk_shapes"))),
        "dtype": told.get("data_type"),
        "dimension_names": _list(told.get("dimension_names")),
        "problem": None if metadata is not None else "its zarr.json is no JSON object",
    }


def _list(value: Any) -> list[Any] | None:
    return value if isinstance(value, list) else None


def describe_key(key: str, found: ChunkRef | NodeSnapshot) -> dict[str, Any]:
    """Describes for programs what a key names: where its bytes are, and how many."""
    kind, size, location, offset = "metadata", 0, None, None
    match found:
        case NodeSnapshot():
            size = len(found.user_data)
        case NativeRef():
            location, offset = chunk_key(found.chunk_id), found.offset_bytes
        case VirtualRef():
            location, offset = found.location, found.offset_bytes
    if not isinstance(found, NodeSnapshot):
        kind, size = found.kind.name.lower(), found.length_bytes
    return {"key": normalize_key(key), "kind": kind, "size_bytes": size, "location": location, "offset_bytes": offset}

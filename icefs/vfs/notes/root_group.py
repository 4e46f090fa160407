"""The note about a tree that has nodes, but no group at its root.

Icechunk holds nodes whose parents are no nodes: what `ds.to_zarr("mnt/surface")` leaves has no group at `/`. Readers
that begin at the root, such as `zarr.open_group` and `xarray.open_datatree`, find nothing there.
"""

from typing import Final

from icefs.errors import FormatError, StorageError
from icefs.paths import NodePath
from icefs.vfs.notes.consolidated import Nodes

_NO_ROOT: Final = "there is no group at /; open the nodes below by their paths"
_MAKE: Final = "or make it with zarr.create_group"


def root_notes(nodes: Nodes, *, is_writable: bool = True) -> list[str]:
    """Returns the line about a root that is no node while there are nodes below it; else nothing."""
    line = f"{_NO_ROOT}, {_MAKE}" if is_writable else _NO_ROOT
    try:
        return [line] if nodes.get("/") is None and _has_any(nodes) else []
    except (FormatError, StorageError):
        return []  # a note is not worth a failure; reading the node reports the fault


def _has_any(nodes: Nodes) -> bool:
    staged = nodes.staged
    if staged is None or not staged.gone:
        return bool(staged and staged.nodes) or nodes.base.has_children(NodePath("/"))
    return bool(staged.nodes) or any(node.path not in staged.gone for node in nodes.base.list_nodes())

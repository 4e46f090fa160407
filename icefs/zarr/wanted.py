"""What a path means that a user wants back from a version: a node, or a chunk."""

from icefs.engine.merge.restoration import Wanted
from icefs.engine.read.session import Session
from icefs.errors import InvalidInputError, NodeNotFoundError
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import node_path
from icefs.zarr.keys import normalize_key
from icefs.zarr.reader import KeyReader


def wanted_at(session: Session, text: str) -> Wanted:
    """Reads a node's path, or a chunk's key, in a version.

    Raises:
        NodeNotFoundError: the version has neither.
        InvalidInputError: it is the key of a `zarr.json`, which belongs to its node.
    """
    key = normalize_key(text)
    path = node_path(key)
    if session.get_node(path) is not None or session.has_children(path):
        return Wanted(path, None, key)
    try:
        located = KeyReader(session).locate(key)
    except InvalidInputError:
        located = None  # a node's name need not look like a key
    if isinstance(located, NodeSnapshot):
        raise InvalidInputError(
            f"a zarr.json comes back with its node: {text}", hint=f"restore {located.path.strip('/') or '/'}"
        )
    if located is None:
        raise NodeNotFoundError(f"nothing at {text} in {session.snapshot_id}", path=path)
    array, index = located
    return Wanted(array.path, index, key)

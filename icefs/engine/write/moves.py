"""Where nodes of a rearrange session may go: checks of paths, and the moves that pass them.

Source: spec 2.1 "Transaction log"; upstream icechunk/src/session.rs (`move_node`).
"""

from collections.abc import Mapping

from icefs.engine.write.changeset import NodeMove
from icefs.engine.write.draft import Draft
from icefs.errors import AlreadyExistsError, InvalidInputError, SessionStateError
from icefs.format.snapshot.nodes import is_canonical_path
from icefs.paths import NodePath, parent_node


def check_path(path: NodePath) -> None:
    """Refuses what is no path of a node.

    Raises:
        InvalidInputError: it is not absolute, or has an empty segment, `.` or `..`, a NUL or what is no Unicode (kind
            `invalid-path`).
    """
    try:
        is_valid = is_canonical_path(path) and b"\0" not in path.encode()
    except UnicodeEncodeError:
        is_valid = False
    if not is_valid:
        raise InvalidInputError(f"{path!r} is not the absolute path of a node", kind="invalid-path", path=path)


def planned_moves(draft: Draft, moves: Mapping[NodePath, NodePath]) -> list[NodeMove]:
    """Plans moves of single nodes, made at once; the caller holds the draft's gate.

    Args:
        draft: The draft that they are for.
        moves: The new path of each node, by the path that it has.

    Raises:
        InvalidInputError: one of the paths is none.
        SessionStateError: a node would be left without a group above it.
        NodeNotFoundError: nothing is at one of the paths.
        AlreadyExistsError: something is at a new path, and stays there.
    """
    for path in (*moves.keys(), *moves.values()):
        check_path(path)
    planned = [_moved(draft, from_path, to_path) for from_path, to_path in moves.items()]
    after = {node.path: node for node in draft.nodes() if node.path not in moves}
    stays = len(after)
    after |= {move.to_path: move.node for move in planned}
    if len(after) < stays + len(planned):
        raise AlreadyExistsError("two nodes cannot have one path", kind="move-wont-overwrite", moves=moves)
    for path in moves.values():
        parent = after.get(parent_node(path))
        if path == "/" or parent is None or parent.array is not None:
            kind = "move-destination-parent-" + ("missing" if parent is None else "not-group")
            raise SessionStateError(f"{path} has no group above it", kind=kind, path=path)
    return planned


def planned_move(draft: Draft, from_path: NodePath, to_path: NodePath) -> list[NodeMove]:
    """Plans the move of a node with all below it; the caller holds the draft's gate.

    Raises:
        InvalidInputError: one of the paths is none.
        SessionStateError: the target lies below the source, or its parent is missing or no group.
        NodeNotFoundError: nothing is at `from_path`.
        AlreadyExistsError: something is at `to_path`.
    """
    for path in (from_path, to_path):
        check_path(path)
    draft.node(from_path)
    if from_path in ("/", to_path) or to_path.startswith(from_path + "/"):
        raise SessionStateError(
            f"{from_path} cannot be moved into itself ({to_path})",
            kind="move-into-self-or-descendant",
            from_path=from_path,
            to_path=to_path,
        )
    if draft.get_node(to_path) is not None:
        raise AlreadyExistsError(f"{to_path} exists already", kind="move-wont-overwrite", path=to_path)
    parent_path = parent_node(to_path)
    parent = draft.get_node(parent_path) if to_path != "/" else None
    if parent is None:
        raise SessionStateError(
            f"{parent_path}, the parent of {to_path}, does not exist",
            kind="move-destination-parent-missing",
            parent=parent_path,
            to_path=to_path,
        )
    if parent.array is not None:
        raise SessionStateError(
            f"{parent_path}, the parent of {to_path}, is an array",
            kind="move-destination-parent-not-group",
            parent=parent_path,
            to_path=to_path,
        )
    paths = sorted(node.path for node in draft.nodes() if f"{node.path}/".startswith(f"{from_path}/"))
    return [_moved(draft, path, NodePath(to_path + path[len(from_path) :])) for path in paths]


def _moved(draft: Draft, from_path: NodePath, to_path: NodePath) -> NodeMove:
    base = draft.snapshot.node_by_id(draft.node(from_path).id)
    assert base is not None  # nothing is made in a rearrange session
    return NodeMove(base, to_path)

"""The way out of a rebase that met conflicts in a mounted branch: which side to choose, or what to discard.

A conflict over chunks or over a deletion has sides, and a rebase can choose one. All other conflicts have none: the
change has to be discarded, and made again on top of what others have committed. The change to discard depends on the
kind:

    NewNodeConflictsWithExistingNode      the group's zarr.json where both made a group; else the whole node
    NewNodeInInvalidGroup                 all below the array that others have made above the node
    ZarrMetadataDoubleUpdate,             the zarr.json of a group; of an array all of it, whose chunks may not fit
      …UpdateOfDeletedArray, …Group         the other metadata
    ChunksUpdatedInDeletedArray,          the array
      ChunksUpdatedInUpdatedArray
    DeleteOfUpdatedArray, …Group          the topmost node that was deleted; or ours counts, and it is deleted
    MoveOperationCannotBeRebased          everything: the conflict is with the move itself
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from icefs.engine.read.session import Session, session_at
from icefs.engine.write.conflicts import Conflict, ConflictType
from icefs.engine.write.session import WritableSession
from icefs.errors import RebaseFailedError
from icefs.format.ids import SnapshotId
from icefs.format.snapshot.nodes import NodeType
from icefs.paths import NodePath, node_and_ancestors
from icefs.vfs.commit.way_out import WayOut
from icefs.worktree.stage.staged import Staged, topmost
from icefs.zarr.keys import metadata_key

_DELETES: Final = frozenset({ConflictType.DeleteOfUpdatedArray, ConflictType.DeleteOfUpdatedGroup})
_OF_METADATA: Final = frozenset(
    {
        ConflictType.NewNodeConflictsWithExistingNode,
        ConflictType.ZarrMetadataDoubleUpdate,
        ConflictType.ZarrMetadataUpdateOfDeletedGroup,
    }
)


def tell_way_out(error: BaseException, how: str, staged: Staged, session: WritableSession) -> None:
    """Lets the error of a rebase say what to do in a mounted branch; `how` is how it was tried."""
    if not isinstance(error, RebaseFailedError) or not error.conflicts:
        return  # no changes conflict, and the error says by itself what to do
    theirs = session_at(session.context, SnapshotId.parse(str(error.snapshot)))
    way = find_way_out(error.conflicts, how, staged, session, theirs)
    error.facts |= {"discard": list(way.discard), "sides": list(way.sides)}
    error.hint = way.text()


def find_way_out(
    conflicts: Iterable[Conflict], how: str, staged: Staged, session: WritableSession, theirs: Session
) -> WayOut:
    """Finds out what to discard, and which sides there are.

    Args:
        conflicts: All conflicts with one commit.
        how: How the rebase was tried: `ours`, `theirs` or `fail`.
        staged: What is to be rebased.
        session: The changes that it became.
        theirs: The commit that they conflict with.
    """
    places: dict[str, None] = {}
    sides = ["ours", "theirs"] if how == "fail" else [how]
    has_sides = False
    for conflict in conflicts:
        kind = conflict.conflict_type
        if kind is ConflictType.ChunkDoubleUpdate:
            has_sides = True
        elif kind in _DELETES and how != "theirs":
            has_sides, sides = True, ["ours"]
        else:
            places[_place(conflict, session, theirs)] = None
    if "" in places:
        return WayOut(("",))
    return WayOut(tuple(_with_renames(places, staged.renames)), tuple(sides) if has_sides else ())


def _place(conflict: Conflict, session: WritableSession, theirs: Session) -> str:
    """Returns the path in the tree at which a change is to be discarded."""
    kind, path = conflict.conflict_type, conflict.path
    if kind is ConflictType.MoveOperationCannotBeRebased:
        return ""
    if kind in _DELETES:
        return _topmost_deleted(path, session)[1:]
    if kind in _OF_METADATA and _is_group(session, path) and _is_group_or_none(theirs, path):
        return metadata_key(path)
    return path[1:]


def _topmost_deleted(path: str, session: WritableSession) -> str:
    deleted = session.draft.changes.deleted
    return [above for above in node_and_ancestors(NodePath(path)) if above == path or above in deleted][-1]


def _is_group(session: Session, path: str) -> bool:
    node = session.get_node(NodePath(path))
    return node is not None and node.node_type == NodeType.GROUP


def _is_group_or_none(session: Session, path: str) -> bool:
    return session.get_node(NodePath(path)) is None or _is_group(session, path)


def _with_renames(places: Iterable[str], renames: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yields the topmost places, and both ends of each rename that they concern, the new one first.

    Discarding the new end alone would leave the node deleted; the old end cannot be discarded first.
    """
    found = topmost(NodePath(f"/{place}") for place in places)
    ends: dict[str, None] = {}
    starts: dict[str, None] = {}
    for old, new in renames:
        if any(_overlap(place, end) for place in found for end in (old, new)):
            ends[new], starts[old] = None, None
    rest = [place for place in found if not any(_overlap(place, end) for end in (*ends, *starts))]
    yield from (place[1:] for place in (*ends, *starts, *rest))


def _overlap(one: str, other: str) -> bool:
    return one == other or one.startswith(other.rstrip("/") + "/") or other.startswith(one.rstrip("/") + "/")

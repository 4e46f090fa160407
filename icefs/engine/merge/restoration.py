"""What a version has at a path, brought back to a branch: a chunk, an array, or a group with all below it.

The path comes to have what the version has there, and nothing else: nodes and chunks that were made since are deleted.
References are taken over; no chunk is read or copied.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from icefs.engine.history.changes import compare_refs
from icefs.engine.merge.patch import layout, rank
from icefs.engine.merge.references import all_refs, chunk_changes, equal_chunks
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet, with_manifests_of
from icefs.errors import ChunkNotFoundError, InvalidInputError, NodeNotFoundError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.ids import NodeId
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath, node_and_ancestors


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be brought back.

    Attributes:
        path: The node's path.
        chunk: The index of one chunk of it; None for the node with all that it has.
        name: What the user called it.
    """

    path: NodePath
    chunk: tuple[int, ...] | None
    name: str


def restoration(source: Session, target: Session, wanted: Wanted) -> ChangeSet:
    """Returns the changes to `target` that bring back what `source` has.

    Raises:
        NodeNotFoundError, ChunkNotFoundError: the source has nothing there.
        InvalidInputError: the target has no array for the chunk, or one whose chunks are others (kind
            `other-layout`); or an array stands where a group has to be.
        FormatError, StorageError: a manifest cannot be read.
    """
    changes = ChangeSet()
    if wanted.chunk is not None:
        _chunk(source, target, wanted, wanted.chunk, changes)
        return changes
    there = {node.path: node for node in source.list_nodes(wanted.path)}
    if not there:
        raise NodeNotFoundError(f"nothing at {wanted.path} in {source.snapshot_id}", path=wanted.path)
    here = {node.path: node for node in target.list_nodes(wanted.path)}
    for node in _groups_above(source, target, wanted.path):
        changes.put_node(_unused(node, target), None)
    for path, node in here.items():
        if path not in there or there[path].id != node.id:
            changes.delete_node(node, node)
    for path, node in there.items():
        now = here.get(path)
        if now is None or now.id != node.id:
            made = _unused(node, target)
            changes.put_node(with_manifests_of(made, None), None)
            if node.array is not None and len(refs := all_refs(source, node)):
                changes.chunk_changes(made).set_many(refs)
            continue
        if now.user_data != node.user_data:
            changes.put_node(with_manifests_of(node, now), now)
        if node.array is not None:
            _chunks_of(source, target, node, now, changes)
    return changes


def _chunk(source: Session, target: Session, wanted: Wanted, index: tuple[int, ...], changes: ChangeSet) -> None:
    node, now = source.get_node(wanted.path), target.get_node(wanted.path)
    ref = None if node is None or node.array is None else source.chunk_ref(wanted.path, index)
    if node is None or ref is None:
        raise ChunkNotFoundError(f"no chunk {wanted.name} in {source.snapshot_id}")
    if now is None or now.array is None or layout(now) != layout(node):
        what = "has no array there" if now is None or now.array is None else "has an array of other chunks there"
        raise InvalidInputError(
            f"cannot bring back {wanted.name} alone: the branch {what}",
            kind="other-layout",
            hint=f"restore the array {wanted.path}",
        )
    if target.chunk_ref(wanted.path, index) != ref:
        changes.chunk_changes(now).set(index, ref)


def _chunks_of(source: Session, target: Session, node: NodeSnapshot, now: NodeSnapshot, changes: ChangeSet) -> None:
    """Has an array's chunks be those of the source."""
    refs = all_refs(source, node)
    if rank(node) != rank(now):
        if len(refs):
            changes.chunk_changes(node).set_many(refs)
        return
    # Through the grid to be: a smaller one of today may hide chunks that would appear again.
    before = all_refs(target, with_manifests_of(node, now))
    if refs.ndim:
        touched = compare_refs(before, refs)
    else:
        one = ChunkIndices([], 1)
        touched = ChunkIndices([], 0) if len(equal_chunks(before, refs, one)) else one
    made = chunk_changes(node.id, refs.ndim, refs, touched)
    if made:
        changes.chunks[node.id] = made


def _groups_above(source: Session, target: Session, path: NodePath) -> Iterator[NodeSnapshot]:
    """Yields the source's groups above a path that the target lacks."""
    for above in node_and_ancestors(path):
        if above == path:
            continue
        now, node = target.get_node(above), source.get_node(above)
        if now is not None and now.array is not None:
            raise InvalidInputError(f"cannot bring back {path}: {above} is an array now", hint=f"restore {above}")
        if now is None and node is not None:
            yield node


def _unused(node: NodeSnapshot, target: Session) -> NodeSnapshot:
    """Returns a node with its id, or with another one where the target has it elsewhere."""
    return node if target.snapshot.node_by_id(node.id) is None else replace(node, id=NodeId.random())

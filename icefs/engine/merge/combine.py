"""Three snapshots become one: the changes from a base to one version, put on top of another version.

The *base* is the version that both sides began with, the *incoming* version has the changes to take over, and the
*target* is the branch's tip. Conflicts are those of a rebase, with four differences, since both sides are known as
whole versions here:

- Both sides compare with the base by content, so equal changes are none, and no more is what was undone again. Chunks
  are equal where they have the same reference, or the same bytes in the manifest.
- Attributes that one side changed do not conflict with chunks that the other wrote. All other members of an array's
  metadata do, whichever side changed them: such chunks may have other codecs.
- A node whose group the other side deleted is a conflict.
- Moves of the branch conflict with changes of the moved nodes alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from icefs.engine.history.compared_log import compared_log
from icefs.engine.merge.patch import layout, patch_between
from icefs.engine.merge.references import all_refs, equal_chunks, without
from icefs.engine.merge.sides import settle
from icefs.engine.read.session import Session
from icefs.engine.write.changeset import ChangeSet, difference
from icefs.engine.write.conflicts import Conflict, ConflictDetector, ConflictType, VersionSelection
from icefs.engine.write.consolidated import ConsolidatedMetadataSolver
from icefs.format.ids import NodeId
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.transaction_log import TransactionLog
from icefs.paths import NodePath, node_and_ancestors


@dataclass(frozen=True, slots=True)
class Combined:
    """What comes of three versions.

    Attributes:
        changes: The changes to the target; those that conflict are not settled in them.
        conflicts: The conflicts that no side was chosen for, sorted by path.
        settled: Those that the chosen side settled.
    """

    changes: ChangeSet
    conflicts: list[Conflict]
    settled: list[Conflict]


def combine(base: Session, incoming: Session, target: Session, side: VersionSelection) -> Combined:
    """Puts the changes from `base` to `incoming` on top of `target`.

    Args:
        base: The version that the changes begin at.
        incoming: The version that has them.
        target: The version that they are for.
        side: Whose version counts where both conflict: ours is the target's, theirs the incoming one's.

    Raises:
        SessionStateError: it is unknown which chunks differ, because manifests are gone (kind
            `rebase-tx-log-pruned`).
        FormatError, StorageError: a manifest or snapshot cannot be read.
    """
    patch = patch_between(base, incoming)
    if patch.is_empty():
        return Combined(patch, [], [])
    if patch.moves and (patch.new or patch.updated or patch.deleted or patch.chunks):
        moved = [
            Conflict(ConflictType.MoveOperationCannotBeRebased, move.node.path, node_id=node_id)
            for node_id, move in patch.moves.items()
        ]
        return Combined(patch, sorted(moved, key=lambda conflict: conflict.path), [])
    return _Combination(base, incoming, target, patch).result(side)


class _Combination:
    """A patch on its way to a target; the patch is changed."""

    def __init__(self, base: Session, incoming: Session, target: Session, patch: ChangeSet) -> None:
        self._base = base
        self._incoming = incoming
        self._target = target
        self._patch = patch
        self._log = compared_log(base, target)
        self._doubly_made: set[NodeId] = set()
        self._known: dict[tuple[bool, NodeId], ArrayRefs] = {}

    def result(self, side: VersionSelection) -> Combined:
        self._drop_equal_nodes()
        self._drop_equal_chunks()
        conflicts, settled = _settled([*self._moved(), *self._conflicts(), *self._in_other_layout()], side, self)
        if not conflicts:
            # Where a side was chosen for metadata, chunks of the other may have lost their layout.
            conflicts, more = _settled([*self._in_other_layout(), *self._without_group()], side, self)
            settled += more
        if not conflicts:
            self._stand_on_target()
        conflicts.sort(key=lambda conflict: (conflict.path, conflict.conflict_type.value))
        return Combined(self._patch, conflicts, settled)

    def settles(self, conflict: Conflict, side: VersionSelection) -> bool:
        """Settles a conflict in the patch if the side can."""
        return settle(conflict, side, self._patch, self._target)

    # What both sides have.

    def _drop_equal_nodes(self) -> None:
        patch, there = self._patch, self._target.snapshot
        for path, node in list(patch.new.items()):
            same, other = there.node_by_id(node.id), there.node(path)
            if same is not None and same.path == path:
                # It came over with an earlier commit.
                self._doubly_made.add(node.id)
                del patch.new[path]
                if same.user_data != node.user_data:
                    patch.updated[node.id] = node
            elif path in patch.deleted:
                continue  # it replaces a node, whose deletion it belongs to
            elif other is not None and node.array is None and other.user_data == node.user_data:
                del patch.new[path]  # a group that both sides made
        for path, node in list(patch.deleted.items()):
            if there.node_by_id(node.id) is None:
                del patch.deleted[path]
        for node_id, node in list(patch.updated.items()):
            now = there.node_by_id(node_id)
            if now is not None and now.user_data == node.user_data:
                del patch.updated[node_id]
        for node_id, move in list(patch.moves.items()):
            now = there.node_by_id(node_id)
            if now is not None and now.path == move.to_path:
                patch.move_nodes([replace(move, to_path=move.node.path)])

    def _drop_equal_chunks(self) -> None:
        for node_id, changes in list(self._patch.chunks.items()):
            theirs = self._refs(self._target, node_id)
            if theirs is None or theirs.ndim != changes.ndim:
                continue
            equal = equal_chunks(changes.sets(), theirs, changes.touched())
            before = self._refs(self._base, node_id)
            if before is not None and before.ndim == changes.ndim:
                # Written again as it was: a log names it, and yet it is no change.
                equal = equal.union(equal_chunks(changes.sets(), before, changes.touched()))
            if not len(equal):
                continue
            kept = without(changes, equal)
            if kept:
                self._patch.chunks[node_id] = kept
            else:
                del self._patch.chunks[node_id]

    def _refs(self, session: Session, node_id: NodeId) -> ArrayRefs | None:
        """Returns the references of an array of the base or the target; None where it has no such array."""
        key = session is self._base, node_id
        if key not in self._known:
            node = session.snapshot.node_by_id(node_id)
            if node is None or node.array is None:
                return None
            self._known[key] = all_refs(session, node)
        return self._known[key]

    # Conflicts.

    def _moved(self) -> Iterator[Conflict]:
        """Yields the nodes that the target moved, and the patch changes or makes something below."""
        patch = self._patch
        deleted = {node.id for node in patch.deleted.values()}
        for move in self._log.moved_nodes:
            is_changed = move.node_id in patch.chunks or move.node_id in patch.updated or move.node_id in deleted
            below = f"{move.from_path}/"
            if is_changed or any(path.startswith(below) or path == move.from_path for path in patch.new):
                kind = ConflictType.MoveOperationCannotBeRebased
                yield Conflict(kind, NodePath(move.from_path), node_id=move.node_id)

    def _conflicts(self) -> Iterator[Conflict]:
        """Yields the conflicts of a rebase of the patch, but for those that only look like some."""
        patch, log = self._patch, self._target_log()
        solver = ConsolidatedMetadataSolver(ConflictDetector())
        _, found = solver.solve(log, self._target, patch, self._base)
        for conflict in found:
            if conflict.conflict_type is not ConflictType.ChunksUpdatedInUpdatedArray:
                yield conflict

    def _in_other_layout(self) -> Iterator[Conflict]:
        """Yields the arrays in which chunks would stand that were written for other metadata than these come to have.

        The official library finds those of our chunks that stand in an array which they updated, whatever they
        updated of it.
        """
        patch, base = self._patch, self._base.snapshot
        for node_id in sorted({*patch.chunks, *(patch.updated.keys() & self._log.updated_chunks.keys())}):
            there = self._target.snapshot.node_by_id(node_id)
            result = patch.updated.get(node_id, there)
            if result is None or (base.node_by_id(node_id) is None and node_id not in self._doubly_made):
                continue
            writers = [self._incoming.snapshot.node_by_id(node_id)] if node_id in patch.chunks else []
            writers += [there] if node_id in self._log.updated_chunks else []
            if any(writer is not None and layout(writer) != layout(result) for writer in writers):
                yield Conflict(ConflictType.ChunksUpdatedInUpdatedArray, result.path, node_id=node_id)

    def _target_log(self) -> TransactionLog:
        """Returns what the target has changed, without what it has undone again, and with what both sides made."""
        log, patch = self._log, self._patch
        chunks = dict(log.updated_chunks)
        deleted = {node.id for node in patch.deleted.values()}
        for node_id in {*patch.chunks, *patch.updated, *deleted}:
            theirs = self._refs(self._target, node_id)
            if theirs is None:
                continue
            if node_id in self._doubly_made:
                chunks[node_id] = theirs.indices
                continue
            before, touched = self._refs(self._base, node_id), chunks.get(node_id)
            if before is None or touched is None or before.ndim != theirs.ndim or touched.ndim != theirs.ndim:
                continue
            chunks[node_id] = difference(touched, equal_chunks(before, theirs, touched))
        made = [patch.updated[node_id] for node_id in self._doubly_made if node_id in patch.updated]
        arrays = {node.id for node in made if node.array is not None}
        groups = {node.id for node in made if node.array is None}
        return replace(
            log,
            updated_chunks={node_id: indices for node_id, indices in chunks.items() if len(indices)},
            updated_arrays=tuple(sorted(arrays.union(log.updated_arrays))),
            updated_groups=tuple(sorted(groups.union(log.updated_groups))),
            moved_nodes=(),
        )

    def _without_group(self) -> Iterator[Conflict]:
        """Yields the groups that one side deleted, and in which the other one made a node."""
        patch, there = self._patch, self._target.snapshot
        if patch.moves:
            return
        gone = {path for path in patch.deleted if path not in patch.new}
        lost = {
            path
            for path in (self._base.snapshot.paths if patch.new else ())
            if there.node(path) is None and path not in patch.new
        }
        named: set[NodePath] = set()
        for path in (*patch.new, *(there.paths if gone else ())):
            if path in patch.deleted and path not in patch.new:
                continue
            missing = gone | lost if path in patch.new else gone
            named.update(above for above in node_and_ancestors(path) if above != path and above in missing)
        for path in sorted(named):
            yield Conflict(ConflictType.NewNodeInInvalidGroup, path)

    def _stand_on_target(self) -> None:
        """Has the patch name the target's nodes, which may be elsewhere than the base's."""
        patch, there = self._patch, self._target.snapshot
        for path, node in list(patch.deleted.items()):
            now = there.node_by_id(node.id)
            if now is not None:
                del patch.deleted[path]
                patch.deleted[now.path] = now


def _settled(
    conflicts: list[Conflict], side: VersionSelection, combination: _Combination
) -> tuple[list[Conflict], list[Conflict]]:
    """Returns the conflicts that remain, and those that the side settled in the patch."""
    kept: list[Conflict] = []
    settled: list[Conflict] = []
    for conflict in conflicts:
        (settled if combination.settles(conflict, side) else kept).append(conflict)
    return kept, settled

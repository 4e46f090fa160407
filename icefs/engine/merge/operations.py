"""Merge, cherry-pick, revert and restore: each makes ordinary commits on a branch, of references alone.

The first three put the changes from one snapshot to another on top of the branch's tip, and differ in which two these
are:

    merge        from the common ancestor to REF
    cherry-pick  from the commit's parent to the commit
    revert       from the commit to its parent

A restore has a part of the branch be as it is in another version.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from icefs.engine.history.ancestry import lookup_snapshot
from icefs.engine.history.origins import ORIGIN, merge_bases
from icefs.engine.merge.agreement import agree
from icefs.engine.merge.combine import Combined, combine
from icefs.engine.merge.restoration import Wanted, restoration
from icefs.engine.read.session import Session, session_at
from icefs.engine.write.changeset import ChangeSet
from icefs.engine.write.conflicts import Conflict, VersionSelection, listed
from icefs.engine.write.repository import WritableRepository
from icefs.errors import BranchMovedError, InvalidInputError, RebaseFailedError
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.storage.rehearsal import RehearsalStorage

_TRIES: Final = 100


@dataclass(frozen=True, slots=True)
class Brought:
    """What a merge, a cherry-pick, a revert or a restore did, or would do.

    Attributes:
        tip: The branch's tip before.
        base: The snapshot that the changes begin at; of a restore the tip.
        incoming: The snapshot that has them.
        snapshot_id: The new commit; None for a dry run, and where the branch has everything already.
        is_new: Whether there was anything to bring; a merge is, even of equal changes, until it was made once.
        nodes: How many nodes are made, rewritten, deleted or moved.
        chunks: How many chunks are set or deleted.
        conflicts: The conflicts that stand in the way; none where a commit was made.
        settled: The conflicts that the chosen side settled.
    """

    tip: SnapshotId
    base: SnapshotId
    incoming: SnapshotId
    snapshot_id: SnapshotId | None = None
    is_new: bool = True
    nodes: int = 0
    chunks: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    settled: list[Conflict] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Way:
    """How changes are brought to a branch.

    Attributes:
        branch: The branch.
        side: Whose version counts where both conflict: ours is the branch's.
        message: The commit message; None for one that says what it is.
        metadata: The commit's own metadata.
        dry_run: Find out, and change nothing; conflicts are then no error.
    """

    branch: str
    side: VersionSelection = VersionSelection.Fail
    message: str | None = None
    metadata: dict[str, Any] | None = None
    dry_run: bool = False


def merge(repository: WritableRepository, ref: str, way: Way) -> Brought:
    """Brings what a snapshot, branch or tag has, and the branch does not, to the branch, as one commit.

    Raises:
        RefNotFoundError: there is no such branch or ref.
        RebaseFailedError: conflicts that the side does not settle; nothing was committed.
        InvalidInputError: the two have no snapshot in common (kind `no-common-ancestor`), or several that lead to
            different results (kind `several-common-ancestors`).
        SessionStateError, StorageError, FormatError: as `combine`, and as commits.
    """
    incoming = repository.resolve_ref(ref)
    for _ in range(_TRIES):
        tip = repository.lookup_branch(way.branch)
        bases = merge_bases(repository.context, tip, incoming)
        if not bases:
            raise InvalidInputError(
                f"{ref!r} and the branch {way.branch!r} have no snapshot in common",
                kind="no-common-ancestor",
                hint="copy the arrays instead: export the one version, and import it into the branch",
            )
        base = bases[0]
        if base == incoming:
            return Brought(tip, base, incoming, is_new=False)
        _check_bases(repository, ref, way, tip, incoming, bases)
        origin = {"merge": {"snapshot_id": str(incoming), "ref": ref, "base": str(base)}}
        try:
            return _bring(repository, way, tip, (base, incoming), f"Merge {ref} into {way.branch}", origin)
        except BranchMovedError:
            continue
    raise _never_first(way.branch)


def _check_bases(
    repository: WritableRepository,
    ref: str,
    way: Way,
    tip: SnapshotId,
    incoming: SnapshotId,
    bases: Sequence[SnapshotId],
) -> None:
    """Refuses a merge whose result would depend on which of several common snapshots it begins at.

    One side may have set back what the other one merged. From one of the snapshots that is a change, from another one
    it is none, and the change would be undone without a conflict.
    """
    if len(bases) == 1:
        return
    context = repository.context
    theirs, ours = session_at(context, incoming), session_at(context, tip)
    first, *others = [combine(session_at(context, base), theirs, ours, way.side) for base in bases]
    if not all(agree(first, other) for other in others):
        raise InvalidInputError(
            f"{ref!r} and the branch {way.branch!r} have merged each other, and the {len(bases)} snapshots that they"
            f" have in common lead to different results",
            kind="several-common-ancestors",
            hint="nothing was committed; bring the commits that are missing one by one: icefs cherry-pick",
        )


def cherry_pick(repository: WritableRepository, snapshot_id: SnapshotId, way: Way) -> Brought:
    """Makes the changes of a commit again on the branch, as one commit; without one where it has them already.

    Raises:
        SnapshotNotFoundError: there is no such snapshot.
        InvalidInputError: it is the repository's first one, or its parent has expired (kind `no-parent`).
        RefNotFoundError, RebaseFailedError, SessionStateError, StorageError, FormatError: as `merge`.
    """
    info, parent = _with_parent(repository, snapshot_id)
    origin = {"cherry_pick": {"snapshot_id": str(snapshot_id)}}
    return _bring_again(repository, way, (parent, snapshot_id), info.message, origin)


def cherry_pick_all(repository: WritableRepository, snapshot_ids: Sequence[SnapshotId], way: Way) -> Iterator[Brought]:
    """Picks several commits in the order that they are given, each as one commit; yields the outcomes.

    A dry run has each stand on those before it, and ends with the first that conflicts.

    Raises:
        RebaseFailedError: as `cherry_pick`; the commits before stay made. Its facts have those that were `made`, and
            those that `remain`, the first of which conflicts.
        SnapshotNotFoundError, InvalidInputError: one of them cannot be picked; none was.
        RefNotFoundError, SessionStateError, StorageError, FormatError: as `merge`.
    """
    for snapshot_id in snapshot_ids:
        _with_parent(repository, snapshot_id)
    if way.dry_run and len(snapshot_ids) > 1:
        yield from _rehearsed(repository, snapshot_ids, way)
        return
    made: list[SnapshotId] = []
    for number, snapshot_id in enumerate(snapshot_ids):
        try:
            done = cherry_pick(repository, snapshot_id, way)
        except RebaseFailedError as error:
            remain = [str(one) for one in snapshot_ids[number:]]
            raise RebaseFailedError(
                error.own_message, hint=error.hint, **error.facts, made=list(map(str, made)), remain=remain
            ) from error
        if done.snapshot_id is not None:
            made.append(done.snapshot_id)
        yield done


def _rehearsed(repository: WritableRepository, snapshot_ids: Sequence[SnapshotId], way: Way) -> Iterator[Brought]:
    with WritableRepository.open(RehearsalStorage(repository.storage)) as rehearsal:
        for snapshot_id in snapshot_ids:
            found = cherry_pick(rehearsal, snapshot_id, way)
            yield found
            if found.conflicts:
                return
            cherry_pick(rehearsal, snapshot_id, replace(way, dry_run=False))


def revert(repository: WritableRepository, snapshot_id: SnapshotId, way: Way) -> Brought:
    """Takes back the changes of a commit on the branch, as one commit; raises as `cherry_pick`."""
    info, parent = _with_parent(repository, snapshot_id)
    origin = {"revert": {"snapshot_id": str(snapshot_id)}}
    said = info.message.partition("\n")[0]
    return _bring_again(repository, way, (snapshot_id, parent), f'Revert "{said}"', origin)


def restore(repository: WritableRepository, ref: str, wanted: Wanted, way: Way) -> Brought:
    """Brings back what a snapshot, branch or tag has at a path, as one commit; without one where nothing differs.

    Raises:
        RefNotFoundError: there is no such branch or ref.
        NodeNotFoundError, InvalidInputError, FormatError, StorageError: as `restoration`, and as commits.
    """
    source = session_at(repository.context, repository.resolve_ref(ref))
    origin = {"restore": {"snapshot_id": str(source.snapshot_id), "path": wanted.name}}
    for _ in range(_TRIES):
        tip = repository.lookup_branch(way.branch)
        target = session_at(repository.context, tip)
        changes = restoration(source, target, wanted)
        try:
            message = f"Restore {wanted.name or '/'} from {ref}"
            made = None if changes.is_empty() else _commit(repository, way, target, changes, message, origin)
        except BranchMovedError:
            continue
        nodes, chunks = _counts(changes)
        return Brought(tip, tip, source.snapshot_id, made, not changes.is_empty(), nodes, chunks)
    raise _never_first(way.branch)


def _with_parent(repository: WritableRepository, snapshot_id: SnapshotId) -> tuple[SnapshotInfo, SnapshotId]:
    info = lookup_snapshot(repository.context, snapshot_id)
    if info.parent_id is None or info.pruned_ancestor_tx_logs:
        raise InvalidInputError(
            f"commit {snapshot_id} has no parent to compare it with",
            kind="no-parent",
            hint="the first commit of a history can be neither picked nor reverted",
        )
    return info, info.parent_id


def _bring_again(
    repository: WritableRepository,
    way: Way,
    ends: tuple[SnapshotId, SnapshotId],
    message: str,
    origin: dict[str, Any],
) -> Brought:
    for _ in range(_TRIES):
        tip = repository.lookup_branch(way.branch)
        try:
            return _bring(repository, way, tip, ends, message, origin)
        except BranchMovedError:
            continue
    raise _never_first(way.branch)


def _bring(
    repository: WritableRepository,
    way: Way,
    tip: SnapshotId,
    ends: tuple[SnapshotId, SnapshotId],
    message: str,
    origin: dict[str, Any],
) -> Brought:
    """Puts the changes between two snapshots on top of a tip, and commits them.

    Raises:
        BranchMovedError: the branch has another tip now.
    """
    context, (base, incoming) = repository.context, ends
    target = session_at(context, tip)
    combined = combine(session_at(context, base), session_at(context, incoming), target, way.side)
    changes = combined.changes
    is_new = "merge" in origin or not changes.is_empty()
    if combined.conflicts and not way.dry_run:
        raise _conflicting(incoming if "revert" not in origin else base, combined)
    made = _commit(repository, way, target, changes, message, origin) if is_new else None
    nodes, chunks = _counts(changes)
    return Brought(tip, base, incoming, made, is_new, nodes, chunks, combined.conflicts, combined.settled)


def _commit(
    repository: WritableRepository,
    way: Way,
    target: Session,
    changes: ChangeSet,
    message: str,
    origin: dict[str, Any],
) -> SnapshotId | None:
    """Commits changes to the branch's tip; does nothing for a dry run."""
    if way.dry_run:
        return None
    session = repository.writable_session_at(way.branch, target.snapshot_id, is_rearrange=bool(changes.moves))
    session.draft.rebased(target.snapshot, changes)
    metadata = {**(way.metadata or {}), ORIGIN: origin}
    return session.commit(message if way.message is None else way.message, metadata, allow_empty=True)


def _counts(changes: ChangeSet) -> tuple[int, int]:
    made = changes.new.keys() | {node.path for node in changes.updated.values()} | changes.deleted.keys()
    chunks = sum(len(each.touched()) for each in changes.chunks.values())
    return len(made) + len(changes.moves), chunks


def _conflicting(snapshot_id: SnapshotId, combined: Combined) -> RebaseFailedError:
    return RebaseFailedError(
        f"commit {snapshot_id} conflicts with the branch: {listed(combined.conflicts)}",
        hint="choose a side, or make the changes by hand; nothing was committed",
        snapshot=str(snapshot_id),
        conflicts=combined.conflicts,
    )


def _never_first(branch: str) -> BranchMovedError:
    return BranchMovedError(
        f"others were faster each time: branch {branch!r} has moved {_TRIES} times",
        hint="do the same again when fewer others commit",
    )

"""Expiration: old snapshots are taken out of the history; garbage collection then deletes what only they needed.

Spec 2 edits `repo` alone: snapshots flushed before the cutoff go, save the first of each history and the tips that
refs keep; a survivor whose parent went gets the root of its history as its parent, and the list of the transaction
logs that it now stands for. Spec 1 has no such table: for each ref the file of the oldest snapshot that is young
enough is rewritten, with the root as its parent.

Source: format notes §5; upstream icechunk/src/ops/gc.rs and expiration_v1.rs.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from icefs.engine.history.ancestry import walk_v1
from icefs.engine.write import publish
from icefs.engine.write.clocks import check_clock_now
from icefs.engine.write.repository import WritableRepository
from icefs.errors import RefNotFoundError
from icefs.format.ids import INITIAL_SNAPSHOT_ID, ChunkId, SnapshotId
from icefs.format.layout import backup_key, backup_name, snapshot_key
from icefs.format.repo import update as edits
from icefs.format.repo.info import MAIN_BRANCH, RepoInfo
from icefs.format.repo.ops_log import ExpirationRan
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import Stamp
from icefs.format.snapshot.writer import encode_snapshot


@dataclass(frozen=True, slots=True)
class Expired:
    """What an expiration did, or with a dry run would do.

    Attributes:
        released: The snapshots that no history has any more.
        edited: The snapshots that got another parent.
        branches: The branches that were deleted.
        tags: The tags that were deleted.
    """

    released: frozenset[SnapshotId] = frozenset()
    edited: frozenset[SnapshotId] = frozenset()
    branches: frozenset[str] = frozenset()
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ExpirationRequest:
    """What to expire.

    Attributes:
        older_than: Snapshots flushed before this go, in microseconds since the epoch.
        delete_branches: Delete branches whose tip is that old, except `main`.
        delete_tags: Delete tags of snapshots that are that old.
        dry_run: Change nothing.
    """

    older_than: int
    delete_branches: bool = False
    delete_tags: bool = False
    dry_run: bool = False


def expire(repository: WritableRepository, request: ExpirationRequest) -> Expired:
    """Takes old snapshots out of the history.

    Raises:
        ReadOnlyError: the repository's status is not online.
        SessionStateError: the clocks of this machine and of the store differ too much (kind `snapshot-timestamp`).
        ConflictError: others changed the repository every time.
        FormatError, StorageError: something cannot be read or written; spec 2: nothing has changed then.
    """
    repository.context.check_online()
    if not request.dry_run:
        check_clock_now(repository.context)
    if repository.spec_version == 1:
        return _expire_v1(repository, request)
    if request.dry_run:
        return plan_expiration(repository.assets.fetch_repo_info()[0], request)[0]
    done = Expired()

    def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
        nonlocal done
        done, replacements = plan_expiration(info, request)
        return edits.rewrite_snapshots(
            info,
            ExpirationRan(),
            stamp,
            drop=done.released,
            replacements=replacements,
            drop_branches=done.branches,
            drop_tags=done.tags,
        )

    publish.update_repo_info(repository.context, change)
    return done


def plan_expiration(info: RepoInfo, request: ExpirationRequest) -> tuple[Expired, list[SnapshotInfo]]:
    """Works out what an expiration changes in a state of `repo`.

    Returns:
        What goes, and the snapshots that stay with another parent.
    """
    old = {
        each.id: each
        for each in info.snapshots.values()
        if each.flushed_at < request.older_than and each.parent_id is not None
    }
    kept = {info.branches[MAIN_BRANCH]} if MAIN_BRANCH in info.branches else set[SnapshotId]()
    if not request.delete_branches:
        kept.update(info.branches.values())
    if not request.delete_tags:
        kept.update(info.tags.values())
    released = frozenset(old) - kept
    roots = _roots(info)
    replacements = [
        replace(
            each,
            parent_id=roots.get(each.id, INITIAL_SNAPSHOT_ID),
            pruned_ancestor_tx_logs=collapse(info, each, lambda ancestor: ancestor.parent_id is None)[1],
        )
        for each in info.snapshots.values()
        if each.parent_id in released and each.id not in released
    ]
    branches = _expired(info.branches, old, request.delete_branches) - {MAIN_BRANCH}
    tags = _expired(info.tags, old, request.delete_tags)
    return Expired(released, frozenset(each.id for each in replacements), branches, tags), replacements


def _expired(refs: "edits.Refs", old: dict[SnapshotId, SnapshotInfo], is_wanted: bool) -> frozenset[str]:
    return frozenset(name for name, tip in refs.items() if tip in old) if is_wanted else frozenset()


def _roots(info: RepoInfo) -> dict[SnapshotId, SnapshotId]:
    """Returns the root of the history of every snapshot that a ref leads to."""
    roots: dict[SnapshotId, SnapshotId] = {}
    for tip in {*info.branches.values(), *info.tags.values()}:
        chain: list[SnapshotId] = []
        root = INITIAL_SNAPSHOT_ID
        for row in info.snapshots.ancestry_rows(tip):
            each = info.snapshots.id_at(row)
            known = roots.get(each)
            if known is not None:
                root = known
                break
            chain.append(each)
        else:
            root = chain[-1]
        roots.update(dict.fromkeys(chain, root))
    return roots


def collapse(
    info: RepoInfo, edited: SnapshotInfo, is_boundary: Callable[[SnapshotInfo], bool]
) -> tuple[SnapshotId | None, tuple[SnapshotId, ...]]:
    """Finds the ancestor that becomes a snapshot's parent, and the transaction logs of those in between.

    Returns:
        The nearest ancestor that is a boundary, None if there is none; and the logs that the snapshot stands for then,
        oldest first.
    """
    new_parent = None
    between: list[SnapshotInfo] = []
    ancestry = info.snapshots.ancestry(edited.id)
    next(ancestry)
    for ancestor in ancestry:
        if is_boundary(ancestor):
            new_parent = ancestor.id
            break
        between.append(ancestor)
    logs = [log for each in reversed(between) for log in (*each.pruned_ancestor_tx_logs, each.id)]
    return new_parent, (*logs, *edited.pruned_ancestor_tx_logs)


# Spec 1.


@dataclass(frozen=True, slots=True)
class _RefPlan:
    is_expired: bool
    released: frozenset[SnapshotId] = frozenset()
    edited: SnapshotId | None = None
    root: SnapshotId | None = None


def _expire_v1(repository: WritableRepository, request: ExpirationRequest) -> Expired:
    refs = repository.refs()
    released: set[SnapshotId] = set()
    edited: set[SnapshotId] = set()
    deleted: dict[str, set[str]] = {"branch": set(), "tag": set()}
    for kind, name, tip in _all_refs(refs.branches.items(), refs.tags.items()):
        plan = _plan_v1(list(walk_v1(repository.assets, tip)), request.older_than)
        if plan.edited is not None and plan.root is not None:
            released |= plan.released
            edited.add(plan.edited)
            if not request.dry_run:
                _adopt(repository, plan.edited, plan.root)
        wanted = request.delete_tags if kind == "tag" else request.delete_branches and name != MAIN_BRANCH
        if plan.is_expired and wanted:
            deleted[kind].add(name)
            if not request.dry_run:
                _delete_ref(repository, kind, name)
    return Expired(frozenset(released), frozenset(edited), frozenset(deleted["branch"]), frozenset(deleted["tag"]))


def _all_refs(
    branches: Iterable[tuple[str, SnapshotId]], tags: Iterable[tuple[str, SnapshotId]]
) -> list[tuple[str, str, SnapshotId]]:
    return [("branch", *each) for each in sorted(branches)] + [("tag", *each) for each in sorted(tags)]


def _delete_ref(repository: WritableRepository, kind: str, name: str) -> None:
    try:
        (publish.delete_tag if kind == "tag" else publish.delete_branch)(repository.context, name)
    except RefNotFoundError:
        return  # somebody else was faster


def _plan_v1(ancestry: list[SnapshotInfo], older_than: int) -> _RefPlan:
    """Works out what becomes of the history of one ref, newest first."""
    is_expired = ancestry[0].flushed_at < older_than
    editable = root = ancestry[0].id
    released: set[SnapshotId] = set()
    parent_of = {each.id: each.parent_id for each in ancestry}
    for each in ancestry:
        if each.flushed_at >= older_than:
            editable = each.id
        else:
            released.add(each.id)
            root = each.id
    released.discard(root)
    if root in (editable, parent_of[editable], ancestry[0].id):
        return _RefPlan(is_expired)
    return _RefPlan(is_expired, frozenset(released), editable, root)


def _adopt(repository: WritableRepository, snapshot_id: SnapshotId, parent_id: SnapshotId) -> None:
    """Rewrites a snapshot's file with another parent, and keeps a copy of what it was."""
    repository.context.check_not_upgraded()
    snapshot = repository.assets.refetch_snapshot(snapshot_id)
    data = encode_snapshot(
        snapshot_id=snapshot.id,
        flushed_at=snapshot.flushed_at,
        message=snapshot.message,
        metadata=snapshot.metadata,
        nodes=snapshot.nodes(),
        manifest_files=snapshot.manifest_files.values(),
        spec_version=1,
        parent_id=parent_id,
        level=repository.context.compression_level,
    )
    # Bits that have changed on the disk may show in nothing that was parsed.
    kept = backup_name(f"snapshot-{snapshot_id}", repository.context.clock(), ChunkId.random())
    repository.storage.copy(snapshot_key(snapshot_id), backup_key(kept))
    repository.storage.put(snapshot_key(snapshot_id), data)
    repository.assets.refetch_snapshot(snapshot_id)

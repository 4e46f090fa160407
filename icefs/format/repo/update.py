"""Updates of the repo info: each takes the present state and returns the next, with its entry in the ops log.

Pure functions, for a writer that reads `repo`, applies one, copies the old file to `overwritten/<backup name>` and
writes the new one conditionally. Their errors have the official library's kinds. Whether the repository is
online, which features are switched off and when to retry is for the caller to see to.

The ops log (format notes §7.4): the new entry comes first and has no backup path; the one that was first gets the name
of the copy that is being made, since that copy is the state in which it is first; where the file holds as many entries
as it may, the log ends before the next entry with a backup path, and `repo_before_updates` names that path instead.

Source: spec 2.1 "Updates to the repo info file"; upstream icechunk-format/src/repo_info.rs.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Final

from icefs.errors import (
    AlreadyExistsError,
    ConflictError,
    FormatError,
    RefNotFoundError,
    SessionStateError,
)
from icefs.format.flat.writer import encode_text
from icefs.format.ids import SnapshotId
from icefs.format.metadata_items import encode_items
from icefs.format.repo.info import MAIN_BRANCH, RepoInfo
from icefs.format.repo.ops_log import (
    BranchCreated,
    BranchDeleted,
    BranchReset,
    ConfigChanged,
    FeatureFlagChanged,
    MetadataChanged,
    NewCommit,
    NewDetachedSnapshot,
    OpsLog,
    RepoAvailability,
    RepoInitialized,
    RepoStatus,
    RepoStatusChanged,
    TagCreated,
    TagDeleted,
    Update,
    UpdateKind,
)
from icefs.format.repo.snapshot_table import SnapshotInfo, SnapshotTable

DEFAULT_NUM_UPDATES: Final = 1000
"""How many updates a file lists, unless the configuration says otherwise (`num_updates_per_repo_info_file`)."""

type Refs = Mapping[str, SnapshotId]


@dataclass(frozen=True, slots=True)
class Stamp:
    """The surroundings of an update.

    Attributes:
        updated_at: The time, in microseconds since the epoch; later than the latest update's (`next_timestamp`).
        backup_name: The name, below `overwritten/`, of the copy of the present file (`layout.backup_name`).
        num_updates: How many updates a file may list.
    """

    updated_at: int
    backup_name: str
    num_updates: int = DEFAULT_NUM_UPDATES


def next_timestamp(repo: RepoInfo, now: int) -> int:
    """Returns the earliest time that an update may have: now, or just after the latest update."""
    updates = repo.latest_updates
    return max(now, updates[0].updated_at + 1) if updates else now


def initial_repo_info(first: SnapshotInfo, *, now: int, config: bytes | None = None) -> RepoInfo:
    """Returns the state of a new repository: `main` at its first snapshot."""
    return RepoInfo(
        snapshots=SnapshotTable.of([first]),
        branches=MappingProxyType({MAIN_BRANCH: first.id}),
        tags=MappingProxyType({}),
        deleted_tags=frozenset(),
        status=RepoStatus(RepoAvailability.online, now),
        ops_log=OpsLog([Update(RepoInitialized(), now)]),
        config=config,
    )


def record_update(repo: RepoInfo, kind: UpdateKind, stamp: Stamp) -> RepoInfo:
    """Adds an entry to the ops log, and changes nothing else.

    Raises:
        FormatError: the update is not later than the latest one (kind `snapshot-timestamp`), or the log is malformed.
    """
    previous = repo.latest_updates
    if not previous or previous[0].backup_path is not None:
        reason = "its latest update names a backup of itself" if previous else "it has no updates"
        raise FormatError(f"{repo.name} is malformed: {reason}", file=repo.name, reason=reason)
    if stamp.updated_at <= previous[0].updated_at:
        raise FormatError(
            f"an update at {stamp.updated_at} µs is not later than the latest at {previous[0].updated_at} µs",
            kind="snapshot-timestamp",
            hint="check whether this machine's clock is right",
            file=repo.name,
            reason="the clock went back",
        )
    updates = [Update(kind, stamp.updated_at), replace(previous[0], backup_path=stamp.backup_name), *previous[1:]]
    before = repo.repo_before_updates
    for count in range(stamp.num_updates, len(updates)):
        path = updates[count].backup_path
        # Entries without a path, as a migration makes them, cannot be reached through another file.
        if path is not None:
            updates, before = updates[:count], path
            break
    return replace(repo, ops_log=OpsLog(updates), repo_before_updates=before)


def add_snapshot(
    repo: RepoInfo, info: SnapshotInfo, stamp: Stamp, *, branch: str | None, kind: UpdateKind | None = None
) -> RepoInfo:
    """Adds a snapshot, and points a branch at it.

    Args:
        repo: The present state.
        info: The snapshot.
        stamp: When, and where the present file is kept.
        branch: The branch that gets it as its tip; None for a detached snapshot.
        kind: The entry in the ops log; by default a new commit or a new detached snapshot.

    Raises:
        FormatError: there is a snapshot of that id (kind `duplicate-snapshot-id`).
        SnapshotNotFoundError: its parent is not in the repository.
        RefNotFoundError: there is no such branch.
    """
    snapshots = repo.snapshots.rewritten(add=[info])
    if branch is None:
        return record_update(replace(repo, snapshots=snapshots), kind or NewDetachedSnapshot(info.id), stamp)
    _tip(repo, branch)
    changed = replace(repo, snapshots=snapshots, branches=_with(repo.branches, branch, info.id))
    return record_update(changed, kind or NewCommit(branch, info.id), stamp)


def add_branch(repo: RepoInfo, name: str, snapshot_id: SnapshotId, stamp: Stamp) -> RepoInfo:
    """Creates a branch.

    Raises:
        AlreadyExistsError: there is one of that name (kind `branch-already-exists`).
        SnapshotNotFoundError: there is no such snapshot.
        InvalidInputError: the name cannot be written as UTF-8.
    """
    encode_text(name)
    if name in repo.branches:
        raise AlreadyExistsError(f"branch {name!r} exists already", kind="branch-already-exists", name=name)
    repo.snapshots.row(snapshot_id)
    return record_update(replace(repo, branches=_with(repo.branches, name, snapshot_id)), BranchCreated(name), stamp)


def update_branch(
    repo: RepoInfo, name: str, snapshot_id: SnapshotId, stamp: Stamp, *, expected: SnapshotId | None = None
) -> RepoInfo:
    """Points a branch at another snapshot.

    Args:
        repo: The present state.
        name: The branch.
        snapshot_id: Its new tip.
        stamp: When, and where the present file is kept.
        expected: Where it must point now, if that matters.

    Raises:
        RefNotFoundError: there is no such branch.
        ConflictError: it does not point at `expected` (kind `branch-update-conflict`).
        SnapshotNotFoundError: there is no such snapshot.
    """
    previous = _tip(repo, name)
    if expected is not None and previous != expected:
        raise ConflictError(
            f"branch {name!r} points at {previous}, not at {expected}",
            kind="branch-update-conflict",
            expected_parent=str(expected),
            actual_parent=str(previous),
        )
    repo.snapshots.row(snapshot_id)
    changed = replace(repo, branches=_with(repo.branches, name, snapshot_id))
    return record_update(changed, BranchReset(name, previous), stamp)


def delete_branch(repo: RepoInfo, name: str, stamp: Stamp) -> RepoInfo:
    """Deletes a branch; its snapshots stay.

    Raises:
        SessionStateError: it is `main` (kind `cannot-delete-main`).
        RefNotFoundError: there is no such branch.
    """
    if name == MAIN_BRANCH:
        raise SessionStateError(f"the branch {MAIN_BRANCH} cannot be deleted", kind="cannot-delete-main")
    previous = _tip(repo, name)
    return record_update(replace(repo, branches=_without(repo.branches, [name])), BranchDeleted(name, previous), stamp)


def add_tag(repo: RepoInfo, name: str, snapshot_id: SnapshotId, stamp: Stamp) -> RepoInfo:
    """Creates a tag.

    Raises:
        AlreadyExistsError: there is one of that name (kind `tag-already-exists`), or was (`tag-previously-deleted`).
        SnapshotNotFoundError: there is no such snapshot.
        InvalidInputError: the name cannot be written as UTF-8.
    """
    encode_text(name)
    if name in repo.tags:
        raise AlreadyExistsError(f"tag {name!r} exists already", kind="tag-already-exists", name=name)
    if name in repo.deleted_tags:
        raise AlreadyExistsError(
            f"there was a tag {name!r}, and the name of a deleted tag cannot be used again",
            kind="tag-previously-deleted",
            name=name,
        )
    repo.snapshots.row(snapshot_id)
    return record_update(replace(repo, tags=_with(repo.tags, name, snapshot_id)), TagCreated(name), stamp)


def delete_tag(repo: RepoInfo, name: str, stamp: Stamp) -> RepoInfo:
    """Deletes a tag; its name cannot be used again.

    Raises:
        RefNotFoundError: there is no such tag (kind `tag-not-found`).
    """
    previous = repo.tags.get(name)
    if previous is None:
        raise RefNotFoundError(f"no tag {name!r}", kind="tag-not-found", name=name)
    changed = replace(repo, tags=_without(repo.tags, [name]), deleted_tags=repo.deleted_tags | {name})
    return record_update(changed, TagDeleted(name, previous), stamp)


def set_metadata(repo: RepoInfo, metadata: Mapping[str, Any], stamp: Stamp) -> RepoInfo:
    """Replaces the repository's own metadata.

    Raises:
        TypeError: a value is no JSON value.
        InvalidInputError: a value cannot be encoded.
    """
    return record_update(replace(repo, metadata_items=encode_items(metadata, 2)), MetadataChanged(), stamp)


def set_config(repo: RepoInfo, config: bytes, stamp: Stamp) -> RepoInfo:
    """Replaces the saved configuration (FlexBuffers)."""
    return record_update(replace(repo, config=config), ConfigChanged(), stamp)


def set_status(repo: RepoInfo, status: RepoStatus, stamp: Stamp | None) -> RepoInfo:
    """Sets the repository's status; without a stamp silently, with the ops log as it was."""
    changed = replace(repo, status=status)
    return changed if stamp is None else record_update(changed, RepoStatusChanged(status), stamp)


def set_feature_flag(repo: RepoInfo, flag: int, value: bool | None, stamp: Stamp) -> RepoInfo:
    """Switches a feature on or off, or back to its default with None."""
    enabled = {*repo.enabled_feature_flags} - {flag}
    disabled = {*repo.disabled_feature_flags} - {flag}
    if value is not None:
        (enabled if value else disabled).add(flag)
    changed = replace(
        repo, enabled_feature_flags=tuple(sorted(enabled)), disabled_feature_flags=tuple(sorted(disabled))
    )
    return record_update(changed, FeatureFlagChanged(flag, value), stamp)


def rewrite_snapshots(
    repo: RepoInfo,
    kind: UpdateKind,
    stamp: Stamp,
    *,
    drop: Collection[SnapshotId] = (),
    replacements: Iterable[SnapshotInfo] = (),
    drop_branches: Collection[str] = (),
    drop_tags: Collection[str] = (),
) -> RepoInfo:
    """Removes snapshots and refs and gives other snapshots new parents, as expiration and garbage collection do.

    Args:
        repo: The present state.
        kind: The entry in the ops log.
        stamp: When, and where the present file is kept.
        drop: Snapshots that go.
        replacements: Snapshots that stay, with another parent (and `pruned_ancestor_tx_logs`).
        drop_branches: Branches that go.
        drop_tags: Tags that go, into the deleted ones.

    Raises:
        RefNotFoundError: there is no such branch or tag.
        SessionStateError: `main` is to go (kind `cannot-delete-main`).
        SnapshotNotFoundError: there is no such snapshot, or the parent of one that stays would be missing.
        ConflictError: a branch or tag that stays points at a snapshot that goes (kind `repo-info-updated`).
    """
    if MAIN_BRANCH in drop_branches:
        raise SessionStateError(f"the branch {MAIN_BRANCH} cannot be deleted", kind="cannot-delete-main")
    for name in drop_branches:
        _tip(repo, name)
    for name in drop_tags:
        if name not in repo.tags:
            raise RefNotFoundError(f"no tag {name!r}", kind="tag-not-found", name=name)
    changed = replace(
        repo,
        snapshots=repo.snapshots.rewritten(drop=drop, replace=replacements),
        branches=_without(repo.branches, drop_branches),
        tags=_without(repo.tags, drop_tags),
        deleted_tags=repo.deleted_tags.union(drop_tags),
    )
    for refs in (changed.branches, changed.tags):
        for name, snapshot_id in refs.items():
            if snapshot_id not in changed.snapshots:
                raise ConflictError(
                    f"{name!r} points at snapshot {snapshot_id}, which is being dropped", kind="repo-info-updated"
                )
    return record_update(changed, kind, stamp)


def _tip(repo: RepoInfo, branch: str) -> SnapshotId:
    tip = repo.branches.get(branch)
    if tip is None:
        raise RefNotFoundError(f"no branch {branch!r}", kind="branch-not-found", name=branch)
    return tip


def _with(refs: Refs, name: str, snapshot_id: SnapshotId) -> Refs:
    return MappingProxyType({**refs, name: snapshot_id})


def _without(refs: Refs, names: Collection[str]) -> Refs:
    return MappingProxyType({name: snapshot_id for name, snapshot_id in refs.items() if name not in names})

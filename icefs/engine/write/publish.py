"""The writes that publish: one conditional write of `repo` (spec 2), or of one ref's file (spec 1).

Spec 2 keeps everything that changes in `repo`. An update reads it, computes the next state with a pure function,
copies the old file to `overwritten/` and writes the new one on condition that `repo` is still what was read. The
loser of that race starts again from the new state; the pure function then decides again whether the update still makes
sense, so that a commit finds out inside of the same loop that its branch has moved.

Source: format notes §7.4, §7.5, §7.6 and §7.12; upstream icechunk/src/asset_manager.rs and refs.rs.
"""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from icefs.engine.history.ancestry import lookup_snapshot
from icefs.engine.write.context import WriteContext
from icefs.engine.write.snapshot_writer import NewSnapshot
from icefs.errors import (
    AlreadyExistsError,
    BranchMovedError,
    ConflictError,
    FormatError,
    ObjectNotFoundError,
    PreconditionFailedError,
    RefNotFoundError,
    SessionStateError,
    StaleError,
    StorageError,
    UnsupportedSpecVersionError,
)
from icefs.format.config.storage import StorageRetriesSettings
from icefs.format.ids import ChunkId, SnapshotId
from icefs.format.layout import REPO_INFO, backup_key, backup_name
from icefs.format.repo import update as edits
from icefs.format.repo.info import MAIN_BRANCH, RepoInfo, encode_repo_info, parse_repo_info
from icefs.format.repo.ops_log import CommitAmended
from icefs.format.repo.refs_v1 import branch_key, check_ref_name, encode_ref, parse_ref, tag_key, tombstone_key
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.repo.update import Stamp

type Change = Callable[[RepoInfo, Stamp], RepoInfo]
"""Computes the next state from the present one; called again where somebody else was faster."""

type Check = Callable[[RepoInfo], None]
"""Looks at the state that an update replaces, and raises where the update must not be made."""

_IMMEDIATE_TRIES: Final = 5

MOVE_NODE, CREATE_TAG, DELETE_TAG = 3, 4, 5


def update_repo_info(
    context: WriteContext,
    change: Change,
    *,
    check_online: bool = True,
    is_known: bool = False,
    check_store: bool = True,
) -> RepoInfo:
    """Applies a change to `repo` (spec 2), and returns the state that it led to.

    Args:
        context: The repository.
        change: See `Change`.
        check_online: Refuse to change a repository whose status is not online.
        is_known: Begin with the state that was last seen, which is of late; if it is not the present one any more, the
            conditional write finds that out.
        check_store: Refuse a store that ignores conditions.

    Raises:
        UnsupportedError: the store ignores conditions, so that an update could be lost.
        ReadOnlyError: the repository's status is not online.
        ConflictError: somebody else was faster every time (kind `update-attempts-exhausted`).
        StorageError: `repo` cannot be written; or the answer was lost, and nobody can tell at the moment whether it was
            (`facts["maybe_written"]`).
    """
    storage, assets = context.storage, context.assets
    retries = Retries.of(context.update_retries)
    in_doubt: list[str] = []
    for attempt in range(1, retries.max_tries + 1):
        info, version = assets.fetch_repo_info(refresh=attempt > 1 or not is_known)
        if any(_has_update(info, backup) for backup in in_doubt):
            return info
        if check_online:
            context.check_online(info)
        now = edits.next_timestamp(info, context.clock())
        backup = backup_name(REPO_INFO, now, ChunkId.random())
        changed = change(info, Stamp(now, backup, context.num_updates))
        if changed is info:
            return info
        if check_store:
            context.check_store()
        data = encode_repo_info(changed, level=context.compression_level)
        try:
            storage.copy(REPO_INFO, backup_key(backup), if_match=version)
            # The publishing write: last, and alone. Before it nothing has happened, after it everything has.
            written = storage.put(REPO_INFO, data, if_match=version)
        except PreconditionFailedError as error:
            if error.facts.get("maybe_written"):
                # The next look at `repo` tells; here already, for this may have been the last try.
                arrived = _state_after(context, backup)
                if arrived is not None:
                    return arrived
                in_doubt.append(backup)
            retries.wait(attempt)
            continue
        except StorageError as error:
            arrived = _state_after(context, backup) if error.facts.get("maybe_written") else None
            if arrived is None:
                raise
            return arrived
        assets.remember_repo_info(changed, written, replaces=version)
        return changed
    raise ConflictError(
        f"{storage.url} is being changed by others faster than this update can be made ({retries.max_tries} tries)",
        kind="update-attempts-exhausted",
        hint="try again when it is quieter",
    )


def _state_after(context: WriteContext, backup: str) -> RepoInfo | None:
    """Returns the present state if an update is part of it whose answer was lost, or None.

    The name of its backup tells, which nobody else uses: it stays in the ops log when others add to that.
    """
    try:
        info, _ = context.assets.fetch_repo_info()
    except StorageError:
        return None
    return info if _has_update(info, backup) else None


def _has_update(info: RepoInfo, backup: str) -> bool:
    return info.repo_before_updates == backup or any(each.backup_path == backup for each in info.latest_updates)


@dataclass(frozen=True, slots=True)
class Retries:
    """How often to try an update that others were faster with, and how long to wait in between.

    Attributes:
        max_tries: How often.
        first_ms: The first wait; each further one is twice as long.
        longest_ms: The longest wait.
    """

    max_tries: int = 100
    first_ms: int = 50
    longest_ms: int = 30_000

    @classmethod
    def of(cls, config: StorageRetriesSettings | None) -> "Retries":
        """Takes from a configuration what it says."""
        default = cls()
        if config is None:
            return default
        return cls(
            max(1, config.max_tries or default.max_tries),
            default.first_ms if config.initial_backoff_ms is None else config.initial_backoff_ms,
            default.longest_ms if config.max_backoff_ms is None else config.max_backoff_ms,
        )

    def wait(self, attempt: int) -> None:
        """Waits before another try; not before the first few."""
        if attempt > _IMMEDIATE_TRIES and attempt < self.max_tries:
            longest_ms = min(self.longest_ms, self.first_ms * 2 ** (attempt - _IMMEDIATE_TRIES - 1))
            time.sleep(longest_ms / 1000 * (0.5 + random.random() / 2))  # jitter, not cryptography


def check_tip(context: WriteContext, branch: str, expected: SnapshotId, *, refresh: bool = True) -> None:
    """Checks that a branch still stands where a session does; without `refresh`, when somebody last looked.

    Raises:
        BranchMovedError: it does not.
        RefNotFoundError: it is gone.
        FormatError: spec 1: its file is malformed.
    """
    try:
        tip = context.refs(refresh=refresh).branch(branch)
    except RefNotFoundError as error:
        raise branch_gone(branch) from error
    if tip != expected:
        raise branch_moved(branch, expected, tip)


def branch_gone(branch: str) -> RefNotFoundError:
    """Makes the error for a branch that somebody deleted while it was used."""
    return RefNotFoundError(f"no branch {branch!r}", kind="branch-not-found", name=branch)


def branch_moved(branch: str, expected: SnapshotId, actual: SnapshotId | None) -> BranchMovedError:
    """Makes the error for a commit whose branch has moved."""
    return BranchMovedError(
        f"branch {branch!r} has moved from {expected} to {actual}",
        hint="rebase the changes onto it, then commit again",
        branch=branch,
        expected_parent=str(expected),
        actual_parent=None if actual is None else str(actual),
    )


def publish_commit(
    context: WriteContext,
    branch: str,
    base: SnapshotId,
    new: NewSnapshot,
    *,
    is_rearrange: bool = False,
    amend: bool = False,
    check: Check = lambda info: None,
) -> None:
    """Makes a written snapshot the tip of a branch that still stands at the snapshot's base.

    Args:
        context: The repository.
        branch: The branch.
        base: The snapshot's base.
        new: The snapshot.
        is_rearrange: Whether it moves nodes.
        amend: Whether it replaces its base.
        check: Called with the state that is replaced (spec 2); what it raises ends the work, and nothing was published.

    Raises:
        BranchMovedError: it does not; nothing was published.
    """
    if context.spec_version == 1:
        _move_branch_v1(context, branch, base, new.id)
        _check_kept_by_upgrade(context, new.id)
        return

    def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
        if is_rearrange:
            check_flag(info, MOVE_NODE, "move_node")
        tip = info.branches.get(branch)
        if new.id in info.snapshots:
            # A write of ours whose answer was lost had gone through; others may have committed on top of it.
            return info
        if tip is None:
            raise branch_gone(branch)
        if tip != base:
            raise branch_moved(branch, base, tip)
        check(info)
        parent = info.snapshots[base]
        entry = SnapshotInfo(new.id, base, new.flushed_at, new.message, new.metadata, ())
        if not amend:
            return edits.add_snapshot(info, entry, stamp, branch=branch)
        # An amended commit stands for the same expired ancestors as the one that it replaces.
        entry = replace(entry, parent_id=parent.parent_id, pruned_ancestor_tx_logs=parent.pruned_ancestor_tx_logs)
        return edits.add_snapshot(info, entry, stamp, branch=branch, kind=CommitAmended(branch, base, new.id))

    update_repo_info(context, change, is_known=True)


def publish_detached(
    context: WriteContext,
    base: SnapshotId,
    new: NewSnapshot,
    *,
    is_rearrange: bool = False,
    check: Check = lambda info: None,
) -> None:
    """Makes a written snapshot known to the repository, without a branch; in spec 1 its file is all there is."""
    if context.spec_version == 1:
        context.check_not_upgraded()
        return
    entry = SnapshotInfo(new.id, base, new.flushed_at, new.message, new.metadata, ())

    def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
        if is_rearrange:
            check_flag(info, MOVE_NODE, "move_node")
        if new.id in info.snapshots:
            return info
        check(info)
        return edits.add_snapshot(info, entry, stamp, branch=None)

    update_repo_info(context, change, is_known=True)


# Refs.


# Callers have asked for the state just before, to see whether the repository is online or there is such a ref.


def create_branch(context: WriteContext, name: str, snapshot_id: SnapshotId) -> None:
    """Creates a branch; raises AlreadyExistsError, SnapshotNotFoundError."""
    if context.spec_version == 2:
        update_repo_info(context, lambda info, stamp: edits.add_branch(info, name, snapshot_id, stamp), is_known=True)
        return
    check_ref_name(name)
    lookup_snapshot(context, snapshot_id)
    try:
        _create_ref_v1(context, branch_key(name), snapshot_id)
    except PreconditionFailedError as error:
        raise AlreadyExistsError(f"branch {name!r} exists already", kind="branch-already-exists", name=name) from error


def reset_branch(
    context: WriteContext, name: str, snapshot_id: SnapshotId, *, expected: SnapshotId | None = None
) -> None:
    """Points a branch at another snapshot; raises RefNotFoundError, SnapshotNotFoundError, ConflictError."""
    if context.spec_version == 2:
        context.refs().branch(name)
        update_repo_info(
            context,
            lambda info, stamp: edits.update_branch(info, name, snapshot_id, stamp, expected=expected),
            is_known=True,
        )
        return
    lookup_snapshot(context, snapshot_id)
    for attempt in range(1, Retries().max_tries + 1):
        present = context.refs().branch(name)
        if expected is not None and present != expected:
            raise ConflictError(
                f"branch {name!r} points at {present}, not at {expected}",
                kind="branch-update-conflict",
                expected_parent=str(expected),
                actual_parent=str(present),
            )
        try:
            _move_branch_v1(context, name, present, snapshot_id)
        except BranchMovedError:
            Retries().wait(attempt)
        else:
            context.check_not_upgraded()
            return
    raise ConflictError(f"branch {name!r} moves too fast to be reset", kind="update-attempts-exhausted", name=name)


def delete_branch(context: WriteContext, name: str) -> None:
    """Deletes a branch; raises RefNotFoundError, SessionStateError for `main`."""
    if name == MAIN_BRANCH:
        raise SessionStateError(
            f"the branch {MAIN_BRANCH} cannot be deleted",
            kind="cannot-delete-main",
            hint=f"each repository has it; 'icefs branch reset {MAIN_BRANCH} REF' lets it begin elsewhere",
        )
    context.refs().branch(name)
    if context.spec_version == 2:
        update_repo_info(context, lambda info, stamp: edits.delete_branch(info, name, stamp), is_known=True)
        return
    context.storage.delete([branch_key(name)])
    context.check_not_upgraded()


def create_tag(context: WriteContext, name: str, snapshot_id: SnapshotId) -> None:
    """Creates a tag; raises AlreadyExistsError, also for the name of a deleted tag, and SnapshotNotFoundError."""
    if context.spec_version == 2:

        def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
            check_flag(info, CREATE_TAG, "create_tag")
            return edits.add_tag(info, name, snapshot_id, stamp)

        update_repo_info(context, change, is_known=True)
        return
    check_ref_name(name)
    lookup_snapshot(context, snapshot_id)
    _check_tombstone(context, name)
    try:
        _create_ref_v1(context, tag_key(name), snapshot_id)
    except PreconditionFailedError as error:
        raise AlreadyExistsError(f"tag {name!r} exists already", kind="tag-already-exists", name=name) from error


def delete_tag(context: WriteContext, name: str) -> None:
    """Deletes a tag, whose name cannot be used again; raises RefNotFoundError."""
    context.refs().tag(name)
    if context.spec_version == 2:

        def change(info: RepoInfo, stamp: Stamp) -> RepoInfo:
            check_flag(info, DELETE_TAG, "delete_tag")
            return edits.delete_tag(info, name, stamp)

        update_repo_info(context, change, is_known=True)
        return
    context.storage.put(tombstone_key(name), b"")
    context.check_not_upgraded()


def _check_tombstone(context: WriteContext, name: str) -> None:
    try:
        context.storage.head(tombstone_key(name))
    except ObjectNotFoundError:
        return
    raise AlreadyExistsError(
        f"there was a tag {name!r}, and the name of a deleted tag cannot be used again",
        kind="tag-previously-deleted",
        name=name,
    )


_OPERATIONS: Final = {
    "create_tag": "tag creation",
    "delete_tag": "tag deletion",
    "move_node": "create rearrange session",
}


def check_flag(info: RepoInfo, flag: int, name: str) -> None:
    """Refuses what a feature flag has switched off.

    Raises:
        SessionStateError: the flag is off (kind `feature-flag-disabled`).
    """
    if info.feature_flag(flag) is False:
        raise SessionStateError(
            f"the repository's feature flag {name} is off",
            kind="feature-flag-disabled",
            hint="switch it on first",
            flag=name,
            operation=_OPERATIONS.get(name),
        )


def _create_ref_v1(context: WriteContext, key: str, snapshot_id: SnapshotId) -> None:
    """Writes a ref that is not there yet; raises PreconditionFailedError, and StaleError after an upgrade."""
    context.check_not_upgraded()
    context.check_store()
    data = encode_ref(snapshot_id)
    try:
        context.storage.put(key, data, create_only=True)
    except PreconditionFailedError as error:
        if not error.facts.get("maybe_written") or context.storage.get(key).data != data:
            raise
    context.check_not_upgraded()


def _check_kept_by_upgrade(context: WriteContext, snapshot_id: SnapshotId) -> None:
    """Refuses a commit of spec 1 that an upgrade at the same moment did not take over.

    Raises:
        StaleError: the repository was upgraded, and does not have the snapshot.
    """
    try:
        context.check_not_upgraded()
    except StaleError as error:
        try:
            info = parse_repo_info(context.storage.get(REPO_INFO).data, name=REPO_INFO)
        except (FormatError, StorageError):
            raise error from None
        if snapshot_id not in info.snapshots:
            raise


def _move_branch_v1(context: WriteContext, name: str, expected: SnapshotId, target: SnapshotId) -> None:
    key = branch_key(name)
    context.check_not_upgraded()
    context.check_store()
    try:
        present = context.storage.get(key)
    except ObjectNotFoundError as error:
        context.check_not_upgraded()
        raise branch_gone(name) from error
    tip = parse_ref(present.data, name=key)
    if tip != expected:
        raise branch_moved(name, expected, tip)
    try:
        context.storage.put(key, encode_ref(target), if_match=present.version)
    except PreconditionFailedError as error:
        try:
            tip = parse_ref(context.storage.get(key).data, name=key)
        except ObjectNotFoundError:
            context.check_not_upgraded()
            raise branch_gone(name) from error
        if tip != target:
            raise branch_moved(name, expected, tip) from error


def require_v2(context: WriteContext, what: str) -> None:
    """Refuses what spec 1 has no place for.

    Raises:
        UnsupportedSpecVersionError: the repository is of spec 1.
    """
    if context.spec_version == 1:
        context.check_not_upgraded()
        raise UnsupportedSpecVersionError(
            f"a repository of spec version 1 has no {what}",
            hint="upgrade the repository with 'icefs upgrade'",
            least="2.0",
        )

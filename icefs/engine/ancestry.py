"""The history of a snapshot: itself, its parent, and so on to the first one.

Spec 2 keeps the graph of all snapshots in `repo`; spec 1 keeps in each snapshot's file the id of its parent.
Both may have been rewritten by expiration, which makes the root of the chain the parent of the oldest snapshot that
it keeps; spec 2 then records which transaction logs the snapshot stands for (`pruned_ancestor_tx_logs`).
"""

from collections.abc import Iterator

from icefs.engine.assets import AssetManager, snapshot_not_found
from icefs.errors import FormatError, SnapshotNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.layout import REPO_INFO, snapshot_key
from icefs.format.repo_info import RepoInfo, SnapshotInfo
from icefs.format.snapshot import Snapshot


def snapshot_info(repo_info: RepoInfo, snapshot_id: SnapshotId) -> SnapshotInfo:
    """Looks a snapshot up in the repo info.

    Raises:
        SnapshotNotFoundError: it is not there.
    """
    info = repo_info.snapshots.get(snapshot_id)
    if info is None:
        raise snapshot_not_found(snapshot_id)
    return info


def snapshot_info_v1(snapshot: Snapshot) -> SnapshotInfo:
    """Takes from a snapshot's file what spec 2 would keep in the repo info."""
    return SnapshotInfo(
        id=snapshot.id,
        parent_id=snapshot.parent_id,
        flushed_at=snapshot.flushed_at,
        message=snapshot.message,
        metadata=snapshot.metadata,
        pruned_ancestor_tx_logs=(),
    )


def walk(repo_info: RepoInfo, start: SnapshotId) -> Iterator[SnapshotInfo]:
    """Yields a snapshot and its ancestors, newest first, as the repo info has them.

    Raises:
        SnapshotNotFoundError: the repo info does not have the first one.
        FormatError: an ancestor comes twice, or is missing.
    """
    seen: set[SnapshotId] = set()
    current: SnapshotId | None = start
    while current is not None:
        if current in seen:
            raise _cycle(REPO_INFO, current)
        seen.add(current)
        info = snapshot_info(repo_info, current)
        yield info
        current = info.parent_id


def walk_v1(assets: AssetManager, start: SnapshotId) -> Iterator[SnapshotInfo]:
    """Yields a snapshot and its ancestors, newest first, reading one file for each.

    Raises:
        SnapshotNotFoundError: a snapshot's file is missing.
        FormatError: an ancestor comes twice, or a file is malformed.
    """
    seen: set[SnapshotId] = set()
    child: SnapshotId | None = None
    current: SnapshotId | None = start
    while current is not None:
        if current in seen:
            raise _cycle(snapshot_key(current), current)
        seen.add(current)
        try:
            snapshot = assets.fetch_snapshot(current)
        except SnapshotNotFoundError:
            # Expiration, which rewrites files of spec 1 in place, may have given the child another parent since.
            moved = None if child is None else assets.refetch_snapshot(child).parent_id
            if moved == current or child is None:
                raise
            current = moved
            continue
        yield snapshot_info_v1(snapshot)
        child, current = current, snapshot.parent_id


def _cycle(file: str, snapshot_id: SnapshotId) -> FormatError:
    reason = f"snapshot {snapshot_id} is an ancestor of itself"
    return FormatError(f"{file}: {reason}", file=file, reason=reason)

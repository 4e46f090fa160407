"""The history of a snapshot: itself, its parent, and so on to the first one.

Spec 2 keeps the graph of all snapshots in `repo`. In spec 1 each snapshot's file has the id of its parent; expiration
rewrites the file of the oldest snapshot that it keeps, so that the first one becomes its parent.
"""

from collections.abc import Iterator
from datetime import UTC

from icefs.clock import to_datetime
from icefs.engine.read.assets import AssetManager, snapshot_not_found
from icefs.engine.read.context import ReadContext
from icefs.errors import FormatError, ObjectNotFoundError, SnapshotNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.layout import snapshot_key
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.snapshot.reader import Snapshot
from icefs.words import quoted


def lookup_snapshot(context: ReadContext, snapshot_id: SnapshotId) -> SnapshotInfo:
    """Returns what the repository knows of a snapshot without its nodes.

    Raises:
        SnapshotNotFoundError: spec 2: it is not in `repo`; spec 1: it has no file.
    """
    if context.spec_version == 1:
        try:
            return snapshot_info_v1(context.assets.fetch_snapshot(snapshot_id))
        except ObjectNotFoundError as error:
            raise snapshot_not_found(snapshot_id) from error
    return _entry(context.assets.fetch_repo_info()[0], snapshot_id)


def snapshot_as_seen(context: ReadContext, snapshot_id: SnapshotId) -> SnapshotInfo:
    """Does what `lookup_snapshot` does, without a request if the state of `repo` as last read has the snapshot."""
    if context.spec_version == 1:
        return lookup_snapshot(context, snapshot_id)
    return _entry(_repo_info_with(context, snapshot_id), snapshot_id)


def ancestry(context: ReadContext, snapshot_id: SnapshotId) -> Iterator[SnapshotInfo]:
    """Returns a snapshot and its ancestors, newest first.

    Raises:
        SnapshotNotFoundError: as `lookup_snapshot`, by the call itself; the iterator raises for an ancestor.
    """
    return walk(context, lookup_snapshot(context, snapshot_id).id)


def ancestry_as_seen(context: ReadContext, snapshot_id: SnapshotId) -> Iterator[SnapshotInfo]:
    """Does what `ancestry` does, without a request if the state of `repo` as last read has the snapshot."""
    return walk(context, snapshot_as_seen(context, snapshot_id).id)


def walk(context: ReadContext, start: SnapshotId) -> Iterator[SnapshotInfo]:
    """Does what `ancestry` does, from a snapshot that the repository has."""
    if context.spec_version == 1:
        return walk_v1(context.assets, start)
    return _repo_info_with(context, start).ancestry(start)


def snapshot_as_of(context: ReadContext, branch: str, tip: SnapshotId, micros: int) -> SnapshotId:
    """Returns the newest snapshot of a branch that is not younger than a time.

    Args:
        context: The repository.
        branch: The branch's name, for the message.
        tip: Its tip.
        micros: The time, in microseconds since the epoch.

    Raises:
        SnapshotNotFoundError: all of them are younger (kind `no-snapshot-at-time`).
    """
    oldest = None
    for oldest in walk(context, tip):
        if oldest.flushed_at <= micros:
            return oldest.id
    raise SnapshotNotFoundError(
        f"branch {quoted(branch)} has no snapshot as old as {_written(micros)}",
        kind="no-snapshot-at-time",
        hint=None if oldest is None else f"its oldest is of {_written(oldest.flushed_at)}",
        branch=branch,
        at=_written(micros),
    )


def _repo_info_with(context: ReadContext, snapshot_id: SnapshotId) -> RepoInfo:
    """Returns the state of `repo` as last read if it has a snapshot; asks the store otherwise."""
    info, _ = context.assets.fetch_repo_info(refresh=False)
    return info if snapshot_id in info.snapshots else context.assets.fetch_repo_info()[0]


def _entry(info: RepoInfo, snapshot_id: SnapshotId) -> SnapshotInfo:
    found = info.snapshots.get(snapshot_id)
    if found is None:
        raise snapshot_not_found(snapshot_id)
    return found


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


def walk_v1(assets: AssetManager, start: SnapshotId) -> Iterator[SnapshotInfo]:
    """Yields a snapshot and its ancestors, newest first, reading one file for each.

    Raises:
        ObjectNotFoundError: a snapshot's file is missing.
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
        except ObjectNotFoundError:
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


def _written(micros: int) -> str:
    """Writes a time as people write it."""
    try:
        return f"{to_datetime(micros).astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
    except OverflowError:
        return f"{micros} µs"

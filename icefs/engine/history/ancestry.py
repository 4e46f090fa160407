"""The history of a snapshot in spec 1: itself, its parent, and so on to the first one.

Each snapshot's file has the id of its parent (spec 2 keeps the graph of all snapshots in `repo` instead). Expiration
rewrites the file of the oldest snapshot that it keeps, so that the first one becomes its parent.
"""

from collections.abc import Iterator

from icefs.engine.read.assets import AssetManager
from icefs.errors import FormatError, ObjectNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.layout import snapshot_key
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.snapshot.reader import Snapshot


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

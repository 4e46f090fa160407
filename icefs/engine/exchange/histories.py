"""The snapshots that another repository lacks, with the parents that they have there.

A history that is cut (`Wanted.depth`) is what expiration would leave of it: the oldest snapshot that is kept gets the
first one of all as its parent, and stands for the transaction logs of those in between.

Source: spec 2.1 "SnapshotInfo"; format notes §5.
"""

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace

from icefs.engine.read.assets import AssetManager
from icefs.format.ids import SnapshotId
from icefs.format.layout import snapshot_key
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.format.snapshot.writer import encode_snapshot
from icefs.storage.base import Storage

type Ancestry = Callable[[SnapshotId], Iterator[SnapshotInfo]]
"""Yields a snapshot and its ancestors, newest first."""


@dataclass(frozen=True, slots=True)
class NewHistory:
    """Snapshots that the target lacks.

    Attributes:
        snapshots: As they are to be known there, by id.
        cut: Those of them that have another parent there.
    """

    snapshots: dict[SnapshotId, SnapshotInfo]
    cut: frozenset[SnapshotId]

    def logs(self) -> set[SnapshotId]:
        """Returns the transaction logs that they stand for."""
        return {log for each in self.snapshots.values() for log in (each.id, *each.pruned_ancestor_tx_logs)}

    def leading_to(self, tip: SnapshotId) -> list[SnapshotInfo]:
        """Returns those of them that a history consists of, oldest first."""
        chain = []
        current: SnapshotId | None = tip
        while current is not None and current in self.snapshots:
            chain.append(self.snapshots[current])
            current = self.snapshots[current].parent_id
        return chain[::-1]


def new_history(
    ancestry: Ancestry,
    tips: Iterable[SnapshotId],
    known: Container[SnapshotId],
    depth: int | None,
    *,
    spec_version: int = 2,
) -> NewHistory:
    """Finds out which snapshots are missing.

    Args:
        ancestry: The histories of the source.
        tips: The snapshots that refs are to lead to.
        known: The snapshots of the target, each with all that it needs.
        depth: How many snapshots of each history; None for all.
        spec_version: The target's: version 1 has no place for the transaction logs that a snapshot stands for.

    Raises:
        SnapshotNotFoundError, FormatError, StorageError: as `ancestry`.
    """
    wanted = list(dict.fromkeys(tips))
    kept: dict[SnapshotId, SnapshotInfo] = {}
    for tip in wanted:
        _keep(ancestry(tip), known, depth, kept)
    cut = {each.id for each in kept.values() if not _is_there(each.parent_id, kept, known)}
    for tip in wanted if cut else ():
        _cut(ancestry(tip), kept, known, cut)
    if spec_version == 1:
        kept = {key: replace(each, pruned_ancestor_tx_logs=()) for key, each in kept.items()}
    return NewHistory(kept, frozenset(cut))


def _is_there(snapshot_id: SnapshotId | None, kept: Container[SnapshotId], known: Container[SnapshotId]) -> bool:
    return snapshot_id is None or snapshot_id in kept or snapshot_id in known


def _keep(
    history: Iterator[SnapshotInfo],
    known: Container[SnapshotId],
    depth: int | None,
    kept: dict[SnapshotId, SnapshotInfo],
) -> None:
    """Adds what is kept of one history; of a deeper one the first snapshot of all, which others are put on."""
    for count, each in enumerate(history):
        if each.id in known or (depth is None and each.id in kept):
            return
        if depth is None or count < depth or each.parent_id is None:
            kept[each.id] = each


def _cut(
    history: Iterator[SnapshotInfo],
    kept: dict[SnapshotId, SnapshotInfo],
    known: Container[SnapshotId],
    cut: Container[SnapshotId],
) -> None:
    """Puts the snapshots of one history that lose their parent on the nearest ancestor that stays."""
    edited: SnapshotInfo | None = None
    between: list[SnapshotInfo] = []
    for each in history:
        is_there = _is_there(each.id, kept, known)
        if edited is not None and is_there:
            logs = [log for one in reversed(between) for log in (*one.pruned_ancestor_tx_logs, one.id)]
            kept[edited.id] = replace(
                edited, parent_id=each.id, pruned_ancestor_tx_logs=(*logs, *edited.pruned_ancestor_tx_logs)
            )
            edited = None
        if each.id in known:
            return
        if edited is not None:
            between.append(each)
        elif each.id in cut:
            edited, between = each, []


def write_cut_v1(source: AssetManager, target: Storage, history: NewHistory) -> None:
    """Writes the files of snapshots that have another parent in a target of spec version 1, which keeps it there.

    Raises:
        StorageError: one cannot be written.
    """
    for snapshot_id in sorted(history.cut):
        snapshot = source.fetch_snapshot(snapshot_id)
        data = encode_snapshot(
            snapshot_id=snapshot.id,
            flushed_at=snapshot.flushed_at,
            message=snapshot.message,
            metadata=snapshot.metadata,
            nodes=snapshot.nodes(),
            manifest_files=snapshot.manifest_files.values(),
            spec_version=1,
            parent_id=history.snapshots[snapshot_id].parent_id,
        )
        target.put(snapshot_key(snapshot_id), data)

"""What a commit's metadata say of where it came from, and the base of a merge that follows from it.

Icechunk's history is linear: a snapshot has one parent. So a commit that icefs makes of another one says so in its
metadata, under the key `icefs`:

    {"merge": {"snapshot_id": "…", "ref": "dev", "base": "…"}}
    {"cherry_pick": {"snapshot_id": "…"}}
    {"revert": {"snapshot_id": "…"}}
    {"restore": {"snapshot_id": "…", "path": "a/c/0/1"}}

Together, parents and merged snapshots are the graph that a merge looks for its base in. So whatever was merged once is
not merged again. Metadata are anybody's text: what does not name a snapshot of the repository counts for nothing.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from icefs.engine.history.ancestry import lookup_snapshot, snapshot_as_seen
from icefs.engine.read.context import ReadContext
from icefs.errors import InvalidInputError, ObjectNotFoundError, SnapshotNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo

ORIGIN: Final = "icefs"
"""The key of a commit's metadata."""

_KINDS: Final = ("merge", "cherry_pick", "revert", "restore")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a commit came from.

    Attributes:
        kind: `merge`, `cherry_pick`, `revert` or `restore`.
        snapshot_id: The snapshot that was merged, picked or reverted, or restored from.
        ref: What it was called in the command, for a merge.
    """

    kind: str
    snapshot_id: SnapshotId
    ref: str | None = None


def origin_of(metadata: Mapping[str, Any]) -> Origin | None:
    """Reads where a commit came from; None where its metadata do not say."""
    noted = metadata.get(ORIGIN)
    if not isinstance(noted, Mapping):
        return None
    for kind in _KINDS:
        one = noted.get(kind)
        if not isinstance(one, Mapping):
            continue
        named, ref = one.get("snapshot_id"), one.get("ref")
        if not isinstance(named, str):
            continue
        try:
            return Origin(kind, SnapshotId.parse(named), ref if isinstance(ref, str) else None)
        except InvalidInputError:
            continue
    return None


def merge_bases(context: ReadContext, one: SnapshotId, other: SnapshotId) -> list[SnapshotId]:
    """Returns the newest snapshots that two versions have in common, by parents and merges, the newest first.

    There are several, none of which has the other, where each side has merged an older version of the other one.

    Raises:
        SnapshotNotFoundError: one of the versions is not in the repository.
        ObjectNotFoundError, FormatError: a snapshot's file is missing or malformed (spec 1).
    """
    graph: dict[SnapshotId, SnapshotInfo] = {}
    mine = _reached(context, one, graph)
    common = mine & _reached(context, other, graph)
    inner = {parent for snapshot_id in common for parent in parents_of(graph[snapshot_id])}
    newest = sorted(common - inner, key=lambda snapshot_id: (graph[snapshot_id].flushed_at, snapshot_id))
    return newest[::-1]


def _reached(context: ReadContext, start: SnapshotId, graph: dict[SnapshotId, SnapshotInfo]) -> set[SnapshotId]:
    """Returns the snapshots that a version has, and itself; adds their facts to the graph."""
    if start not in graph:
        graph[start] = lookup_snapshot(context, start)
    found, waiting = {start}, [start]
    while waiting:
        for parent in parents_of(graph[waiting.pop()]):
            if parent in found:
                continue
            if parent not in graph:
                try:
                    graph[parent] = snapshot_as_seen(context, parent)
                except (SnapshotNotFoundError, ObjectNotFoundError):
                    continue  # expired, or never there
            found.add(parent)
            waiting.append(parent)
    return found


def parents_of(info: SnapshotInfo) -> Iterator[SnapshotId]:
    """Yields the parent of a snapshot, and the snapshot that it merged, whether or not these are there."""
    if info.parent_id is not None:
        yield info.parent_id
    origin = origin_of(info.metadata)
    if origin is not None and origin.kind == "merge":
        yield origin.snapshot_id

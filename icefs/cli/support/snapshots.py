"""Snapshots in lists and in JSON, with the branches and tags that name them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from icefs.cli.support.options import iso
from icefs.clock import to_datetime
from icefs.engine.history.origins import origin_of
from icefs.engine.read.refs import Refs
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.words import quoted


@dataclass(frozen=True, slots=True)
class Names:
    """Which branches and tags are at each snapshot, sorted."""

    branches: Mapping[SnapshotId, list[str]]
    tags: Mapping[SnapshotId, list[str]]

    @classmethod
    def of(cls, refs: Refs) -> "Names":
        """Turns refs around."""
        return cls(_turned(refs.branches), _turned(refs.tags))

    def labels(self, snapshot_id: SnapshotId) -> str:
        """Returns the branches and tags at a snapshot, for people; nothing where there are none."""
        branches, tags = self.branches.get(snapshot_id, ()), self.tags.get(snapshot_id, ())
        return ", ".join([*map(quoted, branches), *(f"tag: {quoted(name)}" for name in tags)])


def _turned(refs: Mapping[str, SnapshotId]) -> dict[SnapshotId, list[str]]:
    names: dict[SnapshotId, list[str]] = {}
    for name in sorted(refs):
        names.setdefault(refs[name], []).append(name)
    return names


def describe_snapshot(info: SnapshotInfo, names: Names) -> dict[str, Any]:
    """Describes a snapshot for programs."""
    return {
        "id": str(info.id),
        "parent_id": None if info.parent_id is None else str(info.parent_id),
        "written_at": iso(to_datetime(info.flushed_at)),
        "message": info.message,
        "metadata": dict(info.metadata),
        "origin": describe_origin(info),
        "branches": names.branches.get(info.id, []),
        "tags": names.tags.get(info.id, []),
    }


def describe_origin(info: SnapshotInfo) -> dict[str, str] | None:
    """Describes for programs which commit one was made of; None where its metadata do not say."""
    origin = origin_of(info.metadata)
    return None if origin is None else {"kind": origin.kind, "snapshot_id": str(origin.snapshot_id)}


def describe_commit(info: SnapshotInfo) -> dict[str, Any]:
    """Describes a snapshot in a few words, for programs."""
    return {"id": str(info.id), "written_at": iso(to_datetime(info.flushed_at)), "message": info.message}

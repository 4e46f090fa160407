"""The contents of the control files: what a tree or a mount says of itself, as text and as JSON."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC
from itertools import islice
from typing import Any, Final

from icefs.clock import to_datetime
from icefs.engine.repository import Repository
from icefs.errors import IcefsError
from icefs.format.ids import SnapshotId
from icefs.format.repo_info import SnapshotInfo

MAX_LOG: Final = 100_000
"""Histories are told up to this many snapshots."""

NOTHING_STAGED: Final[Mapping[str, list[str]]] = {
    name: []
    for name in (
        "new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays",
        "updated_chunks", "moved_nodes",
    )
}  # fmt: skip
"""A diff without changes, in JSON."""


def to_json(value: Any) -> bytes:
    """Encodes a control file's JSON."""
    return json.dumps(value, ensure_ascii=False, indent=1, default=str).encode(errors="surrogatepass") + b"\n"


def moment(flushed_at: int) -> str:
    """Writes a time for programs: UTC, ISO 8601, `Z`."""
    try:
        return to_datetime(flushed_at).astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"
    except OverflowError:
        return f"{flushed_at} µs"


def describe_snapshot(repository: Repository, snapshot_id: SnapshotId) -> dict[str, Any]:
    """Describes a snapshot in JSON; `flushed_at` and `message` are null where it cannot be read."""
    try:
        info = repository.snapshot_info(snapshot_id)
    except IcefsError:
        try:  # a snapshot that no ref reaches is in its own file alone
            snapshot = repository.assets.fetch_snapshot(snapshot_id)
        except IcefsError as error:
            return {"snapshot": str(snapshot_id), "flushed_at": None, "message": None, "error": str(error)}
        return {
            "snapshot": str(snapshot_id),
            "flushed_at": moment(snapshot.flushed_at),
            "message": snapshot.message,
        }
    return {"snapshot": str(snapshot_id), "flushed_at": moment(info.flushed_at), "message": info.message}


def tree_status(repository: Repository, facts: Mapping[str, Any], snapshot_id: SnapshotId) -> dict[str, Any]:
    """Makes a tree's `status.json`.

    Args:
        repository: Where the snapshot is.
        facts: What the tree knows of itself: `kind`, `name`, `tip`, `tip_moved`, `problem`.
        snapshot_id: What the tree stands on.
    """
    return {
        **facts,
        **describe_snapshot(repository, snapshot_id),
        "writable": False,
        "staged": NOTHING_STAGED,
        "untracked": [],
    }


def status_text(status: Mapping[str, Any]) -> str:
    """Makes a tree's `status`, from its `status.json`."""
    kind, name = status["kind"], status["name"]
    lines = [f"On {kind} {name}" if name else f"On {kind}"]
    about = [text for text in (status["flushed_at"], status["message"] and status["message"].split("\n")[0]) if text]
    lines.append(f"Base snapshot {status['snapshot']}" + (f" ({', '.join(about)})" if about else ""))
    if status.get("problem"):
        lines.append(f"Not following the tip: {status['problem']}")
    elif status.get("tip_moved"):
        lines.append(f"The tip has moved to {status['tip']}")
    lines.append("Nothing staged; this tree is read-only")
    return "\n".join(lines) + "\n"


def history(repository: Repository, snapshot_id: SnapshotId) -> Iterator[SnapshotInfo]:
    """Yields a snapshot and its ancestors, newest first."""
    try:
        return islice(repository.ancestry(snapshot_id=snapshot_id), MAX_LOG)
    except IcefsError:
        return iter(())


def log_json(repository: Repository, snapshot_id: SnapshotId) -> bytes:
    """Makes `log.json`, with the fields of `icefs log --json`."""
    return to_json(
        [
            {
                "id": str(info.id),
                "parent_id": None if info.parent_id is None else str(info.parent_id),
                "written_at": moment(info.flushed_at),
                "message": info.message,
                "metadata": dict(info.metadata),
            }
            for info in history(repository, snapshot_id)
        ]
    )


def log_text(repository: Repository, snapshot_id: SnapshotId) -> bytes:
    """Makes `log`: one line for each snapshot."""
    lines = [
        f"{info.id} {moment(info.flushed_at)} {info.message.splitlines()[0] if info.message else ''}".rstrip() + "\n"
        for info in history(repository, snapshot_id)
    ]
    return "".join(lines).encode(errors="surrogatepass")

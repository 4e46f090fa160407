"""The contents of the control files: what a tree or a mount says of itself, as text and as JSON."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC
from itertools import islice
from typing import Any, Final

from icefs.clock import to_datetime
from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.errors import IcefsError
from icefs.format.ids import SnapshotId
from icefs.format.repo.snapshot_table import SnapshotInfo
from icefs.vfs.commit.staged_report import NOTHING_STAGED
from icefs.vfs.control.status_text import status_lines, to_text
from icefs.vfs.notes.consolidated import Nodes
from icefs.vfs.notes.root_group import root_notes
from icefs.words import visible, visible_json
from icefs.worktree.tree import WorkTree
from icefs.worktree.upload.background import BackgroundUploads

MAX_LOG: Final = 100_000
"""Histories are shown up to this many snapshots."""

_MAX_AHEAD: Final = 10_000


def to_json(value: Any) -> bytes:
    """Encodes a control file's JSON."""
    return visible_json(json.dumps(value, ensure_ascii=False, indent=1, default=str)).encode() + b"\n"


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
            return {"snapshot": str(snapshot_id), "flushed_at": None, "message": None, "error": error.own_message}
        return {
            "snapshot": str(snapshot_id),
            "flushed_at": moment(snapshot.flushed_at),
            "message": snapshot.message,
        }
    return {"snapshot": str(snapshot_id), "flushed_at": moment(info.flushed_at), "message": info.message}


def tree_status(
    repository: Repository, facts: Mapping[str, Any], snapshot_id: SnapshotId, session: Session | None = None
) -> dict[str, Any]:
    """Makes a tree's `status.json`.

    Args:
        repository: Where the snapshot is.
        facts: What the tree knows of itself: `kind`, `name`, `tip`, `tip_moved`, `problem`.
        snapshot_id: What the tree stands on.
        session: The same, opened; None where no program has looked into the tree: then status asks the store for
            nothing.
    """
    return {
        **facts,
        "tip_ahead": _ahead(repository, facts, snapshot_id),
        **describe_snapshot(repository, snapshot_id),
        "writable": False,
        "uploading": None,
        "background": None,
        "pending_commit": None,
        "damage": None,
        "staged": NOTHING_STAGED,
        "untracked": [],
        "invalid": [],
        "open": [],
        "lost": [],
        "refused": [],
        "notes": [] if session is None else root_notes(Nodes(session), is_writable=False),
    }


def background_facts(uploads: BackgroundUploads | None) -> dict[str, Any] | None:
    """Describes background uploads in JSON; None where there are none."""
    return None if uploads is None else asdict(uploads.state)


def damage_facts(work: WorkTree) -> dict[str, Any] | None:
    """Describes what of a working tree is damaged in JSON; None where nothing is."""
    damage = work.damage()
    return damage.to_json() if damage else None


def tree_diff(snapshot_id: SnapshotId) -> dict[str, Any]:
    """Makes the `diff.json` of a tree without changes."""
    nothing: dict[str, Any] = {"metadata": {}, "untracked": [], "invalid": [], "open": []}
    return {"from": str(snapshot_id), "to": None, **NOTHING_STAGED, **nothing}


def _ahead(repository: Repository, facts: Mapping[str, Any], snapshot_id: SnapshotId) -> int | None:
    """Counts the commits from a tree's snapshot to its branch's tip; None where these are not of one history."""
    if not facts["tip_moved"]:
        return 0
    try:
        history = repository.ancestry(snapshot_id=SnapshotId.parse(facts["tip"]))
        return next((n for n, info in enumerate(islice(history, _MAX_AHEAD)) if info.id == snapshot_id), None)
    except IcefsError:
        return None


def status_text(status: Mapping[str, Any]) -> bytes:
    """Makes a tree's `status`, from its `status.json`."""
    return to_text(status_lines(status)).encode(errors="surrogatepass")


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
        f"{info.id} {moment(info.flushed_at)} {visible(info.message.partition('\n')[0])}".rstrip() + "\n"
        for info in history(repository, snapshot_id)
    ]
    return "".join(lines).encode(errors="surrogatepass")

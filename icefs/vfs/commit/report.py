"""What a commit reports: why there is none, what it took, and what it left out."""

from collections.abc import Sequence
from typing import Any, Final

from icefs.engine.read.session import Session
from icefs.engine.repository import Repository
from icefs.engine.write.transactions import moves_cannot_be_joined
from icefs.errors import FormatError, InvalidInputError, NothingToCommitError, ObjectNotFoundError, StorageError
from icefs.format.ids import SnapshotId
from icefs.vfs.commit.staged_report import StagedReport, dropped_counts
from icefs.words import plural
from icefs.worktree.stage.staged import Staged
from icefs.zarr.keys import is_zarr_key
from icefs.zarr.reader import KeyReader

LISTED: Final = 1000
"""How many paths of one kind an answer lists; it says how many there are."""

_SHOWN: Final = 3
_NOTHING: Final = "there is nothing to commit"
_INCLUDE: Final = "let the programs close them, or commit them as they are with --include-open"


def check_staged(staged: Staged, *, skip_invalid: bool, allow_empty: bool) -> None:
    """Refuses what cannot be committed.

    Raises:
        InvalidInputError: some files cannot be; `facts["invalid"]` lists them (kind `invalid-tree`).
        NothingToCommitError: nothing changed, or nothing but files that are open; `facts["open"]` lists these.
    """
    if staged.invalid and not skip_invalid:
        listed = shown([f"{path} {reason}" for path, reason in staged.invalid])
        raise InvalidInputError(
            f"{plural(len(staged.invalid), 'file')} cannot be committed: {listed}",
            kind="invalid-tree",
            hint="correct or remove them, or leave them out with --skip-invalid",
            invalid=[list(one) for one in staged.invalid],
        )
    if not staged.is_empty or allow_empty:
        return
    if staged.open:
        listed = shown([f"{path} {reason}" for path, reason in staged.open])
        raise NothingToCommitError(
            f"{_NOTHING} but what is open for writing: {listed}",
            hint=_INCLUDE,
            open=_rows(staged.open),
            invalid=[list(one) for one in staged.invalid],
        )
    if staged.invalid:
        listed = shown([f"{path} {reason}" for path, reason in staged.invalid])
        raise NothingToCommitError(
            f"{_NOTHING} but what cannot be committed: {listed}",
            hint="correct or remove them",
            invalid=[list(one) for one in staged.invalid],
        )
    raise NothingToCommitError(_NOTHING, hint="change something first")


def check_amend(staged: Staged, base: Session) -> None:
    """Refuses to amend a commit of moves by anything but moves, before anything is stored.

    Raises:
        SessionStateError: that is what was asked for.
    """
    if staged.is_empty or staged.moves:
        return
    try:
        log = base.context.assets.fetch_transaction_log(base.snapshot_id)
    except ObjectNotFoundError:
        return  # the amended commit itself finds out why
    if log.moved_nodes:
        raise moves_cannot_be_joined(base.snapshot_id, "commit without --amend")


def shown(texts: Sequence[str]) -> str:
    """Joins the first few texts for one line, and says how many more there are."""
    more = f"; and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return "; ".join(texts[:_SHOWN]) + more


def late_facts(repository: Repository, snapshot_id: SnapshotId) -> dict[str, Any]:
    """Returns, in JSON, what a commit took that was found to have been made."""
    log = repository.assets.fetch_transaction_log(snapshot_id)
    nodes = (log.new_groups, log.new_arrays, log.deleted_groups, log.deleted_arrays, log.updated_arrays)
    return {
        "snapshot": str(snapshot_id),
        "nodes": sum(map(len, nodes)) + len(log.updated_groups),
        "chunks": sum(map(len, log.updated_chunks.values())),
    }


def taken_facts(staged: Staged, base: Session) -> dict[str, Any]:
    """Returns, in JSON, what a commit took: as many changes as `status` listed of it."""
    report = StagedReport(staged, base)
    try:
        nodes, chunks = report.num_nodes, report.num_chunks
    except (FormatError, StorageError):  # the commit is made, and does not fail over its report
        nodes, chunks = len(staged.nodes) + len(staged.deleted), staged.num_chunks - staged.num_dropped
    return {
        "nodes": nodes,
        "chunks": chunks,
        "dropped_chunks": dropped_counts(staged),
    }


def left_out_facts(staged: Staged, made: Session) -> dict[str, Any]:
    """Returns, in JSON, what a commit left out: the first of each kind, and how many there are.

    Of an invalid file, `keeps` says whether the snapshot that was made has something at its path.
    """
    reader = KeyReader(made)
    invalid = sorted(staged.invalid)
    return {
        "open": _rows(staged.open),
        "invalid": [{"path": path, "reason": reason, "keeps": _has(reader, path)} for path, reason in invalid[:LISTED]],
        "untracked": sorted(staged.untracked)[:LISTED],
        "left_out": {"open": len(staged.open), "invalid": len(invalid), "untracked": len(staged.untracked)},
    }


NOTHING_LEFT_OUT: Final = {
    "open": [],
    "invalid": [],
    "untracked": [],
    "left_out": {"open": 0, "invalid": 0, "untracked": 0},
}
"""The same of a commit that left nothing out."""


def _rows(found: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"path": path, "reason": reason} for path, reason in sorted(found)[:LISTED]]


def _has(reader: KeyReader, path: str) -> bool:
    try:
        return reader.find(path) is not None if is_zarr_key(path) else not reader.is_empty(path)
    except (FormatError, StorageError):
        return False  # the commit is made, and does not fail over its report

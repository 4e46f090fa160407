"""What others have committed to a branch since the snapshot that somebody's changes stand on, for messages.

The commits that are news are those that the branch has and the base does not: from the tip down to the base or, where
the base was amended or the branch was reset, down to the newest ancestor that both have.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from icefs.clock import to_datetime
from icefs.engine.history.ancestry import ancestry
from icefs.engine.read.context import ReadContext
from icefs.errors import IcefsError, ObjectNotFoundError, SnapshotNotFoundError
from icefs.format.ids import SnapshotId
from icefs.format.repo.ops_log import CommitAmended
from icefs.format.repo.snapshot_table import SnapshotInfo

_MAX_LISTED: Final = 100
_MAX_WALKED: Final = {1: 100, 2: 100_000}
"""By spec version how far two histories are followed to where they meet: spec 1 reads a file for each snapshot."""


@dataclass(frozen=True, slots=True)
class News:
    """What happened to a branch since a base.

    Attributes:
        commits: The newest commits that the base does not descend from, newest first: `id`, `message`, `written_at`.
        amended_to: What the base was amended to, where the branch has that.
        is_behind: Whether the branch still has the base.
    """

    commits: list[dict[str, str]]
    amended_to: SnapshotId | None = None
    is_behind: bool = True

    def add_to(self, error: IcefsError, base: SnapshotId) -> None:
        """Adds what happened to an error about a branch that has moved: to its facts, and in short to its message."""
        error.facts["commits"] = self.commits
        if self.amended_to is not None:
            error.facts["amended"] = {"from": str(base), "to": str(self.amended_to)}
            said = f"{base} was amended to {self.amended_to}"
        elif not self.is_behind:
            said = f"{base} is not in the branch's history any more, for the branch was reset"
        else:
            return
        error.own_message = f"{error.own_message}; {said}"
        error.args = (error.own_message,)


def news_since(context: ReadContext, tip: SnapshotId, base: SnapshotId, branch: str) -> News:
    """Finds out what the history of a branch's tip has that the history of a base does not."""
    theirs, is_behind = _until_common(context, tip, base)
    commits = [
        {"id": str(info.id), "message": info.message, "written_at": to_datetime(info.flushed_at).isoformat()}
        for info in theirs[:_MAX_LISTED]
    ]
    if is_behind:
        return News(commits)
    return News(commits, _amended_to(context, branch, base, {info.id for info in theirs}), is_behind=False)


def _until_common(context: ReadContext, tip: SnapshotId, base: SnapshotId) -> tuple[list[SnapshotInfo], bool]:
    """Follows two histories in step to the newest snapshot that both have.

    Returns:
        What the tip's has before that, newest first; and whether the base is in it, or stands so far back that this
        was not found out.
    """
    limit = _MAX_WALKED[context.spec_version]
    theirs = islice(ancestry(context, tip), limit)
    ours = islice(_ancestry_left(context, base), limit)
    found: list[SnapshotInfo] = []
    seen: dict[SnapshotId, int] = {}
    known: set[SnapshotId] = {base}
    for info in theirs:
        if info.id in known:
            return found, info.id == base
        seen[info.id] = len(found)
        found.append(info)
        if base in info.pruned_ancestor_tx_logs:
            return found, True
        own = next(ours, None)
        if own is not None:
            known.add(own.id)
            if own.id in seen:
                return found[: seen[own.id]], False
    for own in ours:
        if own.id in seen:
            return found[: seen[own.id]], False
    return found, len(found) >= limit


def _ancestry_left(context: ReadContext, base: SnapshotId) -> Iterator[SnapshotInfo]:
    """Yields a snapshot and its ancestors, as far as expiration and collections have left them."""
    with contextlib.suppress(SnapshotNotFoundError, ObjectNotFoundError):
        yield from ancestry(context, base)


def _amended_to(context: ReadContext, branch: str, base: SnapshotId, present: set[SnapshotId]) -> SnapshotId | None:
    """Returns what became of a commit that was amended, as the newest entries of the repository's log say (spec 2)."""
    if context.spec_version == 1:
        return None
    updates: list[Any] = [update.kind for update in context.assets.fetch_repo_info()[0].latest_updates]
    became: dict[SnapshotId, SnapshotId] = {
        one.previous_snap_id: one.new_snap_id for one in updates if _amends(one, branch)
    }
    found: SnapshotId | None = base
    for _ in updates:
        found = became.get(found) if found is not None else None
        if found in present:
            return found
    return None


def _amends(kind: Any, branch: str) -> bool:
    return isinstance(kind, CommitAmended) and kind.branch == branch

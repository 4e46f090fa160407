"""The collections of a repository, as its ops log tells of them.

Each garbage collection leaves an entry in the ops log of spec version 2, and may delete objects for `DELETES_FOR_S`
after it. The position in the log counts, not the time: the clocks of two machines may differ. Time tells only whether a
collection can still be deleting, with much more room than clocks may differ. Spec version 1 has no log.

Source: spec 2.1 "Updates to the repo info file"; format notes §7.4.
"""

from typing import Final

from icefs.engine.write.context import WriteContext
from icefs.format.repo.info import RepoInfo
from icefs.format.repo.ops_log import GCRan

type Mark = int
"""A position in the ops log: the time of an update, in microseconds since the epoch; 0 comes before all updates."""

DELETES_FOR_S: Final = 900
"""How long after its entry a collection may begin to delete objects, in seconds."""
_MAY_DELETE_MICROS: Final = 3600 * 1_000_000
"""How old an entry is whose collection has ended: `DELETES_FOR_S`, a last request, and two clocks that differ."""


def newest_update(info: RepoInfo) -> Mark:
    """Returns the position of the newest update in the ops log."""
    updates = info.latest_updates
    return updates[0].updated_at if updates else 0


def may_have_run(info: RepoInfo, since: Mark) -> bool:
    """Tells whether a collection may have run after a position; yes, where the log does not reach back to it."""
    for update in info.latest_updates:
        if update.updated_at <= since:
            return False
        if isinstance(update.kind, GCRan):
            return True
    return True


def may_delete(info: RepoInfo, since: Mark, now: int) -> bool:
    """Tells whether a collection that ran after a position may still be deleting.

    Args:
        info: The repository's state.
        since: The position.
        now: The time, in microseconds since the epoch.
    """
    for update in info.latest_updates:
        if update.updated_at <= max(since, now - _MAY_DELETE_MICROS):
            return False
        if isinstance(update.kind, GCRan):
            return True
    return info.repo_before_updates is not None  # else this is the whole log


class Collections:
    """The collections of one repository, as far as its state was last seen.

    Safe for use from any thread; makes no request unless nothing of the repository was read yet.
    """

    def __init__(self, context: WriteContext) -> None:
        self._context = context

    def mark(self) -> Mark:
        """Returns the newest known position in the ops log; 0 in spec version 1."""
        if self._context.spec_version == 1:
            return 0
        return newest_update(self._context.assets.fetch_repo_info(refresh=False)[0])

    def may_have_run(self, since: Mark) -> bool:
        """Tells whether a collection may have run after a position."""
        if self._context.spec_version == 1:
            return True
        return may_have_run(self._context.assets.fetch_repo_info(refresh=False)[0], since)

    def at_work_since(self) -> Mark:
        """Returns a position in the log that all collections come after that may still be deleting."""
        return 0 if self._context.spec_version == 1 else max(0, self._context.clock() - _MAY_DELETE_MICROS)

    def may_delete(self, since: Mark) -> bool:
        """Tells whether a collection that ran after a position may still be deleting; no, where there is no log."""
        if self._context.spec_version == 1:
            return False
        info, _ = self._context.assets.fetch_repo_info(refresh=False)
        return may_delete(info, since, self._context.clock())

"""Fair turns among the processes that commit to one branch again and again.

Of several writers in a loop, the one that has just committed begins its next commit with the others still busy finding
out that they lost; left alone it wins again. So a commit that rebases does not begin at once where the branch's newest
commits show that their writers had to try repeatedly (`rebase_attempts` in their metadata, which both libraries write):
it gives as many others as those attempts stand for the time of one try each, counted from the end of its own last
commit. A process that takes longer than that between its commits never waits, nor does one that nobody competes with.
The tries after a lost race wait only for a random part of a try, so that two losers do not stay in step.
"""

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any, Final

from icefs.format.ids import SnapshotId

_RECENT: Final = 16
_LONGEST_S: Final = 3.0
_STEP: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Turn:
    """The last commit that this process made to a branch: when it ended, and how long its successful try took."""

    ended_at: float
    took_s: float


class Turns:
    """When this process last had its turn, by branch.

    Concurrency: safe for use from several threads; `_lock` is held for moments.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, pause: Callable[[float], None] = time.sleep
    ) -> None:
        self._clock = clock
        self._pause = pause
        self._lock = threading.Lock()
        self._last: dict[str, _Turn] = {}

    def had(self, branch: str, began_at: float) -> None:
        """Records that a try that began at a time of the clock has committed."""
        now = self._clock()
        with self._lock:
            self._last[branch] = _Turn(now, now - began_at)

    def now(self) -> float:
        """Returns the time, in seconds."""
        return self._clock()

    def yield_to_others(self, branch: str, recent_attempts: list[int]) -> bool:
        """Waits, at most three seconds, until others that compete for a branch have had their turn.

        Args:
            branch: The branch.
            recent_attempts: How often the newest commits of the branch had to be rebased.

        Returns:
            Whether it waited, so that the state of the branch as last read is old.
        """
        with self._lock:
            last = self._last.get(branch)
        if last is None or not recent_attempts:
            return False
        others_s = last.took_s * fmean(recent_attempts) * random.uniform(0.75, 1.25)  # jitter, not cryptography
        rest_s = min(others_s, _LONGEST_S) - (self._clock() - last.ended_at)
        if rest_s <= 0:
            return False
        self._pause(rest_s)
        return True

    def after_loss(self, began_at: float) -> None:
        """Waits a random moment, shorter than a tenth of the try that was lost."""
        self._pause(random.random() * min(_STEP * (self._clock() - began_at), _LONGEST_S))


def recent_attempts(snapshots: Mapping[SnapshotId, Any], tip: SnapshotId | None) -> list[int]:
    """Returns how often the newest commits of a branch had to be rebased, from the repository's state (spec 2)."""

    def newest(each: SnapshotId | None) -> Any:
        while each is not None and each in snapshots:
            yield snapshots[each]
            each = snapshots[each].parent_id

    found = []
    for info in islice(newest(tip), _RECENT):
        told = info.metadata.get("__icechunk")
        attempts = told.get("rebase_attempts") if isinstance(told, dict) else None
        found.append(attempts if isinstance(attempts, int) and 0 <= attempts < 1000 else 0)
    return found

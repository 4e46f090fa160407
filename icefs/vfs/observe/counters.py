"""Counts besides those of requests: outcomes of commits, and how late the event loop is."""

import time
from typing import Final

from icefs.errors import IcefsError
from icefs.storage.metered import Timing

_RECENT: Final = 20


class Lag:
    """How late the event loop comes to due tasks.

    Attributes:
        timing: All delays that were measured.
        longest_ns: The longest of them.
    """

    def __init__(self) -> None:
        self.timing = Timing()
        self.longest_ns = 0
        self._recent: list[int] = []

    @property
    def recent_ns(self) -> int:
        """The longest delay of the last seconds."""
        return max(self._recent, default=0)

    def copy(self) -> "Lag":
        """Returns the present delays, which change no more."""
        other = Lag()
        other.timing, other.longest_ns, other._recent = self.timing.copy(), self.longest_ns, self._recent
        return other

    def add(self, late_ns: int) -> None:
        """Records a delay."""
        self.timing.add(late_ns)
        self.longest_ns = max(self.longest_ns, late_ns)
        self._recent = [*self._recent[1 - _RECENT :], late_ns]


class Outcomes:
    """What became of commits, discards and rebases; on the event loop's thread."""

    def __init__(self) -> None:
        self.counts: dict[tuple[str, str], int] = {}
        self.timings: dict[str, Timing] = {}
        self.last_commit_at: float | None = None

    def copy(self) -> "Outcomes":
        """Returns the present counts, which change no more."""
        other = Outcomes()
        other.counts = dict(self.counts)
        other.timings = {action: timing.copy() for action, timing in self.timings.items()}
        other.last_commit_at = self.last_commit_at
        return other

    def add(self, action: str, elapsed_ns: int, error: BaseException | None) -> None:
        """Counts one that has ended."""
        outcome = "success"
        if error is not None:
            outcome = error.kind if isinstance(error, IcefsError) else "bug"
        self.counts[action, outcome] = self.counts.get((action, outcome), 0) + 1
        self.timings.setdefault(action, Timing()).add(elapsed_ns)
        if action == "commit" and error is None:
            self.last_commit_at = time.time()

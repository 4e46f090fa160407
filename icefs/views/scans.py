"""Readers that go through an array in order, recognised by where they read."""

import threading
from dataclasses import dataclass
from typing import Final

_MAX_SCANS: Final = 8


@dataclass(slots=True)
class Scan:
    """A reader that goes through an array from somewhere on.

    Attributes:
        start: The first element that it read.
        stop: One past the last one so far.
        ahead: The end of the elements that were decoded ahead for it.
        is_new: Whether it has read once only.
    """

    start: int
    stop: int
    ahead: int
    is_new: bool = True

    @property
    def length(self) -> int:
        """How many elements it has read."""
        return self.stop - self.start


class Scans:
    """The readers of one array that were seen last.

    The kernel reads ahead with several requests at once, which arrive in any order: a reader is in order if it reads
    near to where it ended.

    Safe to use from any thread; `lock` guards the fields of all scans, too.
    """

    def __init__(self, slack: int) -> None:
        """Takes how many elements before or behind the end of a scan its next read may begin."""
        self.lock = threading.Lock()
        self._slack = slack
        self._scans: list[Scan] = []

    def add(self, start: int, stop: int) -> Scan:
        """Records a read; `lock` is held."""
        for scan in self._scans:
            if abs(start - scan.stop) <= self._slack and start >= scan.start:
                scan.stop = max(scan.stop, stop)
                scan.is_new = False
                break
        else:
            scan = Scan(start, stop, stop)
        self._scans = [scan, *(other for other in self._scans if other is not scan)][:_MAX_SCANS]
        return scan

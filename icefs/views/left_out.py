"""The log of what views leave out: files name it, too, but nobody looks for an array that is not there."""

import logging
import threading
from typing import Final

from icefs.paths import NodePath
from icefs.views.interface import HierarchyFacts, LeftOut
from icefs.words import quoted

_log: Final = logging.getLogger(__name__)
_MOST: Final = 100


class LeftOutLog:
    """Logs what the view of one hierarchy leaves out: each thing once, and the first hundred of many.

    Safe to use from any thread; `_lock` guards `_noted`.
    """

    def __init__(self, view_format: str, facts: HierarchyFacts) -> None:
        """Takes the format's name, and where the hierarchy comes from."""
        self._format = view_format
        self._facts = facts
        self._lock = threading.Lock()
        self._noted: set[LeftOut] = set()

    def note(self, path: NodePath, reason: str) -> None:
        """Notes that a node is not shown, or not wholly."""
        one = LeftOut(path, reason)
        with self._lock:
            if one in self._noted or len(self._noted) > _MOST:
                return
            self._noted.add(one)
            count = len(self._noted)
        facts = self._facts
        if count > _MOST:
            _log.info("the view %s of %s at %s leaves out more", self._format, facts.repository, facts.snapshot)
        else:
            shown = f"{quoted(path)}: {reason}"
            _log.info("the view %s of %s at %s leaves out %s", self._format, facts.repository, facts.snapshot, shown)

"""The last writes that a branch refused: a program may show an errno alone, and `status` says why."""

from typing import Any, Final

from icefs.paths import TreePath, child, split
from icefs.zarr.keys import METADATA_NAME, V2_METADATA_NAMES

_KEPT: Final = 20


class Refusals:
    """Paths that were written, or were to be, each with the last reason.

    Concurrency: on the event loop's thread.
    """

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    def note(self, path: str, reason: str) -> None:
        """Remembers that a path was refused."""
        self._reasons.pop(path, None)
        self._reasons[path] = reason
        while len(self._reasons) > _KEPT:
            del self._reasons[next(iter(self._reasons))]

    def accepted(self, path: str) -> None:
        """Forgets a path that is written well; the metadata of a node also stands for what was tried in its place."""
        self._reasons.pop(path, None)
        directory, name = split(TreePath(path))
        if name == METADATA_NAME:
            for other in V2_METADATA_NAMES:
                self._reasons.pop(child(directory, other), None)

    def as_json(self) -> list[dict[str, Any]]:
        """Describes them, the oldest first."""
        return [{"path": path, "reason": reason} for path, reason in self._reasons.items()]

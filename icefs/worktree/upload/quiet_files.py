"""Files that were closed, until they have been the same for long enough to be uploaded."""

from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model.nodes import CUT, DIRTY, FROM_BASE, LOST, FileNode
from icefs.worktree.upload.queue import Upload
from icefs.zarr.keys import METADATA_NAME, is_zarr_key

_AT_ONCE: Final = 256


class _Closed(NamedTuple):
    """A file that was closed, and what its bytes were then."""

    at: float
    node: FileNode
    spool_id: int
    stamp: int


class Quiet(NamedTuple):
    """The files that have been quiet for long enough.

    Attributes:
        uploads: The chunks among them that are to be uploaded.
        due_s: When the next file may be quiet for long enough, in seconds from now; None while no file is closed.
    """

    uploads: list[Upload]
    due_s: float | None


class QuietFiles:
    """The closed files of one working tree.

    A file is taken when nobody has it open and its bytes have been the same for some seconds. From then on it is final:
    a later writer gets a spool file of its own.

    Concurrency: `note` is called with the tree's lock held; `take` takes it. One thread calls `take`.
    """

    def __init__(
        self,
        core: TreeCore,
        quiet_s: float,
        inline_bytes: int,
        monotonic: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        """Begins without closed files.

        Args:
            core: The tree.
            quiet_s: How long a file must not have changed.
            inline_bytes: The size up to which chunks are not uploaded.
            monotonic: The clock, in seconds.
            wake: Called when a file was closed; returns at once.
        """
        self._core = core
        self._quiet_s = quiet_s
        self._inline_bytes = inline_bytes
        self._monotonic = monotonic
        self._wake = wake
        self._closed: deque[_Closed] = deque()

    def __bool__(self) -> bool:
        return bool(self._closed)

    def note(self, node: FileNode) -> None:
        """Records a file that nobody has open any more."""
        self._closed.append(_Closed(self._monotonic(), node, node.spool_id, node.stamp))
        self._wake()

    def take(self) -> Quiet:
        """Takes files that have been quiet for long enough, a few hundred at most."""
        core = self._core
        uploads: list[Upload] = []
        with core.lock:
            if core.is_closed:
                return Quiet([], None)
            for _ in range(_AT_ONCE):
                if not self._closed:
                    return Quiet(uploads, None)
                left_s = self._closed[0].at + self._quiet_s - self._monotonic()
                if left_s > 0:
                    return Quiet(uploads, left_s)
                upload = self._upload(self._closed.popleft())
                if upload is not None:
                    core.final.add(upload.spool_id)
                    uploads.append(upload)
        return Quiet(uploads, 0.0)

    def _upload(self, closed: _Closed) -> Upload | None:
        """Returns what is to be uploaded of a file, None if nothing is. The tree's lock is held."""
        core, node = self._core, closed.node
        if node.parent is None or node.spool_id != closed.spool_id or node.stamp != closed.stamp or not node.stamp:
            return None  # written to since: it will be closed again
        if node.flags & (DIRTY | FROM_BASE | LOST | CUT) or node.size <= self._inline_bytes:
            return None
        if node.io is not None:
            return None  # somebody has it open, and will close it
        path = core.path_of(node)
        if node.name == METADATA_NAME or not is_zarr_key(path):
            return None
        return Upload(node.spool_id, node.stamp, node.size, path, core.spool.path(node.spool_id))

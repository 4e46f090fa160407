"""Bytes that the kernel had cached and that could not be stored: they are *lost*.

The program that wrote them does not wait for them, so the file is marked: its row says which bytes, and so does the
mode of its spool file, which a disk without a free block takes, too. A write over lost bytes heals them.
"""

import logging

from icefs.errors import StorageError
from icefs.worktree.core.copies import is_shared
from icefs.worktree.core.tree_core import TreeCore
from icefs.worktree.model import lost
from icefs.worktree.model.nodes import LOST, FileNode

logger = logging.getLogger(__name__)


class LostBytes:
    """Marks the lost bytes of a tree's files.

    Concurrency: the tree's lock is held.
    """

    def __init__(self, core: TreeCore) -> None:
        self._core = core

    def add(self, node: FileNode, start: int, end: int) -> bool:
        """Marks the bytes `[start, end)` of a file as lost, as far as it has them; tells whether there are any."""
        end = min(end, node.size)
        if start >= end or node.is_all_lost:
            return False
        self._core.keep_for_views(node)
        node.flags |= LOST
        node.lost = lost.add(node.lost, start, end)
        self.mark_spool(node)
        return True

    def heal(self, node: FileNode, start: int, end: int) -> None:
        """Takes bytes that were written or truncated from those that are lost."""
        if not node.lost:
            return
        node.lost = lost.remove(node.lost, start, end)
        if not node.lost:
            node.flags &= ~LOST
            self.mark_spool(node)

    def mark_spool(self, node: FileNode) -> None:
        """Has the mode of a file's own spool file tell whether bytes of it are lost."""
        if node.spool_id and not is_shared(self._core, node):
            try:
                self._core.spool.mark(node.spool_id, is_lost=bool(node.flags & LOST))
            except OSError as error:
                logger.warning("spool file %x cannot be marked: %s", node.spool_id, error)


def check_there(node: FileNode, start: int, end: int) -> None:
    """Refuses to work with bytes that are lost.

    Raises:
        StorageError: a byte of `[start, end)` is lost, or all are.
    """
    if node.flags & LOST and (not node.lost or lost.overlaps(node.lost, start, end)):
        raise _lost_error(node)


def check_whole(node: FileNode) -> None:
    """Refuses to call a file stored that has lost bytes.

    Raises:
        StorageError: it has.
    """
    if node.flags & LOST:
        raise _lost_error(node)


def _lost_error(node: FileNode) -> StorageError:
    return StorageError(f"bytes of {node.name!r} were lost", kind="io", hint=lost.HINT, name=node.name)

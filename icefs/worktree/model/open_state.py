"""What a file has only while it is open: counts of its handles, and the descriptor that they share."""

import os
from dataclasses import dataclass

from icefs.worktree.base import BaseTree


class SpoolFile:
    """An open spool file, shared by the handles of one node.

    Concurrency: `users` counts the system calls under way outside the tree's lock; the descriptor is closed when
    it is retired and the last of them has ended, so that none ever meets a descriptor number used again.

    Attributes:
        id: The spool id.
        fd: The descriptor, open for reading and writing.
        users: System calls under way.
        retired: Nobody may start another one.
        is_entry_synced: Whether the directory entry is known to be on the disk.
    """

    __slots__ = ("fd", "id", "is_entry_synced", "retired", "users")

    def __init__(self, spool_id: int, fd: int) -> None:
        self.id = spool_id
        self.fd = fd
        self.users = 0
        self.retired = False
        self.is_entry_synced = False

    def retire(self) -> None:
        """Closes the descriptor now, or as soon as nobody uses it."""
        self.retired = True
        if not self.users:
            self._close()

    def drop(self) -> None:
        """Ends one use."""
        self.users -= 1
        if self.retired and not self.users:
            self._close()

    def _close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)


@dataclass(slots=True, eq=False)
class OpenState:
    """What a file node has only while it is open, or while its bytes are being copied.

    Attributes:
        handles: Open handles.
        writable: Those of them that may write.
        is_flushed: Whether a descriptor was closed since the last change: it may have been the last one.
        writers: Writes under way outside the lock.
        busy: Somebody makes the content private outside the lock; other writers wait.
        file: The descriptor that all handles share; None before the first byte is wanted.
        base_tree: The base that still has the bytes of an unlinked file, where that is not the current one.
    """

    handles: int = 0
    writable: int = 0
    is_flushed: bool = False
    writers: int = 0
    busy: bool = False
    file: SpoolFile | None = None
    base_tree: BaseTree | None = None

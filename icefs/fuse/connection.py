"""A way to the kernel: what a daemon needs of it.

There are two. `loop.NativeConnection` speaks the kernel's protocol itself, and is the faster one.
`pyfuse3_connection.Pyfuse3Connection` goes through the library of that name and libfuse.
"""

from typing import Protocol


class MountError(Exception):
    """A file system was not mounted.

    Attributes:
        reason: What the kernel or `fusermount3` said.
        advice: What to do about it, if that is known here.
    """

    def __init__(self, reason: str, advice: str | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.advice = advice


class KernelTooOldError(MountError):
    """The kernel speaks a version of FUSE that is not spoken here."""


class Connection(Protocol):
    """A mounted file system.

    Concurrency: `serve` and `stop` belong to the event loop's thread. Invalidations come from any other thread.
    """

    async def serve(self) -> None:
        """Answers requests; returns when the file system was unmounted, or after `stop`."""

    def stop(self) -> None:
        """Reads no more requests."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Makes the kernel look a name up again; waits for requests that are under way in its directory.

        Raises:
            OSError: ENOENT where the kernel does not know it.
        """

    def invalidate_inode(self, ino: int, *, attr_only: bool = False) -> None:
        """Makes the kernel drop what it cached of an inode: attributes, and pages; raises as `invalidate_entry`."""

    def close(self) -> None:
        """Unmounts, unless the file system is unmounted already; requests that wait for an answer fail."""

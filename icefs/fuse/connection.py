"""The way to the kernel: what the daemon needs of it, and which ways there are.

`native` speaks the kernel's protocol itself and is the default, because it is faster. `pyfuse3` goes through the
library of that name and libfuse, for who trusts these more or wants to tell a fault of the one from one of the other.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol

from icefs.daemon.options import NATIVE, PYFUSE3
from icefs.errors import UnsupportedError
from icefs.fuse.operations import Operations


class Connection(Protocol):
    """A mounted file system.

    Concurrency: `serve` and `stop` belong to the event loop's thread. The kernel is notified from any other thread.
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


type Connect = Callable[[str, Iterable[str], Operations], Connection]


def connect(library: str, mountpoint: str, options: Iterable[str], operations: Operations) -> Connection:
    """Mounts a file system.

    Args:
        library: `NATIVE` or `PYFUSE3`.
        mountpoint: An absolute path.
        options: Those of `fusermount3 -o`; commas in them are escaped.
        operations: Answer the requests.

    Raises:
        StorageError: the kernel or `fusermount3` refused.
        UnsupportedError: the kernel is too old, or the library is not installed.
    """
    return _WAYS[library](mountpoint, options, operations)


def _native(mountpoint: str, options: Iterable[str], operations: Operations) -> Connection:
    from icefs.fuse.loop import NativeConnection

    return NativeConnection(mountpoint, options, operations)


def _pyfuse3(mountpoint: str, options: Iterable[str], operations: Operations) -> Connection:
    # An extra, and a library of C that only a mount that asks for it shall load.
    try:
        from icefs.fuse.pyfuse3_connection import Pyfuse3Connection
    except ModuleNotFoundError as error:
        if error.name != "pyfuse3":
            raise
        raise UnsupportedError(
            "pyfuse3 is not installed", hint="run \"pip install 'icefs[pyfuse3]'\", or mount without --fuse-library"
        ) from None
    return Pyfuse3Connection(mountpoint, options, operations)


_WAYS: Final[dict[str, Connect]] = {NATIVE: _native, PYFUSE3: _pyfuse3}

"""Sends invalidations to the kernel, from a thread of its own.

Invalidating a name takes the lock of its directory in the kernel, so it waits for requests in flight there, which
the event loop answers: sent from the loop's thread, the two would wait for each other for ever. Invalidating contents
waits for the reads in flight, and for dirty pages of mappings to be written; the loop answers these meanwhile, too.
"""

import contextlib
import errno
import logging
import queue
import threading
from collections.abc import Callable, Iterable
from operator import methodcaller
from typing import Final

import trio

from icefs.fuse.connection import Connection
from icefs.inode import Ino, Invalidations

logger = logging.getLogger(__name__)

# The kernel did not know the name or inode; or the mount is going away.
_NOTHING_CACHED: Final = frozenset((errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY, errno.ENODEV, errno.ENOTCONN))


class KernelNotifier:
    """Sends invalidations in the order of the calls; implements `interface.Notifier`.

    Concurrency: `_asked` is counted by the event loop's thread alone, `_handled`, `sent` and `failed` by the
    notifier's own.

    Attributes:
        sent: How many the kernel took.
        failed: How many it refused, other than what it did not know.
        is_open: Whether it sends; what waits after `stop` is dropped.
    """

    def __init__(self) -> None:
        self.sent = 0
        self.failed = 0
        self._asked = 0
        self._handled = 0
        self._connection: Connection | None = None
        # Jobs, each of them a part of the work that may be cut short; None ends the thread.
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_open = True

    @property
    def pending(self) -> int:
        """How many wait to be sent, or for the kernel."""
        return self._asked - self._handled

    def start(self, connection: Connection) -> None:
        """Starts the thread; to be called when the file system is mounted."""
        self._connection = connection
        self._thread = threading.Thread(target=self._run, name="icefs-notify", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread; to be called before the connection is closed."""
        self.is_open = False
        self._queue.put(None)
        if self._thread is not None:
            # A notification may wait for a request that gets no answer any more; then the thread is left behind.
            self._thread.join(timeout=2)

    def invalidate(self, changed: Invalidations) -> None:
        """Makes the kernel look names up and ask for attributes again."""
        entries, inodes = list(changed.entries), list(changed.inodes)

        def send() -> None:
            for parent, name in entries:
                self._send(f"{name!r} in inode {parent}", methodcaller("invalidate_entry", parent, name))
            for ino in inodes:
                self._send(f"inode {ino}", methodcaller("invalidate_inode", ino, attr_only=True))

        if self.is_open and (entries or inodes):
            self._put(len(entries) + len(inodes), send)

    def _put(self, number: int, send: Callable[[], None]) -> None:
        self._asked += number
        self._queue.put(send)

    async def drop_pages(self, inos: Iterable[Ino]) -> None:
        """Returns when the kernel has dropped what it cached of files' content; requests are answered meanwhile."""
        files = list(inos)

        def send() -> None:
            for ino in files:
                self._send(f"inode {ino}", methodcaller("invalidate_inode", ino))

        if self.is_open and files:
            self._put(len(files), send)
            await self.drain()

    async def drain(self) -> None:
        """Returns when all invalidations so far have been sent."""
        if self._thread is None or not self.is_open:
            return
        finished = trio.Event()
        token = trio.lowlevel.current_trio_token()

        def finish() -> None:
            with contextlib.suppress(trio.RunFinishedError):
                token.run_sync_soon(finished.set)

        self._queue.put(finish)
        await finished.wait()

    def _run(self) -> None:
        while (job := self._queue.get()) is not None:
            job()

    def _send(self, what: str, notify: Callable[[Connection], None]) -> None:
        if not self.is_open or self._connection is None:
            self._handled += 1
            return
        try:
            notify(self._connection)
        except OSError as error:
            if error.errno not in _NOTHING_CACHED:
                self.failed += 1
                logger.warning("the kernel refused to invalidate %s: %s", what, error)
        else:
            self.sent += 1
        finally:
            self._handled += 1

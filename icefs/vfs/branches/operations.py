"""How the operations of a branch's working tree run: missing values are fetched, and the base stays under them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import trio

from icefs.log_context import in_branch
from icefs.vfs.branches.working_life import WorkingLife
from icefs.vfs.fetches import Fetches, ask
from icefs.vfs.interface import NotInMemoryError
from icefs.vfs.threads import Threads
from icefs.worktree.tree import WorkTree


class Operations:
    """Runs the operations of one branch.

    Concurrency: on the event loop's thread. While an operation runs in a thread, or waits for what it takes, the branch
    is busy and does not follow its tip; while the branch changes its base, operations that write wait.
    """

    def __init__(self, branch: str, life: WorkingLife, fetches: Fetches, threads: Threads) -> None:
        """Takes what operations need.

        Args:
            branch: The branch's name, for log lines.
            life: Opens the working tree.
            fetches: Fetches for the whole mount.
            threads: For operations that may wait.
        """
        self._branch = branch
        self._life = life
        self._fetches = fetches
        self._threads = threads
        self._busy = 0
        self._moving: trio.Event | None = None

    @property
    def is_busy(self) -> bool:
        """Whether an operation runs in a thread or waits for something; a tree that is being opened is such."""
        return self._busy > 0

    @property
    def is_moving(self) -> bool:
        """Whether the branch is changing its base."""
        return self._moving is not None

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Holds back operations that write, while the branch changes its base."""
        self._moving = trio.Event()
        try:
            yield
        finally:
            self._moving.set()
            self._moving = None

    async def may_write(self) -> None:
        """Waits while the branch changes its base."""
        while self._moving is not None:
            await self._moving.wait()

    async def in_thread[T](self, function: Callable[[], T], threads: Threads | None = None) -> T:
        """Runs what may wait in a thread; the branch is busy meanwhile, also if nobody waits any more."""

        def ended() -> None:
            self._busy -= 1

        self._busy += 1
        return await (threads or self._threads).run(in_branch(self._branch, function), ended)

    async def run[T](self, operation: Callable[[], T]) -> T:
        """Runs what does not wait, as soon as the branch stays where it is and all is in memory."""
        await self.may_write()
        return await ask(operation, self._bring)

    async def change[T](self, operation: Callable[[WorkTree], T], *, may_wait: bool = False) -> T:
        """Runs an operation of the working tree, made if there is none; in a thread if it may wait."""
        if may_wait:
            work = await self.run(self._life.require)
            return await self.in_thread(lambda: operation(work))
        return await self.run(lambda: operation(self._life.require()))

    async def look(self) -> None:
        """Opens the working tree that was left by an earlier mount, if there is one."""
        if self._life.is_left:
            await self.run(self._life.require)

    async def _bring(self, missing: NotInMemoryError) -> None:
        """Fetches what is missing, together with whatever else needs it: a state directory is opened but once."""
        self._busy += 1
        try:
            await self._fetches.bring(missing.loaded_by(in_branch(self._branch, missing.load)))
        finally:
            self._busy -= 1
        await self.may_write()

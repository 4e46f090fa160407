"""A mount as a service: its service manager's notifications and watchdog, signals, and reloads.

READY=1      when the mount answers
STATUS=…     what is mounted, its tips, what is not committed; kept current
WATCHDOG=1   from the event loop, as long as it turns
RELOADING=1  between a SIGHUP and the READY=1 that follows
STOPPING=1   when the mount begins to end
"""

import logging
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import trio

from icefs.daemon.background import in_background
from icefs.daemon.live_options import LiveOptions
from icefs.daemon.options import MountOptions
from icefs.daemon.systemd import ServiceManager
from icefs.errors import IcefsError
from icefs.storage.url import redact
from icefs.vfs.branches.branch_tree import BranchTree
from icefs.vfs.control.observing_rpc import set_level
from icefs.vfs.control.uncommitted import list_uncommitted
from icefs.vfs.mount import Mount

logger = logging.getLogger(__name__)


_STATUS_INTERVAL_S: Final = 1.0
_SHOWN_BRANCHES: Final = 4
_SHORT_ID: Final = 8
_COUNTED: Final = 1000
# Three chances to be heard in time; the manual of sd_watchdog_enabled(3) asks for two.
_PINGS_PER_DEADLINE: Final = 3


def _keys(names: Iterable[str]) -> list[str]:
    """Returns options as the configuration file spells them."""
    return [name.removesuffix("_s").replace("_", "-") for name in names]


class Service:
    """A mount as a service: notifies the service manager of its state, and reloads.

    Attributes:
        live: The options that are in effect.
        can_reload: Whether SIGHUP reloads; else it ends the mount.

    Concurrency: on the event loop's thread. Worker threads read the configuration again and count changes.
    """

    def __init__(
        self,
        manager: ServiceManager,
        mount: Mount,
        live: LiveOptions,
        reread: Callable[[], MountOptions] | None = None,
    ) -> None:
        """Makes the service of a mount.

        Args:
            manager: Gets the notifications.
            mount: The mount.
            live: The options, of which a reload changes some.
            reread: Reads the configuration again; None where there is none, and SIGHUP means the end.
        """
        self.live = live
        self.can_reload = reread is not None
        live.facts.set_service(can_reload=self.can_reload)
        self._manager = manager
        self._mount = mount
        self._reread = reread
        self._counts: dict[str, tuple[int, int]] = {}
        self._last_line = ""

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Notifies the manager when the mount answers, and of its state from then on."""
        mountpoint = self.live.options.mountpoint
        async with trio.open_nursery() as nursery:
            if self._manager.watchdog_s is not None:
                nursery.start_soon(self._ping, self._manager.watchdog_s / _PINGS_PER_DEADLINE)
            if self._manager.is_there:
                version = Path(mountpoint, ".icefs", "version")
                await trio.to_thread.run_sync(version.read_bytes, abandon_on_cancel=True)
            on_ready()
            self._last_line = self._line()
            self._manager.notify(READY="1", STATUS=self._last_line)
            if self._manager.is_there:
                # Also those that an earlier mount left in branches that no program has looked at.
                await in_background("looking for uncommitted changes", partial(list_uncommitted, self._mount))
                nursery.start_soon(self._keep_status)

    async def _ping(self, interval_s: float) -> None:
        while True:
            self._manager.notify(WATCHDOG="1")
            await trio.sleep(interval_s)

    async def _keep_status(self) -> None:
        while True:
            await in_background("the status line", self._update_status)
            await trio.sleep(_STATUS_INTERVAL_S)

    async def _update_status(self) -> None:
        await self._count_changes()
        line = self._line()
        if line != self._last_line:
            self._last_line = line
            self._manager.notify(STATUS=line)

    def stopping(self, why: str) -> None:
        """Notifies the manager that the mount begins to end."""
        self._manager.notify(STOPPING="1", STATUS=why)

    async def reload(self) -> None:
        """Reads the configuration again and puts into effect what needs no other mount."""
        assert self._reread is not None
        self._manager.notify(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        facts = self.live.facts
        try:
            wanted = await trio.to_thread.run_sync(self._reread)
            applied = self.live.apply(wanted)
            set_level(self._mount, self.live.options.log_level)
        except (IcefsError, OSError) as error:
            logger.error("not reloaded: %s", error)
            facts.set_service(problem=getattr(error, "own_message", None) or str(error))
        else:
            waiting, idle = _keys(applied.waiting), _keys(applied.without_effect)
            facts.set_service(problem=None, needs_restart=waiting, no_effect=idle)
            changed = ", ".join(_keys(applied.changed))
            logger.info("reloaded: %s", changed or "nothing that takes effect now has changed")
            if waiting:
                logger.warning("these changes wait for a restart: %s", ", ".join(waiting))
            if idle:
                logger.warning("%s has no effect: a local repository has no cache", ", ".join(idle))
        facts.set_service(reloads=facts.service["reloads"] + 1)
        self._manager.notify(READY="1")

    # The status line.

    def _line(self) -> str:
        """Returns the status line: the repository, the tips of its branches, and uncommitted changes."""
        follower = self._mount.follower
        parts = list(self._trees())
        refs = follower.refs
        if self._mount.trees.root is not None:
            rest = len(refs.branches) - min(len(refs.branches), _SHOWN_BRANCHES)
            if rest:
                parts.append(f"{rest} more {'branch' if rest == 1 else 'branches'}")
            if refs.tags:
                parts.append(f"{len(refs.tags)} {'tag' if len(refs.tags) == 1 else 'tags'}")
        line = f"{redact(self._mount.repository.storage.url)}: {', '.join(parts) or 'no branches'}"
        if follower.problem:
            line += f"; refs cannot be read: {follower.problem}"
        return line

    def _trees(self) -> Iterator[str]:
        trees = self._mount.trees
        if trees.root is None:
            single = trees.single
            assert single is not None  # a mount shows one or the other
            if isinstance(single, BranchTree):
                yield self._branch(single.name, str(single.snapshot_id), single)
            else:
                yield self._branch(single.identity.name or single.identity.kind, str(single.snapshot_id), None)
            return
        branches, tips = trees.root.branches, self._mount.follower.refs.branches
        # Where something is uncommitted comes first.
        names = sorted(tips, key=lambda name: (not self._changes(branches.get(name)), name))
        for name in names[:_SHOWN_BRANCHES]:
            yield self._branch(name, str(tips[name]), branches.get(name))

    def _branch(self, name: str, tip: str, branch: BranchTree | None) -> str:
        text = f"{name} {tip[:_SHORT_ID]}"
        count = self._changes(branch)
        if count:
            shown = f"{_COUNTED}+" if count >= _COUNTED else str(count)
            text += f" ({shown} uncommitted {'change' if count == 1 else 'changes'})"
        if branch is not None and branch.writable is not None and branch.writable.base.is_committing:
            text += " (committing)"
        if branch is not None and branch.problem:
            text += f" ({branch.problem})"
        return text

    def _changes(self, branch: BranchTree | None) -> int:
        """Returns how many names of a branch are not committed, as last counted."""
        if branch is None or branch.writable is None:
            return 0
        if branch.writable.work is None:
            return int(branch.writable.life.is_left)
        return self._counts.get(branch.name, (0, 0))[1]

    async def _count_changes(self) -> None:
        """Counts uncommitted changes of the trees that have changed since they were last counted."""
        for branch in self._mount.trees.branches():
            work = None if branch.writable is None else branch.writable.work
            if work is None or self._counts.get(branch.name, (-1, 0))[0] == work.revision:
                continue
            revision = work.revision
            # In a thread: the tree's lock may be held by an operation that waits for the disk.
            self._counts[branch.name] = revision, await self._mount.in_thread(partial(work.count_changes, _COUNTED))


async def obey_signals(service: Service, stop: Callable[[], Awaitable[None]]) -> None:
    """Ends the mount at SIGTERM and SIGINT, and at SIGHUP if there is no configuration to read again."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP and service.can_reload:
                await in_background("reloading", service.reload)
                continue
            name = signal.Signals(number).name
            logger.info("%s: unmounting", name)
            service.stopping(f"unmounting after {name}")
            await stop()

"""What a service manager is told of a mount, and what it asks for: systemd's `sd_notify(3)` and its watchdog.

    READY=1      when the mount answers
    STATUS=…     what is mounted, its tips, what is not committed; kept current
    WATCHDOG=1   from the event loop, as long as it turns
    RELOADING=1  between a SIGHUP and the READY=1 that follows
    STOPPING=1   when the mount begins to end

The protocol is a datagram of lines to the socket that `$NOTIFY_SOCKET` names; it needs no library.
"""

import logging
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

import trio

from icefs.daemon.background import in_background
from icefs.daemon.options import MountOptions
from icefs.errors import IcefsError
from icefs.storage.cache.disk import DiskCache
from icefs.storage.url import redact
from icefs.vfs.control.observing_rpc import set_level
from icefs.vfs.filesystem import FileSystem
from icefs.vfs.trees.branch_tree import BranchTree
from icefs.vfs.trees.writable_branch import WritableBranch

logger = logging.getLogger(__name__)

ADJUSTABLE: Final = ("log_level", "cache_size", "poll_interval_s")
"""The options that take effect without mounting anew."""

_STATUS_INTERVAL_S: Final = 1.0
_SHOWN_BRANCHES: Final = 4
_SHORT_ID: Final = 8
_COUNTED: Final = 1000
# Three chances to be heard in time; the manual of sd_watchdog_enabled(3) asks for two.
_PINGS_PER_DEADLINE: Final = 3


class ServiceManager:
    """The way to the service manager that started us; every method does nothing where there is none."""

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        """Takes the address of the socket, and within how many seconds it wants to hear from us again and again."""
        self.watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        if address is not None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._address = f"\0{address[1:]}" if address.startswith("@") else address

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str] = os.environ) -> Self:
        """Takes what the service manager left in the environment out of it: it is not meant for our children."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_ours = pid in ("", str(os.getpid()))
        watchdog_s = int(microseconds) / 1e6 if microseconds.isdecimal() and is_ours else None
        if address is not None and not address.startswith(("/", "@")):
            logger.warning("the service manager is not told anything: NOTIFY_SOCKET=%s is no local socket", address)
            address = None
        return cls(address, watchdog_s or None)

    @property
    def is_there(self) -> bool:
        """Whether anybody wants to be told."""
        return self._socket is not None

    def tell(self, **fields: str) -> None:
        """Tells fields, such as `READY="1"`. A manager that does not listen is no reason to fail."""
        if self._socket is None:
            return
        message = "\n".join(f"{name}={' '.join(value.split())}" for name, value in fields.items())
        try:
            self._socket.sendto(message.encode(errors="replace"), self._address)
        except OSError as error:
            logger.debug("the service manager does not listen: %s", error)

    def close(self) -> None:
        """Closes the socket; nothing is told afterwards."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


@dataclass(slots=True)
class Turned:
    """What became of the options that changed in a configuration that was read again, by name.

    Attributes:
        changed: What took effect.
        waiting: What needs a restart.
        without_effect: What means nothing to this mount, with or without a restart.
    """

    changed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Knobs:
    """What can be changed while the mount is there.

    Attributes:
        options: The options as they are in effect.
        cache: The disk cache; None for a mount without one.
        needs_cache: Whether a disk cache would have something to keep: not so of a local repository.
        facts: What `info.json` tells; its `options` are kept true, its `service` says what became of reloads.
    """

    options: MountOptions
    cache: DiskCache | None
    facts: Mapping[str, Any]
    needs_cache: bool
    _turned: trio.Event = field(default_factory=trio.Event)

    async def wait_for_turn(self, until: float) -> None:
        """Waits until something is changed, or a point in trio's time has come."""
        with trio.move_on_at(until):
            await self._turned.wait()

    def turn(self, wanted: MountOptions) -> Turned:
        """Takes over what can be changed."""
        turned = Turned()
        for name in (option.name for option in fields(MountOptions)):
            value = getattr(wanted, name)
            if value == getattr(self.options, name):
                continue
            # A cache is opened and given to the repository when the mount begins, and not later.
            if name not in ADJUSTABLE or (name == "cache_size" and self.cache is None):
                of_no_use = name == "cache_size" and not self.needs_cache
                (turned.without_effect if of_no_use else turned.waiting).append(name)
                continue
            turned.changed.append(name)
            self.options = replace(self.options, **{name: value})
            self.facts["options"][name] = value
        if self.cache is not None:
            self.cache.max_bytes = self.options.cache_size
        self._turned.set()
        self._turned = trio.Event()
        return turned


def _keys(names: Iterable[str]) -> list[str]:
    """Spells options as the configuration file does."""
    return [name.removesuffix("_s").replace("_", "-") for name in names]


class Service:
    """A mount as a service: tells how it is, and reloads.

    Concurrency: everything runs on the event loop's thread, but what waits: reading the
    configuration again, and counting what is not committed.
    """

    def __init__(
        self,
        manager: ServiceManager,
        fs: FileSystem,
        knobs: Knobs,
        reread: Callable[[], MountOptions] | None = None,
    ) -> None:
        """Takes what to tell whom.

        Args:
            manager: Whom.
            fs: The mount.
            knobs: What a reload may change.
            reread: Reads the configuration again; None where there is none, and SIGHUP means the end.
        """
        self.knobs = knobs
        self.can_reload = knobs.facts["service"]["can_reload"] = reread is not None
        self._manager = manager
        self._fs = fs
        self._reread = reread
        self._counts: dict[str, tuple[int, int]] = {}
        self._told = ""

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Tells when the mount answers, and from then on how it is."""
        mountpoint = self.knobs.options.mountpoint
        async with trio.open_nursery() as nursery:
            if self._manager.watchdog_s is not None:
                nursery.start_soon(self._ping, self._manager.watchdog_s / _PINGS_PER_DEADLINE)
            if self._manager.is_there:
                version = Path(mountpoint, ".icefs", "version")
                await trio.to_thread.run_sync(version.read_bytes, abandon_on_cancel=True)
            on_ready()
            self._told = self._line()
            self._manager.tell(READY="1", STATUS=self._told)
            if self._manager.is_there:
                # Also of branches that nobody looks at, and for which the last mount left something.
                await in_background("looking for uncommitted changes", self._fs.control.uncommitted)
                nursery.start_soon(self._keep_status)

    async def _ping(self, interval_s: float) -> None:
        while True:
            self._manager.tell(WATCHDOG="1")
            await trio.sleep(interval_s)

    async def _keep_status(self) -> None:
        while True:
            await in_background("the status line", self._tell_status)
            await trio.sleep(_STATUS_INTERVAL_S)

    async def _tell_status(self) -> None:
        await self._count_changes()
        line = self._line()
        if line != self._told:
            self._told = line
            self._manager.tell(STATUS=line)

    def stopping(self, why: str) -> None:
        """Tells that the mount begins to end."""
        self._manager.tell(STOPPING="1", STATUS=why)

    async def reload(self) -> None:
        """Reads the configuration again and takes over what can be changed without mounting anew."""
        assert self._reread is not None
        self._manager.tell(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))
        service = self.knobs.facts["service"]
        try:
            wanted = await trio.to_thread.run_sync(self._reread)
            turned = self.knobs.turn(wanted)
            set_level(self._fs, self.knobs.options.log_level)
        except (IcefsError, OSError) as error:
            logger.error("not reloaded: %s", error)
            service["problem"] = str(error)
        else:
            waiting, idle = _keys(turned.waiting), _keys(turned.without_effect)
            service |= {"problem": None, "needs_restart": waiting, "no_effect": idle}
            changed = ", ".join(_keys(turned.changed))
            logger.info("reloaded: %s", changed or "nothing that takes effect now has changed")
            if waiting:
                logger.warning("these changes wait for a restart: %s", ", ".join(waiting))
            if idle:
                logger.warning("%s has no effect: a local repository has no cache", ", ".join(idle))
        service["reloads"] += 1
        self._manager.tell(READY="1")

    # The status line.

    def _line(self) -> str:
        """Says what is mounted, where its branches are and what is not committed, in one line."""
        fs = self._fs
        parts = list(self._trees())
        refs = fs.follower.refs
        if fs.root is not None:
            rest = len(refs.branches) - min(len(refs.branches), _SHOWN_BRANCHES)
            if rest:
                parts.append(f"{rest} more {'branch' if rest == 1 else 'branches'}")
            if refs.tags:
                parts.append(f"{len(refs.tags)} {'tag' if len(refs.tags) == 1 else 'tags'}")
        line = f"{redact(fs.repository.storage.url)}: {', '.join(parts) or 'no branches'}"
        if fs.follower.problem:
            line += f"; refs cannot be read: {fs.follower.problem}"
        return line

    def _trees(self) -> Iterator[str]:
        fs = self._fs
        if fs.root is None:
            assert fs.single is not None  # a mount shows one or the other
            tree = fs.single
            yield self._tree(tree.name or tree.kind, str(tree.snapshot_id), tree)
            return
        trees = fs.root.branches
        # Where something is uncommitted comes first.
        names = sorted(fs.follower.refs.branches, key=lambda name: (not self._changes(trees.get(name)), name))
        for name in names[:_SHOWN_BRANCHES]:
            yield self._tree(name, str(fs.follower.refs.branches[name]), trees.get(name))

    def _tree(self, name: str, tip: str, tree: Any) -> str:
        text = f"{name} {tip[:_SHORT_ID]}"
        count = self._changes(tree)
        if count:
            shown = f"{_COUNTED}+" if count >= _COUNTED else str(count)
            text += f" ({shown} uncommitted {'change' if count == 1 else 'changes'})"
        if isinstance(tree, WritableBranch) and tree.is_committing:
            text += " (committing)"
        if isinstance(tree, BranchTree) and tree.problem:
            text += f" ({tree.problem})"
        return text

    def _changes(self, tree: Any) -> int:
        """Returns how many names of a branch are not committed, as last counted."""
        if not isinstance(tree, WritableBranch) or tree.work is None:
            return int(isinstance(tree, WritableBranch) and tree.has_left_work)
        return self._counts.get(tree.name, (0, 0))[1]

    async def _count_changes(self) -> None:
        """Counts what is not committed, where the tree has changed since it was last counted."""
        fs = self._fs
        trees = [fs.single] if fs.root is None else list(fs.root.branches.values())
        for tree in trees:
            work = tree.work if isinstance(tree, WritableBranch) else None
            if tree is None or work is None or self._counts.get(tree.name, (-1, 0))[0] == work.revision:
                continue
            revision = work.revision
            # In a thread: the tree's lock may be held by an operation that waits for the disk.
            self._counts[tree.name] = revision, await fs.in_thread(partial(work.count_changes, _COUNTED))


async def obey_signals(service: Service, stop: Callable[[], Awaitable[None]]) -> None:
    """Ends the mount at SIGTERM and SIGINT; SIGHUP ends it too, but where there is a configuration to read again."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async for number in signals:
            if number == signal.SIGHUP and service.can_reload:
                await in_background("reloading", service.reload)
                continue
            name = signal.Signals(number).name
            logger.info("%s: unmounting", name)
            service.stopping(f"unmounting after {name}")
            await stop()

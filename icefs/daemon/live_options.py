"""The options of a running mount, of which a reload of the configuration changes some."""

from dataclasses import dataclass, field, fields, replace
from typing import Final

import trio

from icefs.daemon.options import MountOptions
from icefs.storage.cache.disk import DiskCache
from icefs.vfs.observe.mount_facts import MountFacts

ADJUSTABLE: Final = ("log_level", "cache_size", "poll_interval_s")
"""The options that take effect without another mount."""


@dataclass(slots=True)
class Applied:
    """The names of the options that differ in a configuration that was read again.

    Attributes:
        changed: Those that took effect.
        waiting: Those that need a restart.
        without_effect: Those that mean nothing to this mount, with or without a restart.
    """

    changed: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    without_effect: list[str] = field(default_factory=list)


@dataclass(slots=True)
class LiveOptions:
    """The options that are in effect.

    Concurrency: on the event loop's thread.

    Attributes:
        options: The options.
        cache: The disk cache; None for a mount without one.
        facts: The facts of the mount, whose options follow every change.
        needs_cache: Whether a disk cache would have something to keep: not so of a local repository.
    """

    options: MountOptions
    cache: DiskCache | None
    facts: MountFacts
    needs_cache: bool
    _changed: trio.Event = field(default_factory=trio.Event)

    async def wait_for_change(self, until: float) -> None:
        """Returns after a change, or at a point in trio's time."""
        with trio.move_on_at(until):
            await self._changed.wait()

    def apply(self, wanted: MountOptions) -> Applied:
        """Puts those of the wanted options into effect that can be."""
        applied = Applied()
        for name in (option.name for option in fields(MountOptions)):
            value = getattr(wanted, name)
            if value == getattr(self.options, name):
                continue
            # A cache is opened and given to the repository when the mount begins, and not later.
            if name not in ADJUSTABLE or (name == "cache_size" and self.cache is None):
                of_no_use = name == "cache_size" and not self.needs_cache
                (applied.without_effect if of_no_use else applied.waiting).append(name)
                continue
            applied.changed.append(name)
            self.options = replace(self.options, **{name: value})
            self.facts.set_option(name, value)
        if self.cache is not None:
            self.cache.max_bytes = self.options.cache_size
        self._changed.set()
        self._changed = trio.Event()
        return applied

"""What `rpc` can be asked for about the mount itself: its numbers, its last requests, and how much it logs."""

import logging
from collections.abc import AsyncGenerator, Mapping
from functools import partial
from typing import Any, Final

from icefs.errors import InvalidInputError
from icefs.vfs.control.rpc import Operation
from icefs.vfs.mount import Mount
from icefs.vfs.observe.access_log import log_accesses, programs_accesses, recent_accesses
from icefs.vfs.observe.stats import RING

logger = logging.getLogger(__name__)

LEVELS: Final = ("debug", "info", "warning", "error")
"""How much can be logged, most first."""


def set_level(mount: Mount, level: str) -> None:
    """Logs lines of at least this level from now on; at `debug`, each request."""
    logging.getLogger().setLevel(level.upper())
    log_accesses(mount.stats, mount.fs, enabled=level == "debug")


def get_level() -> str:
    """Returns how much is logged."""
    return logging.getLevelName(logging.getLogger().level).lower()


def observing_operations(mount: Mount) -> dict[str, Operation]:
    """Returns the operations, by name."""

    async def stats(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        yield await mount.in_thread(partial(mount.observer.as_json, mount.observer.look()))

    async def accesses(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        limit = request.get("limit", RING)
        if not isinstance(limit, int) or limit < 0:
            raise InvalidInputError(f"{limit!r} is no number of requests")
        if request.get("control", True):
            yield {"accesses": recent_accesses(mount.stats, mount.fs, limit)}
            return
        window = request.get("since", 0), request.get("until", 0)
        if not all(isinstance(uptime, int | float) for uptime in window):
            raise InvalidInputError(f"{window} are no uptimes in seconds")
        found, control = programs_accesses(mount.stats, mount.fs, limit, window)
        yield {"accesses": found, "control": control}

    async def log_level(request: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        level, before = request.get("level"), get_level()
        if level is not None:
            if level not in LEVELS:
                raise InvalidInputError(f"unknown log level {level!r}", hint=f"one of {', '.join(LEVELS)}")
            # Said while the one or the other level lets it through.
            is_louder = LEVELS.index(level) < LEVELS.index("warning")
            if is_louder:
                set_level(mount, level)
            logger.info("the log level is %s now; it was %s", level, before)
            set_level(mount, level)
        yield {"level": get_level(), "before": before}

    return {"stats": stats, "accesses": accesses, "log-level": log_level}

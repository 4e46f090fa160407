"""Work that no request waits for."""

import logging
from collections.abc import Awaitable, Callable

from icefs import errors

logger = logging.getLogger(__name__)


async def in_background[R](what: str, work: Callable[[], Awaitable[R]]) -> R | None:
    """Does work whose failure is logged, and never ends the mount.

    Args:
        what: Names the work, for the log.
        work: Is awaited once.

    Returns:
        The result, or None after a failure.
    """
    try:
        return await work()
    except errors.IcefsError as exc:
        if not isinstance(exc, errors.InternalError):
            logger.warning("%s: %s: %s", what, type(exc).__name__, exc)
            return None
        logger.exception("%s", what)
    except Exception:
        logger.exception("%s", what)
    return None

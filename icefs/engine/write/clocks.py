"""The clocks of this machine and of the store, which must agree: ages are compared with times that both gave.

Commits stamp snapshots with this machine's clock, and objects get the store's times. A cutoff of collection or
expiration is mostly counted back from this machine's clock. Where the two differ by more than ten minutes, none of
them can be trusted.

Source: format notes §7.12; upstream icechunk/src/session.rs.
"""

from typing import Final

from icefs.engine.write.context import WriteContext
from icefs.errors import SessionStateError
from icefs.storage.base import Storage

_MAX_DRIFT_MICROS: Final = 600 * 1_000_000


def check_clock(storage: Storage, store_time: int, own_time: int) -> None:
    """Compares two times of one moment, in microseconds since the epoch.

    Args:
        storage: The store, for the message.
        store_time: By the store's clock.
        own_time: By the clock of this machine.

    Raises:
        SessionStateError: they differ by more than ten minutes (kind `snapshot-timestamp`).
    """
    drift = store_time - own_time
    if abs(drift) > _MAX_DRIFT_MICROS:
        where = "behind" if drift > 0 else "ahead of"
        raise SessionStateError(
            f"this machine's clock is {abs(drift) // 1_000_000} seconds {where} that of {storage.url}",
            kind="snapshot-timestamp",
            hint="set the clock (more than 10 minutes are not allowed), then try again",
        )


def check_clock_now(context: WriteContext) -> None:
    """Asks the store for its time, and compares it with the clock of this machine; raises as `check_clock`."""
    before = context.clock()
    store_time = context.storage.current_time()
    # Between the question and the answer the store may have tried several times: neither end is the moment.
    after = context.clock()
    check_clock(context.storage, store_time, min(max(store_time, before), after))

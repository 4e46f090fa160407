"""Forked sessions for programs that compute in many processes, under the official names."""

from collections.abc import Iterator
from typing import Any

from icefs.api.session import ForkSession, Session
from icefs.api.store import IcechunkStore

__all__ = ["extract_session", "merge_sessions"]

type Forks = ForkSession | list[ForkSession] | list[list[ForkSession]]


def extract_session(zarray: Any, axis: Any = None, keepdims: Any = None) -> Session:
    """Returns the session that a zarr array reads and writes.

    Args:
        zarray: An array whose store is an `IcechunkStore`.
        axis: Ignored, like `keepdims`: reductions pass them.
        keepdims: See there.

    Raises:
        TypeError: the array's store is another.
    """
    if not isinstance(zarray.store, IcechunkStore):
        raise TypeError(f"an array in an IcechunkStore is needed, not one in {zarray.store!r}")
    return zarray.store.session


def merge_sessions(*sessions: Forks) -> ForkSession:
    """Merges forks into the first of them, and returns it.

    Args:
        sessions: Forks, or lists of them.

    Raises:
        TypeError: something else is among them, or there is none at all.
        SessionStateError: as of `Session.merge`.
    """
    found: list[ForkSession] = []
    for each in _flat(sessions):
        if not isinstance(each, ForkSession):
            raise TypeError(
                f"only forks can be merged here. Received {type(each).__name__!r}: merge forks into their origin with "
                "its `merge` method"
            )
        found.append(each)
    if not found:
        raise TypeError("there is nothing to merge")
    first, *others = found
    first.merge(*others)
    return first


def _flat(items: Any) -> Iterator[Any]:
    for item in items:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item

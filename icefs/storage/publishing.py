"""Writes on a condition, whose answers may be lost, at services that keep user metadata.

A conditional write carries a write-id of its own in the object's metadata, under the name that the official library
uses: after a lost answer, or a conflict that could be with our own earlier try, the object is looked up, and its
write-id tells whose write is there.

Source: format notes §7.11; upstream design document 017.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from icefs.errors import ObjectNotFoundError, PreconditionFailedError, StorageError
from icefs.storage.base import Version

WRITE_ID: Final = "icechunkwriteid"
"""The name of the write-id in an object's user metadata."""

type OnFailure = Callable[[StorageError], None]


@dataclass(frozen=True, slots=True)
class Present:
    """The object that is there: its version, and the write-id of its writer (None where it has none)."""

    version: Version
    write_id: str | None


def new_write_id() -> str:
    """Returns a write-id that nobody else uses."""
    return uuid.uuid4().hex


def publish(
    send: Callable[[OnFailure], Version],
    find: Callable[[], Present],
    *,
    write_id: str | None,
    place: str,
    key: str,
) -> Version:
    """Writes under a condition, and finds out what happened where the answer does not tell.

    Args:
        send: Sends the write, and again until there is an answer; has the function that it takes called at each passing
            failure.
        find: Looks up the present object; raises ObjectNotFoundError.
        write_id: The write-id that `send` sends; None where it sends none, and nothing can be found out.
        place: The object, for errors.
        key: Its name, for programs.

    Raises:
        PreconditionFailedError: as `Storage.put`.
        StorageError: the store does not answer; `facts["maybe_written"]` tells whether the object may be there.
    """
    in_doubt = False

    def doubt(error: StorageError) -> None:
        nonlocal in_doubt
        in_doubt |= not error.facts.get("never_connected")

    try:
        return send(doubt)
    except (PreconditionFailedError, ObjectNotFoundError) as error:
        # Looked up even where no try is known to be lost: a proxy may have sent the request twice.
        own = _own_version(find, write_id)
        if own is not None:
            return own
        raise PreconditionFailedError(
            f"{place} was changed by another writer", key=key, maybe_written=in_doubt
        ) from error
    except StorageError as error:
        error.facts["maybe_written"] = in_doubt
        if not (in_doubt and error.is_transient):
            raise
        try:
            own = _own_version(find, write_id)
        except StorageError:
            raise error from None
        if own is not None:
            return own
        raise


def check_present(find: Callable[[], Present], expected: Version | None, *, place: str, key: str) -> None:
    """Looks right before a write or copy without a condition whether the present object is the expected one.

    Args:
        find: As for `publish`.
        expected: Its version; None for no object.
        place: The object, for errors.
        key: Its name, for programs.

    Raises:
        PreconditionFailedError: it is another one, or there is none.
        StorageError: the store does not answer.
    """
    try:
        found = find().version
    except ObjectNotFoundError:
        found = None
    if found != expected:
        raise PreconditionFailedError(f"{place} was changed by another writer", key=key, maybe_written=False)


def _own_version(find: Callable[[], Present], write_id: str | None) -> Version | None:
    """Returns the version of the present object, if it is of this write."""
    if write_id is None:
        return None
    try:
        found = find()
    except ObjectNotFoundError:
        return None
    return found.version if found.write_id == write_id else None

"""Writes on a condition, whose answers may be lost: the one set of rules for all services.

A conditional write carries a write-id of its own in the object's metadata, under the name that the official library
uses: after a lost answer, or a conflict that could be with our own earlier try, the object is looked up, and its
write-id tells whose write is there. A store that does without metadata says otherwise what is its own, or not at all.

Source: format notes §7.11; upstream design document 017.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Final, Protocol

from icefs.errors import ObjectNotFoundError, PreconditionFailedError, StorageError
from icefs.storage.base import Version

WRITE_ID: Final = "icechunkwriteid"
"""The name of the write-id in an object's user metadata."""

type OnFailure = Callable[[StorageError], None]


class Found(Protocol):
    """An object that was looked up."""

    @property
    def version(self) -> Version:
        """The version that is there."""
        ...


@dataclass(frozen=True, slots=True)
class Present:
    """The object that is there: its version, and the write-id of its writer (None where it has none)."""

    version: Version
    write_id: str | None


def new_write_id() -> str:
    """Returns a write-id that nobody else uses."""
    return uuid.uuid4().hex


def is_written_by(write_id: str | None) -> Callable[[Present], bool] | None:
    """Returns what tells whether an object is of the write with an id; None where the write carries none."""
    return None if write_id is None else lambda found: found.write_id == write_id


def publish[F: Found](
    send: Callable[[OnFailure], Version],
    find: Callable[[], F],
    *,
    is_own: Callable[[F], bool] | None,
    place: str,
    key: str,
    is_believed: Callable[[StorageError, F | None, int], bool] = lambda error, found, tries: True,
) -> Version:
    """Writes under a condition, and finds out what happened where the answer does not tell.

    Args:
        send: Sends the write, and again until there is an answer; has the function that it takes called at each passing
            failure.
        find: Looks up the present object; raises ObjectNotFoundError.
        is_own: Tells of the present object whether it is the one that was to be written; None where nothing can tell.
        place: The object, for errors.
        key: Its name, for programs.
        is_believed: Takes a refusal, the present object if `is_own` could look it up, and how many refusals there were
            before. Tells whether another writer is the reason; else the write is sent again.

    Raises:
        PreconditionFailedError: as `Storage.put`.
        StorageError: the store does not answer; `facts["maybe_written"]` tells whether the object may be there. Or what
            `is_believed` raises.
    """
    in_doubt = False

    def doubt(error: StorageError) -> None:
        nonlocal in_doubt
        in_doubt |= not error.facts.get("never_connected")

    def look() -> tuple[F | None, bool]:
        """Returns the present object, and whether it is ours."""
        if is_own is None:
            return None, False
        try:
            found = find()
        except ObjectNotFoundError:
            return None, False
        return found, is_own(found)

    for tries in count():
        try:
            return send(doubt)
        except (PreconditionFailedError, ObjectNotFoundError) as error:
            # Looked up even where no try is known to be lost: a proxy may have sent the request twice.
            found, is_ours = look()
            if found is not None and is_ours:
                return found.version
            if not is_believed(error, found, tries):
                continue
            raise PreconditionFailedError(
                f"{place} was changed by another writer", key=key, maybe_written=in_doubt
            ) from error
        except StorageError as error:
            error.facts["maybe_written"] = in_doubt
            if not (in_doubt and error.is_transient):
                raise
            try:
                found, is_ours = look()
            except StorageError:
                raise error from None
            if found is not None and is_ours:
                return found.version
            raise
    raise AssertionError("unreachable")


def check_present(find: Callable[[], Found], expected: Version | None, *, place: str, key: str) -> None:
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

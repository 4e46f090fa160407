"""Blobs of a container are read: whole, in part, on a condition, or described."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from azure.core import MatchConditions
from azure.core.exceptions import HttpResponseError
from azure.storage.blob import BlobClient, BlobProperties, StorageStreamDownloader

from icefs.clock import to_micros
from icefs.errors import BadAnswerError, ObjectModifiedError, PreconditionFailedError
from icefs.storage.answers import AnswerError
from icefs.storage.azure.access import ContainerAccess
from icefs.storage.azure.errors import status_of
from icefs.storage.base import Object, Version, range_end
from icefs.storage.publishing import WRITE_ID, Present

# How often a blob may grow between two requests about it.
_CHANGES: Final = 5

type Conditions = dict[str, Any]
"""Keyword arguments of the library's methods."""


@dataclass(frozen=True, slots=True)
class Described:
    """What the service says of a blob.

    Attributes:
        size: In bytes.
        modified: In microseconds since the epoch.
        present: Its version, and whose write it is.
        copy_status: How the copy goes that makes it (`pending`, `success`, …); None if it is no copy.
    """

    size: int
    modified: int
    present: Present
    copy_status: str | None


def version_of(tag: object) -> Version:
    """Returns the version that an entity tag names.

    Raises:
        AnswerError: there is none.
    """
    version = (tag if isinstance(tag, str) else "").strip().removeprefix("W/").strip('"')
    if not version:
        raise AnswerError("without an entity tag")
    return version


def quoted(version: Version) -> str:
    """Returns the entity tag to send for a version, quoted or not."""
    return '"' + version.strip().strip('"') + '"'


def if_match(version: Version) -> Conditions:
    """Returns the condition that a blob has a version."""
    return {"etag": quoted(version), "match_condition": MatchConditions.IfNotModified}


class ObjectReader:
    """Reads blobs of one container by their full names. Safe for threads."""

    def __init__(self, access: ContainerAccess) -> None:
        """Takes the way to the container."""
        self._access = access

    def get(self, name: str, start: int, end: int | None, conditions: Conditions) -> Object:
        """Reads a blob, or bytes of it.

        Raises:
            ObjectNotFoundError: there is no such blob.
            PreconditionFailedError: a condition does not hold.
            InvalidObjectSizeError: the range ends behind the blob's end.
            StorageError: the service does not answer.
        """
        where = self._access.url(name)
        # Always a range: without one, the library asks a second time where the blob is empty, takes the entity tag of
        # that answer, and returns no bytes, although the blob may have some by then.
        place: Conditions = {"offset": start, "length": None if end is None else end - start}

        def once(blob: BlobClient) -> tuple[bytes, BlobProperties, int] | None:
            try:
                found: StorageStreamDownloader[Any] = blob.download_blob(max_concurrency=1, **place, **conditions)
            except HttpResponseError as error:
                if status_of(error) == 416:
                    return None
                raise
            total = int((found.properties.content_range or "").rpartition("/")[2])
            range_end(total, start, end, name=where)
            return found.readall(), found.properties, total

        for _ in range(_CHANGES):
            answer = None if end == start else self._access.run_blob("read", name, once)
            if answer is not None:
                data, properties, total = answer
                if len(data) != range_end(total, start, end, name=where) - start:
                    raise BadAnswerError(f"cannot read {where}: {len(data)} bytes came, which are not all")
                return Object(data, version_of(properties.etag))
            # A range that HTTP cannot express, for it has no bytes; or one beyond the end.
            found = self.head(name, conditions)
            if range_end(found.size, start, end, name=where) == start:
                return Object(b"", found.present.version)
            # It has become longer since.
        raise BadAnswerError(f"cannot read {where}: the answers about its length contradict each other")

    def get_if_changed(self, name: str, known: Version | None) -> Object | None:
        """Reads a blob unless it is still of a known version; None then."""
        if known is None:
            return self.get(name, 0, None, {})
        try:
            changed = {"etag": quoted(known), "match_condition": MatchConditions.IfModified}
            return self.get(name, 0, None, changed)
        except PreconditionFailedError as error:
            if error.facts.get("status") != 304:
                raise
            return None

    def head(self, name: str, conditions: Conditions) -> Described:
        """Asks for the description of a blob; raises ObjectNotFoundError."""

        def once(blob: BlobClient) -> Described:
            return _described(blob.get_blob_properties(**conditions))

        return self._access.run_blob("read", name, once)

    def find(self, name: str) -> Present:
        """Returns the version that is there, and whose write it is; raises ObjectNotFoundError."""
        return self.head(name, {}).present

    def read_range(
        self, name: str, start: int, end: int, *, if_match_etag: str | None, if_unmodified_since_s: int | None
    ) -> bytes:
        """Reads a range of a blob that others may have changed; see `RangeReader.read_range`."""
        conditions: Conditions = {} if if_match_etag is None else if_match(if_match_etag)
        if if_unmodified_since_s is not None:
            conditions["if_unmodified_since"] = datetime.fromtimestamp(if_unmodified_since_s, UTC)
        modified = ObjectModifiedError(f"{self._access.url(name)} was modified after it was referenced", key=name)
        try:
            found = self.get(name, start, end, conditions)
        except PreconditionFailedError as error:
            raise modified from error
        if if_match_etag is not None and found.version != version_of(if_match_etag):
            raise modified  # the service does not know the condition
        return found.data


def _described(properties: BlobProperties) -> Described:
    modified: datetime | None = properties.last_modified
    if modified is None or properties.size is None:
        raise AnswerError("without the time or the size of the object")
    write_id = {name.lower(): value for name, value in (properties.metadata or {}).items()}.get(WRITE_ID)
    present = Present(version_of(properties.etag), write_id)
    return Described(properties.size, to_micros(modified), present, properties.copy.status)

"""Objects of a bucket are read: whole, in part, on a condition, or described."""

from collections.abc import Mapping
from datetime import datetime
from email.utils import formatdate, parsedate_to_datetime
from typing import Any

from urllib3 import BaseHTTPResponse

from icefs.clock import to_micros
from icefs.errors import BadAnswerError, ObjectModifiedError, PreconditionFailedError
from icefs.storage.answers import (
    AnswerError,
    content_encoding,
    content_length,
    describe,
    is_page,
    range_size,
    read_exactly,
)
from icefs.storage.base import Object, ObjectInfo, Version, range_end
from icefs.storage.gcs.access import BucketAccess
from icefs.storage.gcs.connection import Connection
from icefs.storage.gcs.errors import RefusalError
from icefs.storage.publishing import WRITE_ID, Present


def version_of(generation: object) -> Version:
    """Returns a version.

    Raises:
        AnswerError: an answer has none.
    """
    text = str(generation)
    if not text.isascii() or not text.isdecimal():
        raise AnswerError("without a generation")
    return text


def generation_of(version: Version) -> str:
    """Returns the generation to ask for: for a text that is none, one that no object has.

    Zero is none: as a condition it stands for the absence of any object.
    """
    is_one = version.isascii() and version.isdecimal() and 0 < int(version) < 1 << 63
    return str(int(version)) if is_one else "1"


def info_of(blob: Any, key: str) -> ObjectInfo:
    """Returns the facts in an object's description.

    Raises:
        AnswerError: it lacks one.
    """
    size, made = blob.size, blob.time_created
    if not isinstance(size, int) or size < 0 or not isinstance(made, datetime):
        raise AnswerError("without the object's size and time")
    return ObjectInfo(key, size, to_micros(made), version_of(blob.generation))


class ObjectReader:
    """Reads objects of one bucket by their full names. Safe for threads."""

    def __init__(self, access: BucketAccess) -> None:
        """Takes the way to the bucket."""
        self._access = access

    def get(self, name: str, start: int, end: int | None) -> Object:
        """Reads an object, or bytes of it; raises as `Storage.get`."""
        if end == start:
            return self._nothing(name, start, end)
        headers = _range_header(start, end)

        def once(connection: Connection) -> Object | None:
            try:
                with connection.read(name, {}, headers) as response:
                    return self._receive(response, name, start, end)
            except RefusalError as error:
                if error.status == 416:
                    return None
                raise

        return self._access.run("read", name, once) or self._nothing(name, start, end)

    def _receive(self, response: BaseHTTPResponse, name: str, start: int, end: int | None) -> Object:
        headers = response.headers
        if is_page(headers) or content_encoding(headers) is not None:
            raise AnswerError(f"{describe(response.status, headers)} instead of an object", response.status)
        version = version_of(headers.get("x-goog-generation"))
        return Object(_body(response, self._access.url(name), start, end), version)

    def _nothing(self, name: str, start: int, end: int | None) -> Object:
        """Reads a range that HTTP cannot express, for it has no bytes; or finds that it lies beyond the end."""
        found = self.head(name, name)
        where = self._access.url(name)
        if range_end(found.size_bytes, start, end, name=where) != start:
            raise BadAnswerError(f"cannot read {where}: the answers about its length contradict each other")
        assert found.version is not None
        return Object(b"", found.version)

    def get_if_changed(self, name: str, known: Version | None) -> Object | None:
        """Reads an object unless it is still of a known version; None then."""
        condition = {} if known is None else {"ifGenerationNotMatch": generation_of(known)}

        def once(connection: Connection) -> Object | None:
            try:
                with connection.read(name, condition, {}) as response:
                    found = self._receive(response, name, 0, None)
            except RefusalError as error:
                if error.status == 304:
                    return None
                raise
            return None if found.version == known else found

        return self._access.run("read", name, once)

    def head(self, name: str, key: str) -> ObjectInfo:
        """Asks for the description of an object.

        Args:
            name: The object's full name.
            key: What its facts call it.
        """

        def once(connection: Connection) -> ObjectInfo:
            return info_of(_describe(connection, name), key)

        return self._access.run("read", name, once)

    def present(self, name: str) -> Present:
        """Returns the version of an object and the write-id of its writer; raises ObjectNotFoundError."""

        def once(connection: Connection) -> Present:
            blob = _describe(connection, name)
            metadata = blob.metadata
            told = metadata.get(WRITE_ID) if isinstance(metadata, dict) else None
            return Present(version_of(blob.generation), told if isinstance(told, str) else None)

        return self._access.run("read", name, once)

    def read_range(
        self, name: str, start: int, end: int, *, if_match_etag: str | None, if_unmodified_since_s: int | None
    ) -> bytes:
        """Reads a range of an object that others may have changed; see `RangeReader.read_range`."""
        conditions = {}
        if if_match_etag is not None:
            conditions["If-Match"] = f'"{_tag(if_match_etag)}"'
        if if_unmodified_since_s is not None:
            conditions["If-Unmodified-Since"] = formatdate(if_unmodified_since_s, usegmt=True)
        where = self._access.url(name)
        modified = ObjectModifiedError(f"{where} was modified after it was referenced", key=name)
        # An empty range has no header: the first byte stands for it, and an object without one is not looked into.
        last = max(end, start + 1)

        def once(connection: Connection) -> bytes | None:
            try:
                with connection.read_foreign(name, {**_range_header(start, last), **conditions}) as response:
                    # A service or proxy may not know the conditions.
                    if not _is_same(response.headers, if_match_etag, if_unmodified_since_s):
                        raise modified
                    return _body(response, where, start, last)[: end - start]
            except RefusalError as error:
                if error.status == 416:
                    return None
                raise

        try:
            found = self._access.run("read", name, once)
        except PreconditionFailedError as error:
            raise modified from error
        if found is None:
            range_end(self.head(name, name).size_bytes, start, end, name=where)
            return b""
        return found

    def entity_tag(self, name: str, info: ObjectInfo) -> str | None:
        """Asks for the entity tag of an object that has bytes; see `GcsStorage.entity_tag`."""
        where = self._access.url(name)

        def once(connection: Connection) -> str | None:
            # The description has a tag as well, but of the JSON interface, where it also tells metadata apart.
            with connection.read_foreign(name, _range_header(0, 1)) as response:
                if version_of(response.headers.get("x-goog-generation")) != info.version:
                    raise ObjectModifiedError(f"{where} was modified while it was looked at", key=name)
                tag: str = response.headers.get("ETag", "")
                _body(response, where, 0, 1)
                return tag if tag.startswith('"') else None

        return self._access.run("read", name, once)


def _describe(connection: Connection, name: str) -> Any:
    blob = connection.bucket.blob(name)
    blob.reload(timeout=connection.timeout, retry=None)
    return blob


def _range_header(start: int, end: int | None) -> dict[str, str]:
    if start == 0 and end is None:
        return {}
    return {"Range": f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"}


def _body(response: BaseHTTPResponse, where: str, start: int, end: int | None) -> bytes:
    """Reads what was asked for; raises AnswerError where it is something else."""
    status, headers = response.status, response.headers
    is_range = start > 0 or end is not None
    if status == 206 and is_range:
        last, _ = range_size(headers, start, end, name=where)
        return read_exactly(response, last - start)
    # A whole object in the place of a range is that range only if it has its length.
    size = content_length(headers, status)
    if status != 200 or (is_range and not (start == 0 and end == size)):
        raise AnswerError(f"{describe(status, headers)} instead of the range that was asked for", status)
    return read_exactly(response, range_end(size, 0, end, name=where))


def _tag(etag: str) -> str:
    return etag.removeprefix("W/").strip('"')


def _is_same(headers: Mapping[str, str], etag: str | None, unmodified_since_s: int | None) -> bool:
    """Tells whether an answer's object is the one that was referenced."""
    if etag is not None and _tag(headers.get("ETag", "")) != _tag(etag):
        return False
    if unmodified_since_s is None:
        return True
    try:
        return parsedate_to_datetime(headers.get("Last-Modified", "")).timestamp() <= unmodified_since_s
    except ValueError:
        raise AnswerError("without a time of modification") from None

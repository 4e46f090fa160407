"""Objects of an S3 bucket are read: whole, in part, on a condition, or described."""

from email.utils import formatdate
from functools import partial

from botocore.exceptions import ClientError

from icefs.errors import BadAnswerError, ObjectModifiedError, PreconditionFailedError
from icefs.storage.base import Done, Object, Version, range_end
from icefs.storage.s3.access import BucketAccess
from icefs.storage.s3.answers import Described, Wanted, quoted, receive, version_of
from icefs.storage.s3.requests import S3Requests


class ObjectReader:
    """Reads objects of one bucket by their full names. Safe for threads."""

    def __init__(self, access: BucketAccess) -> None:
        """Takes the way to the bucket."""
        self._access = access

    def get(self, name: str, start: int, end: int | None, conditions: dict[str, str], *, is_own: bool = True) -> Object:
        """Reads an object, or bytes of it.

        Args:
            name: The object's full name.
            start: The first byte.
            end: One past the last byte; None for the object's end.
            conditions: Headers.
            is_own: Whether the object is one of a repository, whose answers have to bear its version.

        Raises:
            ObjectNotFoundError: there is no such object.
            PreconditionFailedError: a condition does not hold.
            StorageError: the range begins behind the object's end, or the store does not answer.
        """
        if end == start:
            return self._nothing(name, start, end, conditions)
        headers = {**conditions, **self._access.lean_payer}
        wanted = Wanted(self._access.url(name), start, end, conditions.get("if-match"), is_own)
        if wanted.is_range:
            headers["range"] = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"

        def once(requests: S3Requests) -> Object | None:
            try:
                with requests.send("GET", name, headers) as response:
                    return receive(response, wanted)
            except ClientError as error:
                if _status(error) == 416:
                    return None
                raise

        return self._access.run_lean("read", name, once) or self._nothing(name, start, end, conditions)

    def start_read(self, name: str, start: int, end: int, done: Done) -> bool:
        """Begins to read a range without waiting; see `Storage.start_read`."""
        requests = self._access.ready_requests()
        if requests is None or not start < end:
            return False
        failed = partial(self._access.retrier.note, verb="read", name=self._access.url(name))
        return requests.start_read(name, start, end, self._access.lean_payer, done, failed)

    def _nothing(self, name: str, start: int, end: int | None, conditions: dict[str, str]) -> Object:
        """Reads a range that HTTP cannot express, for it has no bytes; or finds that it lies beyond the end."""
        found = self.head(name, conditions)
        where = self._access.url(name)
        if range_end(found.size, start, end, name=where) != start:
            raise BadAnswerError(f"cannot read {where}: the answers about its length contradict each other")
        return Object(b"", found.version)

    def get_if_changed(self, name: str, known: Version | None) -> Object | None:
        """Reads an object unless it is still of a known version; None then."""
        headers = {**self._access.lean_payer, **({} if known is None else {"if-none-match": quoted(known)})}

        def once(requests: S3Requests) -> Object | None:
            try:
                with requests.send("GET", name, headers) as response:
                    return receive(response, Wanted(self._access.url(name)))
            except ClientError as error:
                if _status(error) == 304:
                    return None
                raise

        return self._access.run_lean("read", name, once)

    def head(self, name: str, conditions: dict[str, str]) -> Described:
        """Asks for the description of an object; raises ObjectNotFoundError."""
        headers = conditions | self._access.lean_payer
        return self._access.run_lean("read", name, lambda requests: requests.describe(name, headers))

    def read_range(
        self,
        name: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of an object that others may have changed; see `RangeReader.read_range`."""
        conditions: dict[str, str] = {}
        if if_match_etag is not None:
            conditions["if-match"] = quoted(if_match_etag)
        if if_unmodified_since_s is not None:
            conditions["if-unmodified-since"] = formatdate(if_unmodified_since_s, usegmt=True)
        modified = ObjectModifiedError(f"{self._access.url(name)} was modified after it was referenced", key=name)
        try:
            found = self.get(name, start, end, conditions, is_own=False)
        except PreconditionFailedError as error:
            raise modified from error
        if if_match_etag is not None and found.version != version_of(if_match_etag):
            raise modified  # the service does not know the condition
        return found.data


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))

"""Objects in an S3 bucket: AWS, and the services that speak its protocol.

Versions are entity tags. A conditional write is one request that the service decides (If-Match, If-None-Match), so it
is atomic against every client, the official library included. It carries a write-id of its own in the object's
metadata, under the name that the official library uses: after a lost answer, or a conflict that could be with our
own earlier try, the object is looked up and its write-id tells whose write is there.

Source: format notes §7.11; upstream design document 017.
"""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from email.utils import formatdate
from functools import partial
from operator import methodcaller
from typing import Any, override
from urllib.parse import urlencode

from botocore.exceptions import ClientError

from icefs.errors import (
    BadAnswerError,
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    UnreachableError,
)
from icefs.storage.base import (
    Capabilities,
    Done,
    Object,
    ObjectInfo,
    Storage,
    Version,
    check_conditions,
    check_key,
    check_prefix,
    check_range,
    is_key,
    range_end,
    read_file,
)
from icefs.storage.retry import Retrier
from icefs.storage.s3.answers import (
    Described,
    ListPage,
    Wanted,
    check_client_refusal,
    quoted,
    receive,
    told,
    version_of,
)
from icefs.storage.s3.client import ClientHolder
from icefs.storage.s3.deletion import Deletion
from icefs.storage.s3.errors import CLIENT_ERRORS, LACKING, SKEWED, UNTOLD, region_told, s3_error
from icefs.storage.s3.options import S3Client, S3Options
from icefs.storage.s3.parts import send_parts
from icefs.storage.s3.requests import S3Requests

_WRITE_ID = "icechunkwriteid"
_WRITE_ID_HEADER = f"x-amz-meta-{_WRITE_ID}"
# The headers that arguments of the client's methods become.
_CONDITION_HEADERS = {"IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
# How often a refused condition is not believed while the object is still the one to be replaced (AWS: 409).
_SPURIOUS_CONFLICTS = 5


class S3Storage(Storage):
    """The part of a bucket below a prefix. Safe for threads; makes no request before it is used."""

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        options: S3Options | None = None,
        *,
        retrier: Retrier | None = None,
        new_write_id: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self.bucket = bucket
        # A slash at its beginning is part of the names, as for the official library.
        self.prefix = prefix.rstrip("/")
        self.options = options if options is not None else S3Options()
        self.capabilities = Capabilities(
            conditional_update=True, local_files=False, concurrency=self.options.concurrency, must_be_tried=True
        )
        self._base = f"{self.prefix}/" if self.prefix else ""
        self._clients = ClientHolder(self.options)
        self._retrier = retrier if retrier is not None else Retrier(self.options.retry)
        self._new_write_id = new_write_id
        self._payer: dict[str, Any] = {"RequestPayer": "requester"} if self.options.requester_pays else {}
        self._lean_payer = {"x-amz-request-payer": "requester"} if self.options.requester_pays else {}
        self._requests: S3Requests | None = None
        self._lacks_copies = False
        self._deletion = Deletion(self._run, {"Bucket": bucket, **self._payer})

    def __reduce__(self) -> tuple[Callable[..., "S3Storage"], tuple[str, str, S3Options]]:
        return (S3Storage, (self.bucket, self.prefix, self.options))

    @property
    @override
    def url(self) -> str:
        shown = {}
        for option in fields(self.options):
            value = getattr(self.options, option.name)
            if option.name in ("endpoint_url", "region", "profile", "anonymous", "force_path_style") and value:
                shown[option.name] = "true" if value is True else str(value)
        return f"s3://{self.bucket}/{self.prefix}" + (f"?{urlencode(shown, safe='/:')}" if shown else "")

    @property
    @override
    def identity(self) -> str:
        return f"s3 {self._clients.connection().endpoint_url} {self.bucket}/{self.prefix}"

    def _name(self, key: str) -> str:
        check_key(key)
        return self._base + key

    def _run[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[S3Client], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
        is_conditional: bool = False,
    ) -> T:
        """Sends requests about an object of the full name `name` until there is an answer."""

        def ask(requests: S3Requests) -> T:
            try:
                return requests.connection.call(operation)
            except ClientError as error:
                check_client_refusal(error.response, is_conditional=is_conditional)
                raise

        return self._run_lean(verb, name, ask, on_failure=on_failure)

    def _run_lean[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[S3Requests], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
        conflicts_pass: bool = False,
    ) -> T:
        """Does as `_run` with requests that do not go through boto3; `conflicts_pass` tries again after a 409."""
        where = f"s3://{self.bucket}/{name}"
        if not where.isprintable():
            where = ascii(where)

        def once() -> T:
            requests = self._get_requests()
            try:
                return operation(requests)
            except CLIENT_ERRORS as error:
                failure = s3_error(error, action=f"{verb} {where}", endpoint=requests.connection.endpoint_url)
                if isinstance(failure, StorageError) and self._is_remedied(requests, error, failure):
                    failure.is_transient = True
                if conflicts_pass and failure.facts.get("status") == 409:
                    failure = UnreachableError(failure.message, hint=failure.hint, **failure.facts)
                # What a program that gives keys has printed is in its error, and perhaps keys are in that.
                raise failure from (None if isinstance(error, UNTOLD) else error)

        return self._retrier.run(once, verb=verb, name=where, on_failure=on_failure)

    @override
    def watch_retries(self, tell: Callable[[str, str], None]) -> None:
        self._retrier.on_retry = tell

    def _get_requests(self) -> S3Requests:
        connection = self._clients.connection()
        requests = self._requests
        if requests is None or requests.connection is not connection:
            # Two threads may do this at once; what one of them made is then used by that thread alone, once.
            if requests is not None:
                requests.close_reads()
            requests = self._requests = S3Requests(connection, self.bucket, self.options)
        return requests

    def _is_remedied(self, requests: S3Requests, error: Exception, failure: StorageError) -> bool:
        """Removes the cause of a failure, where that can be done from here; tells whether to try again."""
        connection = requests.connection
        if not isinstance(error, ClientError):
            return False
        if failure.facts.get("code") in SKEWED:
            return requests.adjust_clock(error)
        if failure.facts.get("expired") or failure.facts.get("status") in (401, 403):
            # Whatever the refusal is called: keys that were replaced are unknown, wrong, or allow nothing.
            return self._clients.renew(connection)
        region = region_told(error) if failure.facts.get("status") in (301, 307, 400) else None
        return region is not None and self._clients.move(connection, region)

    # --- reading ---

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        return self._get(self._name(key), start, end, {})

    def _get(
        self, name: str, start: int, end: int | None, conditions: dict[str, str], *, is_own: bool = True
    ) -> Object:
        if end == start:
            return self._get_nothing(name, start, end, conditions)
        headers = {**conditions, **self._lean_payer}
        wanted = Wanted(f"s3://{self.bucket}/{name}", start, end, conditions.get("if-match"), is_own)
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

        return self._run_lean("read", name, once) or self._get_nothing(name, start, end, conditions)

    @override
    def start_read(self, key: str, start: int, end: int, done: Done) -> bool:
        requests = self._requests
        if requests is None or not self._clients.is_current(requests.connection) or not start < end:
            return False
        name = self._name(key)
        failed = partial(self._retrier.note, verb="read", name=f"s3://{self.bucket}/{name}")
        return requests.start_read(name, start, end, self._lean_payer, done, failed)

    def _get_nothing(self, name: str, start: int, end: int | None, conditions: dict[str, str]) -> Object:
        """Reads a range that HTTP cannot express, for it has no bytes; or finds that it lies beyond the end."""
        found = self._head(name, conditions)
        where = f"s3://{self.bucket}/{name}"
        if range_end(found.size, start, end, name=where) != start:
            raise BadAnswerError(f"cannot read {where}: the answers about its length contradict each other")
        return Object(b"", found.version)

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        name = self._name(key)
        headers = {**self._lean_payer, **({} if known is None else {"if-none-match": quoted(known)})}

        def once(requests: S3Requests) -> Object | None:
            try:
                with requests.send("GET", name, headers) as response:
                    return receive(response, Wanted(f"s3://{self.bucket}/{name}"))
            except ClientError as error:
                if _status(error) == 304:
                    return None
                raise

        return self._run_lean("read", name, once)

    def _head(self, name: str, conditions: dict[str, str]) -> Described:
        """Asks for what is known of an object."""
        headers = conditions | self._lean_payer
        return self._run_lean("read", name, lambda requests: requests.describe(name, headers))

    @override
    def head(self, key: str) -> ObjectInfo:
        found = self._head(self._name(key), {})
        return ObjectInfo(key, found.size, found.modified, found.version)

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of any object below the prefix; see `RangeReader.read_range`."""
        check_range(start, end)
        if not key:
            raise InvalidInputError("an empty name cannot name an object")
        conditions: dict[str, str] = {}
        if if_match_etag is not None:
            conditions["if-match"] = quoted(if_match_etag)
        if if_unmodified_since_s is not None:
            conditions["if-unmodified-since"] = formatdate(if_unmodified_since_s, usegmt=True)
        name = self._base + key
        modified = ObjectModifiedError(f"s3://{self.bucket}/{name} was modified after it was referenced", key=key)
        try:
            found = self._get(name, start, end, conditions, is_own=False)
        except PreconditionFailedError as error:
            raise modified from error
        if if_match_etag is not None and found.version != version_of(if_match_etag):
            raise modified  # the service does not know the condition
        return found.data

    # --- writing ---

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        name = self._name(key)
        if create_only:
            return self._publish(name, data, {"IfNoneMatch": "*"}, None)
        if if_match is not None:
            return self._publish(name, data, {"IfMatch": quoted(if_match)}, if_match)
        return self._send(name, data, {}, self._new_write_id(), None)

    @override
    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        name = self._name(key)
        try:
            size_bytes = os.stat(path).st_size
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}", kind="io", path=path) from error
        if size_bytes < self.options.multipart_threshold_bytes:
            return self._send(name, read_file(path, 0, size_bytes), {}, self._new_write_id(), None)
        # Each part is read when it is sent: a file larger than the memory goes through, too.
        return self._send_parts(
            name, size_bytes, lambda start, end: read_file(path, start, end - start), {}, self._new_write_id(), None
        )

    def _publish(
        self, name: str, data: bytes | memoryview, condition: dict[str, Any], expected: Version | None
    ) -> Version:
        """Writes under a condition, and finds out what happened where the answer does not tell."""
        write_id = self._new_write_id()
        in_doubt = False

        def doubt(error: StorageError) -> None:
            nonlocal in_doubt
            in_doubt |= not error.facts.get("never_connected")

        for spurious in range(_SPURIOUS_CONFLICTS + 1):
            try:
                return self._send(name, data, condition, write_id, doubt)
            except (PreconditionFailedError, ObjectNotFoundError) as error:
                found = self._find(name)
                if found is not None and found.headers.get(_WRITE_ID_HEADER) == write_id:
                    return found.version
                if not self._believe(error, found, name, expected, spurious, verb="write"):
                    continue
                raise PreconditionFailedError(
                    f"s3://{self.bucket}/{name} was changed by another writer", key=name, maybe_written=in_doubt
                ) from error
            except StorageError as error:
                error.facts["maybe_written"] = in_doubt
                if not (in_doubt and error.is_transient):
                    raise
                try:
                    found = self._find(name)
                except StorageError:
                    raise error from None
                if found is not None and found.headers.get(_WRITE_ID_HEADER) == write_id:
                    return found.version
                raise
        raise AssertionError("unreachable")

    def _believe(
        self,
        error: StorageError,
        found: Described | None,
        name: str,
        expected: Version | None,
        tries: int,
        *,
        verb: str,
    ) -> bool:
        """Tells whether a condition was refused for a reason; waits before the next try, where it was not.

        Args:
            error: The refusal.
            found: What is there.
            name: Where.
            expected: What the condition asks for; None for no object.
            tries: How many tries there were before this one.
            verb: What was tried.

        Raises:
            StorageError: what is asked for has been there at each try: the store does not know such conditions.
        """
        if (None if found is None else found.version) != expected:
            return True
        where = f"s3://{self.bucket}/{name}"
        if tries < _SPURIOUS_CONFLICTS:
            self._retrier.pause(error, tries + 1, _SPURIOUS_CONFLICTS + 1, verb=verb, name=where)
            return False
        what = "If-None-Match although there is no object" if found is None else "If-Match although it is unchanged"
        weak = " (its entity tags are weak)" if found is not None and found.has_weak_tag else ""
        raise StorageError(
            f"cannot {verb} {where}: the store refuses {what}{weak}",
            hint="look for a proxy that changes requests or entity tags; 'icefs doctor' tries what the store can do",
            status=error.facts.get("status"),
            maybe_written=False,
        ) from error

    def _find(self, name: str) -> Described | None:
        """Returns the description of the present object; None if there is none."""
        try:
            return self._head(name, {})
        except ObjectNotFoundError:
            return None

    def _send(
        self,
        name: str,
        data: bytes | memoryview,
        condition: dict[str, Any],
        write_id: str,
        on_failure: Callable[[StorageError], None] | None,
    ) -> Version:
        if len(data) >= self.options.multipart_threshold_bytes:
            view = memoryview(data).cast("B")

            def part(start: int, end: int) -> bytes:
                return bytes(view[start:end])

            return self._send_parts(name, len(view), part, condition, write_id, on_failure)
        body = bytes(data)
        headers = {_CONDITION_HEADERS[what]: value for what, value in condition.items()} | self._lean_payer
        headers["content-type"] = "application/octet-stream"
        if condition:
            headers[_WRITE_ID_HEADER] = write_id
        return self._run_lean(
            "write",
            name,
            lambda requests: requests.store(name, headers, body),
            on_failure=on_failure,
            # Where nothing was asked for, it is another request for the object that is under way (OperationAborted).
            conflicts_pass=not condition,
        )

    def _send_parts(
        self,
        name: str,
        size_bytes: int,
        read: Callable[[int, int], bytes],
        condition: dict[str, Any],
        write_id: str,
        on_failure: Callable[[StorageError], None] | None,
    ) -> Version:
        try:
            tag = send_parts(
                self._run,
                {"Bucket": self.bucket, "Key": name, **self._payer},
                size_bytes,
                read,
                part_bytes=self.options.multipart_part_bytes,
                metadata={_WRITE_ID: write_id},
                condition=condition,
                on_failure=on_failure,
            )
        except StorageError as error:
            if error.facts.get("was_lost") and error.facts.get("code") == "NoSuchUpload":
                # An upload that a lost answer completed is gone.
                found = self._find(name)
                if found is not None and found.headers.get(_WRITE_ID_HEADER) == write_id:
                    return found.version
            raise
        return version_of(tag)

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        from_name, to_name = self._name(source), self._name(target)
        for spurious in range(_SPURIOUS_CONFLICTS + 1):
            try:
                self._copy(from_name, to_name, if_match)
            except PreconditionFailedError as error:
                if self._believe(error, self._find(from_name), from_name, if_match, spurious, verb="copy"):
                    raise
            else:
                return

    def _copy(self, from_name: str, to_name: str, if_match: Version | None) -> None:
        if not self._lacks_copies:
            condition: dict[str, Any] = {} if if_match is None else {"CopySourceIfMatch": quoted(if_match)}
            origin = {"Bucket": self.bucket, "Key": from_name}
            arguments = {"Bucket": self.bucket, "Key": to_name, "CopySource": origin, **condition, **self._payer}
            try:
                self._run(
                    "copy",
                    from_name,
                    lambda client: told(client.copy_object(**arguments), "CopyObjectResult", "ETag"),
                    is_conditional=bool(condition),
                )
            except StorageError as error:
                if error.facts.get("code") not in LACKING:
                    raise
                self._lacks_copies = True
            else:
                return
        # Through here, for a service that knows no such copies; the bytes are those of the version all the same.
        conditions = {} if if_match is None else {"if-match": quoted(if_match)}
        self._send(to_name, self._get(from_name, 0, None, conditions).data, {}, self._new_write_id(), None)

    # --- listing and deleting ---

    @override
    def list_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for page in self._pages(prefix):
            for name, size, modified, etag in page.objects:
                key = name[len(self._base) :]
                if is_key(key):
                    yield ObjectInfo(key, size, modified, version_of(etag))

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        skipped = len(self._base) + len(prefix)
        for page in self._pages(prefix, delimiter="/"):
            for below in page.prefixes:
                if is_key(below[skipped:-1]):
                    yield below[skipped:]
            for name, _, _, _ in page.objects:
                if is_key(name[skipped:]):
                    yield name[skipped:]

    def _pages(self, prefix: str, **more: str) -> Iterator[ListPage]:
        name = self._base + prefix
        parameters = {"list-type": "2", "encoding-type": "url", "prefix": name, **more}
        while True:
            try:
                page = self._run_lean("list", name, methodcaller("list_page", parameters, self._lean_payer))
            except ObjectNotFoundError as error:
                raise BadAnswerError(f"{error.message} to a listing") from error
            yield page
            if page.next_token is None:
                return
            parameters["continuation-token"] = page.next_token

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed = self._deletion.delete(self._name(key) for key in keys)
        return [name[len(self._base) :] for name in failed]

    @override
    def close(self) -> None:
        self._retrier.close()
        if self._requests is not None:
            self._requests.close()
        self._clients.close()


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))

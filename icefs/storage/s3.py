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
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import fields
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from itertools import batched
from operator import methodcaller
from typing import Any, override
from urllib.parse import urlencode

from botocore.exceptions import ClientError
from urllib3 import BaseHTTPResponse

from icefs.clock import to_micros
from icefs.errors import (
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
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
from icefs.storage.s3_client import ClientHolder
from icefs.storage.s3_errors import SKEWED, client_errors, is_passing, region_told, s3_error
from icefs.storage.s3_options import S3Client, S3Credentials, S3Options
from icefs.storage.s3_requests import ListPage, S3Requests

__all__ = ["S3Credentials", "S3Options", "S3Storage"]

_WRITE_ID = "icechunkwriteid"
# What the arguments of botocore's methods become on the wire.
_CONDITION_HEADERS = {"IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
_DELETE_BATCH = 1000
# What services answer to what they do not know.
_LACKING = ("NotImplemented", "MethodNotAllowed")
_PART_THREADS = 4
# How often a conflict is not believed while the object is still the one to be replaced (AWS: 409).
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
        self.prefix = prefix.strip("/")
        self.options = options if options is not None else S3Options()
        self.capabilities = Capabilities(
            conditional_update=True, local_files=False, concurrency=self.options.concurrency
        )
        self._base = f"{self.prefix}/" if self.prefix else ""
        self._clients = ClientHolder(self.options)
        self._retrier = retrier if retrier is not None else Retrier(self.options.retry)
        self._new_write_id = new_write_id
        self._payer: dict[str, Any] = {"RequestPayer": "requester"} if self.options.requester_pays else {}
        self._lean_payer = {"x-amz-request-payer": "requester"} if self.options.requester_pays else {}
        self._requests: S3Requests | None = None
        self._lacks_copies = False

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
    ) -> T:
        """Sends requests about an object of the full name `name` until there is an answer."""
        return self._run_lean(verb, name, lambda requests: operation(requests.connection.client), on_failure=on_failure)

    def _run_lean[T](
        self,
        verb: str,
        name: str,
        operation: Callable[[S3Requests], T],
        *,
        on_failure: Callable[[StorageError], None] | None = None,
        conflicts_pass: bool = False,
    ) -> T:
        """Does as `_run` with requests that do not go through botocore; `conflicts_pass` tries again after a 409."""
        where = f"s3://{self.bucket}/{name}"
        if not where.isprintable():
            where = ascii(where)

        def once() -> T:
            requests = self._get_requests()
            try:
                return operation(requests)
            except client_errors() as error:
                failure = s3_error(error, action=f"{verb} {where}", endpoint=requests.connection.endpoint_url)
                if isinstance(failure, StorageError) and self._is_remedied(requests, error, failure):
                    failure.is_transient = True
                if conflicts_pass and failure.facts.get("status") == 409:
                    failure.is_transient = True
                raise failure from error

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
        if failure.facts.get("expired"):
            return self._clients.renew(connection)
        if not isinstance(error, ClientError):
            return False
        if failure.facts.get("code") in SKEWED:
            return requests.adjust_clock(error)
        region = region_told(error) if failure.facts.get("status") in (301, 307, 400) else None
        return region is not None and self._clients.move(connection, region)

    # --- reading ---

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        return self._get(self._name(key), start, end, {})

    def _get(self, name: str, start: int, end: int | None, conditions: dict[str, str]) -> Object:
        if end == start:
            return self._get_nothing(name, start, end, conditions)
        headers = {**conditions, **self._lean_payer}
        if start > 0 or end is not None:
            headers["range"] = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"

        def once(requests: S3Requests) -> Object | None:
            try:
                with requests.send("GET", name, headers) as response:
                    return self._receive(response, name, start, end)
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
        told = self._head(name, conditions)
        range_end(_length(told, name), start, end, name=f"s3://{self.bucket}/{name}")
        return Object(b"", _version(told["etag"]))

    def _receive(self, response: BaseHTTPResponse, name: str, start: int, end: int | None) -> Object:
        where = f"s3://{self.bucket}/{name}"
        told = response.headers
        length = size = _length(told, name)
        content_range = told.get("content-range") if response.status == 206 else None
        if content_range is not None:
            size = int(content_range.rpartition("/")[2])
        end = range_end(size, start, end, name=where)
        data: bytes = response.read()
        if content_range is None:
            data = data[start:end]  # A service that does not know ranges sends everything.
        if len(data) != end - start:
            raise UnreachableError(f"{where} came with {len(data)} bytes instead of {end - start} (of {length})")
        return Object(data, _version(told["etag"]))

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        name = self._name(key)
        headers = {**self._lean_payer, **({} if known is None else {"if-none-match": _quoted(known)})}

        def once(requests: S3Requests) -> Object | None:
            try:
                with requests.send("GET", name, headers) as response:
                    return self._receive(response, name, 0, None)
            except ClientError as error:
                if _status(error) == 304:
                    return None
                raise

        return self._run_lean("read", name, once)

    def _head(self, name: str, conditions: dict[str, str]) -> Any:
        """Returns the headers of an object."""
        headers = conditions | self._lean_payer
        return self._run_lean("read", name, lambda requests: requests.read("HEAD", name, headers)[0])

    @override
    def head(self, key: str) -> ObjectInfo:
        told = self._head(self._name(key), {})
        modified = to_micros(parsedate_to_datetime(told["last-modified"]))
        return ObjectInfo(key, _length(told, key), modified, _version(told["etag"]))

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
            conditions["if-match"] = _quoted(if_match_etag)
        if if_unmodified_since_s is not None:
            conditions["if-unmodified-since"] = formatdate(if_unmodified_since_s, usegmt=True)
        name = self._base + key
        modified = ObjectModifiedError(f"s3://{self.bucket}/{name} was modified after it was referenced", key=key)
        try:
            found = self._get(name, start, end, conditions)
        except PreconditionFailedError as error:
            raise modified from error
        if if_match_etag is not None and found.version != _version(if_match_etag):
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
            return self._publish(name, data, {"IfMatch": _quoted(if_match)}, if_match)
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
                found, found_id = self._find(name)
                if found_id == write_id and found is not None:
                    return found
                if error.facts.get("status") == 409 and found == expected and spurious < _SPURIOUS_CONFLICTS:
                    where, limit = f"s3://{self.bucket}/{name}", _SPURIOUS_CONFLICTS + 1
                    self._retrier.pause(error, spurious + 1, limit, verb="write", name=where)
                    continue
                raise PreconditionFailedError(
                    f"s3://{self.bucket}/{name} was changed by another writer", key=name, maybe_written=in_doubt
                ) from error
            except StorageError as error:
                error.facts["maybe_written"] = in_doubt
                if not (in_doubt and error.is_transient):
                    raise
                try:
                    found, found_id = self._find(name)
                except StorageError:
                    raise error from None
                if found_id == write_id and found is not None:
                    return found
                raise
        raise AssertionError("unreachable")

    def _find(self, name: str) -> tuple[Version | None, str | None]:
        """Returns the version and write-id of what is there now."""
        try:
            told = self._head(name, {})
        except ObjectNotFoundError:
            return None, None
        return _version(told["etag"]), told.get(f"x-amz-meta-{_WRITE_ID}")

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
            headers[f"x-amz-meta-{_WRITE_ID}"] = write_id
        told, _ = self._run_lean(
            "write",
            name,
            lambda requests: requests.read("PUT", name, headers, body=body),
            on_failure=on_failure,
            # Where nothing was asked for, it is another request for the object that is under way (OperationAborted).
            conflicts_pass=not condition,
        )
        return _version(told["etag"])

    def _send_parts(
        self,
        name: str,
        size_bytes: int,
        read: Callable[[int, int], bytes],
        condition: dict[str, Any],
        write_id: str,
        on_failure: Callable[[StorageError], None] | None,
    ) -> Version:
        target: Any = {"Bucket": self.bucket, "Key": name, **self._payer}
        target["UploadId"] = self._run(
            "write",
            name,
            lambda client: client.create_multipart_upload(**target, Metadata={_WRITE_ID: write_id}),
        )["UploadId"]
        # A service takes at most 10 000 parts.
        part_bytes = max(self.options.multipart_part_bytes, -(-size_bytes // 10_000))

        def send(number: int) -> dict[str, Any]:
            body = read((number - 1) * part_bytes, min(number * part_bytes, size_bytes))
            response = self._run(
                "write", name, lambda client: client.upload_part(**target, PartNumber=number, Body=body)
            )
            return {"PartNumber": number, "ETag": response["ETag"]}

        lost = False

        def failed(error: StorageError) -> None:
            nonlocal lost
            lost = True
            if on_failure is not None:
                on_failure(error)

        try:
            with ThreadPoolExecutor(_PART_THREADS, thread_name_prefix="icefs-part") as pool:
                parts = list(pool.map(send, range(1, -(-size_bytes // part_bytes) + 1)))
            response = self._run(
                "write",
                name,
                lambda client: client.complete_multipart_upload(
                    **target, MultipartUpload={"Parts": parts}, **condition
                ),
                on_failure=failed,
            )
        except StorageError as error:
            if lost and error.facts.get("code") == "NoSuchUpload":
                # An upload that a lost answer completed is gone.
                found, found_id = self._find(name)
                if found_id == write_id and found is not None:
                    return found
            self._abort(name, target)
            raise
        return _version(response["ETag"])

    def _abort(self, name: str, target: Any) -> None:
        # What may be left of it is no object; a bucket's lifecycle rule removes it.
        with suppress(StorageError):
            self._run("write", name, lambda client: client.abort_multipart_upload(**target))

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        from_name, to_name = self._name(source), self._name(target)
        if not self._lacks_copies:
            condition: dict[str, Any] = {} if if_match is None else {"CopySourceIfMatch": _quoted(if_match)}
            origin = {"Bucket": self.bucket, "Key": from_name}
            arguments = {"Bucket": self.bucket, "Key": to_name, "CopySource": origin, **condition, **self._payer}
            try:
                self._run("copy", from_name, methodcaller("copy_object", **arguments))
            except StorageError as error:
                if error.facts.get("code") not in _LACKING:
                    raise
                self._lacks_copies = True
            else:
                return
        # Through here, for a service that knows no such copies; the bytes are those of the version all the same.
        conditions = {} if if_match is None else {"if-match": _quoted(if_match)}
        self._send(to_name, self._get(from_name, 0, None, conditions).data, {}, self._new_write_id(), None)

    # --- listing and deleting ---

    @override
    def list_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for page in self._pages(prefix):
            for name, size, modified, etag in page.objects:
                key = name[len(self._base) :]
                if is_key(key):
                    yield ObjectInfo(key, size, modified, _version(etag))

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
            page = self._run_lean("list", name, methodcaller("list_page", parameters, self._lean_payer))
            yield page
            if page.next_token is None:
                return
            parameters["continuation-token"] = page.next_token

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed: list[str] = []
        plain: list[str] = []
        for key in keys:
            # What XML cannot hold can only be named in a request's path.
            (plain if self._name(key).isprintable() else failed).append(key)
        failed = self._delete_singly(failed)
        for batch in batched(plain, _DELETE_BATCH):
            failed += self._delete_batch(list(batch))
        return failed

    def _delete_batch(self, keys: list[str]) -> list[str]:
        remaining, lasting = keys, list[str]()

        def once(client: S3Client) -> None:
            nonlocal remaining
            response = client.delete_objects(
                Bucket=self.bucket,
                Delete={"Objects": [{"Key": self._name(key)} for key in remaining], "Quiet": True},
                **self._payer,
            )
            passing = []
            for item in response.get("Errors", ()):
                key, code = item.get("Key", "")[len(self._base) :], item.get("Code", "")
                if is_passing(code):
                    passing.append(key)
                elif code != "NoSuchKey":
                    lasting.append(key)
            remaining = passing
            if passing:
                raise ThrottledError(f"{len(passing)} objects could not be deleted yet", some=True)

        try:
            self._run("delete from", self._base, once)
        except StorageError as error:
            if error.facts.get("code") in (*_LACKING, "MissingContentMD5"):
                return self._delete_singly(keys)  # Google's and some older services.
            if not error.facts.get("some"):
                raise
            return lasting + remaining
        return lasting

    def _delete_singly(self, keys: list[str]) -> list[str]:
        failed = []
        for key in keys:
            arguments = {"Bucket": self.bucket, "Key": self._name(key), **self._payer}
            try:
                self._run("delete", arguments["Key"], methodcaller("delete_object", **arguments))
            except ObjectNotFoundError:
                continue
            except StorageError:
                failed.append(key)
        return failed

    @override
    def close(self) -> None:
        self._retrier.close()
        if self._requests is not None:
            self._requests.close()
        self._clients.close()


def _version(etag: str) -> Version:
    return etag.strip('"')


def _length(told: Any, name: str) -> int:
    text = told.get("content-length", "")
    if not text.isdecimal():
        raise UnreachableError(f"{name}: the service does not say how long it is")
    return int(text)


def _quoted(version: Version) -> str:
    return '"' + version.strip('"') + '"'


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))

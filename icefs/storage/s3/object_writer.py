"""Objects of an S3 bucket are written: each by one request or in parts, on a condition or none, or copied.

A conditional write is `storage.publishing`, which tells whose write is there after a lost answer or a conflict.

A configuration can do without conditions, for a service that knows none: the object is looked up before it is written,
so that what another writer did before is respected, and what he does in the same moment is lost. It can do without
metadata as well: then the bytes that are there tell whose write it is, which a publishing write never shares with
another, for it holds new ids.

Source: format notes §7.11; upstream design document 017.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from icefs.errors import AccessDeniedError, ObjectNotFoundError, PreconditionFailedError, StorageError
from icefs.storage.base import Version
from icefs.storage.publishing import WRITE_ID, check_present, publish
from icefs.storage.s3.access import BucketAccess
from icefs.storage.s3.answers import Described, quoted, told, version_of
from icefs.storage.s3.checksums import check_algorithm, checksum_headers
from icefs.storage.s3.errors import LACKING
from icefs.storage.s3.object_reader import ObjectReader
from icefs.storage.s3.parts import OnFailure, send_parts

_WRITE_ID_HEADER: Final = f"x-amz-meta-{WRITE_ID}"
# The headers that arguments of the client's methods become.
_CONDITION_HEADERS: Final = {"IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
# How often a refused condition is not believed while the object is still the one to be replaced (AWS: 409).
_SPURIOUS_CONFLICTS: Final = 5


@dataclass(frozen=True, slots=True)
class _Write:
    """One write of an object.

    Attributes:
        write_id: Tells it from all other writes.
        storage_class: The class that the object gets; None for the bucket's own.
        condition: What it depends on, as arguments of the client's methods.
    """

    write_id: str
    storage_class: str | None = None
    condition: Mapping[str, Any] = field(default_factory=dict)


class ObjectWriter:
    """Writes objects of one bucket by their full names. Safe for threads."""

    def __init__(self, access: BucketAccess, reader: ObjectReader, new_write_id: Callable[[], str]) -> None:
        """Takes the way to the bucket, what looks up objects there, and what makes write-ids."""
        self._access = access
        self._reader = reader
        self._new_write_id = new_write_id
        self._lacks_copies = False
        self._closed_buckets: set[str] = set()
        self._settings = access.options.settings
        if access.options.checksum_algorithm is not None:
            check_algorithm(access.options.checksum_algorithm)

    def put(self, name: str, data: bytes | memoryview, storage_class: str | None = None) -> Version:
        """Writes an object of a class, whatever is there; raises StorageError."""
        return self._send(name, data, _Write(self._new_write_id(), storage_class), None)

    def put_parts(
        self, name: str, size_bytes: int, read: Callable[[int, int], bytes], storage_class: str | None = None
    ) -> Version:
        """Writes a large object, whatever is there; each part is read when it is sent. Raises StorageError."""
        return self._send_parts(name, size_bytes, read, _Write(self._new_write_id(), storage_class), None)

    def create(self, name: str, data: bytes | memoryview, storage_class: str | None = None) -> Version:
        """Writes an object where none is; raises as `replace`."""
        write = _Write(self._new_write_id(), storage_class, {"IfNoneMatch": "*"})
        if self._settings.conditional_create is False:
            return self._publish_unconditionally(name, data, write, None)
        return self._publish(name, data, write, None)

    def replace(
        self, name: str, data: bytes | memoryview, expected: Version, storage_class: str | None = None
    ) -> Version:
        """Writes an object in the place of one version of it.

        Raises:
            PreconditionFailedError: another version is there, or none.
            StorageError: the store does not answer; `facts["maybe_written"]` tells whether the object may be there.
        """
        write = _Write(self._new_write_id(), storage_class, {"IfMatch": quoted(expected)})
        if self._settings.conditional_update is False:
            return self._publish_unconditionally(name, data, write, expected)
        return self._publish(name, data, write, expected)

    def _publish_unconditionally(
        self, name: str, data: bytes | memoryview, write: _Write, expected: Version | None
    ) -> Version:
        """Writes in the place of what was looked up right before."""
        check_present(lambda: self._reader.head(name, {}), expected, place=self._access.url(name), key=name)
        return self._send(name, data, replace(write, condition={}), None)

    def _is_own(self, found: Described, name: str, data: bytes | memoryview, write: _Write) -> bool:
        """Tells whether the object that is there is the one that was to be written."""
        if self._settings.metadata is not False:
            return found.headers.get(_WRITE_ID_HEADER) == write.write_id
        if found.size != len(data):
            return False
        try:
            return self._reader.get(name, 0, None, {"if-match": quoted(found.version)}).data == bytes(data)
        except (ObjectNotFoundError, PreconditionFailedError):
            return False

    def _publish(self, name: str, data: bytes | memoryview, write: _Write, expected: Version | None) -> Version:
        """Writes under a condition, and finds out what happened where the answer does not tell."""
        return publish(
            lambda doubt: self._send(name, data, write, doubt),
            lambda: self._reader.head(name, {}),
            is_own=lambda found: self._is_own(found, name, data, write),
            place=self._access.url(name),
            key=name,
            is_believed=lambda error, found, tries: self._believe(error, found, name, expected, tries, verb="write"),
        )

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
        where = self._access.url(name)
        if tries < _SPURIOUS_CONFLICTS:
            self._access.retrier.pause(error, tries + 1, _SPURIOUS_CONFLICTS + 1, verb=verb, name=where)
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
            return self._reader.head(name, {})
        except ObjectNotFoundError:
            return None

    def _send(
        self,
        name: str,
        data: bytes | memoryview,
        write: _Write,
        on_failure: OnFailure | None,
    ) -> Version:
        if len(data) >= self._access.options.multipart_threshold_bytes:
            view = memoryview(data).cast("B")

            def part(start: int, end: int) -> bytes:
                return bytes(view[start:end])

            return self._send_parts(name, len(view), part, write, on_failure)
        body = bytes(data)
        headers = {_CONDITION_HEADERS[what]: value for what, value in write.condition.items()} | self._access.lean_payer
        headers["content-type"] = "application/octet-stream"
        if write.storage_class is not None:
            headers["x-amz-storage-class"] = write.storage_class
        if write.condition and self._settings.metadata is not False:
            headers[_WRITE_ID_HEADER] = write.write_id
        algorithm = self._access.options.checksum_algorithm
        if algorithm is not None:
            headers |= checksum_headers(algorithm, body)
        return self._access.run_lean(
            "write",
            name,
            lambda requests: requests.store(name, headers, body),
            on_failure=on_failure,
            # Where nothing was asked for, it is another request for the object that is under way (OperationAborted).
            conflicts_pass=not write.condition,
        )

    def _send_parts(
        self,
        name: str,
        size_bytes: int,
        read: Callable[[int, int], bytes],
        write: _Write,
        on_failure: OnFailure | None,
    ) -> Version:
        has_metadata = self._settings.metadata is not False
        storage_class = {} if write.storage_class is None else {"StorageClass": write.storage_class}
        try:
            tag = send_parts(
                self._access.run,
                {"Bucket": self._access.bucket, "Key": name, **self._access.payer},
                size_bytes,
                read,
                part_bytes=self._access.options.multipart_part_bytes,
                begun_with={**({"Metadata": {WRITE_ID: write.write_id}} if has_metadata else {}), **storage_class},
                condition=write.condition,
                checksum_algorithm=self._access.options.checksum_algorithm,
                on_failure=on_failure,
            )
        except StorageError as error:
            if error.facts.get("was_lost") and error.facts.get("code") == "NoSuchUpload":
                # An upload that a lost answer completed is gone.
                found = self._find(name)
                is_own = found is not None and (
                    found.headers.get(_WRITE_ID_HEADER) == write.write_id
                    if has_metadata
                    else self._has_bytes(found, name, size_bytes, read)
                )
                if found is not None and is_own:
                    return found.version
            raise
        return version_of(tag)

    def _has_bytes(self, found: Described, name: str, size_bytes: int, read: Callable[[int, int], bytes]) -> bool:
        """Tells whether the object that is there holds what `read` returns."""
        if found.size != size_bytes:
            return False
        step, condition = self._access.options.multipart_part_bytes, {"if-match": quoted(found.version)}
        for start in range(0, size_bytes, step):
            end = min(start + step, size_bytes)
            if self._reader.get(name, start, end, condition).data != read(start, end):
                return False
        return True

    def copy(self, from_name: str, to_name: str, if_match: Version | None, storage_class: str | None = None) -> None:
        """Copies an object, or just one version of it; raises as `replace`, and ObjectNotFoundError."""
        if if_match is not None and self._settings.conditional_update is False:
            found = self._reader.head(from_name, {})
            if found.version != if_match:
                raise PreconditionFailedError(
                    f"{self._access.url(from_name)} was changed by another writer", key=from_name, maybe_written=False
                )
            if_match = None
        for spurious in range(_SPURIOUS_CONFLICTS + 1):
            try:
                self._copy(from_name, to_name, if_match, storage_class)
            except PreconditionFailedError as error:
                if self._believe(error, self._find(from_name), from_name, if_match, spurious, verb="copy"):
                    raise
            else:
                return

    def copy_from(self, bucket: str, from_name: str, to_name: str, storage_class: str | None = None) -> bool:
        """Copies an object of another bucket of the same service; False where the service will not.

        Raises:
            StorageError: there is no answer; trying again later may help.
        """
        if bucket in self._closed_buckets:
            return False
        arguments = {
            "Bucket": self._access.bucket,
            "Key": to_name,
            "CopySource": {"Bucket": bucket, "Key": from_name},
            **({} if storage_class is None else {"StorageClass": storage_class}),
            **self._access.payer,
        }
        try:
            self._access.run(
                "copy", to_name, lambda client: told(client.copy_object(**arguments), "CopyObjectResult", "ETag")
            )
        except StorageError as error:
            if error.is_transient:
                raise
            # An object that is too large for one request tells nothing of others.
            if isinstance(error, AccessDeniedError) or error.facts.get("code") in LACKING:
                self._closed_buckets.add(bucket)
            return False
        return True

    def _copy(self, from_name: str, to_name: str, if_match: Version | None, storage_class: str | None) -> None:
        if not self._lacks_copies:
            condition: dict[str, Any] = {} if if_match is None else {"CopySourceIfMatch": quoted(if_match)}
            origin = {"Bucket": self._access.bucket, "Key": from_name}
            arguments = {
                "Bucket": self._access.bucket,
                "Key": to_name,
                "CopySource": origin,
                **({} if storage_class is None else {"StorageClass": storage_class}),
                **condition,
                **self._access.payer,
            }
            try:
                self._access.run(
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
        data = self._reader.get(from_name, 0, None, conditions).data
        self._send(to_name, data, _Write(self._new_write_id(), storage_class), None)

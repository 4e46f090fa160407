"""Objects of an S3 bucket are written: each by one request or in parts, on a condition or none, or copied.

A conditional write carries a write-id of its own in the object's metadata, under the name that the official library
uses: after a lost answer, or a conflict that could be with our own earlier try, the object is looked up, and its
write-id tells whose write is there.

Source: format notes §7.11; upstream design document 017.
"""

from collections.abc import Callable
from typing import Any, Final

from icefs.errors import ObjectNotFoundError, PreconditionFailedError, StorageError
from icefs.storage.base import Version
from icefs.storage.s3.access import BucketAccess
from icefs.storage.s3.answers import Described, quoted, told, version_of
from icefs.storage.s3.errors import LACKING
from icefs.storage.s3.object_reader import ObjectReader
from icefs.storage.s3.parts import OnFailure, send_parts

_WRITE_ID: Final = "icechunkwriteid"
_WRITE_ID_HEADER: Final = f"x-amz-meta-{_WRITE_ID}"
# The headers that arguments of the client's methods become.
_CONDITION_HEADERS: Final = {"IfMatch": "if-match", "IfNoneMatch": "if-none-match"}
# How often a refused condition is not believed while the object is still the one to be replaced (AWS: 409).
_SPURIOUS_CONFLICTS: Final = 5


class ObjectWriter:
    """Writes objects of one bucket by their full names. Safe for threads."""

    def __init__(self, access: BucketAccess, reader: ObjectReader, new_write_id: Callable[[], str]) -> None:
        """Takes the way to the bucket, what looks up objects there, and what makes write-ids."""
        self._access = access
        self._reader = reader
        self._new_write_id = new_write_id
        self._lacks_copies = False

    def put(self, name: str, data: bytes | memoryview) -> Version:
        """Writes an object, whatever is there; raises StorageError."""
        return self._send(name, data, {}, self._new_write_id(), None)

    def put_parts(self, name: str, size_bytes: int, read: Callable[[int, int], bytes]) -> Version:
        """Writes a large object, whatever is there; each part is read when it is sent. Raises StorageError."""
        return self._send_parts(name, size_bytes, read, {}, self._new_write_id(), None)

    def create(self, name: str, data: bytes | memoryview) -> Version:
        """Writes an object where none is; raises as `replace`."""
        return self._publish(name, data, {"IfNoneMatch": "*"}, None)

    def replace(self, name: str, data: bytes | memoryview, expected: Version) -> Version:
        """Writes an object in the place of one version of it.

        Raises:
            PreconditionFailedError: another version is there, or none.
            StorageError: the store does not answer; `facts["maybe_written"]` tells whether the object may be there.
        """
        return self._publish(name, data, {"IfMatch": quoted(expected)}, expected)

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
                    f"{self._access.url(name)} was changed by another writer", key=name, maybe_written=in_doubt
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
        condition: dict[str, Any],
        write_id: str,
        on_failure: OnFailure | None,
    ) -> Version:
        if len(data) >= self._access.options.multipart_threshold_bytes:
            view = memoryview(data).cast("B")

            def part(start: int, end: int) -> bytes:
                return bytes(view[start:end])

            return self._send_parts(name, len(view), part, condition, write_id, on_failure)
        body = bytes(data)
        headers = {_CONDITION_HEADERS[what]: value for what, value in condition.items()} | self._access.lean_payer
        headers["content-type"] = "application/octet-stream"
        if condition:
            headers[_WRITE_ID_HEADER] = write_id
        return self._access.run_lean(
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
        on_failure: OnFailure | None,
    ) -> Version:
        try:
            tag = send_parts(
                self._access.run,
                {"Bucket": self._access.bucket, "Key": name, **self._access.payer},
                size_bytes,
                read,
                part_bytes=self._access.options.multipart_part_bytes,
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

    def copy(self, from_name: str, to_name: str, if_match: Version | None) -> None:
        """Copies an object, or just one version of it; raises as `replace`, and ObjectNotFoundError."""
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
            origin = {"Bucket": self._access.bucket, "Key": from_name}
            arguments = {
                "Bucket": self._access.bucket,
                "Key": to_name,
                "CopySource": origin,
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
        self._send(to_name, self._reader.get(from_name, 0, None, conditions).data, {}, self._new_write_id(), None)

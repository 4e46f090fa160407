"""The requests of an upload: one with everything, or a session of parts.

Source: the documentation of Google Cloud Storage on multipart and on resumable uploads (JSON).
"""

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import requests

from icefs.errors import StorageError
from icefs.storage.answers import AnswerError
from icefs.storage.base import Version
from icefs.storage.gcs.access import BucketAccess
from icefs.storage.gcs.connection import Connection, description
from icefs.storage.gcs.reader import version_of
from icefs.storage.publishing import WRITE_ID, OnFailure

_CONTENT_TYPE: Final = "application/octet-stream"
_RANGE: Final = re.compile(r"bytes=0-(\d{1,19})")
_PART_UNIT: Final = 256 << 10

type Read = Callable[[int, int], bytes]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an upload makes.

    Attributes:
        name: The object's full name.
        generation: The generation that has to be there, 0 for none; None for no condition.
        write_id: Kept in its metadata; None for none.
        storage_class: Its class; None for the bucket's.
    """

    name: str
    generation: str | None = None
    write_id: str | None = None
    storage_class: str | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The user metadata."""
        return {} if self.write_id is None else {WRITE_ID: self.write_id}


def send_whole(access: BucketAccess, wanted: Wanted, data: bytes | memoryview, on_failure: OnFailure) -> Version:
    """Sends an object in one request; returns its version. Raises StorageError."""
    resource: dict[str, Any] = {"name": wanted.name, "contentType": _CONTENT_TYPE}
    if wanted.metadata:
        resource["metadata"] = dict(wanted.metadata)
    if wanted.storage_class is not None:
        resource["storageClass"] = wanted.storage_class
    # Random, so that no object's bytes can hold it.
    boundary = os.urandom(16).hex()
    body = b"".join(
        (
            f"--{boundary}\r\nContent-Type: application/json; charset=UTF-8\r\n\r\n".encode(),
            json.dumps(resource).encode(),
            f"\r\n--{boundary}\r\nContent-Type: {_CONTENT_TYPE}\r\n\r\n".encode(),
            data,
            f"\r\n--{boundary}--".encode(),
        )
    )
    condition = {} if wanted.generation is None else {"ifGenerationMatch": wanted.generation}

    def once(connection: Connection) -> Version:
        found = connection.upload(condition, f"multipart/related; boundary={boundary}", body)
        return _version(found, len(data))

    return access.run("write", wanted.name, once, on_failure=on_failure)


def send_parts(access: BucketAccess, wanted: Wanted, size_bytes: int, read: Read, on_failure: OnFailure) -> Version:
    """Sends an object in parts, one after the other; each is read when it is sent.

    The service keeps the condition at the end of the upload.

    Args:
        access: Sends the requests.
        wanted: The object.
        size_bytes: Its length.
        read: Returns a range of it.
        on_failure: Is called at each passing failure of the request that ends the upload.

    Raises:
        StorageError: the service does not take it.
    """

    def begin(connection: Connection) -> str:
        blob = connection.bucket.blob(wanted.name)
        blob.metadata = dict(wanted.metadata) or None
        if wanted.storage_class is not None:
            blob.storage_class = wanted.storage_class
        found: str = blob.create_resumable_upload_session(
            content_type=_CONTENT_TYPE,
            size=size_bytes,
            timeout=connection.timeout,
            checksum=None,
            if_generation_match=None if wanted.generation is None else int(wanted.generation),
            retry=None,
        )
        return found

    place = access.run("write", wanted.name, begin)
    part_bytes = max(access.options.multipart_part_bytes // _PART_UNIT, 1) * _PART_UNIT
    sent = 0
    while True:
        answer = _send_part(
            access, wanted.name, place, sent, min(sent + part_bytes, size_bytes), size_bytes, read, on_failure
        )
        if isinstance(answer, str):
            return answer
        sent = answer


def _send_part(
    access: BucketAccess,
    name: str,
    place: str,
    start: int,
    end: int,
    size_bytes: int,
    read: Read,
    on_failure: OnFailure,
) -> Version | int:
    """Sends one part; returns the version if it was the last one, else how many bytes the service has."""
    is_in_doubt = False

    def doubt(error: StorageError) -> None:
        nonlocal is_in_doubt
        is_in_doubt = True
        if end == size_bytes:
            on_failure(error)

    def once(connection: Connection) -> Version | int:
        if is_in_doubt:
            # How far it came tells the service alone.
            known = _progress(connection.upload_part(place, b"", f"bytes */{size_bytes}"), size_bytes)
            if isinstance(known, str) or known != start:
                return known
        body = read(start, end)
        return _progress(
            connection.upload_part(place, body, f"bytes {start}-{end - 1}/{size_bytes}" if body else "bytes */0"),
            size_bytes,
        )

    return access.run("write", name, once, on_failure=doubt)


def _progress(response: requests.Response, size_bytes: int) -> Version | int:
    """Reads the answer to a part."""
    if response.status_code != 308:
        return _version(description(response), size_bytes)
    told = response.headers.get("Range")
    if told is None:
        return 0
    found = _RANGE.fullmatch(told)
    if found is None or int(found[1]) >= size_bytes:
        raise AnswerError("308 without saying which bytes it has", 308)
    return int(found[1]) + 1


def _version(found: Mapping[str, Any], size_bytes: int) -> Version:
    """Returns the version that was written; raises AnswerError where the answer is not about these bytes."""
    if str(found.get("size")) != str(size_bytes):
        raise AnswerError("with another length than that of the object", 200)
    return version_of(found.get("generation"))

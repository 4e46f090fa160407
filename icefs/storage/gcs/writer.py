"""Objects of a bucket are written: each by one request or in parts, on a condition or none, or copied.

Versions are generations. A conditional write is one request that the service decides (`ifGenerationMatch`), so it is
atomic against every client.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from icefs.errors import StorageError
from icefs.storage.base import Version
from icefs.storage.gcs.access import BucketAccess
from icefs.storage.gcs.connection import Connection
from icefs.storage.gcs.reader import ObjectReader, generation_of
from icefs.storage.gcs.uploads import Read, Wanted, send_parts, send_whole
from icefs.storage.publishing import OnFailure, check_present, is_written_by, publish

_ABSENT: Final = "0"


class ObjectWriter:
    """Writes objects of one bucket by their full names. Safe for threads."""

    def __init__(self, access: BucketAccess, reader: ObjectReader, new_write_id: Callable[[], str]) -> None:
        """Takes the way to the bucket, what looks up objects there, and what makes write-ids."""
        self._access = access
        self._reader = reader
        self._new_write_id = new_write_id
        self._settings = access.options.settings

    def put(self, name: str, data: bytes | memoryview, storage_class: str | None) -> Version:
        """Writes an object, whatever is there; raises StorageError."""
        return self._send(self._wanted(name, None, storage_class), data, _ignore)

    def put_file(self, name: str, size_bytes: int, read: Read, storage_class: str | None) -> Version:
        """Writes a large object, whatever is there; each part is read when it is sent. Raises StorageError."""
        return send_parts(self._access, self._wanted(name, None, storage_class), size_bytes, read, _ignore)

    def create(self, name: str, data: bytes | memoryview, storage_class: str | None) -> Version:
        """Writes an object where none is; raises as `replace`."""
        generation: str | None = _ABSENT
        if self._settings.conditional_create is False:
            self._check_present(name, None)
            generation = None
        return self._publish(self._wanted(name, generation, storage_class), data)

    def replace(self, name: str, data: bytes | memoryview, expected: Version, storage_class: str | None) -> Version:
        """Writes an object in the place of one version of it.

        Raises:
            PreconditionFailedError: another version is there, or none.
            StorageError: the store does not answer; `facts["maybe_written"]` tells whether the object may be there.
        """
        generation: str | None = generation_of(expected)
        if self._settings.conditional_update is False:
            self._check_present(name, expected)
            generation = None
        return self._publish(self._wanted(name, generation, storage_class), data)

    def _check_present(self, name: str, expected: Version | None) -> None:
        check_present(lambda: self._reader.present(name), expected, place=self._access.url(name), key=name)

    def _wanted(self, name: str, generation: str | None, storage_class: str | None) -> Wanted:
        return Wanted(name, generation, None, storage_class)

    def _publish(self, wanted: Wanted, data: bytes | memoryview) -> Version:
        write_id = None if self._settings.metadata is False else self._new_write_id()
        marked = replace(wanted, write_id=write_id)
        return publish(
            lambda on_failure: self._send(marked, data, on_failure),
            lambda: self._reader.present(wanted.name),
            is_own=is_written_by(write_id),
            place=self._access.url(wanted.name),
            key=wanted.name,
        )

    def _send(self, wanted: Wanted, data: bytes | memoryview, on_failure: OnFailure) -> Version:
        view = memoryview(data).cast("B")
        if len(view) < self._access.options.multipart_threshold_bytes:
            return send_whole(self._access, wanted, view, on_failure)
        return send_parts(self._access, wanted, len(view), lambda start, end: bytes(view[start:end]), on_failure)

    def copy(self, source: str, target: str, if_match: Version | None, storage_class: str | None) -> None:
        """Copies an object, or just one version of it; raises as `replace`, and ObjectNotFoundError."""
        generation = None
        if if_match is not None:
            if self._settings.conditional_update is False:
                self._check_present(source, if_match)
            else:
                generation = int(generation_of(if_match))
        token: str | None = None

        def once(connection: Connection) -> str | None:
            blob: Any = connection.bucket.blob(target)
            if storage_class is not None:
                blob.storage_class = storage_class
            # A large copy to another class takes several requests, each with the token of the one before.
            following, _, _ = blob.rewrite(
                connection.bucket.blob(source),
                token=token,
                if_source_generation_match=generation,
                timeout=connection.timeout,
                retry=None,
            )
            return str(following) if following else None

        while True:
            token = self._access.run("copy", source, once)
            if token is None:
                return


def _ignore(error: StorageError) -> None:
    pass

"""Objects in a bucket of Google Cloud Storage, below a prefix."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from functools import partial
from itertools import batched
from typing import Any, Final, override
from urllib.parse import urlencode

from icefs.errors import InvalidInputError, ObjectNotFoundError, StorageError
from icefs.storage.base import (
    Capabilities,
    Object,
    ObjectInfo,
    Storage,
    Version,
    check_conditions,
    check_key,
    check_prefix,
    check_range,
    is_key,
    read_file,
)
from icefs.storage.gcs.access import BucketAccess
from icefs.storage.gcs.connection import Connection
from icefs.storage.gcs.options import GcsOptions
from icefs.storage.gcs.reader import ObjectReader, info_of
from icefs.storage.gcs.writer import ObjectWriter
from icefs.storage.publishing import new_write_id as random_write_id
from icefs.storage.retry import Retrier
from icefs.storage.settings import StoreSettings

_LISTED: Final = "items(name,size,generation,timeCreated),prefixes,nextPageToken"
_DELETE_THREADS: Final = 16
_DELETE_BATCH: Final = 1000
_SHOWN: Final = ("endpoint_url", "anonymous", "project", "user_project")


class GcsStorage(Storage):
    """The part of a bucket below a prefix. Safe for threads; makes no request before it is used.

    Attributes:
        bucket: The bucket's name.
        prefix: The prefix, without a slash at its end.
        base: The beginning of the full names of all objects: the prefix with a slash, or nothing.
        options: The service.
        access: The way to the bucket.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str = "",
        options: GcsOptions | None = None,
        *,
        retrier: Retrier | None = None,
        new_write_id: Callable[[], str] = random_write_id,
    ) -> None:
        self.bucket = bucket
        self.prefix = prefix.rstrip("/")
        self.options = options if options is not None else GcsOptions()
        self.capabilities = Capabilities(
            conditional_update=self.options.settings.conditional_update is not False,
            local_files=False,
            concurrency=self.options.concurrency,
            must_be_tried=True,
        )
        self.base = f"{self.prefix}/" if self.prefix else ""
        self.access = BucketAccess(bucket, self.options, Retrier(self.options.retry) if retrier is None else retrier)
        self._reader = ObjectReader(self.access)
        self._writer = ObjectWriter(self.access, self._reader, new_write_id)

    def __reduce__(self) -> tuple[Callable[..., "GcsStorage"], tuple[str, str, GcsOptions]]:
        return (GcsStorage, (self.bucket, self.prefix, self.options))

    @property
    @override
    def url(self) -> str:
        shown = self._shown_options()
        return f"gs://{self.bucket}/{self.prefix}" + (f"?{urlencode(shown, safe='/:')}" if shown else "")

    @override
    def facts(self) -> Mapping[str, str]:
        shown = {name: "True" if value == "true" else value for name, value in self._shown_options().items()}
        return {"type": "GCS", "bucket": self.bucket, "prefix": self.prefix, **shown}

    def _shown_options(self) -> dict[str, str]:
        """Returns the options that are part of the place, as a location has them."""
        shown = {}
        for option in fields(self.options):
            value = getattr(self.options, option.name)
            if option.name in _SHOWN and value:
                shown[option.name] = "true" if value is True else str(value)
        return shown

    @property
    @override
    def identity(self) -> str:
        return f"gcs {self.access.connection().endpoint_url} {self.bucket}/{self.prefix}"

    def _name(self, key: str) -> str:
        check_key(key)
        return self.base + key

    @override
    def watch_retries(self, tell: Callable[[str, str], None]) -> None:
        self.access.retrier.on_retry = tell

    @override
    def with_settings(self, settings: StoreSettings) -> "GcsStorage":
        options = self.options.with_settings(settings)
        return self if options == self.options else GcsStorage(self.bucket, self.prefix, options)

    @override
    def usual_settings(self) -> StoreSettings:
        options = self.options
        given = options.retry.settings(
            options.settings, connect_timeout_s=options.connect_timeout_s, read_timeout_s=options.read_timeout_s
        )
        return replace(given, multipart_threshold_bytes=options.multipart_threshold_bytes)

    @override
    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        return ()

    # --- reading ---

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        return self._reader.get(self._name(key), start, end)

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        return self._reader.get_if_changed(self._name(key), known)

    @override
    def head(self, key: str) -> ObjectInfo:
        return self._reader.head(self._name(key), key)

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
        return self._reader.read_range(
            self.base + key, start, end, if_match_etag=if_match_etag, if_unmodified_since_s=if_unmodified_since_s
        )

    def entity_tag(self, info: ObjectInfo) -> str | None:
        """Returns the entity tag that `read_range` compares; None of an empty object, or where it is a weak one.

        Raises:
            ObjectModifiedError: the object is not of that version any more.
            StorageError: as `read_range`.
        """
        return self._reader.entity_tag(self._name(info.key), info) if info.size_bytes else None

    # --- writing ---

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        name, storage_class = self._name(key), self.options.settings.storage_class_of(key)
        if create_only:
            return self._writer.create(name, data, storage_class)
        if if_match is not None:
            return self._writer.replace(name, data, if_match, storage_class)
        return self._writer.put(name, data, storage_class)

    @override
    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        name, storage_class = self._name(key), self.options.settings.storage_class_of(key)
        try:
            size_bytes = os.stat(path).st_size
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}", kind="io", path=path) from error
        if size_bytes < self.options.multipart_threshold_bytes:
            return self._writer.put(name, read_file(path, 0, size_bytes), storage_class)
        # Each part is read when it is sent: a file larger than the memory goes through, too.
        return self._writer.put_file(
            name, size_bytes, lambda start, end: read_file(path, start, end - start), storage_class
        )

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        storage_class = self.options.settings.storage_class_of(target)
        self._writer.copy(self._name(source), self._name(target), if_match, storage_class)

    # --- listing and deleting ---

    @override
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for objects, _ in self._pages(prefix, None):
            for info in objects:
                key = info.key[len(self.base) :]
                if is_key(key):
                    yield replace(info, key=key)

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        skipped = len(self.base) + len(prefix)
        for objects, prefixes in self._pages(prefix, "/"):
            for below in prefixes:
                if is_key(below[skipped:-1]):
                    yield below[skipped:]
            for info in objects:
                if is_key(info.key[skipped:]):
                    yield info.key[skipped:]

    def _pages(self, prefix: str, delimiter: str | None) -> Iterator[tuple[list[ObjectInfo], list[str]]]:
        name = self.base + prefix
        token: str | None = None

        def once(connection: Connection) -> tuple[list[ObjectInfo], list[str], str | None]:
            found: Any = connection.client.list_blobs(
                connection.bucket,
                prefix=name or None,
                delimiter=delimiter,
                page_token=token,
                fields=_LISTED,
                timeout=connection.timeout,
                retry=None,
            )
            page = next(found.pages, ())
            objects = [info_of(blob, blob.name) for blob in page if blob.name.startswith(name)]
            prefixes = sorted(below for below in found.prefixes if below.startswith(name))
            return objects, prefixes, found.next_page_token

        while True:
            try:
                objects, prefixes, following = self.access.run("list", name, once)
            except ObjectNotFoundError as error:
                raise StorageError(
                    error.own_message, hint="the bucket does not exist: check its name and the endpoint", **error.facts
                ) from error
            yield objects, prefixes
            if not following:
                return
            token = following

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed: list[str] = []
        with ThreadPoolExecutor(_DELETE_THREADS, thread_name_prefix="icefs-delete") as pool:
            for batch in batched(keys, _DELETE_BATCH):
                for key in batch:
                    check_key(key)
                gone = pool.map(self._delete_one, batch)
                failed += [key for key, is_gone in zip(batch, gone, strict=True) if not is_gone]
        return failed

    def _delete_one(self, key: str) -> bool:
        try:
            self.access.run("delete", self._name(key), partial(_delete, self._name(key)))
        except ObjectNotFoundError:
            return True
        except StorageError:
            return False
        return True

    @override
    def close(self) -> None:
        self.access.close()


def _delete(name: str, connection: Connection) -> None:
    connection.bucket.blob(name).delete(timeout=connection.timeout, retry=None)

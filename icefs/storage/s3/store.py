"""Objects in an S3 bucket: AWS, and the services that speak its protocol.

Versions are entity tags. A conditional write is one request that the service decides (If-Match, If-None-Match), so it
is atomic against every client, the official library included (`object_writer`).

Source: format notes §7.11; upstream design document 017.
"""

import logging
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from operator import methodcaller
from typing import override
from urllib.parse import urlencode

from icefs.errors import (
    BadAnswerError,
    InvalidInputError,
    ObjectNotFoundError,
    StorageError,
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
    read_file,
)
from icefs.storage.retry import Retrier
from icefs.storage.s3.access import BucketAccess
from icefs.storage.s3.answers import (
    ListPage,
    version_of,
)
from icefs.storage.s3.deletion import Deletion
from icefs.storage.s3.object_reader import ObjectReader
from icefs.storage.s3.object_writer import ObjectWriter
from icefs.storage.s3.options import S3Options
from icefs.storage.s3.rooted import has_rooted_keys
from icefs.storage.settings import StoreSettings

_log = logging.getLogger(__name__)


class S3Storage(Storage):
    """The part of a bucket below a prefix. Safe for threads; makes no request before it is used.

    Attributes:
        bucket: The bucket's name.
        prefix: The prefix, without a slash at its end.
        options: The service.
        access: The way to the bucket.
    """

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
        settings = self.options.settings
        self.capabilities = Capabilities(
            conditional_update=settings.conditional_update is not False,
            local_files=False,
            concurrency=self.options.concurrency,
            must_be_tried=settings.conditional_update is not False and settings.conditional_create is not False,
        )
        rooted = self.options.legacy_rooted_keys
        if self.prefix and rooted:
            raise InvalidInputError(
                f"legacy_rooted_keys goes with an empty prefix, and not with {self.prefix!r}",
                hint="leave one of them out",
            )
        known = None if rooted is None else "/" if rooted else ""
        self._base: str | None = f"{self.prefix}/" if self.prefix else known
        self.access = BucketAccess(bucket, self.options, Retrier(self.options.retry) if retrier is None else retrier)
        self._reader = ObjectReader(self.access)
        self._writer = ObjectWriter(self.access, self._reader, new_write_id)
        self._deletion = Deletion(
            self.access.run, {"Bucket": bucket, **self.access.payer}, self.options.checksum_algorithm
        )

    def __reduce__(self) -> tuple[Callable[..., "S3Storage"], tuple[str, str, S3Options]]:
        return (S3Storage, (self.bucket, self.prefix, self.options))

    @property
    @override
    def url(self) -> str:
        shown = self._shown_options()
        return f"s3://{self.bucket}/{self.prefix}" + (f"?{urlencode(shown, safe='/:')}" if shown else "")

    @override
    def facts(self) -> Mapping[str, str]:
        shown = {name: "True" if value == "true" else value for name, value in self._shown_options().items()}
        return {"type": "S3", "bucket": self.bucket, "prefix": self.prefix, **shown}

    def _shown_options(self) -> dict[str, str]:
        """Returns the options that are part of the place, as a location has them."""
        shown = {}
        for option in fields(self.options):
            value = getattr(self.options, option.name)
            if option.name in ("endpoint_url", "region", "profile", "anonymous", "force_path_style") and value:
                shown[option.name] = "true" if value is True else str(value)
        return shown

    @property
    @override
    def identity(self) -> str:
        return f"s3 {self.access.clients.connection().endpoint_url} {self.bucket}/{self.prefix}"

    @property
    def base(self) -> str:
        """The beginning of all objects' names: the prefix with a slash, or nothing, or a slash (see `rooted`).

        The first use asks the store, where prefix and options leave it open.
        """
        base = self._base
        if base is None:
            base = self._base = "/" if has_rooted_keys(self._reader, self._pages_below) else ""
            if base:
                _log.info("the keys of the repository in s3://%s begin with a slash", self.bucket)
        return base

    @override
    def remarks(self) -> tuple[str, ...]:
        if self.prefix or not self.base:
            return ()
        return ("its keys begin with a slash, as the official library once laid them down at the root of a bucket",)

    def _name(self, key: str) -> str:
        check_key(key)
        return self.base + key

    @override
    def with_settings(self, settings: StoreSettings) -> Storage:
        options = self.options.with_settings(settings)
        if options.legacy_rooted_keys is None and self._base is not None and not self.prefix:
            options = replace(options, legacy_rooted_keys=bool(self._base))
        return self if options == self.options else S3Storage(self.bucket, self.prefix, options)

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

    def _class_of(self, key: str) -> str | None:
        return self.options.settings.storage_class_of(key)

    @override
    def watch_retries(self, tell: Callable[[str, str], None]) -> None:
        self.access.retrier.on_retry = tell

    # --- reading ---

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        return self._reader.get(self._name(key), start, end, {})

    @override
    def start_read(self, key: str, start: int, end: int, done: Done) -> bool:
        if self._base is None:
            return False  # the first request is one that waits
        return self._reader.start_read(self._name(key), start, end, done)

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        return self._reader.get_if_changed(self._name(key), known)

    @override
    def head(self, key: str) -> ObjectInfo:
        found = self._reader.head(self._name(key), {})
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
        return self._reader.read_range(
            self.base + key,
            start,
            end,
            if_match_etag=if_match_etag,
            if_unmodified_since_s=if_unmodified_since_s,
        )

    # --- writing ---

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        name = self._name(key)
        if create_only:
            return self._writer.create(name, data, self._class_of(key))
        if if_match is not None:
            return self._writer.replace(name, data, if_match, self._class_of(key))
        return self._writer.put(name, data, self._class_of(key))

    @override
    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        name = self._name(key)
        try:
            size_bytes = os.stat(path).st_size
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}", kind="io", path=path) from error
        if size_bytes < self.options.multipart_threshold_bytes:
            return self._writer.put(name, read_file(path, 0, size_bytes), self._class_of(key))

        # Each part is read when it is sent: a file larger than the memory goes through, too.
        def read(start: int, end: int) -> bytes:
            return read_file(path, start, end - start)

        return self._writer.put_parts(name, size_bytes, read, self._class_of(key))

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        self._writer.copy(self._name(source), self._name(target), if_match, self._class_of(target))

    @override
    def copy_from(self, source: Storage, key: str) -> bool:
        if not isinstance(source, S3Storage):
            return False
        ours, theirs = self.access.clients.connection(), source.access.clients.connection()
        if ours.endpoint_url != theirs.endpoint_url:
            return False
        return self._writer.copy_from(source.bucket, source.base + key, self._name(key), self._class_of(key))

    # --- listing and deleting ---

    @override
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for page in self._pages(prefix):
            for name, size, modified, etag in page.objects:
                key = name[len(self.base) :]
                if is_key(key):
                    yield ObjectInfo(key, size, modified, version_of(etag))

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        skipped = len(self.base) + len(prefix)
        for page in self._pages(prefix, delimiter="/"):
            for below in page.prefixes:
                if is_key(below[skipped:-1]):
                    yield below[skipped:]
            for name, _, _, _ in page.objects:
                if is_key(name[skipped:]):
                    yield name[skipped:]

    def _pages(self, prefix: str, **more: str) -> Iterator[ListPage]:
        return self._pages_below(self.base + prefix, **more)

    def _pages_below(self, name: str, **more: str) -> Iterator[ListPage]:
        parameters = {"list-type": "2", "encoding-type": "url", "prefix": name, **more}
        while True:
            try:
                page = self.access.run_lean("list", name, methodcaller("list_page", parameters, self.access.lean_payer))
            except ObjectNotFoundError as error:
                raise BadAnswerError(f"{error.own_message} to a listing") from error
            yield page
            if page.next_token is None:
                return
            parameters["continuation-token"] = page.next_token

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed = self._deletion.delete(self._name(key) for key in keys)
        return [name[len(self.base) :] for name in failed]

    @override
    def close(self) -> None:
        self.access.close()

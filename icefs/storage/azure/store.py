"""Objects in a container of Azure Blob Storage.

Versions are entity tags. A conditional write is one request that the service decides (If-Match, If-None-Match), so it
is atomic against every client, the official library included (`object_writer`).

Source: format notes §7.11; REST API of Azure Blob Storage, "Specifying conditional headers".
"""

import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, Final, override
from urllib.parse import urlencode

from azure.storage.blob import BlobPrefix, BlobProperties, ContainerClient

from icefs.clock import to_micros
from icefs.errors import BadAnswerError, InvalidInputError, ObjectNotFoundError, StorageError
from icefs.storage.answers import AnswerError
from icefs.storage.azure.access import ContainerAccess
from icefs.storage.azure.deletion import Deletion
from icefs.storage.azure.object_reader import ObjectReader, version_of
from icefs.storage.azure.object_writer import ObjectWriter, tier_of
from icefs.storage.azure.options import AzureOptions, check_container
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
from icefs.storage.retry import Retrier
from icefs.storage.settings import StoreSettings

# How a hierarchical namespace marks its directories, which are no objects of ours.
_DIRECTORY: Final = "hdi_isfolder"
_CLASSES: Final = ("storage_class", "metadata_storage_class", "chunks_storage_class")


class AzureStorage(Storage):
    """The part of a container below a prefix. Safe for threads; makes no request before it is used.

    Attributes:
        container: The container's name.
        prefix: The prefix, without a slash at its end.
        base: The beginning of the full names of all blobs: the prefix with a slash, or nothing.
        options: The service.
        access: The way to the container.
    """

    def __init__(
        self,
        container: str,
        prefix: str = "",
        options: AzureOptions | None = None,
        *,
        retrier: Retrier | None = None,
        new_write_id: Callable[[], str] = lambda: uuid.uuid4().hex,
        page_objects: int = 5000,
    ) -> None:
        """Takes the place; `page_objects` is how many objects a listing asks for at a time."""
        check_container(container)
        self.container = container
        self.prefix = prefix.rstrip("/")
        self.options = options if options is not None else AzureOptions()
        settings = self.options.settings
        self.capabilities = Capabilities(
            conditional_update=settings.conditional_update is not False,
            local_files=False,
            concurrency=self.options.concurrency,
            must_be_tried=settings.conditional_update is not False and settings.conditional_create is not False,
        )
        self.base = f"{self.prefix}/" if self.prefix else ""
        self.access = ContainerAccess(
            container, self.options, Retrier(self.options.retry) if retrier is None else retrier
        )
        self._reader = ObjectReader(self.access)
        self._writer = ObjectWriter(self.access, self._reader, new_write_id)
        self._deletion = Deletion(self.access)
        self._page_objects = page_objects

    def __reduce__(self) -> tuple[Callable[..., "AzureStorage"], tuple[str, str, AzureOptions]]:
        return (AzureStorage, (self.container, self.prefix, self.options))

    @property
    @override
    def url(self) -> str:
        shown = self._shown_options()
        return f"az://{self.container}/{self.prefix}" + (f"?{urlencode(shown, safe='/:')}" if shown else "")

    @override
    def facts(self) -> Mapping[str, str]:
        shown = {name: "True" if value == "true" else value for name, value in self._shown_options().items()}
        account = {"account": shown.pop("account")} if "account" in shown else {}
        return {"type": "Azure", **account, "container": self.container, "prefix": self.prefix, **shown}

    def _shown_options(self) -> dict[str, str]:
        """Returns the options that are part of the place, as a location has them."""
        shown = {}
        for option in fields(self.options):
            value = getattr(self.options, option.name)
            if option.name in ("account", "endpoint_url", "anonymous") and value:
                shown[option.name] = "true" if value is True else str(value)
        return shown

    @property
    @override
    def identity(self) -> str:
        return f"azure {self.access.endpoint_url} {self.container}/{self.prefix}"

    def _name(self, key: str) -> str:
        check_key(key)
        return self.base + key

    def _tier(self, key: str) -> str | None:
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
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        return self._reader.get_if_changed(self._name(key), known)

    @override
    def head(self, key: str) -> ObjectInfo:
        found = self._reader.head(self._name(key), {})
        return ObjectInfo(key, found.size, found.modified, found.present.version)

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of any blob below the prefix; see `RangeReader.read_range`."""
        check_range(start, end)
        if not key:
            raise InvalidInputError("an empty name cannot name an object")
        return self._reader.read_range(
            self.base + key, start, end, if_match_etag=if_match_etag, if_unmodified_since_s=if_unmodified_since_s
        )

    # --- writing ---

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        check_conditions(if_match, create_only)
        name = self._name(key)
        if create_only:
            return self._writer.create(name, data, self._tier(key))
        if if_match is not None:
            return self._writer.replace(name, data, if_match, self._tier(key))
        return self._writer.put(name, data, self._tier(key))

    @override
    def put_file(self, key: str, path: str, *, is_final: bool = False) -> Version:
        name = self._name(key)
        try:
            size_bytes = os.stat(path).st_size
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}", kind="io", path=path) from error
        if size_bytes < self.options.multipart_threshold_bytes:
            return self._writer.put(name, read_file(path, 0, size_bytes), self._tier(key))

        # Each block is read when it is sent: a file larger than the memory goes through, too.
        def read(start: int, end: int) -> bytes:
            return read_file(path, start, end - start)

        return self._writer.put_parts(name, size_bytes, read, self._tier(key))

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        self._writer.copy(self._name(source), self._name(target), if_match, self._tier(target))

    # --- listing and deleting ---

    @override
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        for blob in self._list(prefix, is_deep=True):
            key = str(blob.name)[len(self.base) :]
            if is_key(key):
                yield ObjectInfo(key, blob.size, to_micros(blob.last_modified), version_of(blob.etag))

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        check_prefix(prefix)
        for blob in self._list(prefix, is_deep=False):
            name = str(blob.name)[len(self.base) + len(prefix) :]
            if is_key(name.removesuffix("/") if isinstance(blob, BlobPrefix) else name):
                yield name

    def _list(self, prefix: str, *, is_deep: bool) -> Iterator[Any]:
        """Yields the blobs below a prefix, and with `is_deep` not set the prefixes up to the next slash."""
        name = self.base + prefix
        token: str | None = None
        while True:

            def page(client: ContainerClient, token: str | None = token) -> tuple[list[Any], str | None]:
                arguments: dict[str, Any] = {
                    "name_starts_with": name,
                    "include": ["metadata"],
                    "results_per_page": self._page_objects,
                }
                found = client.list_blobs(**arguments) if is_deep else client.walk_blobs(**arguments, delimiter="/")
                pages: Any = found.by_page(token)
                try:
                    blobs = list(next(pages))
                except StopIteration:
                    return [], None
                _check_listed(blobs)
                return blobs, pages.continuation_token or None

            try:
                blobs, following = self.access.run("list", name, page)
            except ObjectNotFoundError as error:
                raise BadAnswerError(f"{error.own_message} to a listing") from error
            for blob in blobs:
                if isinstance(blob, BlobPrefix) or not _is_directory(blob):
                    yield blob
            if following is None:
                return
            if following == token:
                raise BadAnswerError(f"cannot list {self.access.url(name)}: the next page is the same page")
            token = following

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        failed = self._deletion.delete(self._name(key) for key in keys)
        return [name[len(self.base) :] for name in failed]

    # --- settings ---

    @override
    def with_settings(self, settings: StoreSettings) -> "AzureStorage":
        options = self.options.with_settings(settings.without(self.unheeded_settings(settings)))
        return self if options == self.options else AzureStorage(self.container, self.prefix, options)

    @override
    def usual_settings(self) -> StoreSettings:
        options = self.options
        given = options.retry.settings(
            options.settings, connect_timeout_s=options.connect_timeout_s, read_timeout_s=options.read_timeout_s
        )
        return replace(given, multipart_threshold_bytes=options.multipart_threshold_bytes)

    @override
    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        # Classes of another service, which a repository that was copied from there has.
        return tuple(name for name in _CLASSES if (given := getattr(settings, name)) and tier_of(given) is None)

    @override
    def close(self) -> None:
        self.access.close()


def _is_directory(blob: BlobProperties) -> bool:
    return not blob.size and bool(blob.metadata) and str(blob.metadata.get(_DIRECTORY)).lower() == "true"


def _check_listed(blobs: list[Any]) -> None:
    for blob in blobs:
        if not blob.name or (isinstance(blob, BlobProperties) and (blob.last_modified is None)):
            raise AnswerError("with a list whose entries are not whole")

"""Configuration of storage, and of the stores that hold virtual chunks.

Source: format notes §4, §6 and §7.7; upstream icechunk-storage/src/storage.rs, s3_config.rs.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from icefs.arguments import U32
from icefs.format.config.checked import Checked, Limits, NumberedEnum
from icefs.format.config.merge import Mergeable


class ChecksumAlgorithm(NumberedEnum):
    """The checksum that is sent with uploads to S3."""

    Crc32 = 0
    Crc32c = 1
    Crc64Nvme = 2
    Sha1 = 3
    Sha256 = 4


@dataclass(slots=True)
class StorageRetriesSettings(Mergeable):
    """How often and how long after each other failed requests are repeated."""

    _limits: ClassVar[Limits] = {"max_tries": (1, 2**16 - 1), "initial_backoff_ms": U32, "max_backoff_ms": U32}

    max_tries: int | None = None
    initial_backoff_ms: int | None = None
    max_backoff_ms: int | None = None


@dataclass(slots=True)
class StorageTimeoutSettings(Mergeable):
    """When requests are given up."""

    _limits: ClassVar[Limits] = dict.fromkeys(
        ("connect_timeout_ms", "read_timeout_ms", "operation_timeout_ms", "operation_attempt_timeout_ms"), U32
    )

    connect_timeout_ms: int | None = None
    read_timeout_ms: int | None = None
    operation_timeout_ms: int | None = None
    operation_attempt_timeout_ms: int | None = None


@dataclass(slots=True)
class StorageConcurrencySettings(Mergeable):
    """How a large object is fetched in several requests at once."""

    _limits: ClassVar[Limits] = {
        "max_concurrent_requests_for_object": (1, 2**16 - 1),
        "ideal_concurrent_request_size": (1, 2**64 - 1),
    }

    max_concurrent_requests_for_object: int | None = None
    ideal_concurrent_request_size: int | None = None


@dataclass(slots=True)
class StorageSettings(Mergeable):
    """How the object store is used."""

    concurrency: StorageConcurrencySettings | None = None
    retries: StorageRetriesSettings | None = None
    unsafe_use_conditional_create: bool | None = None
    unsafe_use_conditional_update: bool | None = None
    unsafe_use_metadata: bool | None = None
    storage_class: str | None = None
    metadata_storage_class: str | None = None
    chunks_storage_class: str | None = None
    minimum_size_for_multipart_upload: int | None = None
    timeouts: StorageTimeoutSettings | None = None


@dataclass(slots=True)
class S3Options(Checked):
    """How a store that speaks S3 is reached."""

    _limits: ClassVar[Limits] = {"network_stream_timeout_seconds": U32}

    region: str | None = None
    endpoint_url: str | None = None
    allow_http: bool = False
    anonymous: bool = False
    force_path_style: bool = False
    network_stream_timeout_seconds: int | None = None
    requester_pays: bool = False
    checksum_algorithm: ChecksumAlgorithm | None = None


class ObjectStoreConfig:
    """Which kind of store holds virtual chunks: one of the nested classes."""

    __slots__ = ()

    InMemory: type["InMemoryStore"]
    LocalFileSystem: type["LocalFileSystemStore"]
    S3Compatible: type["S3CompatibleStore"]
    S3: type["S3Store"]
    Gcs: type["GcsStore"]
    Azure: type["AzureStore"]
    Tigris: type["TigrisStore"]
    Http: type["HttpStore"]


@dataclass(frozen=True, slots=True)
class InMemoryStore(ObjectStoreConfig):
    """The memory of the process."""


@dataclass(frozen=True, slots=True)
class LocalFileSystemStore(ObjectStoreConfig):
    """A directory."""

    path: str


@dataclass(frozen=True, slots=True)
class S3CompatibleStore(ObjectStoreConfig):
    """A store that speaks S3."""

    options: S3Options


@dataclass(frozen=True, slots=True)
class S3Store(ObjectStoreConfig):
    """S3 itself."""

    options: S3Options


@dataclass(frozen=True, slots=True)
class TigrisStore(ObjectStoreConfig):
    """Tigris."""

    options: S3Options


@dataclass(frozen=True, slots=True)
class GcsStore(ObjectStoreConfig):
    """Google Cloud Storage."""

    opts: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class AzureStore(ObjectStoreConfig):
    """Azure Blob Storage; `opts` name the account."""

    opts: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class HttpStore(ObjectStoreConfig):
    """A web server, with options of the transport and headers for each request (which may be secret)."""

    opts: Mapping[str, str] | None = None
    headers: Mapping[str, str] | None = None

    def __repr__(self) -> str:
        return f"HttpStore(opts={self.opts!r}, headers={sorted(self.headers or ())})"


ObjectStoreConfig.InMemory = InMemoryStore
ObjectStoreConfig.LocalFileSystem = LocalFileSystemStore
ObjectStoreConfig.S3Compatible = S3CompatibleStore
ObjectStoreConfig.S3 = S3Store
ObjectStoreConfig.Gcs = GcsStore
ObjectStoreConfig.Azure = AzureStore
ObjectStoreConfig.Tigris = TigrisStore
ObjectStoreConfig.Http = HttpStore


@dataclass(slots=True)
class VirtualChunkContainer(Checked):
    """Where virtual chunks may be: all locations that begin with `url_prefix`.

    Attributes:
        url_prefix: Ends with `/`; not checked here, since a persisted one may be wrong and must only not match.
        store: How it is reached.
        name: For locations `vcc://<name>/<rest>`, which mean `url_prefix + rest`.
    """

    url_prefix: str
    store: ObjectStoreConfig
    name: str | None = None

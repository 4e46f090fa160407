"""Where repositories and virtual chunks are, under the official names.

`…_storage` functions open the storage of a repository; `…_store` functions describe, for the configuration, where
virtual chunks are.
"""

from collections.abc import Callable
from datetime import datetime
from os import PathLike
from typing import Any

from icefs.api.credentials import Anonymous, S3StaticCredentials, s3_credentials, storage_credentials
from icefs.errors import UnsupportedError
from icefs.format.config.storage import (
    AzureStore,
    ChecksumAlgorithm,
    GcsStore,
    HttpStore,
    LocalFileSystemStore,
    S3CompatibleStore,
    S3Options,
    S3Store,
    StorageConcurrencySettings,
    StorageRetriesSettings,
    StorageSettings,
    StorageTimeoutSettings,
)
from icefs.storage.base import Storage
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.storage.s3.options import S3Options as StoreOptions

type AnyObjectStoreConfig = AzureStore | GcsStore | HttpStore | LocalFileSystemStore | S3CompatibleStore | S3Store

__all__ = [
    "AnyObjectStoreConfig",
    "ChecksumAlgorithm",
    "S3Options",
    "Storage",
    "StorageConcurrencySettings",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "azure_store",
    "gcs_store",
    "http_storage",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "r2_storage",
    "s3_storage",
    "s3_store",
    "tigris_storage",
]

_TIGRIS_ENDPOINT = "https://t3.storage.dev"


def in_memory_storage() -> Storage:
    """Opens a new storage in this process's memory."""
    return MemoryStorage()


def local_filesystem_storage(path: str | PathLike[str]) -> Storage:
    """Opens a directory, which need not exist yet."""
    return LocalStorage(path)


def http_storage(base_url: str, opts: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Storage:
    """Opens the objects of a web server below a URL, for reading.

    Args:
        base_url: Begins with `http://` or `https://`.
        opts: Options of the official library's transport; none of them is known here.
        headers: Sent with every request.

    Raises:
        UnsupportedError: `opts` are given.
    """
    from icefs.storage.http import HttpStorage  # lazy: a local repository needs no network
    from icefs.storage.http_client import HttpOptions

    _refuse("http_storage", opts=opts)
    return HttpStorage(base_url, HttpOptions(headers=tuple((headers or {}).items())))


def s3_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int = 60,
    requester_pays: bool = False,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a bucket in S3, or in a store that speaks its protocol.

    Args:
        bucket: The bucket.
        prefix: The keys' prefix, without a slash at its end; empty or None for the whole bucket.
        region: The region; by default the AWS environment's.
        endpoint_url: The service's URL; by default that of AWS.
        allow_http: Whether the endpoint may be `http://`.
        access_key_id: Together with `secret_access_key` and possibly `session_token`: the keys.
        secret_access_key: See there.
        session_token: See there.
        expires_after: When those keys expire.
        anonymous: Send requests unsigned.
        from_env: Take keys from the environment and the AWS configuration files; the default.
        get_credentials: Returns keys; called again when they expire.
        scatter_initial_credentials: Call it now.
        force_path_style: Put the bucket into the URL's path.
        network_stream_timeout_seconds: How long to wait for the next bytes of an answer; 0 for ever.
        requester_pays: Agree to pay for requests.
        checksum_algorithm: Not supported: icefs sends the one that every known service accepts.
        legacy_rooted_keys: Not supported.
        read_headers: Not supported.
        write_headers: Not supported.
        headers: Not supported.

    Raises:
        ValueError: more than one source of keys is given.
        UnsupportedError: an argument is given that is not supported.
    """
    from icefs.storage.s3.store import S3Storage  # lazy: loading urllib3 takes longer than opening a local repository

    _refuse(
        "s3_storage",
        checksum_algorithm=checksum_algorithm,
        legacy_rooted_keys=legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )
    credentials = s3_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    options = StoreOptions(
        endpoint_url=endpoint_url,
        region=region,
        anonymous=isinstance(credentials, Anonymous),
        force_path_style=force_path_style or None,
        allow_http=allow_http,
        requester_pays=requester_pays,
        credentials=storage_credentials(credentials),
        read_timeout_s=float(network_stream_timeout_seconds or 10**6),
    )
    return S3Storage(bucket, prefix or "", options)


def tigris_storage(*, bucket: str, prefix: str | None, use_weak_consistency: bool = False, **options: Any) -> Storage:
    """Opens a prefix of a bucket in Tigris; takes the options of `s3_storage`.

    Args:
        bucket: The bucket.
        prefix: The keys' prefix.
        use_weak_consistency: Not supported: a written object might not be read.
        options: As of `s3_storage`.

    Raises:
        UnsupportedError: as `s3_storage`.
    """
    _refuse("tigris_storage", use_weak_consistency=use_weak_consistency or None)
    options.setdefault("endpoint_url", _TIGRIS_ENDPOINT)
    return s3_storage(bucket=bucket, prefix=prefix, **{"region": "auto", **options})


def r2_storage(
    *, bucket: str | None = None, prefix: str | None = None, account_id: str | None = None, **options: Any
) -> Storage:
    """Opens a prefix of a bucket in Cloudflare R2; takes the options of `s3_storage`.

    Args:
        bucket: The bucket; without it, the first part of `prefix`.
        prefix: The keys' prefix.
        account_id: The account, which names the endpoint unless `endpoint_url` does.
        options: As of `s3_storage`.

    Raises:
        ValueError: neither an account nor an endpoint, or no bucket is given.
    """
    if bucket is None:
        bucket, _, prefix = (prefix or "").partition("/")
    if not bucket:
        raise ValueError("R2 needs a bucket")
    if options.get("endpoint_url") is None:
        if account_id is None:
            raise ValueError("R2 needs an account_id or an endpoint_url")
        options["endpoint_url"] = f"https://{account_id}.r2.cloudflarestorage.com"
    return s3_storage(bucket=bucket, prefix=prefix, **{"region": "auto", **options})


def local_filesystem_store(path: str) -> LocalFileSystemStore:
    """Describes virtual chunks in local files."""
    return LocalFileSystemStore(path)


def http_store(opts: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> HttpStore:
    """Describes virtual chunks on a web server."""
    return HttpStore(opts, headers)


def s3_store(
    region: str | None = None,
    endpoint_url: str | None = None,
    allow_http: bool = False,
    anonymous: bool = False,
    s3_compatible: bool = False,
    force_path_style: bool = False,
    network_stream_timeout_seconds: int = 60,
    requester_pays: bool = False,
    checksum_algorithm: ChecksumAlgorithm | None = None,
) -> S3Store | S3CompatibleStore:
    """Describes virtual chunks in S3, or with `s3_compatible` in something that speaks S3."""
    options = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        anonymous=anonymous,
        force_path_style=force_path_style,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        requester_pays=requester_pays,
        checksum_algorithm=checksum_algorithm,
    )
    return S3CompatibleStore(options) if s3_compatible else S3Store(options)


def gcs_store(opts: dict[str, str] | None = None) -> GcsStore:
    """Describes virtual chunks in Google Cloud Storage, which icefs does not reach."""
    return GcsStore(opts)


def azure_store(*, account: str, config: dict[str, str] | None = None) -> AzureStore:
    """Describes virtual chunks in Azure Blob Storage, which icefs does not reach."""
    return AzureStore({"account": account, **(config or {})})


def _refuse(function: str, **arguments: object) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise UnsupportedError(
            f"icefs does not support {' or '.join(given)} of {function}", hint="leave out what it does not support"
        )

"""The public type of all storages, with the official constructors."""

import re
from dataclasses import replace
from os import PathLike
from typing import cast

from icefs.api.azure_credentials import Anonymous as AzureAnonymous
from icefs.api.azure_credentials import AzureCredentials, azure_credentials, azure_storage_credentials
from icefs.api.credentials import Anonymous, AnyS3Credential, storage_credentials
from icefs.api.gcs_credentials import Anonymous as GcsAnonymous
from icefs.api.gcs_credentials import GcsCredentials, gcs_credentials, gcs_storage_credentials
from icefs.errors import InvalidInputError, StorageError, UnsupportedError
from icefs.format.config.storage import S3Options
from icefs.storage.azure.options import options_of_config
from icefs.storage.base import Storage as EngineStorage
from icefs.storage.gcs.options import config_options
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.storage.s3.headers import extra_headers
from icefs.storage.s3.options import S3Options as StoreOptions
from icefs.storage.settings import StoreSettings
from icefs.storage.url import Location, open_azure, open_gcs

__all__ = ["Storage"]

_TIGRIS_ENDPOINT = "https://t3.storage.dev"
_HF_ENDPOINT = "https://s3.hf.co"
_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class StorageChoiceError(StorageError, ValueError):
    """The arguments leave open where a store is; a `ValueError`, too."""

    default_kind = "storage-config"


class Storage(EngineStorage):
    """A store, opened at one repository, with the official constructors; every storage of icefs is an instance.

    The constructors are those of the functions `…_storage`, with options and credentials as values. They make no
    request but for `new_redirect`, and raise as those functions.
    """

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return cls is Storage and EngineStorage in other.__mro__

    @classmethod
    def new_in_memory(cls) -> "Storage":
        """Opens a new storage in this process's memory."""
        return _shown(MemoryStorage())

    @classmethod
    def new_local_filesystem(cls, path: str | PathLike[str]) -> "Storage":
        """Opens a directory, which need not exist yet."""
        return _shown(LocalStorage(path))

    @classmethod
    def new_http(
        cls, base_url: str, config: dict[str, str] | None = None, headers: dict[str, str] | None = None
    ) -> "Storage":
        """Opens the objects of a web server below a URL, for reading; see `http_storage`."""
        from icefs.storage.http import HttpStorage  # lazy: a local repository needs no network
        from icefs.storage.http_client import options_of_config as http_options

        options = replace(http_options(base_url, config or {}), headers=tuple((headers or {}).items()))
        return _shown(HttpStorage(base_url, options))

    @classmethod
    def new_redirect(cls, base_url: str) -> "Storage":
        """Opens the storage that a web server redirects to, which is asked now; see `redirect_storage`."""
        from icefs.api.redirected import find_redirect_target  # lazy: urllib3, which a local repository does without

        found = find_redirect_target(base_url)
        # A server does not say what the user's keys are used for.
        s3, unsigned = S3Options(region=found.region, anonymous=True), Anonymous()
        match found.kind:
            case "http":
                return cls.new_http(found.place)
            case "gs":
                return cls.new_gcs(found.place, found.prefix, GcsAnonymous())
            case "r2":
                return cls.new_r2(s3, found.place, found.prefix, found.account_id, unsigned)
            case "tigris":
                return cls.new_tigris(s3, found.place, found.prefix, False, unsigned)
            case _:
                return cls.new_s3(s3, found.place, found.prefix, unsigned)

    @classmethod
    def new_s3(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: dict[str, str] | None = None,
        write_headers: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a bucket in S3; see `s3_storage`."""
        options = _s3_options(config, credentials, legacy_rooted_keys, (read_headers, write_headers, headers))
        return _open_s3(bucket, prefix, options)

    @classmethod
    def new_s3_object_store(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        credentials: AnyS3Credential | None = None,
        *,
        read_headers: dict[str, str] | None = None,
        write_headers: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a bucket in S3, as `new_s3` does: icefs has one way to S3."""
        return cls.new_s3(
            config,
            bucket,
            prefix,
            credentials,
            read_headers=read_headers,
            write_headers=write_headers,
            headers=headers,
        )

    @classmethod
    def new_tigris(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        use_weak_consistency: bool,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: dict[str, str] | None = None,
        write_headers: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a bucket in Tigris; see `tigris_storage`."""
        _refuse("tigris_storage", use_weak_consistency=use_weak_consistency or None)
        if config.region is None:
            raise StorageChoiceError(
                "Tigris storage requires a region to provide full consistency: that one's newest objects are read",
                kind="storage-other",
            )
        both = {"X-Tigris-Regions": config.region, "X-Tigris-Consistent": "true", **(headers or {})}
        reading = {"Cache-Control": "no-cache", **(read_headers or {})}
        config = replace(config, endpoint_url=config.endpoint_url or _TIGRIS_ENDPOINT)
        options = _s3_options(config, credentials, legacy_rooted_keys, (reading, write_headers, both))
        return _open_s3(bucket, prefix, options)

    @classmethod
    def new_r2(
        cls,
        config: S3Options,
        bucket: str | None = None,
        prefix: str | None = None,
        account_id: str | None = None,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: dict[str, str] | None = None,
        write_headers: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a bucket in Cloudflare R2; see `r2_storage`."""
        if bucket is None:
            bucket, _, prefix = (prefix or "").partition("/")
        if not bucket:
            raise StorageChoiceError("Either bucket or prefix must be provided: R2 needs a bucket")
        endpoint_url = config.endpoint_url
        if endpoint_url is None:
            if account_id is None:
                raise StorageChoiceError("Either endpoint_url or account_id must be provided")
            endpoint_url = f"https://{account_id}.r2.cloudflarestorage.com"
        config = replace(config, endpoint_url=endpoint_url, region=config.region or "auto")
        options = _s3_options(config, credentials, legacy_rooted_keys, (read_headers, write_headers, headers))
        return _open_s3(bucket, prefix, options)

    @classmethod
    def new_hf(
        cls,
        config: S3Options,
        bucket: str,
        prefix: str | None,
        namespace: str,
        credentials: AnyS3Credential | None = None,
        legacy_rooted_keys: bool | None = None,
        *,
        read_headers: dict[str, str] | None = None,
        write_headers: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a storage bucket of Hugging Face; see `hf_storage`."""
        if not _NAMESPACE.fullmatch(namespace):
            raise InvalidInputError(f"{namespace!r} is no user or organisation of Hugging Face")
        config = replace(
            config,
            endpoint_url=config.endpoint_url or f"{_HF_ENDPOINT}/{namespace}",
            region=config.region or "us-east-1",
            force_path_style=True,
        )
        options = _s3_options(config, credentials, legacy_rooted_keys, (read_headers, write_headers, headers))
        # Whatever the repository's configuration says: the gateway drops metadata.
        settings = StoreSettings(metadata=False)
        return _open_s3(bucket, prefix, replace(options, settings=settings, named=frozenset(("metadata",))))

    @classmethod
    def new_azure_blob(
        cls,
        account: str,
        container: str,
        prefix: str,
        credentials: AzureCredentials | None = None,
        *,
        config: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a container in Azure Blob Storage; see `azure_storage`."""
        credentials = azure_credentials() if credentials is None else credentials
        options = options_of_config(account, config or {})
        given = {
            "account": account,
            "endpoint_url": options.endpoint_url,
            "anonymous": options.anonymous or isinstance(credentials, AzureAnonymous),
            "allow_http": options.allow_http,
            "credentials": azure_storage_credentials(credentials),
        }
        return _shown(open_azure(Location("azure", container, prefix, {}), given))

    @classmethod
    def new_gcs(
        cls,
        bucket: str,
        prefix: str | None,
        credentials: GcsCredentials | None = None,
        *,
        config: dict[str, str] | None = None,
        read_headers: dict[str, str] | None = None,
        write_headers: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> "Storage":
        """Opens a prefix of a bucket in Google Cloud Storage; see `gcs_storage`."""
        options = config_options(config or {})
        given = {
            **options,
            "anonymous": bool(options.get("anonymous")) or isinstance(credentials, GcsAnonymous),
            "credentials": gcs_storage_credentials(gcs_credentials() if credentials is None else credentials),
            "read_headers": extra_headers(headers, read_headers),
            "write_headers": extra_headers(headers, write_headers),
        }
        return _shown(open_gcs(Location("gcs", bucket, prefix or "", {}), given))


def _shown(storage: EngineStorage) -> Storage:
    """Returns a storage under its public type, of which `__subclasshook__` makes it an instance."""
    return cast("Storage", storage)


def _s3_options(
    config: S3Options,
    credentials: AnyS3Credential | None,
    legacy_rooted_keys: bool | None,
    headers: tuple[dict[str, str] | None, dict[str, str] | None, dict[str, str] | None],
) -> StoreOptions:
    """Returns the options of a service, by the official ones; the headers are those of reads, writes and both."""
    reading, writing, both = headers
    algorithm = config.checksum_algorithm
    patience_s = 60 if config.network_stream_timeout_seconds is None else config.network_stream_timeout_seconds
    return StoreOptions(
        endpoint_url=config.endpoint_url,
        region=config.region,
        anonymous=config.anonymous or isinstance(credentials, Anonymous),
        force_path_style=config.force_path_style or None,
        allow_http=config.allow_http,
        requester_pays=config.requester_pays,
        credentials=None if credentials is None else storage_credentials(credentials),
        read_timeout_s=float(patience_s or 10**6),
        read_headers=extra_headers(both, reading),
        write_headers=extra_headers(both, writing),
        checksum_algorithm=None if algorithm is None else algorithm.name.upper(),
        legacy_rooted_keys=legacy_rooted_keys,
    )


def _open_s3(bucket: str, prefix: str | None, options: StoreOptions) -> Storage:
    from icefs.storage.s3.store import S3Storage  # lazy: loading urllib3 takes longer than opening a local repository

    return _shown(S3Storage(bucket, prefix or "", options))


def _refuse(function: str, **arguments: object) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise UnsupportedError(
            f"icefs does not support {' or '.join(given)} of {function}", hint="leave out what it does not support"
        )

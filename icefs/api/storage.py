"""Where repositories and virtual chunks are, under the official names.

`…_storage` functions open the storage of a repository; `…_store` functions describe, for the configuration, where
virtual chunks are.
"""

from collections.abc import Callable
from datetime import datetime
from os import PathLike

from icefs.api.azure_credentials import azure_credentials
from icefs.api.credentials import S3StaticCredentials, s3_credentials
from icefs.api.gcs_credentials import GcsBearerCredential, gcs_credentials
from icefs.api.public_storage import Storage
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

type AnyObjectStoreConfig = AzureStore | GcsStore | HttpStore | LocalFileSystemStore | S3CompatibleStore | S3Store

__all__ = [
    "AnyObjectStoreConfig",
    "ChecksumAlgorithm",
    "S3Options",
    "StorageConcurrencySettings",
    "StorageRetriesSettings",
    "StorageSettings",
    "StorageTimeoutSettings",
    "azure_storage",
    "azure_store",
    "gcs_storage",
    "gcs_store",
    "hf_storage",
    "http_storage",
    "http_store",
    "in_memory_storage",
    "local_filesystem_storage",
    "local_filesystem_store",
    "r2_storage",
    "redirect_storage",
    "s3_object_store_storage",
    "s3_storage",
    "s3_store",
    "tigris_storage",
]


def in_memory_storage() -> Storage:
    """Opens a new storage in this process's memory."""
    return Storage.new_in_memory()


def local_filesystem_storage(path: str | PathLike[str]) -> Storage:
    """Opens a directory, which need not exist yet."""
    return Storage.new_local_filesystem(path)


def http_storage(base_url: str, opts: dict[str, str] | None = None, headers: dict[str, str] | None = None) -> Storage:
    """Opens the objects of a web server below a URL, for reading.

    Args:
        base_url: Begins with `http://` or `https://`.
        opts: Options of the official library's transport: `allow_http`, `timeout` of a request and `connect_timeout`
            (as `30s`), `user_agent`.
        headers: Sent with every request.

    Raises:
        UnsupportedError: `opts` has another option.
        InvalidInputError: a value is none, or the URL is not encrypted, and has to be.
    """
    return Storage.new_http(base_url, opts, headers)


def redirect_storage(base_url: str) -> Storage:
    """Opens the storage that a web server redirects to, without keys; the server is asked now.

    Args:
        base_url: Begins with `http://` or `https://`. The answer is a redirect to `s3://BUCKET/PREFIX?region=NAME`,
            `gs://BUCKET/PREFIX`, `r2://BUCKET/PREFIX?account_id=ID`, `tigris://BUCKET/PREFIX?region=NAME`,
            `http+icechunk://HOST/PATH` or `https+icechunk://HOST/PATH`, perhaps after redirects to other pages.

    Raises:
        BadAnswerError: it redirects to nothing of that kind.
        UnreachableError: the server does not answer.
    """
    return Storage.new_redirect(base_url)


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
        checksum_algorithm: The checksum that is sent with uploads. By default none is, but where a request demands one:
            that is what every known service accepts. Crc32c and Crc64Nvme take the extra `icefs[checksums]`.
        legacy_rooted_keys: Whether keys begin with a slash, in a repository at the root of a bucket that the official
            library made once; by default the first request finds out.
        read_headers: Sent with every request that reads or lists.
        write_headers: Sent with every other request.
        headers: Sent with both; the two others go before it.

    Raises:
        ValueError: more than one source of keys is given.
        InvalidInputError: a header cannot be sent, or `legacy_rooted_keys` goes with a prefix.
        UnsupportedError: the checksum cannot be computed.
    """
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
    config = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        force_path_style=force_path_style,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        requester_pays=requester_pays,
        checksum_algorithm=checksum_algorithm,
    )
    return Storage.new_s3(
        config,
        bucket,
        prefix,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def s3_object_store_storage(
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
    force_path_style: bool = False,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a bucket in S3, as `s3_storage` does, for icefs has one way to S3; see there."""
    return s3_storage(
        bucket=bucket,
        prefix=prefix,
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        anonymous=anonymous,
        from_env=from_env,
        force_path_style=force_path_style,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def azure_storage(
    *,
    account: str,
    container: str,
    prefix: str,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    config: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a container in Azure Blob Storage; needs the extra `icefs[azure]`.

    Args:
        account: The storage account.
        container: The container.
        prefix: The names' prefix, without a slash at its end; empty for the whole container.
        access_key: A key of the account.
        sas_token: A shared access signature.
        bearer_token: A token of Microsoft Entra.
        from_env: Take credentials from the environment, or a login; the default.
        anonymous: Send requests unsigned.
        config: Options under the official library's names: `endpoint`, `use_emulator`, `skip_signature`.

    Raises:
        ValueError: more than one source of credentials is given.
        UnsupportedError: an option is not supported, or the extra is not installed.
    """
    credentials = azure_credentials(
        access_key=access_key, sas_token=sas_token, bearer_token=bearer_token, from_env=from_env, anonymous=anonymous
    )
    return Storage.new_azure_blob(account, container, prefix, credentials, config=config)


def tigris_storage(
    *,
    bucket: str,
    prefix: str | None,
    region: str | None = None,
    endpoint_url: str | None = None,
    use_weak_consistency: bool = False,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a bucket in Tigris, whose newest objects each request asks for.

    Args:
        bucket: The bucket.
        prefix: The keys' prefix.
        region: The region whose copy is read and written.
        endpoint_url: By default Tigris's own.
        use_weak_consistency: Not supported: a written object might not be read.
        allow_http: See `s3_storage`.
        access_key_id: See there.
        secret_access_key: See there.
        session_token: See there.
        expires_after: See there.
        anonymous: See there.
        from_env: See there.
        get_credentials: See there.
        scatter_initial_credentials: See there.
        network_stream_timeout_seconds: See there.
        checksum_algorithm: See there.
        legacy_rooted_keys: See there.
        read_headers: See there.
        write_headers: See there.
        headers: See there.

    Raises:
        ValueError: no region is given.
        UnsupportedError: weak consistency is asked for; or as `s3_storage`.
    """
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
    config = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        checksum_algorithm=checksum_algorithm,
    )
    return Storage.new_tigris(
        config,
        bucket,
        prefix,
        use_weak_consistency,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def r2_storage(
    *,
    bucket: str | None = None,
    prefix: str | None = None,
    account_id: str | None = None,
    endpoint_url: str | None = None,
    region: str | None = None,
    allow_http: bool = False,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    checksum_algorithm: ChecksumAlgorithm | None = None,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a bucket in Cloudflare R2.

    Args:
        bucket: The bucket; without it, the first part of `prefix`.
        prefix: The keys' prefix.
        account_id: The account, which names the endpoint unless `endpoint_url` does.
        endpoint_url: The endpoint.
        region: By default `auto`.
        allow_http: See `s3_storage`.
        access_key_id: See there.
        secret_access_key: See there.
        session_token: See there.
        expires_after: See there.
        anonymous: See there.
        from_env: See there.
        get_credentials: See there.
        scatter_initial_credentials: See there.
        network_stream_timeout_seconds: See there.
        checksum_algorithm: See there.
        legacy_rooted_keys: See there.
        read_headers: See there.
        write_headers: See there.
        headers: See there.

    Raises:
        ValueError: neither an account nor an endpoint, or no bucket is given.
    """
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
    config = S3Options(
        region=region,
        endpoint_url=endpoint_url,
        allow_http=allow_http,
        network_stream_timeout_seconds=network_stream_timeout_seconds,
        checksum_algorithm=checksum_algorithm,
    )
    return Storage.new_r2(
        config,
        bucket,
        prefix,
        account_id,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def hf_storage(
    *,
    bucket: str,
    prefix: str | None,
    namespace: str,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
    network_stream_timeout_seconds: int = 60,
    legacy_rooted_keys: bool | None = None,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a storage bucket of Hugging Face, by way of its gateway for S3.

    The gateway keeps no metadata of objects. Where the answer to a commit is lost, icefs compares the bytes that are
    there with those that it sent.

    Args:
        bucket: The bucket's name, without the namespace.
        prefix: The keys' prefix.
        namespace: The user or organisation that has the bucket.
        access_key_id: The key that Hugging Face makes of a token; see `s3_storage`.
        secret_access_key: See there.
        session_token: See there.
        expires_after: See there.
        from_env: See there.
        get_credentials: See there.
        scatter_initial_credentials: See there.
        network_stream_timeout_seconds: See there.
        legacy_rooted_keys: See there.
        read_headers: See there.
        write_headers: See there.
        headers: See there.

    Raises:
        InvalidInputError: the namespace is no name.
    """
    credentials = s3_credentials(
        access_key_id=access_key_id,
        secret_access_key=secret_access_key,
        session_token=session_token,
        expires_after=expires_after,
        from_env=from_env,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    return Storage.new_hf(
        S3Options(network_stream_timeout_seconds=network_stream_timeout_seconds),
        bucket,
        prefix,
        namespace,
        credentials,
        legacy_rooted_keys,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


def gcs_storage(
    *,
    bucket: str,
    prefix: str | None,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    config: dict[str, str] | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
    read_headers: dict[str, str] | None = None,
    write_headers: dict[str, str] | None = None,
    headers: dict[str, str] | None = None,
) -> Storage:
    """Opens a prefix of a bucket in Google Cloud Storage; needs the extra `icefs[gcs]`.

    Args:
        bucket: The bucket.
        prefix: The names' prefix, without a slash at its end; empty or None for the whole bucket.
        service_account_file: The file of a service account.
        service_account_key: The JSON of a service account.
        application_credentials: A file with application credentials.
        bearer_token: A token.
        anonymous: Send requests without a token.
        from_env: Take Application Default Credentials; the default.
        config: Options under the official library's names: `base_url`, `skip_signature`, `allow_http`.
        get_credentials: Returns a token; called again when it expires.
        scatter_initial_credentials: Call it now.
        read_headers: Sent with every request that reads or lists.
        write_headers: Sent with every other request.
        headers: Sent with both; the two others go before it.

    Raises:
        ValueError: more than one source of credentials is given.
        UnsupportedError: an argument or option is not supported, or the extra is not installed.
    """
    credentials = gcs_credentials(
        service_account_file=service_account_file,
        service_account_key=service_account_key,
        application_credentials=application_credentials,
        bearer_token=bearer_token,
        from_env=from_env,
        anonymous=anonymous,
        get_credentials=get_credentials,
        scatter_initial_credentials=scatter_initial_credentials,
    )
    return Storage.new_gcs(
        bucket,
        prefix,
        credentials,
        config=config,
        read_headers=read_headers,
        write_headers=write_headers,
        headers=headers,
    )


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
    """Describes virtual chunks in Google Cloud Storage."""
    return GcsStore(opts)


def azure_store(*, account: str, config: dict[str, str] | None = None) -> AzureStore:
    """Describes virtual chunks in Azure Blob Storage."""
    return AzureStore({"account": account, **(config or {})})

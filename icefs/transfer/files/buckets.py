"""How readers reach the files of a bucket: the stores that containers of the configuration hold, without any key.

A container says what its store cannot know from the URL: an endpoint, an Azure account, that requests are unsigned.
"""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from icefs.errors import UnsupportedError
from icefs.format.config.storage import (
    AzureStore,
    GcsStore,
    ObjectStoreConfig,
    S3CompatibleStore,
    S3Options,
    S3Store,
)
from icefs.storage.base import ObjectInfo, Storage

URL_SCHEMES: Final[Mapping[str, str]] = {"s3": "s3", "gcs": "gs", "azure": "az"}
"""The scheme that references have, for each kind of bucket."""

_TAG_REQUESTS: Final = 16


def url_of(kind: str, root: str) -> str:
    """Returns the URL of a bucket, without a slash at the end; an Azure container may have its host after an `@`."""
    return f"{'abfs' if '@' in root else URL_SCHEMES[kind]}://{root}"


def store_config(kind: str, root: str, store: Storage, options: Mapping[str, Any]) -> ObjectStoreConfig:
    """Returns how a container reaches the objects of a bucket.

    Args:
        kind: `s3`, `gcs` or `azure`.
        root: The bucket, as its location has it.
        store: The bucket, open.
        options: Those that the user named.

    Raises:
        UnsupportedError: an option decides how the bucket is read, and no container can hold it.
    """
    if kind == "s3":
        return _s3_config(options)
    return _gcs_config(options) if kind == "gcs" else _azure_config(root, store, options)


def entity_tags(store: Storage, found: list[ObjectInfo]) -> list[str | None]:
    """Returns the entity tags of objects as readers of references see them; None of those that have no strong one.

    Raises:
        ObjectModifiedError: an object is not the one that was found any more.
        StorageError: the store failed.
    """
    kind = store.url.partition("://")[0]
    if kind == "gs":
        # Lazy, as in `storage.url`; the store is open, so that Google's library is there.
        from icefs.storage.gcs.store import GcsStorage

        assert isinstance(store, GcsStorage)
        ask: Callable[[ObjectInfo], str | None] = store.entity_tag
        if len(found) == 1:
            return [ask(found[0])]
        with ThreadPoolExecutor(_TAG_REQUESTS, "icefs-entity-tags") as pool:
            return list(pool.map(ask, found))
    return [_quoted(info.version) if kind == "az" else info.version for info in found]


def endpoint_of(store: ObjectStoreConfig) -> str | None:
    """Returns the endpoint that the store of a container names; None for the one that its URL stands for."""
    if isinstance(store, S3Store | S3CompatibleStore):
        return store.options.endpoint_url
    if isinstance(store, GcsStore):
        opts = store.opts or {}
        return opts.get("google_base_url") or opts.get("base_url")
    if isinstance(store, AzureStore):
        opts = store.opts or {}
        return opts.get("azure_storage_endpoint") or opts.get("azure_endpoint") or opts.get("endpoint")
    return None


def account_of(store: ObjectStoreConfig) -> str | None:
    """Returns the Azure account that the store of a container names."""
    return (store.opts or {}).get("account") if isinstance(store, AzureStore) else None


def _quoted(tag: str | None) -> str | None:
    return tag if tag is None or tag.startswith('"') else f'"{tag}"'


def _s3_config(options: Mapping[str, Any]) -> ObjectStoreConfig:
    endpoint_url = options.get("endpoint_url")
    settings = S3Options(
        region=options.get("region") or ("us-east-1" if endpoint_url else None),
        endpoint_url=endpoint_url,
        allow_http=bool(options.get("allow_http") or (endpoint_url or "").startswith("http://")),
        anonymous=bool(options.get("anonymous")),
        force_path_style=bool(options.get("force_path_style", bool(endpoint_url))),
        requester_pays=bool(options.get("requester_pays")),
    )
    return S3CompatibleStore(settings) if endpoint_url else S3Store(settings)


def _gcs_config(options: Mapping[str, Any]) -> ObjectStoreConfig:
    if "user_project" in options:
        raise UnsupportedError(
            "files of a bucket whose requesters pay cannot be referred to: no container can name a user_project",
            hint="copy the files to another bucket",
        )
    return GcsStore(_common(options, "google_base_url", options.get("endpoint_url"), "google_skip_signature") or None)


def _azure_config(root: str, store: Storage, options: Mapping[str, Any]) -> ObjectStoreConfig:
    # Lazy, as in `storage.url`; the store is open, so that Microsoft's library is there.
    from icefs.storage.azure.credentials import account_in
    from icefs.storage.azure.options import account_of_host
    from icefs.storage.azure.store import AzureStorage

    _, at, host = root.rpartition("@")
    if at:
        account: str | None = account_of_host(host)[0]
        endpoint_url = None  # the host says it
    else:
        assert isinstance(store, AzureStorage)
        endpoint_url = store.access.endpoint_url
        account = options.get("account") or account_in(endpoint_url)
        if endpoint_url.rstrip("/") == f"https://{account}.blob.core.windows.net":
            endpoint_url = None
    named = {} if account is None else {"account": account}
    return AzureStore({**named, **_common(options, "azure_storage_endpoint", endpoint_url, "azure_skip_signature")})


def _common(
    options: Mapping[str, Any], endpoint_name: str, endpoint_url: str | None, unsigned_name: str
) -> dict[str, str]:
    opts = {}
    if endpoint_url is not None:
        opts[endpoint_name] = endpoint_url
        if endpoint_url.startswith("http://"):
            opts["allow_http"] = "true"
    if options.get("anonymous"):
        opts[unsigned_name] = "true"
    return opts

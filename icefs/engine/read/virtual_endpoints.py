"""Which S3 services the user has named, and which only the repository names.

A container of a repository's configuration says where its bucket is. The repository may come from anybody. So such an
endpoint gets neither the keys of the environment nor a request that is not encrypted, unless the user has named it too:
as the endpoint of the repository, in the environment, in a configuration given when opening, or with the authorised
prefix (`s3://bucket/?endpoint_url=URL`). Tigris's own endpoint is named by each authorised prefix `tigris://`.
"""

import logging
import os
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlsplit

from icefs.errors import InvalidInputError, UnauthorizedContainerError
from icefs.format.config.storage import S3CompatibleStore, S3Store, TigrisStore
from icefs.format.config.values import RepositoryConfig
from icefs.storage.base import Storage

type S3Like = S3Store | S3CompatibleStore | TigrisStore

_log = logging.getLogger(__name__)
_TIGRIS_ENDPOINT = "https://t3.storage.dev"
_VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")


def endpoint_of(store: S3Like) -> str | None:
    """Returns where a container's bucket is; None for where the environment says, or AWS."""
    found = store.options.endpoint_url
    return _TIGRIS_ENDPOINT if found is None and isinstance(store, TigrisStore) else found


def endpoints_of_config(config: RepositoryConfig | None) -> frozenset[str]:
    """Returns the endpoints of the containers in a configuration that the user gives."""
    containers = (config.virtual_chunk_containers if config is not None else None) or {}
    stores = (container.store for container in containers.values())
    found = (endpoint_of(store) for store in stores if isinstance(store, S3Store | S3CompatibleStore | TigrisStore))
    return frozenset(url for url in found if url is not None)


def split_prefix(prefix: str) -> tuple[str, str | None]:
    """Takes the endpoint off an authorised prefix, as in `s3://bucket/?endpoint_url=URL`.

    Raises:
        InvalidInputError: it has another option.
    """
    before, question, query = prefix.partition("?")
    if not question or urlsplit(before).scheme.lower() not in ("s3", "tigris", "gs", "gcs"):
        return prefix, None
    options = dict(parse_qsl(query, keep_blank_values=True))
    endpoint_url = options.pop("endpoint_url", None)
    if options or not endpoint_url:
        raise InvalidInputError(
            f"{before} can only be authorised with the option endpoint_url", hint="write ?endpoint_url=URL after it"
        )
    return before, endpoint_url


def check_endpoint(
    store: S3Like,
    *,
    anonymous: bool | None,
    has_own_keys: bool,
    url_prefix: str,
    storage: Storage | None,
    named: Iterable[str | None],
) -> None:
    """Refuses an endpoint that only the repository names, where it would get what it must not.

    Args:
        store: The container's store.
        anonymous: Whether the user had requests below the authorised prefix sent unsigned; None where the user left
            that to the container.
        has_own_keys: Whether the user gave keys for the authorised prefix.
        url_prefix: The container's.
        storage: The repository's.
        named: Other endpoints that the user has named.

    Raises:
        UnauthorizedContainerError: it would get the keys of the environment, or a request that is not encrypted.
    """
    endpoint_url = endpoint_of(store)
    if endpoint_url is None:
        return
    own = _TIGRIS_ENDPOINT if urlsplit(url_prefix).scheme.lower() == "tigris" else None
    if _origin(endpoint_url) in {_origin(url) for url in (own, *named, *_named_elsewhere(storage)) if url}:
        return
    is_anonymous = store.options.anonymous if anonymous is None else anonymous
    if (is_anonymous or has_own_keys) and urlsplit(endpoint_url).scheme == "https":
        _log.info("the repository says that %s is at %s", url_prefix, endpoint_url)
        return
    what = "an endpoint that is not encrypted" if is_anonymous or has_own_keys else "an endpoint that you did not name"
    place = f"{url_prefix}?endpoint_url={endpoint_url}"
    raise UnauthorizedContainerError(
        f"the repository says that {url_prefix} is at {endpoint_url}, {what}: nothing is sent there",
        hint=f"if you trust that endpoint with your keys and data: --allow-virtual '{place}'",
        url_prefix=url_prefix,
        endpoint_url=endpoint_url,
    )


def _named_elsewhere(storage: Storage | None) -> Iterable[str | None]:
    yield from (os.environ.get(name) for name in _VARIABLES)
    if storage is not None and storage.url.startswith("s3://"):
        yield dict(parse_qsl(urlsplit(storage.url).query)).get("endpoint_url")


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or {"http": 80, "https": 443}.get(parts.scheme)

"""Virtual chunks in Google Cloud Storage: where they are, and whether the user has named that endpoint.

The bucket of `gs://BUCKET/PATH` is at Google, where the user's credentials for it belong. A container of the
repository's configuration can name another endpoint, and the repository may come from anybody. So such an endpoint gets
neither the credentials of the environment nor a request that is not encrypted, unless the user has named it too: as the
repository's own, as `STORAGE_EMULATOR_HOST`, or with the authorised prefix (`gs://BUCKET/?endpoint_url=URL`).
"""

import logging
import os
from collections.abc import Iterable
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from icefs.errors import UnauthorizedContainerError
from icefs.format.config.storage import GcsStore
from icefs.storage.base import RangeReader, Storage
from icefs.storage.gcs.options import GcsCredentials, config_options
from icefs.storage.url import Location as StoreLocation
from icefs.storage.url import open_gcs

GCS_SCHEMES: Final = frozenset(("gs", "gcs"))
"""The schemes of locations in Google Cloud Storage."""

_log = logging.getLogger(__name__)


def open_gcs_container(
    store: GcsStore,
    bucket: str,
    *,
    credentials: GcsCredentials | None,
    anonymous: bool | None,
    url_prefix: str,
    storage: Storage | None,
    named: Iterable[str | None],
) -> RangeReader:
    """Opens what the objects of a container of Google Cloud Storage are read through.

    Args:
        store: The container's store, as the repository's configuration has it.
        bucket: The bucket.
        credentials: Those that the user gave for the authorised prefix; None for the environment's.
        anonymous: Whether the user had requests sent without a token; None where the user left that to the container.
        url_prefix: The container's.
        storage: The repository's.
        named: Endpoints that the user has named.

    Raises:
        UnauthorizedContainerError: the endpoint would get what it must not.
        InvalidInputError, UnsupportedError: the options are not valid, or the extra is not installed.
    """
    options = config_options(store.opts or {})
    is_anonymous = bool(options.get("anonymous")) if anonymous is None else anonymous
    endpoint_url = options.get("endpoint_url")
    if endpoint_url is not None:
        allowed = {url.rstrip("/") for url in (*named, *_named_elsewhere(storage)) if url}
        _check(endpoint_url, allowed, url_prefix, may_be_asked=is_anonymous or credentials is not None)
    given = {
        "endpoint_url": endpoint_url,
        "anonymous": is_anonymous,
        "credentials": None if is_anonymous else credentials,
    }
    reader = open_gcs(StoreLocation("gcs", bucket, "", {}), given)
    assert isinstance(reader, RangeReader)
    return reader


def _check(endpoint_url: str, allowed: set[str], url_prefix: str, *, may_be_asked: bool) -> None:
    if endpoint_url.rstrip("/") in allowed:
        return
    if may_be_asked and urlsplit(endpoint_url).scheme == "https":
        _log.info("the repository says that %s is at %s", url_prefix, endpoint_url)
        return
    what = "an endpoint that is not encrypted" if may_be_asked else "an endpoint that you did not name"
    raise UnauthorizedContainerError(
        f"the repository says that {url_prefix} is at {endpoint_url}, {what}: nothing is sent there",
        hint=f"if you trust that endpoint with your keys and data: --allow-virtual"
        f" '{url_prefix}?endpoint_url={endpoint_url}'",
        url_prefix=url_prefix,
        endpoint_url=endpoint_url,
    )


def _named_elsewhere(storage: Storage | None) -> Iterable[str | None]:
    yield os.environ.get("STORAGE_EMULATOR_HOST")
    if storage is not None and storage.url.startswith("gs://"):
        yield dict(parse_qsl(urlsplit(storage.url).query)).get("endpoint_url")

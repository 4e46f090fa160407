"""Virtual chunks in Azure Blob Storage: which account they are in, and whether the user has named it.

The names `az://CONTAINER/PATH` and `azure://…` leave the account to the container of the repository's configuration,
and the repository may come from anybody. So an account, or an endpoint, that only the repository names gets neither the
credentials of the environment nor a request that is not encrypted. The user names it as the repository's own, in the
environment, or with the authorised prefix: `az://CONTAINER/?account=NAME`, `az://CONTAINER/?endpoint_url=URL`, or
`abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/`.
"""

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from icefs.errors import InvalidInputError, UnauthorizedContainerError
from icefs.format.config.storage import AzureStore
from icefs.storage.azure.options import (
    AzureCredentials,
    AzureOptions,
    account_of_host,
    check_account,
    check_endpoint_url,
    options_of_config,
)
from icefs.storage.base import RangeReader, Storage
from icefs.storage.url import Location as StoreLocation
from icefs.storage.url import open_azure

AZURE_SCHEMES: Final = frozenset(("az", "azure", "abfs", "abfss"))
"""The schemes of locations in Azure."""

_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_ENDPOINTS: Final = ("AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_SERVICE_ENDPOINT")
_log = logging.getLogger(__name__)


def split_azure_prefix(prefix: str) -> tuple[str, str | None]:
    """Takes the endpoint off an authorised prefix: that of `?account=NAME`, of `?endpoint_url=URL`, or of its host.

    Raises:
        InvalidInputError: it has another option, or names no account.
    """
    before, question, query = prefix.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    account, endpoint_url = options.pop("account", None), options.pop("endpoint_url", None)
    if question and (options or (account is None) == (endpoint_url is None)):
        raise InvalidInputError(
            f"{before} can only be authorised with the option account, or endpoint_url",
            hint="write ?account=NAME or ?endpoint_url=URL after it",
        )
    _, at, host = urlsplit(before).netloc.rpartition("@")
    if at and not question:
        account, endpoint_url = account_of_host(host)
    if account is not None:
        check_account(account)
    if endpoint_url is not None:
        check_endpoint_url(endpoint_url)
    return before, endpoint_url or (None if account is None else _url_of(account))


def open_azure_container(
    store: AzureStore,
    authority: str,
    *,
    credentials: AzureCredentials | Callable[[], AzureCredentials] | None,
    anonymous: bool | None,
    url_prefix: str,
    storage: Storage | None,
    named: Iterable[str | None],
) -> RangeReader:
    """Opens what the objects of a container of Azure are read through.

    Args:
        store: The container's store, as the repository's configuration has it.
        authority: `CONTAINER`, or `CONTAINER@HOST`.
        credentials: Those that the user gave for the authorised prefix; None for the environment's.
        anonymous: Whether the user had requests sent unsigned; None where the user left that to the container.
        url_prefix: The container's.
        storage: The repository's.
        named: Endpoints that the user has named.

    Raises:
        UnauthorizedContainerError: the account would get what it must not.
        InvalidInputError, UnsupportedError: the options are not valid, or the extra is not installed.
    """
    container, at, host = authority.rpartition("@")
    opts = dict(store.opts or {})
    account = opts.pop("account", None)
    if at:
        account, endpoint_url = account_of_host(host)
        options = replace(options_of_config(account, opts), endpoint_url=endpoint_url)
    else:
        container = authority
        options = options_of_config(account, opts)
    if anonymous is not None:
        options = replace(options, anonymous=anonymous)
    _check(options, credentials is not None, url_prefix, [*named, *_named_elsewhere(storage)])
    given = {
        "account": options.account,
        "endpoint_url": options.endpoint_url,
        "anonymous": options.anonymous,
        "credentials": None if options.anonymous else credentials,
    }
    reader = open_azure(StoreLocation("azure", container, "", {}), given)
    assert isinstance(reader, RangeReader)
    return reader


def _check(options: AzureOptions, has_own_keys: bool, url_prefix: str, named: list[str | None]) -> None:
    endpoint_url = options.endpoint_url or (None if options.account is None else _url_of(options.account))
    if endpoint_url is None or endpoint_url.rstrip("/") in {url.rstrip("/") for url in named if url}:
        return
    if (options.anonymous or has_own_keys) and urlsplit(endpoint_url).scheme == "https":
        _log.info("the repository says that %s is at %s", url_prefix, endpoint_url)
        return
    place = f"{url_prefix}?endpoint_url={endpoint_url}"
    raise UnauthorizedContainerError(
        f"the repository says that {url_prefix} is at {endpoint_url}, an account that you did not name: nothing is sent"
        " there",
        hint=f"if you trust that account with your credentials: --allow-virtual '{place}'",
        url_prefix=url_prefix,
        endpoint_url=endpoint_url,
    )


def _named_elsewhere(storage: Storage | None) -> Iterable[str | None]:
    accounts = [os.environ.get(name) for name in _ACCOUNTS]
    yield from (os.environ.get(name) for name in _ENDPOINTS)
    if storage is not None and storage.url.startswith("az://"):
        query = dict(parse_qsl(urlsplit(storage.url).query))
        yield query.get("endpoint_url")
        accounts.append(query.get("account"))
    emulator = os.environ.get("AZURITE_BLOB_STORAGE_URL")
    for account in accounts:
        if account:
            yield _url_of(account)
            yield None if emulator is None else f"{emulator.rstrip('/')}/{account}"


def _url_of(account: str) -> str:
    return f"https://{account}.blob.core.windows.net"

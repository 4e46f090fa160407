"""The options of Azure Blob Storage: everything but the container."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

from icefs.errors import InvalidInputError, UnsupportedError
from icefs.storage.retry import RetryPolicy
from icefs.storage.settings import StoreSettings

_ACCOUNT: Final = re.compile("[a-z0-9]{3,24}(-secondary)?")
_CONTAINER: Final = re.compile(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*|\$root|\$web|\$logs")
_NAME: Final = re.compile(r"[\w.$-]*")
# What stands behind the account's name in the host of each of Microsoft's clouds.
_CLOUDS: Final = (
    "core.windows.net",
    "core.usgovcloudapi.net",
    "core.chinacloudapi.cn",
    "fabric.microsoft.com",
)


@dataclass(frozen=True, slots=True)
class AzureCredentials:
    """One way to sign requests.

    Attributes:
        account_key: A key of the account.
        sas_token: A shared access signature, with or without `?` before it.
        bearer_token: A token of Microsoft Entra.
        connection_string: As the portal shows it; may name the account and its endpoint, too.
        expires_after: When to ask for new ones (aware), if they come from a callback.
    """

    account_key: str | None = field(default=None, repr=False)
    sas_token: str | None = field(default=None, repr=False)
    bearer_token: str | None = field(default=None, repr=False)
    connection_string: str | None = field(default=None, repr=False)
    expires_after: datetime | None = None

    def __post_init__(self) -> None:
        given = (self.account_key, self.sas_token, self.bearer_token, self.connection_string)
        if sum(one is not None for one in given) != 1:
            raise InvalidInputError(
                "credentials for Azure are an account_key, a sas_token, a bearer_token or a connection_string,"
                " and one of them"
            )


@dataclass(frozen=True, slots=True)
class AzureOptions:
    """Everything about a service but the container.

    Attributes:
        account: The storage account; None for the one that the environment, or a connection string, names.
        endpoint_url: Where the account's blobs are; None for Microsoft's public cloud, or what the environment says.
        anonymous: Send requests unsigned.
        allow_http: Whether an `http://` endpoint may be used.
        credentials: One way to sign requests, or a callback that returns it; None leaves it to the environment.
        concurrency: How many connections are kept.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        retry: When to try again.
        multipart_threshold_bytes: Objects from this size on are sent in blocks.
        multipart_part_bytes: The size of the blocks.
        user_agent: Added to the User-Agent header, for the owner's access logs.
        settings: What the repository's configuration says about classes (access tiers), conditions and metadata.
        named: The names of the settings that the user has named, and that a repository's leave as they are.
    """

    account: str | None = None
    endpoint_url: str | None = None
    anonymous: bool = False
    allow_http: bool = True
    credentials: AzureCredentials | Callable[[], AzureCredentials] | None = field(default=None, repr=False)
    concurrency: int = 32
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    multipart_threshold_bytes: int = 100 << 20
    multipart_part_bytes: int = 16 << 20
    user_agent: str = ""
    settings: StoreSettings = field(default_factory=StoreSettings)
    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.account is not None:
            check_account(self.account)
        if self.endpoint_url is not None:
            check_endpoint_url(self.endpoint_url)
        if self.anonymous and self.credentials is not None:
            raise InvalidInputError("give credentials for Azure, or anonymous, and not both")

    def with_settings(self, settings: StoreSettings) -> "AzureOptions":
        """Returns options that obey the settings, but in the fields that the user has named."""
        settings = settings.without(self.named)
        changed: dict[str, Any] = {"settings": settings, "retry": self.retry.with_settings(settings)}
        for name in ("connect_timeout_s", "read_timeout_s", "multipart_threshold_bytes"):
            value = getattr(settings, name)
            if value is not None:
                changed[name] = value
        return replace(self, **changed)

    def check_endpoint(self, url: str) -> None:
        """Raises InvalidInputError if an endpoint is not encrypted, and has to be."""
        if urlsplit(url).scheme == "http" and not self.allow_http:
            raise InvalidInputError(
                f"the endpoint {url} is not encrypted", hint="set allow_http to use it all the same"
            )


_EMULATOR_URL: Final = "http://127.0.0.1:10000"
_EMULATOR_NAMES: Final = ("azure_storage_use_emulator", "object_store_use_emulator", "use_emulator")
_ENDPOINT_NAMES: Final = ("azure_storage_endpoint", "azure_endpoint", "endpoint")
_UNSIGNED_NAMES: Final = ("azure_skip_signature", "skip_signature")
_ACCOUNT_NAMES: Final = ("azure_storage_account_name", "account_name", "account")
_HTTP_NAMES: Final = ("azure_allow_http", "allow_http")


def options_of_config(
    account: str | None, config: Mapping[str, str], environment: Mapping[str, str] = os.environ
) -> AzureOptions:
    """Reads the options that the official library knows, under their names there.

    Args:
        account: The account; None for the one that the configuration names.
        config: Names and values.
        environment: Says where an emulator is (`AZURITE_BLOB_STORAGE_URL`).

    Raises:
        UnsupportedError: an option has no meaning here; its value is not repeated, for it may be a key.
    """
    endpoint_url, anonymous, is_emulated, allow_http = None, False, False, True
    for name, value in config.items():
        key, is_true = name.lower(), str(value).lower() in ("true", "1", "yes", "on")
        if key in _EMULATOR_NAMES:
            is_emulated = is_true
        elif key in _ENDPOINT_NAMES:
            endpoint_url = value
        elif key in _UNSIGNED_NAMES:
            anonymous = is_true
        elif key in _HTTP_NAMES:
            allow_http = is_true
        elif key in _ACCOUNT_NAMES:
            account = account or value
        else:
            raise UnsupportedError(
                f"icefs knows no option {name!r} of Azure",
                hint="it knows endpoint, use_emulator, skip_signature, allow_http and account_name",
            )
    if is_emulated and endpoint_url is None:
        endpoint_url = f"{environment.get('AZURITE_BLOB_STORAGE_URL', _EMULATOR_URL).rstrip('/')}/{account}"
    return AzureOptions(account, endpoint_url, anonymous, allow_http)


def check_account(account: str) -> None:
    """Raises InvalidInputError if a text is no name of a storage account: it becomes part of a host's name."""
    if _ACCOUNT.fullmatch(account) is None:
        raise InvalidInputError(
            f"{account!r} is no storage account of Azure", hint="its name has 3 to 24 letters in lower case and digits"
        )


def check_endpoint_url(url: str) -> None:
    """Raises InvalidInputError if a text is no URL of an endpoint, or holds what should be secret."""
    try:
        parts = urlsplit(url)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:
        raise InvalidInputError("the endpoint_url for Azure is no URL") from None
    if "@" in parts.netloc or parts.query:
        raise InvalidInputError(
            "the endpoint_url for Azure must not hold a password or a signature",
            hint="give the signature as sas_token, or in AZURE_STORAGE_SAS_TOKEN",
        )
    if parts.scheme not in ("http", "https") or not has_host or not url.isprintable() or " " in url:
        raise InvalidInputError("the endpoint_url does not start with http:// or https://")


def check_container(name: str) -> None:
    """Raises InvalidInputError if a text is no name of a container."""
    if _CONTAINER.fullmatch(name) is None:
        # A name with other characters may be a password or a key, which is not repeated.
        shown = repr(name) if _NAME.fullmatch(name) else "the text before the @ or the first slash"
        raise InvalidInputError(
            f"{shown} is no container of Azure",
            hint="its name has 3 to 63 letters in lower case, digits and single hyphens",
        )


def account_of_host(host: str) -> tuple[str, str | None]:
    """Returns the account, and its endpoint unless that is the usual one, of a host as `abfs://` locations name it.

    Args:
        host: As `ACCOUNT.dfs.core.windows.net`.

    Raises:
        InvalidInputError: it is no host of Azure's.
    """
    account, _, rest = host.lower().partition(".")
    service, _, cloud = rest.partition(".")
    if service not in ("dfs", "blob") or cloud not in _CLOUDS:
        raise InvalidInputError(
            f"{host!r} is no host of a storage account",
            hint="write abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PREFIX, or az://CONTAINER/PREFIX?endpoint_url=URL",
        )
    check_account(account)
    return account, None if cloud == _CLOUDS[0] else f"https://{account}.blob.{cloud}"

"""How requests to Azure are signed: what the options say, else what the environment says, else a login of Entra.

The environment's keys, signatures and tokens are those of the account that it names. Where a location names another
one, they are not sent there; a login of Entra (`az login`, a managed identity, a workload identity) is good for all.

Source: "Azure CLI configuration", environment variables; azure-identity, `DefaultAzureCredential`.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, cast
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken, TokenCredential
from azure.storage.blob import BlobServiceClient

from icefs.errors import AccessDeniedError, IcefsError, InvalidInputError
from icefs.storage.azure.options import AzureCredentials, AzureOptions, check_account, check_endpoint_url

_ACCOUNTS: Final = ("AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME")
_ENDPOINTS: Final = ("AZURE_STORAGE_ENDPOINT", "AZURE_STORAGE_SERVICE_ENDPOINT")
_CONNECTION_STRING: Final = "AZURE_STORAGE_CONNECTION_STRING"
_KEYS: Final = ("AZURE_STORAGE_KEY", "AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_ACCESS_KEY")
_SIGNATURES: Final = ("AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY")
_TOKENS: Final = ("AZURE_STORAGE_TOKEN",)

type Credential = str | dict[str, str] | TokenCredential | None
"""What the clients of azure-storage-blob take."""


@dataclass(frozen=True, slots=True)
class Signing:
    """Where an account is, and how requests to it are signed.

    Attributes:
        endpoint_url: The account's, without anything secret.
        credential: For the client.
        expires_after: When to ask for it again.
    """

    endpoint_url: str
    credential: Credential = field(repr=False)
    expires_after: datetime | None = None


class _Bearer:
    """A token that is there already, as a credential of azure-core."""

    def __init__(self, token: str) -> None:
        self._token = token

    def get_token(self, *_: str, **__: Any) -> AccessToken:
        """Returns the token, good for an hour: nothing tells for how long it is."""
        return AccessToken(self._token, int(time.time()) + 3600)


def find_signing(options: AzureOptions, environment: Mapping[str, str] = os.environ) -> Signing:
    """Finds out where the account is, and how requests are signed; asks a callback, and nothing else.

    Raises:
        InvalidInputError: no account is named; or what the environment or the callback says is not valid.
        AccessDeniedError: the callback failed.
    """
    account, endpoint_url = options.account, options.endpoint_url
    if options.anonymous:
        return Signing(_endpoint(account or _first(environment, _ACCOUNTS), endpoint_url, environment), None)
    given = ask(options.credentials) if options.credentials is not None else _of_environment(options, environment)
    expires_after = None if given is None else given.expires_after
    if given is not None and given.connection_string is not None:
        named_account, named_url, credential = _parse(given.connection_string)
        account, endpoint_url = account or named_account, endpoint_url or named_url
        if named_account is not None and account != named_account:
            raise InvalidInputError(f"the connection string is not one of the account {account}")
        return Signing(_endpoint(account, endpoint_url, environment), credential, expires_after)
    account = account or _first(environment, _ACCOUNTS)
    endpoint_url = _endpoint(account, endpoint_url, environment)
    return Signing(endpoint_url, _credential(given, account, endpoint_url), expires_after)


def ask(credentials: Any) -> AzureCredentials:
    """Returns credentials, asking the callback where they are one; see `find_signing`."""
    if isinstance(credentials, AzureCredentials):
        return credentials
    try:
        found: Any = credentials()
    except IcefsError:
        raise
    except Exception as error:
        raise AccessDeniedError(
            f"the callback that returns the credentials for Azure raised {type(error).__name__}",
            hint="its own error is the cause of this one",
        ) from error
    if not isinstance(found, AzureCredentials):
        raise InvalidInputError(f"get_credentials returned {type(found).__name__}, and not credentials for Azure")
    ends: Any = found.expires_after
    if ends is not None and (not isinstance(ends, datetime) or ends.tzinfo is None):
        raise InvalidInputError("get_credentials returned credentials with a time of expiry that has no time zone")
    if ends is not None and ends <= datetime.now(UTC):
        raise InvalidInputError(f"get_credentials returned credentials that expired already, at {ends.isoformat()}")
    return found


def _of_environment(options: AzureOptions, environment: Mapping[str, str]) -> AzureCredentials | None:
    text = environment.get(_CONNECTION_STRING)
    if text:
        named, _, _ = _parse(text)
        if options.account in (None, named) and options.endpoint_url is None:
            return AzureCredentials(connection_string=text)
    named = _first(environment, _ACCOUNTS)
    if named is not None and options.account not in (None, named):
        return None
    if key := _first(environment, _KEYS):
        return AzureCredentials(account_key=key)
    if signature := _first(environment, _SIGNATURES):
        return AzureCredentials(sas_token=signature)
    if token := _first(environment, _TOKENS):
        return AzureCredentials(bearer_token=token)
    return None


def _first(environment: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((found for found in map(environment.get, names) if found), None)


def _endpoint(account: str | None, endpoint_url: str | None, environment: Mapping[str, str]) -> str:
    named = _first(environment, _ACCOUNTS)
    if endpoint_url is None and account in (None, named):
        endpoint_url = _first(environment, _ENDPOINTS)
    if endpoint_url is not None:
        check_endpoint_url(endpoint_url)
        return endpoint_url.rstrip("/")
    if account is None:
        raise InvalidInputError(
            "no storage account of Azure is named",
            hint="add ?account=NAME to the location, or set AZURE_STORAGE_ACCOUNT",
        )
    check_account(account)
    return f"https://{account}.blob.core.windows.net"


def _credential(given: AzureCredentials | None, account: str | None, endpoint_url: str) -> Credential:
    if given is None:
        return _login(endpoint_url)
    if given.account_key is not None:
        name = account or account_in(endpoint_url)
        if name is None:
            raise InvalidInputError(
                "an account key goes with the account's name", hint="add ?account=NAME, or set AZURE_STORAGE_ACCOUNT"
            )
        return {"account_name": name, "account_key": _checked(given.account_key, "account key")}
    if given.sas_token is not None:
        return _signature(given.sas_token)
    assert given.bearer_token is not None
    _check_encrypted(endpoint_url)
    return cast("TokenCredential", _Bearer(_checked(given.bearer_token, "bearer token")))


def _signature(text: str) -> str:
    token = _checked(text, "SAS token").lstrip("?")
    if "sig=" not in token:
        raise InvalidInputError(
            "the SAS token for Azure has no signature", hint="it is the part after '?' of a URL with sv=… and sig=…"
        )
    return token


def _login(endpoint_url: str) -> TokenCredential:
    _check_encrypted(endpoint_url)
    from azure.identity import DefaultAzureCredential  # lazy: it imports msal, which takes 0.3 s

    return DefaultAzureCredential()


def _check_encrypted(endpoint_url: str) -> None:
    if urlsplit(endpoint_url).scheme != "https":
        raise InvalidInputError(
            f"a token of Microsoft Entra is not sent to {endpoint_url}, which is not encrypted",
            hint="give an account key (AZURE_STORAGE_KEY) or a SAS token, or use an https:// endpoint",
        )


def _checked(secret: str, what: str) -> str:
    if not secret.isascii() or not secret.isprintable() or not secret or " " in secret:
        raise AccessDeniedError(
            f"the {what} for Azure has characters that no request can hold",
            hint="look for a line break or a space at its end",
        )
    return secret


def account_in(endpoint_url: str) -> str | None:
    """Returns the account that an endpoint names: before the first dot of its host, or as its path (emulators)."""
    parts = urlsplit(endpoint_url)
    path = parts.path.strip("/")
    if path:
        return path if "/" not in path else None
    name, dot, _ = (parts.hostname or "").partition(".")
    return name if dot else None


def _parse(text: str) -> tuple[str | None, str, Credential]:
    """Returns the account, endpoint and credential of a connection string."""
    try:
        client = BlobServiceClient.from_connection_string(text)
    except (ValueError, KeyError, TypeError):
        raise InvalidInputError(
            "the connection string for Azure is not one", hint="copy it from 'Access keys' of the account in the portal"
        ) from None
    endpoint, _, signature = client.primary_endpoint.partition("?")
    with client:
        if signature:
            return client.account_name, endpoint.rstrip("/"), signature
        policy: Any = client.credential
        if policy is None:
            raise InvalidInputError("the connection string for Azure has neither a key nor a signature")
        key = {"account_name": str(policy.account_name), "account_key": str(policy.account_key)}
        return client.account_name, endpoint.rstrip("/"), key

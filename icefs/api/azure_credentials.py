"""Credentials for Azure Blob Storage under their official names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from icefs.errors import InvalidInputError
from icefs.storage.azure.options import AzureCredentials as StorageCredentials

__all__ = [
    "AnyAzureCredential",
    "AnyAzureStaticCredential",
    "AzureCredentials",
    "AzureRefreshableCredential",
    "AzureStaticCredentials",
    "azure_anonymous_credentials",
    "azure_credentials",
    "azure_from_env_credentials",
    "azure_refreshable_credentials",
    "azure_static_credentials",
]


class AzureStaticCredentials:
    """Credentials that stay as they are: one of the nested classes."""

    AccessKey: ClassVar[type["AccessKey"]]
    SasToken: ClassVar[type["SasToken"]]
    BearerToken: ClassVar[type["BearerToken"]]


@dataclass(frozen=True, slots=True)
class AccessKey(AzureStaticCredentials):
    """A key of the account."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class SasToken(AzureStaticCredentials):
    """A shared access signature."""

    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class BearerToken(AzureStaticCredentials):
    """A token of Microsoft Entra."""

    token: str = field(repr=False)


AzureStaticCredentials.AccessKey = AccessKey
AzureStaticCredentials.SasToken = SasToken
AzureStaticCredentials.BearerToken = BearerToken


class AzureRefreshableCredential:
    """Credentials that a function returns, good until `expires_after` (with its time zone): one of the nested classes.

    Attributes:
        expires_after: When the function is asked again; None for never.
    """

    AccessKey: ClassVar[type["RefreshableAccessKey"]]
    SasToken: ClassVar[type["RefreshableSasToken"]]
    BearerToken: ClassVar[type["RefreshableBearerToken"]]
    expires_after: datetime | None


@dataclass(frozen=True)
class RefreshableAccessKey(AzureRefreshableCredential):
    """A key of the account."""

    key: str = field(repr=False)
    expires_after: datetime | None = None


@dataclass(frozen=True)
class RefreshableSasToken(AzureRefreshableCredential):
    """A shared access signature."""

    token: str = field(repr=False)
    expires_after: datetime | None = None


@dataclass(frozen=True)
class RefreshableBearerToken(AzureRefreshableCredential):
    """A token of Microsoft Entra."""

    bearer: str = field(repr=False)
    expires_after: datetime | None = None


AzureRefreshableCredential.AccessKey = RefreshableAccessKey
AzureRefreshableCredential.SasToken = RefreshableSasToken
AzureRefreshableCredential.BearerToken = RefreshableBearerToken


class AzureCredentials:
    """Where the credentials for Azure come from: one of the nested classes."""

    FromEnv: ClassVar[type["FromEnv"]]
    Anonymous: ClassVar[type["Anonymous"]]
    Static: ClassVar[type["Static"]]
    Refreshable: ClassVar[type["Refreshable"]]


@dataclass(frozen=True, slots=True)
class FromEnv(AzureCredentials):
    """From the environment, or a login of Microsoft Entra."""


@dataclass(frozen=True, slots=True)
class Anonymous(AzureCredentials):
    """None: requests are not signed."""


@dataclass(frozen=True, slots=True)
class Static(AzureCredentials):
    """Given ones."""

    credentials: AzureStaticCredentials


@dataclass(frozen=True, slots=True)
class Refreshable(AzureCredentials):
    """From a function, which is called again when they expire; `current` holds until then."""

    get_credentials: Callable[[], AzureRefreshableCredential]
    current: AzureRefreshableCredential | None = None


AzureCredentials.FromEnv = FromEnv
AzureCredentials.Anonymous = Anonymous
AzureCredentials.Static = Static
AzureCredentials.Refreshable = Refreshable

AnyAzureStaticCredential = AccessKey | SasToken | BearerToken
AnyAzureCredential = FromEnv | Anonymous | Static | Refreshable


def azure_static_credentials(
    *, access_key: str | None = None, sas_token: str | None = None, bearer_token: str | None = None
) -> AnyAzureStaticCredential:
    """Takes the one that is given.

    Raises:
        ValueError: none is given, or more than one.
    """
    if [access_key, sas_token, bearer_token].count(None) != 2:
        raise ValueError(
            "Conflicting arguments to azure_static_credentials function: "
            "give one of access_key, sas_token and "
            "bearer_token"
        )
    if access_key is not None:
        return AccessKey(access_key)
    if sas_token is not None:
        return SasToken(sas_token)
    assert bearer_token is not None
    return BearerToken(bearer_token)


def azure_from_env_credentials() -> FromEnv:
    """Takes credentials from the environment, or a login of Microsoft Entra."""
    return FromEnv()


def azure_anonymous_credentials() -> Anonymous:
    """Sends requests unsigned."""
    return Anonymous()


def azure_refreshable_credentials(
    get_credentials: Callable[[], AzureRefreshableCredential], scatter_initial_credentials: bool = False
) -> Refreshable:
    """Takes credentials from a function, and again when they expire.

    Args:
        get_credentials: Returns credentials; picklable where the repository or a session is to be pickled.
        scatter_initial_credentials: Call it now, so that pickled copies need not at first.
    """
    return Refreshable(get_credentials, get_credentials() if scatter_initial_credentials else None)


def azure_credentials(
    *,
    access_key: str | None = None,
    sas_token: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], AzureRefreshableCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyAzureCredential:
    """Takes credentials from the one place that the arguments name; from the environment if they name none.

    Raises:
        ValueError: they name more than one.
    """
    has_keys = any(one is not None for one in (access_key, sas_token, bearer_token))
    if sum((bool(anonymous), bool(from_env), get_credentials is not None, has_keys)) > 1:
        raise ValueError(
            "Conflicting arguments to azure_credentials function: "
            "give credentials, or get_credentials, or anonymous, or from_env, and not more than one of them"
        )
    if anonymous:
        return Anonymous()
    if get_credentials is not None:
        return azure_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if not has_keys:
        return FromEnv()
    return Static(azure_static_credentials(access_key=access_key, sas_token=sas_token, bearer_token=bearer_token))


def stored(credential: object) -> StorageCredentials:
    """Turns credentials into those of the storage.

    Raises:
        InvalidInputError: they are of another kind.
    """
    match credential:
        case AccessKey(key):
            return StorageCredentials(account_key=key)
        case SasToken(token):
            return StorageCredentials(sas_token=token)
        case BearerToken(token):
            return StorageCredentials(bearer_token=token)
        case RefreshableAccessKey(key, expires_after=ends):
            return StorageCredentials(account_key=key, expires_after=ends)
        case RefreshableSasToken(token, expires_after=ends):
            return StorageCredentials(sas_token=token, expires_after=ends)
        case RefreshableBearerToken(token, expires_after=ends):
            return StorageCredentials(bearer_token=token, expires_after=ends)
    raise InvalidInputError(
        f"{type(credential).__name__} is no credential for Azure",
        hint="use azure_static_credentials(…), or return an AzureRefreshableCredential from get_credentials",
    )


class _Refresh:
    """A callback of a storage: hands the credentials out that are there already, and then asks for new ones."""

    def __init__(
        self, get_credentials: Callable[[], AzureRefreshableCredential], current: AzureRefreshableCredential | None
    ) -> None:
        self._get_credentials = get_credentials
        self._current = current

    def __call__(self) -> StorageCredentials:
        current, self._current = self._current, None
        if current is not None:
            found = stored(current)
            if found.expires_after is None or found.expires_after > datetime.now(UTC):
                return found
        return stored(self._get_credentials())

    def __reduce__(self) -> tuple[Any, ...]:
        return _Refresh, (self._get_credentials, self._current)


def azure_storage_credentials(
    credential: AzureCredentials,
) -> StorageCredentials | Callable[[], StorageCredentials] | None:
    """Turns credentials into those of the storage; None for those of the environment and for none at all."""
    match credential:
        case Static(credentials):
            return stored(credentials)
        case Refreshable(get_credentials, current):
            return _Refresh(get_credentials, current)
    return None

"""Credentials for Google Cloud Storage under their official names."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar

from icefs.errors import InvalidInputError
from icefs.storage.gcs.options import GcsCredentials as StorageCredentials
from icefs.storage.gcs.options import GcsKey, GcsKeyFile, GcsToken

__all__ = [
    "AnyGcsCredential",
    "AnyGcsStaticCredential",
    "GcsBearerCredential",
    "GcsCredentials",
    "GcsStaticCredentials",
    "gcs_anonymous_credentials",
    "gcs_credentials",
    "gcs_from_env_credentials",
    "gcs_refreshable_credentials",
    "gcs_static_credentials",
]


@dataclass(frozen=True)
class GcsBearerCredential:
    """A token that a function returns, good until `expires_after` (with its time zone); None for ever."""

    bearer: str = field(repr=False)
    expires_after: datetime | None = field(default=None, kw_only=True)


class GcsStaticCredentials:
    """Credentials that stay as they are: one of the nested classes."""

    ServiceAccount: ClassVar[type["ServiceAccount"]]
    ServiceAccountKey: ClassVar[type["ServiceAccountKey"]]
    ApplicationCredentials: ClassVar[type["ApplicationCredentials"]]
    BearerToken: ClassVar[type["BearerToken"]]


@dataclass(frozen=True, slots=True)
class ServiceAccount(GcsStaticCredentials):
    """The file of a service account."""

    path: str


@dataclass(frozen=True, slots=True)
class ServiceAccountKey(GcsStaticCredentials):
    """The JSON of a service account."""

    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ApplicationCredentials(GcsStaticCredentials):
    """A file with application credentials."""

    path: str


@dataclass(frozen=True, slots=True)
class BearerToken(GcsStaticCredentials):
    """A token."""

    token: str = field(repr=False)


GcsStaticCredentials.ServiceAccount = ServiceAccount
GcsStaticCredentials.ServiceAccountKey = ServiceAccountKey
GcsStaticCredentials.ApplicationCredentials = ApplicationCredentials
GcsStaticCredentials.BearerToken = BearerToken


class GcsCredentials:
    """Where the credentials for Google Cloud Storage come from: one of the nested classes."""

    FromEnv: ClassVar[type["FromEnv"]]
    Anonymous: ClassVar[type["Anonymous"]]
    Static: ClassVar[type["Static"]]
    Refreshable: ClassVar[type["Refreshable"]]


@dataclass(frozen=True, slots=True)
class FromEnv(GcsCredentials):
    """Application Default Credentials."""


@dataclass(frozen=True, slots=True)
class Anonymous(GcsCredentials):
    """None: requests bear no token."""


@dataclass(frozen=True, slots=True)
class Static(GcsCredentials):
    """Given ones."""

    credentials: GcsStaticCredentials


@dataclass(frozen=True, slots=True)
class Refreshable(GcsCredentials):
    """From a function, which is called again when they expire; `current` holds until then."""

    get_credentials: Callable[[], GcsBearerCredential]
    current: GcsBearerCredential | None = None


GcsCredentials.FromEnv = FromEnv
GcsCredentials.Anonymous = Anonymous
GcsCredentials.Static = Static
GcsCredentials.Refreshable = Refreshable

AnyGcsStaticCredential = ServiceAccount | ServiceAccountKey | ApplicationCredentials | BearerToken
AnyGcsCredential = Anonymous | FromEnv | Static | Refreshable


def gcs_static_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
) -> AnyGcsStaticCredential:
    """Takes the one that is given.

    Raises:
        ValueError: none is given, or more than one.
    """
    given = (service_account_file, service_account_key, application_credentials, bearer_token)
    if given.count(None) != len(given) - 1:
        raise ValueError(
            "Conflicting arguments to gcs_static_credentials function: "
            "give one of service_account_file, service_account_key, application_credentials and bearer_token"
        )
    if service_account_file is not None:
        return ServiceAccount(service_account_file)
    if service_account_key is not None:
        return ServiceAccountKey(service_account_key)
    if application_credentials is not None:
        return ApplicationCredentials(application_credentials)
    assert bearer_token is not None
    return BearerToken(bearer_token)


def gcs_from_env_credentials() -> FromEnv:
    """Takes Application Default Credentials."""
    return FromEnv()


def gcs_anonymous_credentials() -> Anonymous:
    """Sends requests without a token."""
    return Anonymous()


def gcs_refreshable_credentials(
    get_credentials: Callable[[], GcsBearerCredential], scatter_initial_credentials: bool = False
) -> Refreshable:
    """Takes tokens from a function, and again when they expire.

    Args:
        get_credentials: Returns a token; picklable where the repository or a session is to be pickled.
        scatter_initial_credentials: Call it now, so that pickled copies need not at first.
    """
    return Refreshable(get_credentials, get_credentials() if scatter_initial_credentials else None)


def gcs_credentials(
    *,
    service_account_file: str | None = None,
    service_account_key: str | None = None,
    application_credentials: str | None = None,
    bearer_token: str | None = None,
    from_env: bool | None = None,
    anonymous: bool | None = None,
    get_credentials: Callable[[], GcsBearerCredential] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyGcsCredential:
    """Takes credentials from the one place that the arguments name; from the environment if they name none.

    Raises:
        ValueError: they name more than one.
    """
    keys = (service_account_file, service_account_key, application_credentials, bearer_token)
    has_keys = any(key is not None for key in keys)
    if sum((bool(anonymous), bool(from_env), get_credentials is not None, has_keys)) > 1:
        raise ValueError(
            "Conflicting arguments to gcs_credentials function: "
            "give credentials, or get_credentials, or anonymous, or from_env, and not more than one of them"
        )
    if anonymous:
        return Anonymous()
    if get_credentials is not None:
        return gcs_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if not has_keys:
        return FromEnv()
    return Static(
        gcs_static_credentials(
            service_account_file=service_account_file,
            service_account_key=service_account_key,
            application_credentials=application_credentials,
            bearer_token=bearer_token,
        )
    )


def _token(credential: object) -> GcsToken:
    if not isinstance(credential, GcsBearerCredential):
        raise InvalidInputError(
            f"get_credentials returned {type(credential).__name__}", hint="let it return a GcsBearerCredential"
        )
    ends = credential.expires_after
    if ends is not None and ends.tzinfo is None:
        raise InvalidInputError(
            "get_credentials returned a token with a time of expiry that has no time zone",
            hint="give expires_after one: datetime.now(UTC) + timedelta(hours=1)",
        )
    return GcsToken(credential.bearer, ends)


class _Refresh:
    """A callback of a storage: hands the token out that is there already, and then asks for new ones."""

    def __init__(self, get_credentials: Callable[[], GcsBearerCredential], current: GcsBearerCredential | None) -> None:
        self._get_credentials = get_credentials
        self._current = current

    def __call__(self) -> GcsToken:
        current, self._current = self._current, None
        if current is not None:
            found = _token(current)
            if found.expires_after is None or found.expires_after > datetime.now(UTC):
                return found
        return _token(self._get_credentials())

    def __reduce__(self) -> tuple[Any, ...]:
        return _Refresh, (self._get_credentials, self._current)


def gcs_storage_credentials(credential: GcsCredentials) -> StorageCredentials | None:
    """Turns credentials into those of the storage; None for those of the environment and for none at all.

    Raises:
        InvalidInputError: they are of another kind.
    """
    match credential:
        case Static(ServiceAccount(path) | ApplicationCredentials(path)):
            return GcsKeyFile(path)
        case Static(ServiceAccountKey(key)):
            return GcsKey(key)
        case Static(BearerToken(token)):
            return GcsToken(token)
        case Static(credentials):
            raise InvalidInputError(
                f"{type(credentials).__name__} is no credential for Google Cloud Storage",
                hint="use gcs_static_credentials(…)",
            )
        case Refreshable(get_credentials, current):
            return _Refresh(get_credentials, current)
    return None

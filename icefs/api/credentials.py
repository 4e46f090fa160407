"""Credentials under their official names.

icefs reaches S3 and services with its protocol, Azure Blob Storage, Google Cloud Storage, web servers and local
files. `containers_credentials` says which virtual chunk containers may be followed, and with which credentials; for
local files and web servers that is a permission alone.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar

from icefs.api.azure_credentials import Anonymous as AzureAnonymous
from icefs.api.azure_credentials import AzureCredentials, azure_storage_credentials
from icefs.api.gcs_credentials import Anonymous as GcsAnonymous
from icefs.api.gcs_credentials import GcsCredentials, gcs_storage_credentials
from icefs.engine.read.virtual import Authorizations, ContainerCredentials
from icefs.errors import InvalidInputError
from icefs.storage.s3.options import S3Credentials as StorageCredentials

__all__ = [
    "AnyCredential",
    "AnyS3Credential",
    "Credentials",
    "HttpAccess",
    "LocalFileSystemAccess",
    "S3Credentials",
    "S3StaticCredentials",
    "containers_credentials",
    "s3_anonymous_credentials",
    "s3_credentials",
    "s3_from_env_credentials",
    "s3_refreshable_credentials",
    "s3_static_credentials",
]


class CredentialTypeError(InvalidInputError, TypeError):
    """A value is no credential; a `TypeError`, too, which is what the official library raises."""

    default_kind = "invalid-credentials"


@dataclass(frozen=True, slots=True)
class S3StaticCredentials:
    """Keys for S3; `expires_after` (with its time zone) says when a callback is asked for new ones."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_after: datetime | None = None


class S3Credentials:
    """Where the keys for S3 come from: one of the nested classes."""

    FromEnv: ClassVar[type["FromEnv"]]
    Anonymous: ClassVar[type["Anonymous"]]
    Static: ClassVar[type["Static"]]
    Refreshable: ClassVar[type["Refreshable"]]


@dataclass(frozen=True, slots=True)
class FromEnv(S3Credentials):
    """From the environment and the AWS configuration files."""


@dataclass(frozen=True, slots=True)
class Anonymous(S3Credentials):
    """No keys: requests are not signed."""


@dataclass(frozen=True, slots=True)
class Static(S3Credentials):
    """Given ones."""

    credentials: S3StaticCredentials


@dataclass(frozen=True, slots=True)
class Refreshable(S3Credentials):
    """From a function, which is called again when they expire; `current` holds until then."""

    get_credentials: Callable[[], S3StaticCredentials]
    current: S3StaticCredentials | None = None


S3Credentials.FromEnv = FromEnv
S3Credentials.Anonymous = Anonymous
S3Credentials.Static = Static
S3Credentials.Refreshable = Refreshable

type AnyS3Credential = FromEnv | Anonymous | Static | Refreshable


class Credentials:
    """Credentials of a virtual chunk container: one of the nested classes."""

    S3: ClassVar[type["S3"]]
    Azure: ClassVar[type["Azure"]]
    Gcs: ClassVar[type["Gcs"]]
    LocalFileSystemAccess: ClassVar[type["_LocalFileSystemAccess"]]
    HttpAccess: ClassVar[type["_HttpAccess"]]


@dataclass(frozen=True, slots=True)
class S3(Credentials):
    """Credentials for S3."""

    credentials: AnyS3Credential


@dataclass(frozen=True, slots=True)
class Azure(Credentials):
    """Credentials for Azure Blob Storage."""

    credentials: AzureCredentials


@dataclass(frozen=True, slots=True)
class Gcs(Credentials):
    """Credentials for Google Cloud Storage."""

    credentials: GcsCredentials


@dataclass(frozen=True, slots=True)
class _LocalFileSystemAccess(Credentials):
    """Permission to read local files."""


@dataclass(frozen=True, slots=True)
class _HttpAccess(Credentials):
    """Permission to read from a web server."""


Credentials.S3 = S3
Credentials.Azure = Azure
Credentials.Gcs = Gcs
Credentials.LocalFileSystemAccess = _LocalFileSystemAccess
Credentials.HttpAccess = _HttpAccess

LocalFileSystemAccess = _LocalFileSystemAccess()
HttpAccess = _HttpAccess()

type AnyCredential = S3 | Azure | Gcs | _LocalFileSystemAccess | _HttpAccess


def s3_from_env_credentials() -> FromEnv:
    """Takes keys from the environment and the AWS configuration files."""
    return FromEnv()


def s3_anonymous_credentials() -> Anonymous:
    """Sends requests unsigned."""
    return Anonymous()


def s3_static_credentials(
    *,
    access_key_id: str,
    secret_access_key: str,
    session_token: str | None = None,
    expires_after: datetime | None = None,
) -> Static:
    """Takes given keys."""
    return Static(S3StaticCredentials(access_key_id, secret_access_key, session_token, expires_after))


def s3_refreshable_credentials(
    get_credentials: Callable[[], S3StaticCredentials], scatter_initial_credentials: bool = False
) -> Refreshable:
    """Takes keys from a function, and again when they expire.

    Args:
        get_credentials: Returns keys; picklable where the repository or a session is to be pickled.
        scatter_initial_credentials: Call it now, so that pickled copies need not at first.
    """
    return Refreshable(get_credentials, get_credentials() if scatter_initial_credentials else None)


def s3_credentials(
    *,
    access_key_id: str | None = None,
    secret_access_key: str | None = None,
    session_token: str | None = None,
    expires_after: datetime | None = None,
    anonymous: bool | None = None,
    from_env: bool | None = None,
    get_credentials: Callable[[], S3StaticCredentials] | None = None,
    scatter_initial_credentials: bool = False,
) -> AnyS3Credential:
    """Takes keys from the one place that the arguments name; from the environment if they name none.

    Raises:
        ValueError: they name more than one, or half a pair of keys.
    """
    keys = (access_key_id, secret_access_key, session_token, expires_after)
    has_keys = any(key is not None for key in keys)
    if sum((bool(anonymous), bool(from_env), get_credentials is not None, has_keys)) > 1:
        raise ValueError(
            "Conflicting arguments to s3_credentials function: "
            "give keys, or get_credentials, or anonymous, or from_env, and not more than one of them"
        )
    if anonymous:
        return Anonymous()
    if get_credentials is not None:
        return s3_refreshable_credentials(get_credentials, scatter_initial_credentials)
    if not has_keys:
        return FromEnv()
    if access_key_id is None or secret_access_key is None:
        raise ValueError(
            "Conflicting arguments to s3_credentials function: access_key_id and secret_access_key go together"
        )
    return Static(S3StaticCredentials(access_key_id, secret_access_key, session_token, expires_after))


def containers_credentials(
    m: Mapping[str, AnyS3Credential | AzureCredentials | GcsCredentials | AnyCredential | None],
) -> dict[str, AnyCredential | None]:
    """Says which virtual chunk containers may be followed, and with which credentials.

    Args:
        m: The URL prefixes of the containers. None stands for the environment's credentials.

    Raises:
        ValueError: a value is of another kind.
    """
    found: dict[str, AnyCredential | None] = {}
    for prefix, credential in m.items():
        known = Credentials | S3Credentials | AzureCredentials | GcsCredentials
        if credential is not None and not isinstance(credential, known):
            raise ValueError(f"Unknown credential type {type(credential)}: that is no credential for {prefix}")
        if isinstance(credential, S3Credentials):
            found[prefix] = S3(credential)
        elif isinstance(credential, AzureCredentials):
            found[prefix] = Azure(credential)
        elif isinstance(credential, GcsCredentials):
            found[prefix] = Gcs(credential)
        else:
            found[prefix] = credential
    return found


def _stored(credentials: S3StaticCredentials) -> StorageCredentials:
    _check(credentials)
    return StorageCredentials(
        credentials.access_key_id, credentials.secret_access_key, credentials.session_token, credentials.expires_after
    )


def _check(credentials: object) -> None:
    """Raises InvalidInputError if a user's `get_credentials` returned something else."""
    if not isinstance(credentials, S3StaticCredentials):
        raise InvalidInputError(
            f"get_credentials returned {type(credentials).__name__}", hint="let it return S3StaticCredentials"
        )
    ends: Any = credentials.expires_after
    if ends is not None and (not isinstance(ends, datetime) or ends.tzinfo is None):
        raise InvalidInputError(
            "get_credentials returned keys with a time of expiry that has no time zone",
            hint="give expires_after one: datetime.now(UTC) + timedelta(hours=1)",
        )


class _Refresh:
    """A callback of a storage: hands the current keys out first, then asks for new ones.

    A pickled copy begins with the newest keys, if the original was given any to begin with, and so need not ask.
    """

    def __init__(self, get_credentials: Callable[[], S3StaticCredentials], current: S3StaticCredentials | None) -> None:
        self._get_credentials = get_credentials
        self._current = current
        self._is_used = current is None

    def __call__(self) -> StorageCredentials:
        if not callable(self._get_credentials):
            raise InvalidInputError(
                f"'{type(self._get_credentials).__name__}' object is not callable",
                hint="get_credentials is a function that returns S3StaticCredentials",
                kind="invalid-credentials",
            )
        if self._current is not None:
            _check(self._current)
        if self._is_used or self._current is None or _is_expired(self._current):
            fresh = self._get_credentials()
            if self._current is not None:
                self._current = fresh
            return _stored(fresh)
        self._is_used = True
        return _stored(self._current)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Refresh, (self._get_credentials, self._current)


def _is_expired(credentials: S3StaticCredentials) -> bool:
    ends = credentials.expires_after
    return ends is not None and ends <= datetime.now(ends.tzinfo)


def storage_credentials(
    credential: AnyS3Credential,
) -> StorageCredentials | Callable[[], StorageCredentials] | None:
    """Turns credentials into those of S3 storage; None for those of the environment and for none at all."""
    match credential:
        case Static(credentials):
            return _stored(credentials)
        case Refreshable(get_credentials, current):
            return _Refresh(get_credentials, current)
    return None


def authorizations(m: Mapping[str, AnyCredential | None] | None) -> Authorizations | None:
    """Turns the result of `containers_credentials` into the engine's authorisations.

    Raises:
        InvalidInputError: a value is of another kind.
    """
    if m is None:
        return None
    found: dict[str, ContainerCredentials | None] = {}
    for prefix, credential in m.items():
        if isinstance(credential, S3):
            is_anonymous = True if isinstance(credential.credentials, Anonymous) else None
            found[prefix] = ContainerCredentials(storage_credentials(credential.credentials), is_anonymous)
        elif isinstance(credential, Gcs):
            is_anonymous = True if isinstance(credential.credentials, GcsAnonymous) else None
            found[prefix] = ContainerCredentials(
                gcs=gcs_storage_credentials(credential.credentials), anonymous=is_anonymous
            )
        elif isinstance(credential, Azure):
            is_anonymous = True if isinstance(credential.credentials, AzureAnonymous) else None
            found[prefix] = ContainerCredentials(
                azure=azure_storage_credentials(credential.credentials), anonymous=is_anonymous
            )
        elif credential is None or isinstance(credential, Credentials):
            if credential is None:
                warnings.warn(
                    f"None as the credential for {prefix} in authorize_virtual_chunk_access is deprecated: name one, "
                    "such as s3_from_env_credentials(), credentials.LocalFileSystemAccess or HttpAccess",
                    DeprecationWarning,
                    stacklevel=4,
                )
            found[prefix] = None
        else:
            raise CredentialTypeError(
                f"'{type(credential).__name__}' object, for {prefix}, is not an instance of 'Credentials'",
                hint="use s3_, azure_ or gcs_credentials(…), LocalFileSystemAccess or HttpAccess",
            )
    return found

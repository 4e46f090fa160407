"""How to reach an S3 service, and what its errors mean.

botocore does credentials and endpoints, and sends what is rarely asked (`s3_requests` sends the rest); its own
retries are off, for `retry` knows better what may be repeated. botocore is used directly: boto3 on top of it would
add 0.15 s to every start and nothing that is needed.
"""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import botocore
import botocore.session
from botocore import exceptions as boto_errors
from botocore.config import Config
from botocore.credentials import CredentialProvider, Credentials, RefreshableCredentials
from botocore.loaders import create_loader
from botocore.parsers import ResponseParserError

from icefs.errors import (
    AccessDeniedError,
    IcefsError,
    InvalidInputError,
    NoSpaceError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnreachableError,
)
from icefs.storage.retry import RetryPolicy

type S3Client = Any
"""A botocore client; its methods come into being at run time."""

CLIENT_ERRORS: Final = (boto_errors.ClientError, boto_errors.BotoCoreError, ResponseParserError)
"""What an S3 client raises when a request fails."""

_RENEWAL_PAUSE_S = 60.0
# Keeps the service's description once it is read: the first client takes 80 ms, each further one 9 ms.
_LOADER = create_loader()


@dataclass(frozen=True, slots=True)
class S3Credentials:
    """Keys for S3; `expires_after` (aware) says when to ask for new ones, if they come from a callback."""

    access_key_id: str = field(repr=False)
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    expires_after: datetime | None = None


@dataclass(frozen=True, slots=True)
class S3Options:
    """Everything about a service but the bucket.

    Attributes:
        endpoint_url: Where the service is; None for AWS, or what the AWS environment says.
        region: None for what the AWS environment says, else `us-east-1`.
        profile: A profile of the AWS configuration files.
        anonymous: Send requests unsigned.
        force_path_style: Put the bucket into the path. None does so for every service but AWS.
        allow_http: Whether an `http://` endpoint may be used.
        requester_pays: Agree to pay for reading.
        credentials: Keys, or a callback that returns them; None leaves it to the AWS environment.
        concurrency: How many connections are kept.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        retry: When to try again.
        multipart_threshold_bytes: Objects from this size on are sent in parts.
        multipart_part_bytes: The size of the parts.
        user_agent: Added to the User-Agent header, for the owner's access logs.
    """

    endpoint_url: str | None = None
    region: str | None = None
    profile: str | None = None
    anonymous: bool = False
    force_path_style: bool | None = None
    allow_http: bool = True
    requester_pays: bool = False
    credentials: S3Credentials | Callable[[], S3Credentials] | None = field(default=None, repr=False)
    concurrency: int = 32
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    multipart_threshold_bytes: int = 100 << 20
    multipart_part_bytes: int = 16 << 20
    user_agent: str = ""

    def __post_init__(self) -> None:
        if self.endpoint_url is None:
            return
        parts = urlsplit(self.endpoint_url)
        if parts.username is not None or parts.password is not None:
            raise InvalidInputError("the endpoint_url must not hold a user name or password")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInputError(f"the endpoint_url {self.endpoint_url!r} does not start with http:// or https://")


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """A client, and what it was made from.

    Attributes:
        client: botocore's client.
        credentials: Where its keys come from, refreshed when they are about to expire; None if there are none.
        is_anonymous: Whether requests go unsigned.
        ca_bundle: The file with the authorities to trust, if the AWS configuration names one.
    """

    client: S3Client
    credentials: Any
    is_anonymous: bool
    ca_bundle: str | None

    def frozen_credentials(self) -> Any:
        """Returns the keys as they are now (`access_key`, `secret_key`, `token`).

        Raises:
            BotoCoreError: there are none, or they could not be refreshed.
        """
        if self.credentials is None:
            raise boto_errors.NoCredentialsError
        return self.credentials.get_frozen_credentials()


class ClientHolder:
    """Makes a client when it is first needed, and another one when credentials expired on the disk.

    One client serves all threads. `_lock` protects the fields; clients are made under it, which asks no network
    but what finding credentials takes.
    """

    def __init__(self, options: S3Options, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._renewed_at = float("-inf")

    def get(self) -> S3Client:
        """Returns the client; raises as `connection`."""
        return self.connection().client

    def connection(self) -> Connection:
        """Returns the client with what it was made from.

        Raises:
            InvalidInputError: the options, or the AWS configuration, are not valid.
            AccessDeniedError: there are no credentials.
        """
        connection = self._connection
        if connection is None:
            with self._lock:
                connection = self._connection
                if connection is None:
                    connection = self._connection = connect(self._options)
        return connection

    def is_current(self, connection: Connection) -> bool:
        """Tells whether a connection is the one that `connection` would return; never waits."""
        return self._connection is connection

    def renew(self, stale: S3Client) -> bool:
        """Makes the next `get` read the AWS configuration again; tells whether another try makes sense."""
        if self._options.credentials is not None or self._options.anonymous:
            return False
        with self._lock:
            if self._connection is None or self._connection.client is not stale:
                return True
            now = self._monotonic()
            if now - self._renewed_at < _RENEWAL_PAUSE_S:
                return False
            self._renewed_at = now
            self._connection = None
            return True

    def move(self, stale: S3Client, region: str) -> bool:
        """Makes the next `get` talk to another region; tells whether that is news."""
        with self._lock:
            if self._connection is None or self._connection.client is not stale:
                return True
            if self._options.region == region:
                return False
            self._options = replace(self._options, region=region)
            self._connection = None
            return True

    def close(self) -> None:
        """Closes the client's connections."""
        with self._lock:
            if self._connection is not None:
                self._connection.client.close()


def make_client(options: S3Options) -> S3Client:
    """Makes an S3 client; raises as `connect`."""
    return connect(options).client


def connect(options: S3Options) -> Connection:
    """Makes an S3 client; sends nothing but what finding credentials takes.

    Raises:
        InvalidInputError: the options, or the AWS configuration, are not valid.
        AccessDeniedError: the credentials could not be had.
    """
    try:
        session = botocore.session.Session(profile=options.profile)
        session.register_component("data_loader", _LOADER)
        if callable(options.credentials):
            session.get_component("credential_provider").providers.insert(0, _CallbackProvider(options.credentials))
        client = _create(session, options, path_style=options.force_path_style or options.endpoint_url is not None)
        endpoint = urlsplit(client.meta.endpoint_url)
        if endpoint.scheme == "http" and not options.allow_http:
            raise InvalidInputError(
                f"the endpoint {client.meta.endpoint_url} is not encrypted",
                hint="set allow_http to use it all the same",
            )
        if options.endpoint_url is None and options.force_path_style is None and not _is_aws(endpoint.hostname or ""):
            # The environment names a service of its own (AWS_ENDPOINT_URL).
            client = _create(session, options, path_style=True)
        credentials = None if options.anonymous else _credentials(session, options)
        ca_bundle = session.get_config_variable("ca_bundle")
    except (*CLIENT_ERRORS, ValueError) as error:
        if isinstance(error, IcefsError):
            raise
        raise _configuration_error(error) from error
    return Connection(client, credentials, options.anonymous, ca_bundle)


def _credentials(session: botocore.session.Session, options: S3Options) -> Any:
    if isinstance(options.credentials, S3Credentials):
        keys = options.credentials
        return Credentials(keys.access_key_id, keys.secret_access_key, keys.session_token)
    return session.get_credentials()


def _is_aws(host: str) -> bool:
    return host.endswith((".amazonaws.com", ".amazonaws.com.cn"))


def _create(session: botocore.session.Session, options: S3Options, *, path_style: bool) -> S3Client:
    style: Any = "virtual" if options.force_path_style is False else "path" if path_style else "auto"
    config = Config(
        signature_version=botocore.UNSIGNED if options.anonymous else None,
        connect_timeout=options.connect_timeout_s,
        read_timeout=options.read_timeout_s,
        # One more connection than threads use, so that none is thrown away when they change hands.
        max_pool_connections=options.concurrency + 1,
        retries={"total_max_attempts": 1, "mode": "standard"},
        s3={"addressing_style": style},
        # What AWS began to add to every request in 2025 is refused by many other services.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        tcp_keepalive=True,
        user_agent_extra=f"icefs {options.user_agent}".rstrip(),
    )
    region = options.region or session.get_config_variable("region")
    keys: dict[str, Any] = {}
    if isinstance(options.credentials, S3Credentials):
        keys = {
            "aws_access_key_id": options.credentials.access_key_id,
            "aws_secret_access_key": options.credentials.secret_access_key,
            "aws_session_token": options.credentials.session_token,
        }
    return session.create_client(
        "s3", endpoint_url=options.endpoint_url, region_name=region or "us-east-1", config=config, **keys
    )


class _CallbackProvider(CredentialProvider):
    """Lets botocore ask a callback for keys, and again shortly before they expire."""

    METHOD: str | None = "icefs-callback"

    def __init__(self, callback: Callable[[], S3Credentials]) -> None:
        super().__init__()
        self._callback = callback

    def load(self) -> RefreshableCredentials:
        return RefreshableCredentials.create_from_metadata(
            self._ask(), refresh_using=self._ask, method=self.METHOD, advisory_timeout=60, mandatory_timeout=10
        )

    def _ask(self) -> dict[str, Any]:
        keys = self._callback()
        # Without an expiry they are good for as long as the process lives.
        expiry = keys.expires_after or datetime.now(UTC) + timedelta(days=3650)
        return {
            "access_key": keys.access_key_id,
            "secret_key": keys.secret_access_key,
            "token": keys.session_token,
            "expiry_time": expiry.isoformat(),
        }


_NO_CREDENTIALS_HINT = (
    "give credentials in the AWS environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws/credentials), or anonymous=true"
)
_NO_CREDENTIALS = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
    boto_errors.RefreshWithMFAUnsupportedError,
    boto_errors.MetadataRetrievalError,
)


def _configuration_error(error: Exception) -> IcefsError:
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDeniedError("there are no credentials for S3", hint=_NO_CREDENTIALS_HINT)
    return InvalidInputError(f"the options for S3, or the AWS configuration, are not valid: {error}")


_ERRORS: dict[str, tuple[type[StorageError], str | None]] = {
    "NoSuchKey": (ObjectNotFoundError, None),
    "NotFound": (ObjectNotFoundError, None),
    "404": (ObjectNotFoundError, None),
    "NoSuchBucket": (StorageError, "the bucket does not exist: check its name, the endpoint and the region"),
    "PreconditionFailed": (PreconditionFailedError, None),
    "ConditionalRequestConflict": (PreconditionFailedError, None),
    "ConcurrentModification": (PreconditionFailedError, None),
    "412": (PreconditionFailedError, None),
    "409": (PreconditionFailedError, None),
    "InvalidAccessKeyId": (AccessDeniedError, "the service does not know the access key"),
    "SignatureDoesNotMatch": (AccessDeniedError, "the secret key does not fit the access key"),
    "ExpiredToken": (AccessDeniedError, "the session token has expired: get a new one"),
    "ExpiredTokenException": (AccessDeniedError, "the session token has expired: get a new one"),
    "TokenRefreshRequired": (AccessDeniedError, "the session token has expired: get a new one"),
    "InvalidToken": (AccessDeniedError, "the session token is not valid"),
    "RequestTimeTooSkewed": (AccessDeniedError, "this machine's clock is wrong"),
    "RequestExpired": (AccessDeniedError, "this machine's clock is wrong"),
    "AuthorizationHeaderMalformed": (AccessDeniedError, "the region is probably another one: set region"),
    "AccessDenied": (AccessDeniedError, "the credentials do not allow this"),
    "PermanentRedirect": (StorageError, "the bucket is in another region, or at another endpoint: set region"),
    "NotImplemented": (StorageError, "this object store lacks something that icefs needs"),
    "RequestTimeout": (UnreachableError, None),
    "QuotaExceeded": (NoSpaceError, None),
    "XMinioStorageFull": (NoSpaceError, None),
    "InsufficientStorage": (NoSpaceError, None),
}
SKEWED: Final = ("RequestTimeTooSkewed", "RequestExpired")
"""The error codes of requests that were signed at another time than the service's."""
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken")
_THROTTLED = (
    "SlowDown",
    "SlowDownRead",
    "SlowDownWrite",
    "Throttling",
    "ThrottlingException",
    "RequestLimitExceeded",
    "TooManyRequests",
    "TooManyRequestsException",
    "BandwidthLimitExceeded",
    "ServiceUnavailable",
    "RequestThrottled",
)
_STATUSES: dict[int, type[StorageError]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: ObjectNotFoundError,
    408: UnreachableError,
    409: PreconditionFailedError,
    412: PreconditionFailedError,
    429: ThrottledError,
    500: UnreachableError,
    502: UnreachableError,
    503: ThrottledError,
    504: UnreachableError,
    507: NoSpaceError,
}


def is_passing(code: str) -> bool:
    """Tells whether an error code of one key in a bulk request is worth another try."""
    return code in _THROTTLED or code in ("InternalError", "RequestTimeout")


def region_told(error: boto_errors.ClientError) -> str | None:
    """Returns the region that a bucket is in, where a service says that it is another than the one that was asked."""
    response: Mapping[str, Any] = error.response
    region = response.get("Error", {}).get("Region")
    return region if isinstance(region, str) and region else None


def s3_error(error: Exception, *, action: str, endpoint: str) -> IcefsError:
    """Translates what an S3 client raised; never repeats what it says about credentials.

    Args:
        error: One of `CLIENT_ERRORS`.
        action: What was tried, as "read s3://bucket/key".
        endpoint: Where.
    """
    if isinstance(error, boto_errors.ClientError):
        return _answer_error(error.response, action=action, endpoint=endpoint)
    if isinstance(error, _NO_CREDENTIALS):
        return AccessDeniedError(f"cannot {action}: there are no credentials", hint=_NO_CREDENTIALS_HINT)
    if isinstance(error, boto_errors.ParamValidationError):
        return InvalidInputError(f"cannot {action}: the bucket or key is not one that S3 allows")
    if isinstance(error, boto_errors.SSLError):
        failure = UnreachableError(
            f"cannot {action}: no trusted connection to {endpoint}",
            hint="check the certificate (AWS_CA_BUNDLE), or use an http:// endpoint",
        )
        failure.is_transient = False
        return failure
    never_connected = isinstance(
        error,
        (boto_errors.EndpointConnectionError, boto_errors.ConnectTimeoutError, boto_errors.ProxyConnectionError),
    )
    what = "cannot be reached" if never_connected else f"broke off its answer ({type(error).__name__})"
    return UnreachableError(
        f"cannot {action}: {endpoint} {what}",
        hint="check the endpoint_url and the network, and whether the service is up" if never_connected else None,
        never_connected=never_connected,
        cause=type(error).__name__,
    )


def _answer_error(response: Mapping[str, Any], *, action: str, endpoint: str) -> StorageError:
    metadata = response.get("ResponseMetadata", {})
    status = int(metadata.get("HTTPStatusCode", 0))
    code = str(response.get("Error", {}).get("Code", status))
    cls, hint = _ERRORS.get(code, (_STATUSES.get(status, StorageError), None))
    if code in _THROTTLED:
        cls = ThrottledError
    facts: dict[str, Any] = {"code": code, "status": status, "endpoint": endpoint}
    if code in _EXPIRED:
        facts["expired"] = True
    if issubclass(cls, AccessDeniedError) and hint is None:
        hint = "check the credentials and what they allow"
    asked = metadata.get("HTTPHeaders", {}).get("retry-after", "")
    if asked.isdecimal():
        facts["retry_after_s"] = float(asked)
    answer = code if code == str(status) else f"{code} ({status})"
    return cls(f"cannot {action}: {endpoint} answered {answer}", hint=hint, **facts)

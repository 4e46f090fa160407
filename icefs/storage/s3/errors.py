"""Translates the errors of an S3 service.

Every failed request raises one of botocore's exceptions, whether boto3 or `requests` sent it. This module imports those
exceptions alone: importing all of boto3 takes 0.3 s.
"""

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import urlsplit

from botocore import exceptions as boto_errors

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
from icefs.storage.answers import AnswerError, bad_answer
from icefs.storage.proxies import proxy_name

CLIENT_ERRORS: Final = (boto_errors.ClientError, boto_errors.BotoCoreError, AnswerError)
"""The exceptions of a request that failed."""
_NO_CREDENTIALS_HINT = (
    "give credentials in the AWS environment (AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws/credentials), or anonymous=true"
)
UNTOLD = (
    boto_errors.NoCredentialsError,
    boto_errors.PartialCredentialsError,
    boto_errors.CredentialRetrievalError,
    boto_errors.TokenRetrievalError,
    boto_errors.SSOError,
    boto_errors.RefreshWithMFAUnsupportedError,
    boto_errors.MetadataRetrievalError,
)
"""Errors of the providers of keys; their texts are not shown, nor chained."""


def configuration_error(error: Exception) -> IcefsError:
    """Translates the error that kept boto3 from making a client."""
    if isinstance(error, UNTOLD):
        return credentials_error(error)
    return InvalidInputError(f"the options for S3, or the AWS configuration, are not valid: {error}")


def credentials_error(error: Exception) -> AccessDeniedError:
    """Says which way to get keys failed, and why; without what a program printed, in which there may be keys."""
    facts = getattr(error, "kwargs", {})
    provider = facts.get("provider", "")
    hint = _NO_CREDENTIALS_HINT
    if isinstance(error, boto_errors.PartialCredentialsError):
        what = f"the credentials for S3 from {provider} are not whole: {facts.get('cred_var')} is missing"
    elif isinstance(error, boto_errors.SSOError | boto_errors.TokenRetrievalError):
        what, hint = "there is no valid login to AWS SSO", "run 'aws sso login' for the profile"
    elif isinstance(error, boto_errors.MetadataRetrievalError) or provider == "container-role":
        what = "the service that gives this machine or container its credentials for S3 does not give any"
        hint = "check AWS_CONTAINER_CREDENTIALS_FULL_URI or the instance's role, or give credentials yourself"
    elif isinstance(error, OSError):
        what = f"the program of credential_process cannot be run: {error.strerror or type(error).__name__}"
        hint = "check credential_process in the AWS configuration"
    elif isinstance(error, ValueError | KeyError):
        what = "the program of credential_process does not print the JSON that it should"
        hint = "run it by hand, and check credential_process in the AWS configuration"
    elif provider == "custom-process":
        what, hint = "the program of credential_process failed", "run it by hand to see why"
    elif isinstance(error, boto_errors.CredentialRetrievalError):
        what = f"the credentials for S3 cannot be had from {provider or 'where the AWS configuration says'}"
    else:
        what = "there are no credentials for S3"
    return AccessDeniedError(what, hint=hint)


_REGION_HINT = "the region may be another one: add ?region=… to the location, or set AWS_REGION"
_OTHER_REGION = (
    "the bucket is in another region, or at another endpoint: add ?region=… or ?endpoint_url=… to the location"
)
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
    "AuthorizationHeaderMalformed": (
        AccessDeniedError,
        "the region is probably another one: add ?region=… to the location, or set AWS_REGION",
    ),
    "AccessDenied": (AccessDeniedError, "the credentials do not allow this"),
    "PermanentRedirect": (StorageError, _OTHER_REGION),
    "TemporaryRedirect": (StorageError, _OTHER_REGION),
    "301": (StorageError, _OTHER_REGION),
    "302": (StorageError, "a redirect is mostly a login page: check the endpoint and the network"),
    "307": (StorageError, _OTHER_REGION),
    "400": (StorageError, _REGION_HINT),
    "407": (AccessDeniedError, "the proxy wants a user and a password: put them into http_proxy or https_proxy"),
    "InvalidObjectState": (AccessDeniedError, "the object is archived: restore it first"),
    "NotImplemented": (StorageError, "this object store lacks something that icefs needs"),
    "RequestTimeout": (UnreachableError, None),
    "QuotaExceeded": (NoSpaceError, None),
    "XMinioStorageFull": (NoSpaceError, None),
    "InsufficientStorage": (NoSpaceError, None),
}
LACKING: Final = ("NotImplemented", "MethodNotAllowed")
"""The error codes of operations that a service does not know."""
# Services refuse what was signed more than 15 minutes away from their own time.
_REFUSED_SKEW_S: Final = 15 * 60.0
SKEWED: Final = ("RequestTimeTooSkewed", "RequestExpired")
"""The error codes of requests that were signed at another time than the service's."""
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken")
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_NOT_FOUND = ("NoSuchKey", "NotFound", "404")
_UNDECIDED = (AccessDeniedError, StorageError, ThrottledError, UnreachableError, NoSpaceError)
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
    headers = response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    region = response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
    return region if isinstance(region, str) and _REGION.fullmatch(region) else None


def s3_error(error: Exception, *, action: str, endpoint: str) -> IcefsError:
    """Translates what an S3 client raised; never repeats what it says about credentials.

    Args:
        error: One of `CLIENT_ERRORS`.
        action: What was tried, as "read s3://bucket/key".
        endpoint: Where.
    """
    if isinstance(error, boto_errors.ClientError):
        return _answer_error(error.response, action=action, endpoint=endpoint)
    if isinstance(error, AnswerError):
        return bad_answer(error, action=action, endpoint=endpoint)
    if isinstance(error, UNTOLD):
        missing = credentials_error(error)
        return AccessDeniedError(f"cannot {action}: {missing.own_message}", hint=missing.hint)
    if isinstance(error, boto_errors.ProxyConnectionError):
        proxy = proxy_name(endpoint) or "the proxy"
        return UnreachableError(
            f"cannot {action}: {proxy}, the proxy for {endpoint}, cannot be reached",
            hint=f"check {urlsplit(endpoint).scheme}_proxy in the environment",
            never_connected=True,
            cause="ProxyConnectionError",
        )
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
        (boto_errors.EndpointConnectionError, boto_errors.ConnectTimeoutError),
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
    code = str(response.get("Error", {}).get("Code") or status)
    cls, hint = _ERRORS.get(code, (_STATUSES.get(status, StorageError), None))
    if cls not in (_STATUSES.get(status), *_UNDECIDED):
        cls = _STATUSES.get(status, StorageError)  # whether something is there is not told by a code alone
    if cls is ObjectNotFoundError and code not in _NOT_FOUND:
        cls = StorageError
    if code in _THROTTLED:
        cls = ThrottledError
    facts: dict[str, Any] = {"code": code, "status": status, "endpoint": endpoint}
    if code in _EXPIRED:
        facts["expired"] = True
    if issubclass(cls, AccessDeniedError):
        hint = _clock_hint(metadata.get("HTTPHeaders", {})) or hint or "check the credentials and what they allow"
    asked = metadata.get("HTTPHeaders", {}).get("retry-after", "")
    if asked.isdecimal():
        facts["retry_after_s"] = float(asked)
    answer = code if code == str(status) else f"{code} ({status})"
    return cls(f"cannot {action}: {endpoint} answered {answer}", hint=hint, **facts)


def _clock_hint(headers: Mapping[str, str]) -> str | None:
    """Says by how much this machine's clock is wrong, if that is why requests are refused."""
    try:
        ahead_s = time.time() - parsedate_to_datetime(headers.get("date", "")).timestamp()
    except ValueError:
        return None
    if abs(ahead_s) < _REFUSED_SKEW_S:
        return None
    minutes = round(abs(ahead_s) / 60)
    where = "ahead of" if ahead_s > 0 else "behind"
    return f"this machine's clock is wrong: set it, it is {minutes // 60} h {minutes % 60} min {where} the service's"

"""The errors of Azure's libraries, translated.

Texts of the service and of the libraries are not repeated, nor are their exceptions chained: they hold URLs with
signatures, the text that was signed, and what programs printed that give tokens.

Source: REST API of Azure Storage, "Common error codes" and "Blob Storage error codes".
"""

import re
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    ServiceRequestError,
)
from requests import exceptions as request_errors
from urllib3 import exceptions as http_errors

from icefs.errors import (
    AccessDeniedError,
    BadAnswerError,
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

CLIENT_ERRORS: Final = (AzureError, AnswerError, http_errors.HTTPError, request_errors.RequestException, ValueError)
"""The exceptions of a request that failed."""

NO_CREDENTIALS_HINT: Final = (
    "set AZURE_STORAGE_ACCOUNT with AZURE_STORAGE_KEY or AZURE_STORAGE_SAS_TOKEN, or run 'az login', or add"
    " ?anonymous=true to the location"
)
_ROLE_HINT = "the identity needs the role 'Storage Blob Data Contributor' ('Reader' to read) on the container"
_CODES: Final[dict[str, tuple[type[StorageError], str | None]]] = {
    "BlobNotFound": (ObjectNotFoundError, None),
    "ContainerNotFound": (StorageError, "the container does not exist: check its name and the account, or create it"),
    "ResourceNotFound": (StorageError, "the container does not exist, or is not open to requests without credentials"),
    "ContainerBeingDeleted": (StorageError, "the container is being deleted: wait, or use another one"),
    "ContainerDisabled": (StorageError, "the container was disabled by its administrator"),
    "ConditionNotMet": (PreconditionFailedError, None),
    "SourceConditionNotMet": (PreconditionFailedError, None),
    "TargetConditionNotMet": (PreconditionFailedError, None),
    "BlobAlreadyExists": (PreconditionFailedError, None),
    "InvalidRange": (StorageError, None),
    "AuthenticationFailed": (AccessDeniedError, "the key, signature or token is wrong or has expired"),
    "InvalidAuthenticationInfo": (AccessDeniedError, "the token is not valid, or has expired"),
    "NoAuthenticationInformation": (AccessDeniedError, NO_CREDENTIALS_HINT),
    "PublicAccessNotPermitted": (AccessDeniedError, NO_CREDENTIALS_HINT),
    "AuthorizationPermissionMismatch": (AccessDeniedError, _ROLE_HINT),
    "InsufficientAccountPermissions": (AccessDeniedError, _ROLE_HINT),
    "AuthorizationFailure": (AccessDeniedError, "a firewall of the account, or its rules, do not allow this"),
    "KeyBasedAuthenticationNotPermitted": (AccessDeniedError, "the account refuses keys: use a token ('az login')"),
    "AccountIsDisabled": (AccessDeniedError, "the storage account is disabled"),
    "AccountRequiresHttps": (AccessDeniedError, "the account wants an https:// endpoint"),
    "BlobArchived": (AccessDeniedError, "the object is in the archive tier: rehydrate it first"),
    "BlobBeingRehydrated": (AccessDeniedError, "the object is being rehydrated: wait until that has ended"),
    "BlobImmutableDueToPolicy": (AccessDeniedError, "a policy of the container keeps the object from being changed"),
    "LeaseIdMissing": (AccessDeniedError, "another program holds a lease on the object: break it, or wait"),
    "SnapshotsPresent": (StorageError, "the object has snapshots: delete them first"),
    "PendingCopyOperation": (UnreachableError, None),
    "AccountBeingCreated": (UnreachableError, None),
    "InvalidBlobType": (StorageError, "the object there is no block blob: another program made it"),
    "InvalidBlobTier": (StorageError, "the account does not know this storage class"),
    "BlobAccessTierNotSupportedForAccountType": (StorageError, "the account does not know this storage class"),
    "ServerBusy": (ThrottledError, None),
    "AccountLimitExceeded": (NoSpaceError, None),
}
_STATUSES: Final[dict[int, type[StorageError]]] = {
    304: PreconditionFailedError,
    401: AccessDeniedError,
    403: AccessDeniedError,
    407: AccessDeniedError,
    408: UnreachableError,
    412: PreconditionFailedError,
    429: ThrottledError,
    500: UnreachableError,
    502: UnreachableError,
    503: ThrottledError,
    504: UnreachableError,
    507: NoSpaceError,
}
# A code decides what happened only with the status that belongs to it.
_NEEDED: Final[dict[type[StorageError], tuple[int, ...]]] = {
    ObjectNotFoundError: (404,),
    PreconditionFailedError: (304, 409, 412),
}
_CODE: Final = re.compile(r"[A-Za-z0-9]{1,64}")
_STALE: Final = ("AuthenticationFailed", "InvalidAuthenticationInfo")


def status_of(error: Exception) -> int:
    """Returns the status of the answer that an error tells of; 0 if there was none."""
    found = error.status_code if isinstance(error, HttpResponseError) else None
    return found or 0


def azure_error(error: Exception, *, action: str, endpoint: str) -> StorageError | InvalidInputError:
    """Translates what Azure's libraries raised.

    Args:
        error: One of `CLIENT_ERRORS`.
        action: What was tried, as "read az://container/key".
        endpoint: Where; without anything secret.
    """
    if isinstance(error, AnswerError):
        return bad_answer(error, action=action, endpoint=endpoint)
    if isinstance(error, HttpResponseError) and error.response is not None and not isinstance(error, DecodeError):
        return _refusal(error, action=action, endpoint=endpoint)
    if isinstance(error, DecodeError):
        return bad_answer(AnswerError("in a way that cannot be read"), action=action, endpoint=endpoint)
    if isinstance(error, ClientAuthenticationError):
        return AccessDeniedError(f"cannot {action}: there are no credentials for Azure", hint=NO_CREDENTIALS_HINT)
    if isinstance(error, ValueError) and not isinstance(error, request_errors.RequestException):
        return InvalidInputError(f"cannot {action}: the options or the credentials for Azure are not valid")
    return _transport_error(error, action=action, endpoint=endpoint)


def _refusal(error: HttpResponseError, *, action: str, endpoint: str) -> StorageError:
    response: Any = error.response
    status, headers = status_of(error), response.headers
    code = _code(error, headers)
    cls, hint = _CODES.get(code, (_STATUSES.get(status, StorageError), None))
    if status not in _NEEDED.get(cls, (status,)):
        cls = _STATUSES.get(status, StorageError)
    if cls is PreconditionFailedError and not code and status != 304:
        cls = BadAnswerError  # a gateway's word does not tell what is there
    if status == 404 and not code:
        cls, hint = BadAnswerError, "check the endpoint: this is not the answer of a storage account"
    facts: dict[str, Any] = {"code": code or str(status), "status": status, "endpoint": endpoint}
    if code in _STALE:
        facts["expired"] = True
    if issubclass(cls, AccessDeniedError) and hint is None:
        hint = "check the credentials and what they allow"
    if 300 <= status < 400 and hint is None and status != 304:
        hint = "a redirect is mostly a login page: check the endpoint and the network"
    asked = headers.get("Retry-After", "")
    if asked.isdecimal():
        facts["retry_after_s"] = float(asked)
    answer = f"{code} ({status})" if code else str(status)
    return cls(f"cannot {action}: {endpoint} answered {answer}", hint=hint, **facts)


def _code(error: HttpResponseError, headers: Mapping[str, str]) -> str:
    """Returns the service's error code; empty where the answer has none."""
    found = headers.get("x-ms-error-code") or getattr(error, "error_code", None) or ""
    text = str(getattr(found, "value", found))
    return text if _CODE.fullmatch(text) else ""


def _is_before_sending(inner: BaseException | None) -> bool:
    """Tells whether a connection failed before a request was sent.

    Azure's library raises ServiceRequestError for nearly every failure of a connection, also for those after the
    request was sent; a write that may have been served must not pass for one that was not.
    """
    if inner is None:
        return True  # The library refused to send the request.
    cause = inner.args[0] if isinstance(inner, request_errors.ConnectionError) and inner.args else inner
    if isinstance(cause, http_errors.MaxRetryError):
        cause = cause.reason
    return isinstance(cause, http_errors.NewConnectionError | http_errors.ConnectTimeoutError)


def _transport_error(error: Exception, *, action: str, endpoint: str) -> StorageError:
    inner = error.inner_exception if isinstance(error, AzureError) else error
    kind = type(inner if inner is not None else error).__name__
    if isinstance(inner, request_errors.SSLError | http_errors.SSLError):
        failure = UnreachableError(
            f"cannot {action}: no trusted connection to {endpoint}",
            hint="check the certificate (REQUESTS_CA_BUNDLE names your own authorities), or use an http:// endpoint",
        )
        failure.is_transient = False
        return failure
    if isinstance(inner, request_errors.ProxyError):
        return UnreachableError(
            f"cannot {action}: {proxy_name(endpoint) or 'the proxy'}, the proxy for {endpoint}, cannot be reached",
            hint=f"check {urlsplit(endpoint).scheme}_proxy in the environment",
            never_connected=True,
            cause="ProxyError",
        )
    never_connected = isinstance(error, ServiceRequestError) and _is_before_sending(inner)
    what = "cannot be reached" if never_connected else f"broke off its answer ({kind})"
    return UnreachableError(
        f"cannot {action}: {endpoint} {what}",
        hint="check the account, the endpoint_url and the network" if never_connected else None,
        never_connected=never_connected,
        cause=kind,
    )

"""Translates the errors of Google Cloud Storage, and those of the libraries that reach it."""

import json
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import requests
from google.api_core import exceptions as api_errors
from google.auth import exceptions as auth_errors
from urllib3 import exceptions as http_errors

from icefs.errors import (
    AccessDeniedError,
    NoSpaceError,
    ObjectNotFoundError,
    PreconditionFailedError,
    StorageError,
    ThrottledError,
    UnreachableError,
)
from icefs.storage.answers import AnswerError, bad_answer, looks_like_markup


class RefusalError(Exception):
    """An answer of a status that is none of those that were asked for.

    Attributes:
        status: Of the answer.
        headers: Of the answer.
        body: The beginning of it.
    """

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.headers = headers
        self.body = body


CLIENT_ERRORS: Final = (
    RefusalError,
    AnswerError,
    api_errors.GoogleAPICallError,
    auth_errors.GoogleAuthError,
    requests.RequestException,
    http_errors.HTTPError,
    # An answer without what Google's library looks for in it.
    KeyError,
    TypeError,
    ValueError,
)
"""The exceptions of a request that failed."""

_STATUSES: Final[Mapping[int, type[StorageError]]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: ObjectNotFoundError,
    408: UnreachableError,
    412: PreconditionFailedError,
    429: ThrottledError,
    500: UnreachableError,
    502: UnreachableError,
    503: ThrottledError,
    504: UnreachableError,
    507: NoSpaceError,
}
_HINTS: Final[Mapping[int, str]] = {
    400: "if requesters pay for the bucket, add ?user_project=PROJECT to the location",
    401: "the credentials are not valid: run 'gcloud auth application-default login', or set"
    " GOOGLE_APPLICATION_CREDENTIALS",
    403: "the credentials do not allow this: check the roles on the bucket",
}
_REASONS: Final[Mapping[str, type[StorageError]]] = {
    "rateLimitExceeded": ThrottledError,
    "userRateLimitExceeded": ThrottledError,
    "quotaExceeded": NoSpaceError,
    "backendError": UnreachableError,
}
_BUCKET: Final = b"bucket does not exist"


def gcs_error(error: Exception, *, action: str, endpoint: str) -> StorageError:
    """Translates what a request raised; never repeats what it says about credentials.

    Args:
        error: One of `CLIENT_ERRORS`.
        action: What was tried, as "read gs://bucket/key".
        endpoint: Where.
    """
    match error:
        case RefusalError():
            return _refusal(error.status, error.headers, error.body, action=action, endpoint=endpoint)
        case api_errors.GoogleAPICallError(response=requests.Response() as response):
            return _refusal(response.status_code, response.headers, response.content, action=action, endpoint=endpoint)
        case AnswerError():
            return bad_answer(error, action=action, endpoint=endpoint)
        case auth_errors.TransportError():
            return UnreachableError(
                f"cannot {action}: the service that gives tokens cannot be reached",
                hint="check the network, and the credentials' token_uri",
                never_connected=True,
                cause=type(error).__name__,
            )
        case auth_errors.GoogleAuthError():
            return AccessDeniedError(
                f"cannot {action}: no token for Google Cloud Storage can be had ({type(error).__name__})",
                hint=_HINTS[401],
            )
        case requests.RequestException() | http_errors.HTTPError():
            return _transport_error(error, action=action, endpoint=endpoint)
        case _:
            reason = f"without what every answer has ({type(error).__name__})"
            return bad_answer(AnswerError(reason), action=action, endpoint=endpoint)


def _transport_error(error: Exception, *, action: str, endpoint: str) -> StorageError:
    if isinstance(error, requests.exceptions.ProxyError):
        return UnreachableError(
            f"cannot {action}: the proxy for {endpoint} cannot be reached",
            hint=f"check {urlsplit(endpoint).scheme}_proxy in the environment",
            never_connected=True,
            cause="ProxyError",
        )
    if isinstance(error, requests.exceptions.SSLError | http_errors.SSLError):
        failure = UnreachableError(
            f"cannot {action}: no trusted connection to {endpoint}", hint="check the certificate (REQUESTS_CA_BUNDLE)"
        )
        failure.is_transient = False
        return failure
    if isinstance(error, requests.exceptions.TooManyRedirects):
        return StorageError(
            f"cannot {action}: {endpoint} answered with a redirect",
            hint="a redirect is mostly a login page: check the endpoint and the network",
        )
    if isinstance(error, requests.exceptions.JSONDecodeError):
        return bad_answer(AnswerError("with something else than JSON"), action=action, endpoint=endpoint)
    cause = _cause(error)
    # A refused connection, an unknown host, and a connection that takes too long: nothing was sent.
    never_connected = isinstance(cause, http_errors.NewConnectionError | http_errors.ConnectTimeoutError)
    what = "cannot be reached" if never_connected else f"broke off its answer ({type(cause).__name__})"
    return UnreachableError(
        f"cannot {action}: {endpoint} {what}",
        hint="check the endpoint_url and the network, and whether the service is up" if never_connected else None,
        never_connected=never_connected,
        cause=type(cause).__name__,
    )


def _cause(error: Exception) -> Exception:
    """Returns the error of urllib3 that `requests` wraps."""
    inner = error.args[0] if error.args else None
    if isinstance(inner, http_errors.MaxRetryError):
        inner = inner.reason
    return inner if isinstance(inner, Exception) else error


def _refusal(status: int, headers: Mapping[str, str], body: bytes, *, action: str, endpoint: str) -> StorageError:
    code = _reason_of(body) or str(status)
    cls = _STATUSES.get(status, StorageError)
    hint = _HINTS.get(status)
    if status == 403:
        cls = _REASONS.get(code, cls)
        hint = hint if cls is AccessDeniedError else None
    if status == 404 and _BUCKET in body:
        cls, hint = StorageError, "the bucket does not exist: check its name and the endpoint"
    elif status == 404 and looks_like_markup(body) and b"<Code>" not in body:
        return bad_answer(AnswerError("404 with a web page", 404), action=action, endpoint=endpoint)
    facts: dict[str, Any] = {"code": code, "status": status, "endpoint": endpoint}
    asked = headers.get("Retry-After", "")
    if asked.isdecimal():
        facts["retry_after_s"] = float(asked)
    answer = code if code == str(status) else f"{code} ({status})"
    return cls(f"cannot {action}: {endpoint} answered {answer}", hint=hint, **facts)


def _reason_of(body: bytes) -> str | None:
    """Returns the word with which the service says why; None where it does not."""
    try:
        told = json.loads(body)["error"]["errors"][0]["reason"]
    except (ValueError, KeyError, TypeError, IndexError):
        return None
    return told if isinstance(told, str) and told.isalnum() and len(told) < 64 else None

"""Connections to Azure's endpoint, whose answers are taken in whole, within bounds, and checked.

`azure-core` sends requests through `requests`. The session that it gets here reads each body at once, refuses what
cannot be the service's answer, and takes proxies from the environment as the other storages do. So a body that breaks
off is an error of the request, which is repeated as a whole: the library's own repetitions, which wait whole seconds
and are not counted, have nothing to do.

Source: REST API of Azure Blob Storage, "Get Blob", "Specifying the range header"; RFC 9110.
"""

import io
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter

from icefs.storage.answers import AnswerError, content_length, describe, read_exactly
from icefs.storage.base import MAX_WHOLE_READ_BYTES
from icefs.storage.deadlines import ended_after, timeout_within
from icefs.storage.proxies import proxy_of

_ASKED: Final = re.compile(r"bytes=(\d{1,19})-(\d{1,19})?")
_GIVEN: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")
# What is decided by these has to be the service's own word.
_DECISIVE: Final = frozenset((200, 201, 202, 206, 304, 404, 409, 412, 416))
# A list of five thousand long names is a few megabytes; an error is a few hundred bytes.
_MAX_DOCUMENT_BYTES: Final = 64 << 20
_CA_BUNDLES: Final = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


class _Body(io.BytesIO):
    """A body that was read."""

    enforce_content_length = True


class _Adapter(HTTPAdapter):
    """Sends requests that have to be over in time."""

    def __init__(self, limit_s: Callable[[], float | None], **more: Any) -> None:
        super().__init__(**more)
        self._limit_s = limit_s

    def send(
        self, request: PreparedRequest, stream: bool = False, timeout: Any = None, *more: Any, **others: Any
    ) -> Response:
        """Sends a request; what azure-core gives for a timeout is that for connecting, and that between two bytes."""
        limit_s = self._limit_s()
        if limit_s is not None:
            connect_s, read_s = timeout
            timeout = timeout_within(connect_s, read_s, limit_s)
        return super().send(request, stream, timeout, *more, **others)


def new_session(endpoint_url: str, concurrency: int, limit_s: Callable[[], float | None]) -> Session:
    """Returns a session for one endpoint; connects to nothing yet.

    Args:
        endpoint_url: The endpoint.
        concurrency: How many connections are kept.
        limit_s: Returns how long the request of the present thread may take; None for no limit.

    Raises:
        InvalidInputError: the environment's proxy is no URL.
    """
    session = Session()
    # Else it looks for proxies at each request, and for other credentials in ~/.netrc.
    session.trust_env = False
    proxy = proxy_of(endpoint_url)
    if proxy is not None:
        session.proxies = {"http": proxy, "https": proxy}
    bundle = next((path for path in map(os.environ.get, _CA_BUNDLES) if path), None)
    if bundle is not None:
        session.verify = bundle
    adapter = _Adapter(limit_s, pool_connections=1, pool_maxsize=concurrency + 1, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    session.headers["Accept-Encoding"] = "identity"  # the bytes as they are stored
    session.hooks["response"].append(partial(_receive, limit_s))
    return session


def _receive(limit_s: Callable[[], float | None], response: Response, *_: Any, **__: Any) -> None:
    """Handles the event `response`: reads the body, and puts it in the place of the connection.

    Raises:
        AnswerError: the answer cannot be the service's, or not to this request.
        urllib3.exceptions.HTTPError: it breaks off.
    """
    raw = response.raw
    try:
        _check_origin(response)
        with ended_after(raw, limit_s()):
            data = b"" if response.request.method == "HEAD" else _read(response)
    except BaseException:
        raw.close()
        raise
    raw.release_conn()
    response.raw = _Body(data)


def _check_origin(response: Response) -> None:
    status, headers = response.status_code, response.headers
    if status in _DECISIVE and "x-ms-request-id" not in headers:
        raise AnswerError(f"{describe(status, headers)} without the service's request id", status)


def _read(response: Response) -> bytes:
    status, headers = response.status_code, response.headers
    asked = _ASKED.fullmatch(str(response.request.headers.get("x-ms-range", "")))
    if asked is None or status >= 300:
        return _read_document(response)
    told = headers.get("Content-Range", "").strip()
    if status == 206 and told.endswith("/0") and headers.get("Content-Length") == "0":
        return b""  # The emulator's answer where the service says 416: the object is empty.
    given = _GIVEN.fullmatch(told)
    if status != 206 or given is None:
        raise AnswerError(f"{describe(status, headers)} without saying which range it is", status)
    first, last, size = (int(number) for number in given.groups())
    wanted = min(size, int(asked[2]) + 1 if asked[2] else size)
    if first != int(asked[1]) or last + 1 != wanted:
        raise AnswerError(f"with bytes {first} to {last}, which are not those that were asked for", status)
    if last + 1 - first > MAX_WHOLE_READ_BYTES:
        raise AnswerError("with more bytes than can be read at once", status)
    if content_length(headers, status) != last + 1 - first:
        raise AnswerError(f"{status} with another length than its range has", status)
    return read_exactly(response.raw, last + 1 - first)


def _read_document(response: Response) -> bytes:
    """Reads a body that is no range of an object: a list, an error, nothing, or an object that is empty."""
    if "Content-Length" in response.headers:
        size = content_length(response.headers, response.status_code)
        if size > _MAX_DOCUMENT_BYTES:
            raise AnswerError(f"{response.status_code} with {size} bytes", response.status_code)
        return read_exactly(response.raw, size) if size else b""
    pieces, size = [], 0
    while piece := response.raw.read(1 << 20, decode_content=False):
        size += len(piece)
        if size > _MAX_DOCUMENT_BYTES:
            raise AnswerError(f"{response.status_code} with more than {size} bytes", response.status_code)
        pieces.append(piece)
    return b"".join(pieces)

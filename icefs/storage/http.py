"""Objects behind a plain web server, for reading only: repositories published over HTTP, and virtual chunks.

A web server has no listing, and what it promises differs: entity tags may be missing, ranges may be ignored (then
the answer is read up to the end of the range), lengths may not be told. What is read is checked against the length
that was announced. urllib3 keeps the connections; it comes with botocore.
"""

import ssl
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from functools import partial
from typing import Any, Final, Never, override
from urllib.parse import quote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3 import exceptions as http_errors

from icefs.clock import to_micros
from icefs.errors import (
    AccessDeniedError,
    InvalidInputError,
    InvalidObjectSizeError,
    ObjectModifiedError,
    ObjectNotFoundError,
    ReadOnlyError,
    StorageError,
    ThrottledError,
    UnreachableError,
    UnsupportedError,
)
from icefs.storage.base import (
    MAX_WHOLE_READ_BYTES,
    Capabilities,
    Object,
    ObjectInfo,
    Storage,
    Version,
    check_key,
    check_range,
    range_end,
)
from icefs.storage.retry import Retrier, RetryPolicy

_MAX_REDIRECTS = 5
_PIECE = 1 << 20
_STATUSES: Final[dict[int, type[StorageError]]] = {
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: ObjectNotFoundError,
    408: UnreachableError,
    410: ObjectNotFoundError,
    412: ObjectModifiedError,
    429: ThrottledError,
    500: UnreachableError,
    502: UnreachableError,
    503: ThrottledError,
    504: UnreachableError,
}


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to talk to a web server.

    Attributes:
        headers: Sent with every request; may hold secrets.
        concurrency: How many connections are kept.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        retry: When to try again.
        user_agent: Added to the User-Agent header, for the owner's access logs.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    concurrency: int = 16
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    user_agent: str = ""


class HttpStorage(Storage):
    """What lies below a URL, for reading. Safe for threads; makes no request before it is used."""

    def __init__(self, base_url: str, options: HttpOptions | None = None, *, retrier: Retrier | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise InvalidInputError("a web location starts with http://host or https://host")
        if parts.username is not None or parts.password is not None:
            raise InvalidInputError("a web location must not hold a user name or password")
        self._url = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        self.options = options if options is not None else HttpOptions()
        self.capabilities = Capabilities(
            conditional_update=False, local_files=False, concurrency=self.options.concurrency, is_writable=False
        )
        self._retrier = retrier if retrier is not None else Retrier(self.options.retry)
        self._pool = _make_pool(self._url, self.options)

    def __reduce__(self) -> tuple[Callable[..., "HttpStorage"], tuple[str, HttpOptions]]:
        return (HttpStorage, (self._url, self.options))

    @property
    @override
    def url(self) -> str:
        return self._url

    def _object_url(self, key: str) -> str:
        check_key(key)
        return f"{self._url}/{quote(key)}"

    # --- requests ---

    def _request[T](
        self, method: str, url: str, headers: dict[str, str], receive: Callable[[urllib3.BaseHTTPResponse], T]
    ) -> T:
        def once() -> T:
            try:
                # With `headers` the pool leaves its own out.
                response = self._pool.request(
                    method, url, headers={**self._pool.headers, **headers}, preload_content=False
                )
                try:
                    result = receive(response)
                    if response.length_remaining == 0:
                        response.drain_conn()
                        response.release_conn()
                    return result
                finally:
                    # What was not read to its end cannot be used again.
                    response.close()
            except http_errors.HTTPError as error:
                raise _transport_error(error, url) from error

        return self._retrier.run(once, verb="read", name=url)

    @override
    def watch_retries(self, tell: Callable[[str, str], None]) -> None:
        self._retrier.on_retry = tell

    def _read(self, url: str, start: int, end: int | None, conditions: dict[str, str]) -> Object | None:
        """Reads a range; None if a condition (If-None-Match) says that it is not needed."""
        headers = dict(conditions)
        if end == start:
            return self._read_nothing(url, start, end, conditions)
        if start > 0 or end is not None:
            headers["Range"] = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"

        def receive(response: urllib3.BaseHTTPResponse) -> Object | None:
            if response.status == 304:
                return None
            if response.status not in (200, 206):
                raise _answer_error(response, url)
            return Object(_body(response, url, start, end), _version(response))

        try:
            return self._request("GET", url, headers, receive)
        except StorageError as error:
            if error.facts.get("status") != 416:
                raise
        return self._read_nothing(url, start, end, conditions)

    def _read_nothing(self, url: str, start: int, end: int | None, conditions: dict[str, str]) -> Object:
        size, _, version = self._describe(url, conditions)
        range_end(size, start, end, name=url)
        return Object(b"", version)

    def _describe(self, url: str, conditions: dict[str, str]) -> tuple[int, int, Version]:
        """Returns size, time of last modification in microseconds (0: not told), and version."""

        def receive(response: urllib3.BaseHTTPResponse) -> tuple[int, int, Version]:
            if response.status != 200:
                raise _answer_error(response, url)
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise StorageError(f"{url}: the server does not say how long it is", url=url)
            return int(length), _last_modified(response), _version(response)

        return self._request("HEAD", url, conditions, receive)

    # --- the storage ---

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        found = self._read(self._object_url(key), start, end, {})
        if found is None:
            raise StorageError(f"{self._object_url(key)}: the server answered 304 to a question without condition")
        return found

    @override
    def get_if_changed(self, key: str, known: Version | None) -> Object | None:
        url = self._object_url(key)
        # Only an entity tag can be asked about; another version is compared.
        conditions = {"If-None-Match": known} if known is not None and '"' in known else {}
        found = self._read(url, 0, None, conditions)
        return None if found is None or found.version == known else found

    @override
    def head(self, key: str) -> ObjectInfo:
        size, modified, version = self._describe(self._object_url(key), {})
        return ObjectInfo(key, size, modified, version)

    def read_range(
        self,
        key: str,
        start: int,
        end: int,
        *,
        if_match_etag: str | None = None,
        if_unmodified_since_s: int | None = None,
    ) -> bytes:
        """Reads a range of any object below the base URL; see `RangeReader.read_range`.

        A server that ignores the condition is caught by what it says, or does not say, about what it sent.
        """
        check_range(start, end)
        if not key or ".." in key.split("/"):
            raise InvalidInputError(f"{key!r} does not name an object below {self.url}", key=key)
        url = f"{self._url}/{quote(key)}"
        headers: dict[str, str] = {}
        if if_match_etag is not None:
            headers["If-Match"] = '"' + if_match_etag.strip('"') + '"'
        if if_unmodified_since_s is not None:
            headers["If-Unmodified-Since"] = formatdate(if_unmodified_since_s, usegmt=True)
        if end == start:
            return self._read_nothing(url, start, end, headers).data
        headers["Range"] = f"bytes={start}-{end - 1}"

        def receive(response: urllib3.BaseHTTPResponse) -> bytes:
            if response.status not in (200, 206):
                raise _answer_error(response, url)
            if if_match_etag is not None and response.headers.get("ETag", "").strip('"') != if_match_etag.strip('"'):
                raise _modified(url)
            # A server that does not tell the time cannot have checked it (0: not told).
            modified_s = _last_modified(response) // 1_000_000
            if if_unmodified_since_s is not None and not 0 < modified_s <= if_unmodified_since_s:
                raise _modified(url)
            return _body(response, url, start, end)

        try:
            return self._request("GET", url, headers, receive)
        except StorageError as error:
            if error.facts.get("status") == 416:
                raise InvalidObjectSizeError(f"{url} ends before byte {end}", url=url, expected_bytes=end) from error
            raise

    @override
    def put(
        self, key: str, data: bytes | memoryview, *, if_match: Version | None = None, create_only: bool = False
    ) -> Version:
        self._refuse_to_write()

    @override
    def copy(self, source: str, target: str, *, if_match: Version | None = None) -> None:
        self._refuse_to_write()

    @override
    def delete(self, keys: Iterable[str]) -> list[str]:
        self._refuse_to_write()

    def _refuse_to_write(self) -> Never:
        raise ReadOnlyError(f"{self.url} is a web server, which is only read from", kind="object-store")

    @override
    def list_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._refuse_to_list()

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        self._refuse_to_list()

    def _refuse_to_list(self) -> Never:
        raise UnsupportedError(f"{self.url} is a web server, which cannot list what it has")

    @override
    def close(self) -> None:
        self._retrier.close()
        self._pool.clear()


def _make_pool(url: str, options: HttpOptions) -> urllib3.PoolManager:
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    make = partial(urllib3.ProxyManager, proxy) if proxy is not None else urllib3.PoolManager
    return make(
        maxsize=options.concurrency,
        timeout=urllib3.Timeout(connect=options.connect_timeout_s, read=options.read_timeout_s),
        # Redirects within bounds, and nothing secret to another host; trying again is the retrier's.
        retries=urllib3.Retry(
            total=None,
            connect=0,
            read=0,
            status=0,
            other=0,
            redirect=_MAX_REDIRECTS,
            respect_retry_after_header=False,
            remove_headers_on_redirect=["Authorization", "Cookie", *(name for name, _ in options.headers)],
        ),
        # The bytes as they are stored; and a proxy must not answer with an older version.
        headers={
            "User-Agent": f"icefs {options.user_agent}".rstrip(),
            "Accept-Encoding": "identity",
            "Cache-Control": "no-cache",
            **dict(options.headers),
        },
    )


def _body(response: urllib3.BaseHTTPResponse, url: str, start: int, end: int | None) -> bytes:
    """Reads the bytes `[start, end)` of the object that an answer is about, and not much more."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise StorageError(f"{url}: the server changes what it sends (Content-Encoding)", url=url)
    size: int | None = None
    offset = 0
    if response.status == 206:
        offset, size = _content_range(response, url)
        if offset != start:
            raise StorageError(f"{url}: bytes from {start} were asked for, and from {offset} were sent", url=url)
    elif response.headers.get("Content-Length", "").isdecimal():
        size = int(response.headers["Content-Length"])
    if size is not None:
        end = range_end(size, start, end, name=url)
    last = end - offset if end is not None else MAX_WHOLE_READ_BYTES + 1
    pieces, received = [], 0
    while received < last and (piece := response.read(min(_PIECE, last - received), decode_content=False)):
        pieces.append(piece)
        received += len(piece)
    data = b"".join(pieces)
    if end is None:
        # The length was not told: the end of the answer is the end of the object.
        range_end(received, start, None, name=url)
    elif received < last:
        if size is None:
            range_end(offset + received, start, end, name=url)
        raise UnreachableError(f"{url} ended after {received} bytes of {last}", url=url)
    return data[start - offset :] if offset != start else data


def _content_range(response: urllib3.BaseHTTPResponse, url: str) -> tuple[int, int | None]:
    unit, _, rest = response.headers.get("Content-Range", "").partition(" ")
    span, _, size = rest.partition("/")
    first = span.partition("-")[0]
    if unit.lower() != "bytes" or not first.isdecimal():
        raise StorageError(f"{url}: the server sent a part and does not say which", url=url)
    return int(first), int(size) if size.isdecimal() else None


def _version(response: urllib3.BaseHTTPResponse) -> Version:
    etag = response.headers.get("ETag")
    if etag is not None and '"' in etag:
        return str(etag)
    size = response.headers.get("Content-Range", "").rpartition("/")[2] or response.headers.get("Content-Length", "")
    return f"{response.headers.get('Last-Modified', '')};{size}"


def _last_modified(response: urllib3.BaseHTTPResponse) -> int:
    try:
        moment = parsedate_to_datetime(response.headers.get("Last-Modified", ""))
    except ValueError:
        return 0
    return to_micros(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


def _modified(url: str) -> ObjectModifiedError:
    return ObjectModifiedError(f"{url} was modified after it was referenced", url=url)


def _answer_error(response: urllib3.BaseHTTPResponse, url: str) -> StorageError:
    status = response.status
    if status == 412:
        return _modified(url)
    facts: dict[str, Any] = {"status": status, "url": url}
    asked = response.headers.get("Retry-After", "")
    if asked.isdecimal():
        facts["retry_after_s"] = float(asked)
    return _STATUSES.get(status, StorageError)(f"cannot read {url}: the server answered {status}", **facts)


def _transport_error(error: http_errors.HTTPError, url: str) -> StorageError:
    reason = error.reason if isinstance(error, http_errors.MaxRetryError) else error
    if isinstance(reason, http_errors.SSLError | ssl.SSLError):
        failure = UnreachableError(f"cannot read {url}: no trusted connection", hint="check the certificate", url=url)
        failure.is_transient = False
        return failure
    if isinstance(reason, http_errors.ResponseError):
        return StorageError(f"cannot read {url}: more than {_MAX_REDIRECTS} redirects", url=url)
    never_connected = isinstance(reason, http_errors.NewConnectionError | http_errors.ConnectTimeoutError)
    what = "the server cannot be reached" if never_connected else "the server broke off its answer"
    return UnreachableError(
        f"cannot read {url}: {what}",
        hint="check the address and the network" if never_connected else None,
        url=url,
        never_connected=never_connected,
        cause=type(reason).__name__,
    )

"""Objects behind a plain web server, for reading only: repositories published over HTTP, and virtual chunks.

A web server has no listing, and what it promises differs: entity tags may be missing, and ranges may be ignored. A
whole object in place of a range is used only if it is certain that it is that object: the entity tag is the one that
was a condition, the object is asked for whole, or the server tells names apart (it has nothing at a made-up name, which
a login page has).

Redirects are followed within the origin of the base URL, from http to https on the same host, and below the prefixes
that the user allowed. urllib3 keeps the connections; it comes with botocore.
"""

import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from typing import Any, Final, Never, override
from urllib.parse import quote, urlsplit, urlunsplit

import urllib3

from icefs.clock import to_micros
from icefs.errors import (
    AccessDeniedError,
    BadAnswerError,
    InvalidInputError,
    ObjectModifiedError,
    ObjectNotFoundError,
    ReadOnlyError,
    StorageError,
    ThrottledError,
    UnreachableError,
    UnsupportedError,
)
from icefs.storage.answers import (
    AnswerError,
    bad_answer,
    content_encoding,
    describe,
    is_document,
    is_page,
    looks_like_markup,
    range_size,
    read_exactly,
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
from icefs.storage.http_client import HttpClient, HttpOptions
from icefs.storage.retry import Retrier
from icefs.storage.settings import StoreSettings

_PIECE = 1 << 20
# Characters that a path holds as they are (RFC 3986, pchar): some servers compare paths as they are written.
_PATH_CHARACTERS: Final = "/:@!$&'()*+,;=~"
_STRAY_PERCENT: Final = re.compile("%(?![0-9A-Fa-f]{2})")
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


class HttpStorage(Storage):
    """The objects below a URL, for reading. Safe for threads; makes no request before it is used."""

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
        self._client = HttpClient(self._url, self.options)

    def __reduce__(self) -> tuple[Callable[..., "HttpStorage"], tuple[str, HttpOptions]]:
        return (HttpStorage, (self._url, self.options))

    @property
    @override
    def url(self) -> str:
        return self._url

    @override
    def facts(self) -> Mapping[str, str]:
        return {"type": "HTTP", "url": self._url}

    def _object_url(self, key: str) -> str:
        check_key(key)
        return self._url_of(key)

    def _url_of(self, key: str) -> str:
        if not self.options.has_encoded_keys:
            return f"{self._url}/{quote(key, safe=_PATH_CHARACTERS)}"
        # A percent sign that encodes nothing means itself; left so, all of them would be encoded once more.
        return f"{self._url}/{quote(_STRAY_PERCENT.sub('%25', key), safe=_PATH_CHARACTERS + '%')}"

    # --- requests ---

    def _request[T](
        self, method: str, url: str, headers: dict[str, str], receive: Callable[[urllib3.BaseHTTPResponse], T]
    ) -> T:
        def once() -> T:
            try:
                with self._client.send(method, url, headers, limit_s=self._retrier.attempt_limit_s()) as response:
                    return receive(response)
            except AnswerError as error:
                raise bad_answer(error, action=f"read {url}", endpoint=self._url) from error

        return self._retrier.run(once, verb="read", name=url)

    @override
    def with_settings(self, settings: StoreSettings) -> Storage:
        options = self.options.with_settings(settings)
        return self if options == self.options else HttpStorage(self._url, options)

    @override
    def usual_settings(self) -> StoreSettings:
        options = self.options
        return options.retry.settings(
            StoreSettings(), connect_timeout_s=options.connect_timeout_s, read_timeout_s=options.read_timeout_s
        )

    @override
    def unheeded_settings(self, settings: StoreSettings) -> tuple[str, ...]:
        return ()  # the others are about writes, which there are none of

    @override
    def watch_retries(self, tell: Callable[[str, str], None]) -> None:
        self._retrier.on_retry = tell

    def _read(self, url: str, start: int, end: int | None, conditions: dict[str, str]) -> Object | None:
        """Reads a range; None if a condition (If-None-Match) says that it is not needed."""
        headers, known = dict(conditions), conditions.get("If-None-Match", "")
        if end == start:
            return self._read_nothing(url, start, end, conditions)
        if start > 0 or end is not None:
            headers["Range"] = f"bytes={start}-" if end is None else f"bytes={start}-{end - 1}"

        def receive(response: urllib3.BaseHTTPResponse) -> Object | None:
            if response.status == 304 and conditions:
                tag = response.headers.get("ETag", known).removeprefix("W/")
                if tag != known.removeprefix("W/"):
                    raise AnswerError("304, although the object is another one", 304)
                return None
            if response.status not in (200, 206):
                raise _answer_error(response, url, headers)
            return Object(self._body(response, url, start, end, is_own=True), _version(response))

        try:
            return self._request("GET", url, headers, receive)
        except StorageError as error:
            if error.facts.get("status") != 416:
                raise
        return self._read_nothing(url, start, end, conditions)

    def _read_nothing(self, url: str, start: int, end: int | None, conditions: dict[str, str]) -> Object:
        size, _, version = self._describe(url, conditions)
        if range_end(size, start, end, name=url) != start:
            raise BadAnswerError(f"cannot read {url}: the server's answers about its length contradict each other")
        return Object(b"", version)

    def _describe(self, url: str, conditions: dict[str, str]) -> tuple[int, int, Version]:
        """Returns size, time of last modification in microseconds (0: not told), and version."""

        def receive(response: urllib3.BaseHTTPResponse) -> tuple[int, int, Version]:
            if response.status != 200:
                raise _answer_error(response, url, conditions)
            if is_page(response.headers):
                raise AnswerError(describe(response.status, response.headers), response.status)
            length = response.headers.get("Content-Length", "")
            if not length.isdecimal():
                raise StorageError(f"{url}: the server does not say how long it is", url=url)
            return int(length), _last_modified(response), _version(response)

        return self._request("HEAD", url, conditions, receive)

    def _body(
        self,
        response: urllib3.BaseHTTPResponse,
        url: str,
        start: int,
        end: int | None,
        *,
        is_own: bool = False,
        has_tag: bool = False,
    ) -> bytes:
        """Reads the bytes `[start, end)` of the object that an answer is about, and not much more.

        Args:
            response: The answer, of status 200 or 206.
            url: The URL of the request.
            start: The first byte.
            end: One past the last; None for the rest.
            is_own: Whether it is a file of a repository, none of which is a web page or XML.
            has_tag: Whether the answer has the entity tag that was asked for.
        """
        headers, is_range = response.headers, start > 0 or end is not None
        if content_encoding(headers) is not None:
            raise StorageError(f"{url}: the server changes what it sends (Content-Encoding)", url=url)
        if response.status == 206 and is_range:
            end, _ = range_size(headers, start, end, name=url)
            return read_exactly(response, end - start)
        if response.status == 206:
            raise AnswerError("206 to a request for all of it", 206)
        length = headers.get("Content-Length", "")
        size = int(length) if length.isascii() and length.isdecimal() else None
        if size is None and end is None and not response.chunked:
            raise StorageError(f"{url}: the server does not say how long it is, so a part of it looks whole", url=url)
        is_proven = has_tag or not is_range or (start == 0 and end == size and not is_document(headers))
        if not is_proven and (is_page(headers) or not self._tells_names_apart(url)):
            raise AnswerError(f"{describe(200, headers)} instead of the range that was asked for", 200)
        stop = end if size is None else range_end(size, start, end, name=url)
        data = _receive(response, MAX_WHOLE_READ_BYTES + 1 if stop is None else stop)
        if not has_tag and ((is_own and is_page(headers)) or ((is_own or is_range) and looks_like_markup(data))):
            raise AnswerError("200 with a document instead of the object", 200)
        stop = range_end(len(data), start, end, name=url) if size is None else stop
        if stop is not None and len(data) < stop:
            raise UnreachableError(f"{url} ended after {len(data)} bytes of {stop}", url=url)
        return data[start:stop]

    def _tells_names_apart(self, url: str) -> bool:
        """Tells whether the server has nothing at a made-up name, where a login page is everywhere."""
        made_up = f"{url.rpartition('/')[0]}/.icefs-{uuid.uuid4().hex}"
        try:
            with self._client.send("GET", made_up, {"Range": "bytes=0-0"}) as response:
                return response.status in (403, 404, 410)
        except StorageError:
            return False

    # --- the storage ---

    @override
    def get(self, key: str, *, start: int = 0, end: int | None = None) -> Object:
        check_range(start, end)
        found = self._read(self._object_url(key), start, end, {})
        assert found is not None  # nothing was a condition
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
        url = self._url_of(key)
        headers: dict[str, str] = {}
        is_weak = if_match_etag is not None and if_match_etag.startswith("W/")
        tag = None if if_match_etag is None else if_match_etag.removeprefix("W/").strip('"')
        if tag is not None and not is_weak:  # a weak one never fulfils a condition
            headers["If-Match"] = f'"{tag}"'
        if if_unmodified_since_s is not None:
            headers["If-Unmodified-Since"] = formatdate(if_unmodified_since_s, usegmt=True)
        if end == start:
            return self._read_nothing(url, start, end, headers).data
        headers["Range"] = f"bytes={start}-{end - 1}"

        def receive(response: urllib3.BaseHTTPResponse) -> bytes:
            if response.status not in (200, 206):
                raise _answer_error(response, url, headers)
            told = response.headers.get("ETag", "")
            if tag is not None and (told.removeprefix("W/") if is_weak else told).strip('"') != tag:
                raise _modified(url)
            # A server that does not tell the time cannot have checked it (0: not told).
            modified_s = _last_modified(response) // 1_000_000
            if if_unmodified_since_s is not None and not 0 < modified_s <= if_unmodified_since_s:
                raise _modified(url)
            return self._body(response, url, start, end, has_tag=tag is not None and not is_weak)

        try:
            return self._request("GET", url, headers, receive)
        except StorageError as error:
            if error.facts.get("status") != 416:
                raise
        return self._read_nothing(url, start, end, {}).data

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
    def iter_objects(self, prefix: str = "") -> Iterator[ObjectInfo]:
        self._refuse_to_list()

    @override
    def list_dir(self, prefix: str = "") -> Iterator[str]:
        self._refuse_to_list()

    def _refuse_to_list(self) -> Never:
        raise UnsupportedError(
            f"{self.url} is a web server, which cannot list what it has",
            hint="use the address of its bucket (s3://…), or a copy on a disk",
        )

    @override
    def close(self) -> None:
        self._retrier.close()
        self._client.close()


def _receive(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """Reads at most so many bytes of a body."""
    pieces, received = [], 0
    while received < most and (piece := response.read(min(_PIECE, most - received), decode_content=False)):
        pieces.append(piece)
        received += len(piece)
    return b"".join(pieces)


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


def _answer_error(response: urllib3.BaseHTTPResponse, url: str, asked: Mapping[str, str]) -> StorageError | AnswerError:
    """Returns the error for an answer that is not the object; `asked` are the request's headers."""
    status = response.status
    is_misfit = {
        304: "If-None-Match" not in asked,
        412: not {"If-Match", "If-Unmodified-Since"} & asked.keys(),
        416: "Range" not in asked,
    }
    if status < 300 or is_misfit.get(status, False):
        return AnswerError(f"{describe(status, response.headers)}, which does not fit the request", status)
    if status == 412:
        return _modified(url)
    facts: dict[str, Any] = {"status": status, "url": url}
    wait_s = response.headers.get("Retry-After", "")
    if wait_s.isdecimal():
        facts["retry_after_s"] = float(wait_s)
    error = _STATUSES.get(status, StorageError)
    if issubclass(error, AccessDeniedError):
        hint: str | None = "check the address and its permissions"
    else:
        hint = "check the address" if status < 500 and not error.is_transient else None
    return error(f"cannot read {url}: the server answered {status}", hint=hint, **facts)

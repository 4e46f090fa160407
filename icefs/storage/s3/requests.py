"""The S3 requests that are sent by the thousand: read, write, stat, list.

The target of a bucket is found once (`client`). From then on this module composes requests, signs them (Signature
Version 4) and sends them through urllib3. That takes 0.25 ms of processor time instead of the 1 to 2 ms of boto3, so a
thread-bound program reads four times as many small chunks a second.

Failures raise the exceptions of botocore, so that one place translates those of both ways (`errors`).

Source: AWS "Signature Version 4 signing process"; "Amazon S3 API Reference".
"""

import hashlib
import hmac
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, cast
from urllib.parse import quote, urlencode, urlsplit

import certifi
import urllib3
from botocore import exceptions as boto_errors
from urllib3 import exceptions as http_errors
from urllib3.util.ssl_ import create_urllib3_context

from icefs.storage.answers import AnswerError
from icefs.storage.base import Done, Version
from icefs.storage.deadlines import ended_after, timeout_within
from icefs.storage.proxies import proxy_of
from icefs.storage.range_reads import Endpoint, Failed, RangeReads
from icefs.storage.s3.answers import (
    Described,
    ListPage,
    check_refusal,
    described,
    error_code,
    parse_list,
    stored,
)
from icefs.storage.s3.client import Connection
from icefs.storage.s3.options import S3Options
from icefs.storage.s3.target import Target

type Headers = Mapping[str, str]

_EMPTY_SHA256: Final = hashlib.sha256(b"").hexdigest()
_UNRESERVED: Final = "-_.~"
_USER_AGENT: Final = "icefs"
# A list of a thousand long keys is a megabyte; an error is a few hundred bytes.
_MAX_ERROR_BYTES: Final = 1 << 20
_MAX_LIST_BYTES: Final = 64 << 20
_REGION = re.compile(r"[a-z0-9-]{1,64}")
_REGION_IN_BODY = re.compile(rb"<Region>\s*([a-z0-9-]{1,64})\s*</Region>")
# Services refuse what was signed more than 15 minutes away from their own time.
_MIN_SKEW_S: Final = 60.0


class S3Requests:
    """Sends requests to one bucket.

    Safe for threads: `_lock` guards the making of what lasts (target, pool), which is read without it.
    """

    def __init__(
        self, connection: Connection, bucket: str, options: S3Options, attempt_limit_s: Callable[[], float | None]
    ) -> None:
        """Takes the way to the service, the bucket, and what tells how long this thread's try may take."""
        self._attempt_limit_s = attempt_limit_s if options.retry.has_deadlines else None
        self.connection = connection
        self._bucket = bucket
        self._options = options
        self._lock = threading.Lock()
        self._target: Target | None = None
        self._pool: urllib3.HTTPConnectionPool | None = None
        self._reads: RangeReads | None = None
        self._key: tuple[tuple[str, str, str], bytes] = (("", "", ""), b"")
        self._stamp: tuple[int, str] = (0, "")
        self._skew_s = 0.0
        self._extra = {True: dict(options.read_headers), False: dict(options.write_headers)}
        self._signed_names = _SIGNED.union(self._extra[True], self._extra[False])

    # Sending.

    @contextmanager
    def send(
        self, method: str, name: str, headers: Headers, *, query: str = "", body: bytes = b""
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Sends a request about an object, or (with an empty name) the bucket; gives the answer with its body unread.

        Args:
            method: Of HTTP.
            name: The object's full name.
            headers: What to send besides what all requests have; the names in lower case.
            query: Encoded, its parameters sorted.
            body: What to send.

        Raises:
            ClientError: the service answered with anything but success.
            AnswerError: something answered that is not the service.
            BotoCoreError: it could not be reached, or broke off.
        """
        target = self._target or self._find_target()
        pool = self._pool or self._make_pool(target)
        path = target.base_path + quote(name, safe="/" + _UNRESERVED)
        url = target.origin + (f"{path}?{query}" if query else path)
        sent = self._signed(target, method, path, query, headers, body)
        ends_at = self._ends_at()
        try:
            response = pool.urlopen(
                method,
                url,
                body=body or None,
                headers=sent,
                retries=False,
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                timeout=pool.timeout if ends_at is None else self._timeout(ends_at),
            )
            try:
                with ended_after(response, None if ends_at is None else max(ends_at - time.monotonic(), 0.001)):
                    if response.status >= 300:
                        raise self._answer_error(response, method, headers)
                    yield response
                if response.length_remaining in (0, None):
                    response.drain_conn()
                    response.release_conn()
            finally:
                # A connection with something left to read cannot be used again.
                if response.connection is not None:
                    response.close()
        except http_errors.HTTPError as error:
            raise _transport_error(error, target.base_url) from error

    def _ends_at(self) -> float | None:
        """Returns when this thread's try has to be over, on the monotonic clock; None for no limit."""
        limit_s = None if self._attempt_limit_s is None else self._attempt_limit_s()
        return None if limit_s is None else time.monotonic() + limit_s

    def _timeout(self, ends_at: float) -> urllib3.Timeout:
        options = self._options
        left_s = max(ends_at - time.monotonic(), 0.001)
        return timeout_within(options.connect_timeout_s, options.read_timeout_s, left_s)

    def describe(self, name: str, headers: Headers) -> Described:
        """Asks for what is known of an object; raises as `send` and `described`.

        The answer to a HEAD has no body. Where it is a refusal, a GET of the first byte says why.
        """
        try:
            with self.send("HEAD", name, headers) as response:
                return described(response)
        except (boto_errors.ClientError, AnswerError) as error:
            if not _is_worth_asking(error):
                raise
            refusal = error
        try:
            with self.send("GET", name, {**headers, "range": "bytes=0-0"}) as response:
                return described(response)
        except boto_errors.ClientError as error:
            if _status_of(error) == 416:
                raise refusal from None  # the object is empty, so that nobody says why
            raise

    def store(self, name: str, headers: Headers, body: bytes) -> Version:
        """Writes an object; returns its version. Raises as `send` and `stored`."""
        with self.send("PUT", name, headers, body=body) as response:
            return stored(response, read_bounded(response, _MAX_ERROR_BYTES))

    def list_page(self, parameters: Mapping[str, str], headers: Headers) -> ListPage:
        """Lists the objects that parameters of ListObjectsV2 choose; raises as `send` and `parse_list`."""
        query = urlencode(sorted(parameters.items()), quote_via=quote, safe=_UNRESERVED)
        with self.send("GET", "", headers, query=query) as response:
            data = read_bounded(response, _MAX_LIST_BYTES)
            token = parameters.get("continuation-token")
            return parse_list(data, parameters["prefix"], token=token, status=response.status)

    def start_read(self, name: str, start: int, end: int, headers: Headers, done: Done, failed: Failed) -> bool:
        """Begins to read a range of an object without a thread for it; see `RangeReads.start`."""
        target = self._target
        if target is None or target.origin or target.has_proxy:
            return False
        reads = self._reads or self._make_reads(target)
        path = target.base_path + quote(name, safe="/" + _UNRESERVED)

        def request() -> bytes:
            sent = self._signed(target, "GET", path, "", {"range": f"bytes={start}-{end - 1}", **headers}, b"")
            lines = "\r\n".join([f"GET {path} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items()), "", ""])
            return lines.encode("ascii")

        return reads.start(request, start, end, done, failed)

    def close(self) -> None:
        """Closes the connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()
        self.close_reads()

    def close_reads(self) -> None:
        """Gives up what was begun by `start_read`, and ends its thread."""
        with self._lock:
            reads, self._reads = self._reads, None
        if reads is not None:
            reads.close()

    # Where to.

    def _find_target(self) -> Target:
        with self._lock:
            if self._target is None:
                self._target = self.connection.target(self._bucket)
            return self._target

    def _make_pool(self, target: Target) -> urllib3.HTTPConnectionPool:
        with self._lock:
            if self._pool is None:
                self._pool = _connect(target, self.connection, self._options)
            return self._pool

    def _make_reads(self, target: Target) -> RangeReads:
        with self._lock:
            if self._reads is None:
                self._reads = RangeReads(_endpoint(target, self.connection, self._options))
            return self._reads

    # Signing.

    def _signed(
        self, target: Target, method: str, path: str, query: str, headers: Headers, body: bytes
    ) -> dict[str, str]:
        agent = f"{_USER_AGENT} {self._options.user_agent}".rstrip()
        extra = self._extra[method in ("GET", "HEAD")]
        sent = {"host": target.host, "user-agent": agent, "accept-encoding": "identity", **extra, **headers}
        if method in ("PUT", "POST"):
            sent["content-length"] = str(len(body))
        if not target.is_signed:
            return sent
        keys = self.connection.keys()
        moment, date = self._now()
        sent["x-amz-date"] = moment
        payload = hashlib.sha256(body).hexdigest() if body else _EMPTY_SHA256
        sent["x-amz-content-sha256"] = payload
        if keys.token:
            sent["x-amz-security-token"] = keys.token
        names = sorted(name for name in sent if name.startswith("x-amz-") or name in self._signed_names)
        canonical = "\n".join(
            (
                method,
                path,
                query,
                *(f"{name}:{' '.join(sent[name].split())}" for name in names),
                "",
                ";".join(names),
                payload,
            )
        )
        scope = f"{date}/{target.region}/{target.service}/aws4_request"
        to_sign = f"AWS4-HMAC-SHA256\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        signature = hmac.digest(self._signing_key(keys.secret_key, date, target), to_sign.encode(), "sha256").hex()
        sent["Authorization"] = (
            f"AWS4-HMAC-SHA256 Credential={keys.access_key}/{scope}, "
            f"SignedHeaders={';'.join(names)}, Signature={signature}"
        )
        return sent

    def _signing_key(self, secret: str, date: str, target: Target) -> bytes:
        """Returns the key of a day, which is the same for all requests of it."""
        known, key = self._key
        wanted = secret, date, target.region
        if known != wanted:
            key = ("AWS4" + secret).encode()
            for part in (date, target.region, target.service, "aws4_request"):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = wanted, key
        return key

    def _now(self) -> tuple[str, str]:
        second = int(time.time() + self._skew_s)
        known, text = self._stamp
        if known != second:
            text = datetime.fromtimestamp(second, UTC).strftime("%Y%m%dT%H%M%SZ")
            self._stamp = second, text
        return text, text[:8]

    # What went wrong.

    def _answer_error(self, response: urllib3.BaseHTTPResponse, method: str, asked: Headers) -> boto_errors.ClientError:
        status = response.status
        data = b"" if status == 304 or method == "HEAD" else read_bounded(response, _MAX_ERROR_BYTES)
        check_refusal(method, status, response.headers, data, asked)
        code = error_code(data) or str(status)
        headers = {name.lower(): value for name, value in response.headers.items()}
        told: dict[str, Any] = {
            "Error": {"Code": code},
            "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
        }
        if status in (301, 307, 400):
            region = headers.get("x-amz-bucket-region", "")
            in_body = _REGION_IN_BODY.search(data)
            if not region and in_body is not None:
                region = in_body[1].decode()
            if _REGION.fullmatch(region):
                told["Error"]["Region"] = region
        return boto_errors.ClientError(cast("Any", told), method)

    def adjust_clock(self, error: boto_errors.ClientError) -> bool:
        """Takes over the time of a service that says that a request's is wrong; tells whether that changes anything."""
        text = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        try:
            skew_s = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:
            return False
        changes = abs(skew_s - self._skew_s) > _MIN_SKEW_S
        self._skew_s = skew_s
        return changes


_SIGNED: Final = frozenset(("host", "content-type", "content-md5", "range", "if-match", "if-none-match"))


def read_bounded(response: urllib3.BaseHTTPResponse, most: int) -> bytes:
    """Reads an answer's body.

    Raises:
        AnswerError: it is longer than anything that is expected.
    """
    announced = response.length_remaining
    data: bytes = b"" if announced is not None and announced > most else response.read(most + 1)
    if len(data) > most or (announced is not None and announced > most):
        raise AnswerError(f"{response.status} with more than {most} bytes", response.status)
    return data


def _status_of(error: boto_errors.ClientError) -> int:
    metadata: Mapping[str, Any] = error.response.get("ResponseMetadata", {})
    return int(metadata.get("HTTPStatusCode", 0))


def _is_worth_asking(error: boto_errors.ClientError | AnswerError) -> bool:
    """Tells whether a refused HEAD leaves open why: not where it says that a condition is not met."""
    return isinstance(error, AnswerError) or _status_of(error) not in (304, 412)


def _connect(target: Target, connection: Connection, options: S3Options) -> urllib3.HTTPConnectionPool:
    parts = urlsplit(target.base_url)
    proxy = proxy_of(target.base_url)
    make: Callable[..., urllib3.PoolManager] = (
        partial(urllib3.ProxyManager, proxy) if proxy is not None else urllib3.PoolManager
    )
    secure: dict[str, Any] = {}
    if parts.scheme == "https":
        secure = {"cert_reqs": "CERT_REQUIRED", "ca_certs": _authorities(connection)}
    manager = make(
        # One more connection than threads use, so that none is thrown away when they change hands.
        maxsize=options.concurrency + 1,
        timeout=urllib3.Timeout(connect=options.connect_timeout_s, read=options.read_timeout_s),
        socket_options=_socket_options(),
        **secure,
    )
    pool: urllib3.HTTPConnectionPool = manager.connection_from_url(target.base_url)
    return pool


def _endpoint(target: Target, connection: Connection, options: S3Options) -> Endpoint:
    parts = urlsplit(target.base_url)
    tls = None
    if parts.scheme == "https":
        tls = create_urllib3_context(cert_reqs=ssl.CERT_REQUIRED)
        tls.load_verify_locations(_authorities(connection))
    port = parts.port or (80 if tls is None else 443)
    return Endpoint(
        parts.hostname or "", port, tls, options.concurrency, options.connect_timeout_s, options.read_timeout_s
    )


def _authorities(connection: Connection) -> str:
    """Returns the file with the certificate authorities to trust: the configured one, or Mozilla's, as boto3 does."""
    return connection.ca_bundle if connection.ca_bundle is not None else certifi.where()


def _socket_options() -> list[tuple[int, int, int]]:
    import socket  # for two constants

    return [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)]


def _named(error: Exception | None) -> Any:
    return type(error).__name__


def _transport_error(error: http_errors.HTTPError, url: str) -> boto_errors.BotoCoreError:
    """Returns botocore's exception for a failure, without the cause's text, which may repeat a request's headers."""
    reason = error.reason if isinstance(error, http_errors.MaxRetryError) else error
    if isinstance(reason, http_errors.SSLError):
        return boto_errors.SSLError(endpoint_url=url, error=_named(reason))
    if isinstance(reason, http_errors.ProxyError):
        return boto_errors.ProxyConnectionError(proxy_url="the proxy", error=_named(reason))
    if isinstance(reason, http_errors.ConnectTimeoutError | http_errors.NewConnectionError):
        return boto_errors.EndpointConnectionError(endpoint_url=url, error=_named(reason))
    if isinstance(reason, http_errors.ReadTimeoutError):
        return boto_errors.ReadTimeoutError(endpoint_url=url, error=_named(reason))
    return boto_errors.ConnectionClosedError(endpoint_url=url, request=None, error=_named(reason))

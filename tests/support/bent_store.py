"""A store of objects over HTTP that answers rightly, or as a proxy, login page or gateway in its place might.

    with BentStore() as store:
        store.objects["bucket/pre/a"] = Stored(b"bytes")
        store.bend = Bend(status=200, body="page")      # answers from now on
        S3Storage("bucket", "pre", S3Options(endpoint_url=store.url, …))

Rightly, it is an S3 service as far as icefs uses one (listing, conditions, ranges, copies, uploads in parts, deletion
in bulk), and a web server under the same names. Signatures are not looked at.
"""

import gzip
import hashlib
import itertools
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

MODIFIED_S = 1_700_000_000
PAGE = b"<!DOCTYPE html>\n<html><body>please log in</body></html>"
XHTML = b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><body>please log in</body></html>'
XML_ERROR = b'<?xml version="1.0"?><Error><Code>Blocked</Code><Message>by policy</Message></Error>'
NO_SUCH_KEY = b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code><Message>no such key</Message></Error>'
JSON = b'{"message": "no route matched"}'

STATUSES = (
    *(200, 201, 202, 203, 204, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 402, 403, 404, 405, 406, 407, 408),
    *(409, 410, 411, 412, 413, 416, 418, 421, 425, 429, 431, 451, 500, 501, 502, 503, 504, 505, 507, 508, 511, 520),
)
BODIES = ("right", "empty", "short", "long", "page", "xml error", "no such key", "xhtml", "json", "other range", "gzip")
HEADERS = (
    *(
        "right",
        "no etag",
        "weak etag",
        "other etag",
        "no range",
        "wrong start",
        "wrong end",
        "other total",
        "any total",
    ),
    *("longer", "shorter", "no length", "chunked", "chunked cut", "no time", "bad time", "encoded", "typed page"),
    *("typed xml", "region", "elsewhere", "here"),
)


@dataclass
class Stored:
    """An object, and its user metadata."""

    data: bytes
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def etag(self) -> str:
        return f'"{hashlib.md5(self.data).hexdigest()}"'


@dataclass(frozen=True)
class Bend:
    """How answers differ from the right ones.

    Attributes:
        status: The status; None for the right one.
        body: One of `BODIES`.
        headers: One of `HEADERS`.
        is_done: Whether the store does what the request asks for, before that is answered.
        times: How many requests are answered so; None for all.
    """

    status: int | None = None
    body: str = "right"
    headers: str = "right"
    is_done: bool = False
    times: int | None = None


@dataclass
class Answer:
    """An answer of the store: status, headers and body, as it is sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def arrived(self) -> bytes:
        """What a client reads of the body: as much as the length says."""
        length = self.headers.get("Content-Length", "none")
        return self.body[: int(length)] if length.isdecimal() else self.body

    @property
    def says_missing(self) -> bool:
        """Whether it is S3's word that there is no such object."""
        is_page = "html" in self.headers.get("Content-Type", "")
        body = self.arrived
        return self.status == 404 and (b"<Code>NoSuchKey</Code>" in body or (not body and not is_page))


@dataclass(frozen=True)
class Asked:
    """A request that came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return unquote(urlsplit(self.path).path).lstrip("/")

    @property
    def query(self) -> dict[str, str]:
        return {name: values[0] for name, values in parse_qs(urlsplit(self.path).query, True).items()}


class BentStore:
    """Listens on a free port; see the module.

    Attributes:
        objects: By bucket and name.
        seen: The requests.
        bend: How it answers; None for rightly.
        answered: The bent answers that were given.
        page_only: Whether it is a login page, whatever is asked.
        ignores_conditions: Whether the conditions of writes are dropped on their way.
        modified_s: The time of each object, in seconds since the epoch.
    """

    def __init__(self, elsewhere: str = "http://127.0.0.1:1") -> None:
        self.objects: dict[str, Stored] = {}
        self.seen: list[Asked] = []
        self.answered: list[tuple[Asked, Answer]] = []
        self.bend: Bend | None = None
        self.elsewhere = elsewhere
        self.page_only = False
        self.ignores_conditions = False
        self.modified_s: float = MODIFIED_S
        self._left: int | None = None
        self._uploads: dict[str, tuple[dict[int, bytes], dict[str, str]]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        owner = self

        class Handler(_Handler):
            store = owner

        self._server = _Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def set_bend(self, bend: Bend | None) -> None:
        with self._lock:
            self.bend, self._left = bend, None if bend is None else bend.times
            self.seen.clear()
            self.answered.clear()

    def take(self, asked: Asked) -> Answer | None:
        """Answers a request; None breaks the connection off."""
        with self._lock:
            self.seen.append(asked)
            bend = self.bend
            if bend is not None and self._left is not None:
                self._left -= 1
                bend = bend if self._left >= 0 else None
            if bend is None:
                return self.right(asked)
            is_reading = asked.method in ("GET", "HEAD")
            before = dict(self.objects)
            right = self.right(asked)
            if not bend.is_done and not is_reading:
                self.objects = before
            answer = self.bent(asked, right, bend)
            self.answered.append((asked, answer))
            return answer

    # How it is right.

    def right(self, asked: Asked) -> Answer:
        if self.page_only:
            return Answer(200, {"Content-Type": "text/html"}, PAGE)
        query = asked.query
        if asked.method in ("GET", "HEAD"):
            return self._list(asked) if "list-type" in query else self._read(asked)
        if asked.method == "POST":
            return self._post(asked, query)
        if asked.method == "DELETE":
            self.objects.pop(asked.key, None)
            return Answer(204, {}, b"")
        if "uploadId" in query:
            self._uploads[query["uploadId"]][0][int(query["partNumber"])] = asked.body
            return Answer(200, {"ETag": Stored(asked.body).etag}, b"")
        return self._write(asked)

    def _write(self, asked: Asked) -> Answer:
        found = self.objects.get(asked.key)
        source = asked.headers.get("x-amz-copy-source")
        if source is not None:
            origin = self.objects.get(unquote(source).lstrip("/"))
            if origin is None:
                return Answer(404, {"Content-Type": "application/xml"}, NO_SUCH_KEY)
            if asked.headers.get("x-amz-copy-source-if-match", origin.etag) != origin.etag:
                return _refusal(412, "PreconditionFailed")
            self.objects[asked.key] = Stored(origin.data)
            done = f"<CopyObjectResult><ETag>{escape(origin.etag)}</ETag></CopyObjectResult>".encode()
            return Answer(200, {"Content-Type": "application/xml"}, done)
        if not (self.ignores_conditions or _holds(asked, found)):
            return _refusal(412, "PreconditionFailed")
        prefix = "x-amz-meta-"
        metadata = {name: value for name, value in asked.headers.items() if name.startswith(prefix)}
        stored = self.objects[asked.key] = Stored(asked.body, metadata)
        return Answer(200, {"ETag": stored.etag}, b"")

    def _post(self, asked: Asked, query: dict[str, str]) -> Answer:
        xml = {"Content-Type": "application/xml"}
        if "delete" in query:
            bucket = asked.key.partition("/")[0]
            root = ElementTree.fromstring(asked.body)
            names = [element.text or "" for element in root.iter() if element.tag.endswith("Key")]
            for name in names:
                self.objects.pop(f"{bucket}/{name}", None)
            deleted = "".join(f"<Deleted><Key>{escape(name)}</Key></Deleted>" for name in names)
            return Answer(200, xml, f"<DeleteResult>{deleted}</DeleteResult>".encode())
        if "uploads" in query:
            upload = f"upload{next(self._numbers)}"
            metadata = {name: value for name, value in asked.headers.items() if name.startswith("x-amz-meta-")}
            self._uploads[upload] = {}, metadata
            bucket, _, name = asked.key.partition("/")
            body = f"<Bucket>{bucket}</Bucket><Key>{escape(name)}</Key><UploadId>{upload}</UploadId>"
            return Answer(200, xml, f"<InitiateMultipartUploadResult>{body}</InitiateMultipartUploadResult>".encode())
        parts, metadata = self._uploads[query["uploadId"]]
        if not (self.ignores_conditions or _holds(asked, self.objects.get(asked.key))):
            return _refusal(412, "PreconditionFailed")
        stored = self.objects[asked.key] = Stored(b"".join(parts[number] for number in sorted(parts)), metadata)
        body = f"<ETag>{escape(stored.etag)}</ETag>"
        return Answer(200, xml, f"<CompleteMultipartUploadResult>{body}</CompleteMultipartUploadResult>".encode())

    def _read(self, asked: Asked) -> Answer:
        found = self.objects.get(asked.key)
        if found is None:
            return Answer(404, {"Content-Type": "application/xml"}, NO_SUCH_KEY)
        facts = {"ETag": found.etag, "Last-Modified": formatdate(self.modified_s, usegmt=True), **found.metadata}
        if asked.headers.get("if-none-match") == found.etag:
            return Answer(304, facts, b"")
        if asked.headers.get("if-match", found.etag) != found.etag:
            return _refusal(412, "PreconditionFailed")
        span = _span(asked, found.data)
        facts["Content-Type"] = "application/octet-stream"
        if span is None or asked.method == "HEAD":
            return Answer(200, facts, found.data)
        start, end = span
        if start >= len(found.data):
            return Answer(416, {"Content-Range": f"bytes */{len(found.data)}"}, b"")
        facts["Content-Range"] = f"bytes {start}-{end - 1}/{len(found.data)}"
        return Answer(206, facts, found.data[start:end])

    def _list(self, asked: Asked) -> Answer:
        bucket, prefix = asked.key.partition("/")[0], asked.query["prefix"]
        return Answer(200, {"Content-Type": "application/xml"}, self.listing(bucket, prefix, asked.query))

    def listing(self, bucket: str, prefix: str, query: dict[str, str]) -> bytes:
        names = sorted(key.partition("/")[2] for key in self.objects if key.startswith(f"{bucket}/{prefix}"))
        contents, below = "", dict[str, None]()
        for name in names:
            head, slash, _ = name[len(prefix) :].partition("/")
            if query.get("delimiter") and slash:
                below[prefix + head + "/"] = None
                continue
            stored = self.objects[f"{bucket}/{name}"]
            contents += (
                f"<Contents><Key>{escape(name)}</Key><LastModified>2024-01-01T00:00:00.000Z</LastModified>"
                f"<ETag>{escape(stored.etag)}</ETag><Size>{len(stored.data)}</Size></Contents>"
            )
        prefixes = "".join(f"<CommonPrefixes><Prefix>{escape(each)}</Prefix></CommonPrefixes>" for each in below)
        head = f"<Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix><IsTruncated>false</IsTruncated>"
        return f'<?xml version="1.0"?><ListBucketResult>{head}{contents}{prefixes}</ListBucketResult>'.encode()

    # How it is not.

    def bent(self, asked: Asked, right: Answer, bend: Bend) -> Answer:
        found = self.objects.get(asked.key)
        body = self._bent_body(asked, right, found, bend.body)
        status = right.status if bend.status is None else bend.status
        headers = dict(right.headers)
        if found is not None and asked.method in ("GET", "HEAD"):
            # What the right answer would have, were it of this status.
            headers.setdefault("ETag", found.etag)
            span = _span(asked, found.data)
            if status == 206 and span is not None:
                headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{len(found.data)}"
            elif status != 206:
                headers.pop("Content-Range", None)
        if bend.body in _TYPES:
            headers["Content-Type"] = _TYPES[bend.body]
        answer = Answer(status, headers, body)
        _BENT_HEADERS[bend.headers](answer, self)
        return answer

    def _bent_body(self, asked: Asked, right: Answer, found: Stored | None, kind: str) -> bytes:
        fixed = {
            "empty": b"",
            "page": PAGE,
            "xml error": XML_ERROR,
            "no such key": NO_SUCH_KEY,
            "xhtml": XHTML,
            "json": JSON,
        }
        if kind in fixed:
            return fixed[kind]
        if kind == "other range":
            if "list-type" in asked.query:
                return self.listing(asked.key.partition("/")[0], "another/", {})
            return b"" if found is None else found.data[: len(right.body)][::-1]
        changes: dict[str, Callable[[bytes], bytes]] = {
            "right": lambda data: data,
            "short": lambda data: data[: len(data) // 2],
            "long": lambda data: data + b"and more",
            "gzip": lambda data: gzip.compress(data, mtime=0),
        }
        return changes[kind](right.body)


_TYPES = {
    "page": "text/html; charset=utf-8",
    "xhtml": "application/xhtml+xml",
    "xml error": "application/xml",
    "no such key": "application/xml",
    "json": "application/json",
}


def _refusal(status: int, code: str) -> Answer:
    return Answer(status, {"Content-Type": "application/xml"}, f"<Error><Code>{code}</Code></Error>".encode())


def _holds(asked: Asked, found: Stored | None) -> bool:
    if asked.headers.get("if-none-match") == "*" and found is not None:
        return False
    wanted = asked.headers.get("if-match")
    return wanted is None or (found is not None and wanted == found.etag)


def _span(asked: Asked, data: bytes) -> tuple[int, int] | None:
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("range", ""))
    if match is None:
        return None
    return int(match[1]), min(int(match[2]) + 1 if match[2] else len(data), len(data))


def _put(name: str, value: str | None) -> Callable[[Answer, BentStore], None]:
    def change(answer: Answer, _: BentStore) -> None:
        answer.headers.pop(name, None)
        if value is not None:
            answer.headers[name] = value

    return change


def _range(change: Callable[[int, int, int], str]) -> Callable[[Answer, BentStore], None]:
    def bend(answer: Answer, _: BentStore) -> None:
        match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
        if match is not None:
            answer.headers["Content-Range"] = "bytes " + change(int(match[1]), int(match[2]), int(match[3]))

    return bend


def _length(change: Callable[[int], str]) -> Callable[[Answer, BentStore], None]:
    def bend(answer: Answer, _: BentStore) -> None:
        answer.headers["Content-Length"] = change(len(answer.body))

    return bend


def _weak(answer: Answer, _: BentStore) -> None:
    if "ETag" in answer.headers:
        answer.headers["ETag"] = "W/" + answer.headers["ETag"]


def _region(answer: Answer, _: BentStore) -> None:
    answer.headers["x-amz-bucket-region"] = "eu-north-1"


def _location(answer: Answer, store: BentStore) -> None:
    answer.headers["Location"] = f"{store.elsewhere}/login"


_BENT_HEADERS: dict[str, Callable[[Answer, BentStore], None]] = {
    "right": lambda answer, store: None,
    "no etag": _put("ETag", None),
    "weak etag": _weak,
    "other etag": _put("ETag", '"0123456789abcdef0123456789abcdef"'),
    "no range": _put("Content-Range", None),
    "wrong start": _range(lambda first, last, size: f"{first + 1}-{last + 1}/{size}"),
    "wrong end": _range(lambda first, last, size: f"{first}-{last + 1}/{size + 1}"),
    "other total": _range(lambda first, last, size: f"{first}-{last}/{size + 100}"),
    "any total": _range(lambda first, last, size: f"{first}-{last}/*"),
    "longer": _length(lambda size: str(size + 5)),
    "shorter": _length(lambda size: str(max(0, size - 3))),
    "no length": _put("Content-Length", "none"),
    "chunked": _put("Transfer-Encoding", "chunked"),
    "chunked cut": _put("Transfer-Encoding", "chunked, cut"),
    "no time": _put("Last-Modified", None),
    "bad time": _put("Last-Modified", "yesterday"),
    "encoded": _put("Content-Encoding", "gzip"),
    "typed page": _put("Content-Type", "text/html"),
    "typed xml": _put("Content-Type", "application/xml"),
    "region": _region,
    "elsewhere": _location,
    "here": _put("Location", "/login"),
}


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        """Says nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: BentStore

    def log_message(self, *_: Any) -> None:
        pass

    def handle_request(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.store.take(Asked(self.command, self.path, headers, body))
        if answer is None:
            self.close_connection = True
            return
        self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        headers = dict(answer.headers)
        coding = headers.pop("Transfer-Encoding", None)
        has_body = self.command != "HEAD" and answer.status not in (204, 304) and answer.status >= 200
        if headers.get("Content-Length") == "none" or coding is not None:
            headers.pop("Content-Length", None)
            self.close_connection = True
        else:
            length = len(answer.body) if has_body or self.command == "HEAD" else 0
            headers.setdefault("Content-Length", str(length))
            # Nobody waits for what does not come, nor takes what is too much for the next answer.
            self.close_connection |= headers["Content-Length"] != str(len(answer.body)) or not has_body
        self.send_response_only(answer.status)
        for name, value in headers.items():
            self.send_header(name, value)
        if coding is not None:
            self.send_header("Transfer-Encoding", "chunked")
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        if not has_body:
            return
        if coding is None:
            self.wfile.write(answer.body)
            return
        half = len(answer.body) // 2
        for piece in (answer.body[:half], answer.body[half:]):
            if piece:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            if coding != "chunked":
                return
        self.wfile.write(b"0\r\n\r\n")

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_request

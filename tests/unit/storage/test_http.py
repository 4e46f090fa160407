"""Reading over HTTP from web servers of several kinds."""

import email.utils
import gzip
import threading
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from icefs.errors import (
    AccessDeniedError,
    BadAnswerError,
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
from icefs.storage.base import RangeReader
from icefs.storage.http import HttpStorage
from icefs.storage.http_client import HttpOptions
from icefs.storage.retry import RetryPolicy

DATA = b"0123456789"
MODIFIED_S = 1_700_000_000
FAST = RetryPolicy(max_tries=3, initial_backoff_s=0.001, max_backoff_s=0.002)


class _Server:
    def __init__(self, handler):
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Handler(BaseHTTPRequestHandler):
    """A careful web server: ranges, entity tags, conditions."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    etag = '"v1"'
    seen: list[tuple[str, str, dict[str, str]]]

    def log_message(self, *_):
        pass

    def reply(self, status, body=b"", length=None, **headers):
        self.send_response_only(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        self.seen.append((self.command, self.path, dict(self.headers)))
        if not self.path.startswith("/repo/there"):
            return self.reply(404)
        facts = {"ETag": self.etag, "Last_Modified": email.utils.formatdate(MODIFIED_S, usegmt=True)}
        if self.headers.get("If-None-Match") == self.etag:
            return self.reply(304, **facts)
        if self.headers.get("If-Match", self.etag) != self.etag:
            return self.reply(412)
        since = self.headers.get("If-Unmodified-Since")
        if since and email.utils.parsedate_to_datetime(since).timestamp() < MODIFIED_S:
            return self.reply(412)
        span = self.headers.get("Range")
        if self.command == "GET" and span:
            first, _, last = span.removeprefix("bytes=").partition("-")
            if int(first) >= len(DATA):
                return self.reply(416, Content_Range=f"bytes */{len(DATA)}")
            last = min(int(last or len(DATA) - 1), len(DATA) - 1)
            part = DATA[int(first) : last + 1]
            return self.reply(206, part, Content_Range=f"bytes {first}-{last}/{len(DATA)}", **facts)
        return self.reply(200, DATA, **facts)

    do_HEAD = do_GET


@pytest.fixture
def handler():
    return type("Handler", (_Handler,), {"seen": []})


@pytest.fixture
def storage(handler):
    with _Server(handler) as server:
        storage = HttpStorage(f"{server.url}/repo", HttpOptions(retry=FAST))
        yield storage
        storage.close()


class _Plain(SimpleHTTPRequestHandler):
    """The server of `python -m http.server`: no ranges, no entity tags."""

    def log_message(self, *_):
        pass


@pytest.fixture
def plain(tmp_path, handler):
    (tmp_path / "repo").mkdir()
    (tmp_path / "repo" / "there").write_bytes(DATA)
    with _Server(lambda *args: _Plain(*args, directory=str(tmp_path))) as server:
        storage = HttpStorage(f"{server.url}/repo/", HttpOptions(retry=FAST))
        yield storage
        storage.close()


@pytest.fixture(params=["storage", "plain"])
def either(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize(
    ("start", "end"), [(0, None), (0, 10), (0, 0), (0, 1), (3, 7), (9, 10), (4, 4), (10, 10), (10, None), (9, None)]
)
def test_ranges(either, start, end):
    assert either.get("there", start=start, end=end).data == DATA[start:end]
    assert either.read_range("there", start, 10 if end is None else end) == DATA[start:end]


@pytest.mark.parametrize(("start", "end"), [(0, 11), (5, 11), (10, 11), (11, 11), (11, None), (50, 60)])
def test_ranges_beyond_the_end(either, start, end):
    with pytest.raises(InvalidObjectSizeError):
        either.get("there", start=start, end=end)
    if end is not None:
        with pytest.raises(InvalidObjectSizeError):
            either.read_range("there", start, end)


def test_missing_objects(either):
    for call in (either.get, either.head, lambda key: either.get_if_changed(key, '"v"')):
        with pytest.raises(ObjectNotFoundError, match="missing"):
            call("missing")
    with pytest.raises(ObjectNotFoundError):
        either.read_range("missing", 0, 1)


def test_versions(either):
    found = either.get("there")
    assert either.head("there").version == found.version == either.get("there", start=2, end=3).version
    assert either.get_if_changed("there", found.version) is None
    assert either.get_if_changed("there", '"older"') == either.get_if_changed("there", None) == found
    assert either.head("there").size_bytes == 10


def test_an_unchanged_object_is_not_sent(storage, handler):
    storage.get_if_changed("there", '"v1"')
    assert handler.seen[-1][2]["If-None-Match"] == '"v1"'
    assert storage.head("there").last_modified == MODIFIED_S * 1_000_000


def test_foreign_objects_are_read_if_they_are_the_same(storage):
    assert isinstance(storage, RangeReader)
    assert storage.read_range("there", 2, 5, if_match_etag="v1") == b"234"
    assert storage.read_range("there", 2, 5, if_match_etag='"v1"', if_unmodified_since_s=MODIFIED_S) == b"234"
    with pytest.raises(ObjectModifiedError):
        storage.read_range("there", 2, 5, if_match_etag="v0")
    with pytest.raises(ObjectModifiedError):
        storage.read_range("there", 2, 5, if_unmodified_since_s=MODIFIED_S - 1)


def test_a_server_that_ignores_conditions_is_caught(plain, tmp_path):
    seconds = int((tmp_path / "repo" / "there").stat().st_mtime)
    assert plain.read_range("there", 2, 5, if_unmodified_since_s=seconds) == b"234"
    with pytest.raises(ObjectModifiedError):
        plain.read_range("there", 2, 5, if_unmodified_since_s=seconds - 1)
    with pytest.raises(ObjectModifiedError):
        plain.read_range("there", 2, 5, if_match_etag="v1")


def test_names_are_encoded(storage, handler):
    storage.get("there/ünï %41?#.json")
    assert handler.seen[-1][1] == "/repo/there/%C3%BCn%C3%AF%20%2541%3F%23.json"


def test_names_are_sent_as_urls_write_them(storage, handler):
    """Some servers compare paths as they are written."""
    storage.get("there/a+b;v=1,(2)!$&'*:@~")
    assert handler.seen[-1][1] == "/repo/there/a+b;v=1,(2)!$&'*:@~"


LOGIN = b"<html>please log in</html>"


@pytest.mark.parametrize("kind", ["text/html", None])
@pytest.mark.parametrize("body", [LOGIN, b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', b"{}" * 20])
def test_a_login_page_is_not_taken_for_a_range(handler, storage, kind, body):
    handler.do_GET = lambda self: self.reply(200, body, Content_Type=kind, ETag='"v9"')
    for call in (
        lambda: storage.get("there", start=0, end=8),
        lambda: storage.get("there", start=8, end=16),
        lambda: storage.get("there", start=1000, end=1010),
        lambda: storage.read_range("there", 0, 8),
        lambda: storage.read_range("there", 8, 16, if_unmodified_since_s=MODIFIED_S),
    ):
        with pytest.raises((BadAnswerError, ObjectModifiedError)):
            call()


def test_a_repository_is_not_read_from_a_login_page(handler, storage):
    handler.do_GET = handler.do_HEAD = lambda self: self.reply(200, LOGIN, Content_Type="text/html", ETag='"v9"')
    for call in (storage.get, storage.head, lambda key: storage.get_if_changed(key, None)):
        with pytest.raises(BadAnswerError):
            call("repo")


def test_an_object_of_unknown_length_is_not_read_whole(handler, storage):
    """A part of it would look like all of it."""

    def cut(self):
        self.send_response_only(200)
        self.end_headers()
        self.wfile.write(DATA[:5])
        self.close_connection = True

    handler.do_GET = cut
    with pytest.raises(StorageError, match="how long"):
        storage.get("there")


def test_it_only_reads(storage):
    for write in (
        lambda: storage.put("a", b""),
        lambda: storage.copy("a", "b"),
        lambda: storage.delete(["a"]),
    ):
        with pytest.raises(ReadOnlyError):
            write()
    with pytest.raises(UnsupportedError):
        storage.iter_objects()
    with pytest.raises(UnsupportedError):
        storage.list_dir()


@pytest.mark.parametrize(
    ("status", "cls"),
    [(401, AccessDeniedError), (403, AccessDeniedError), (410, ObjectNotFoundError), (418, StorageError)],
)
def test_lasting_answers_are_final(handler, storage, status, cls):
    calls = []
    handler.do_GET = lambda self: (calls.append(1), self.reply(status))
    with pytest.raises(cls):
        storage.get("there")
    assert len(calls) == 1


@pytest.mark.parametrize(("status", "cls"), [(429, ThrottledError), (500, UnreachableError), (503, ThrottledError)])
def test_passing_answers_are_tried_again(handler, storage, status, cls):
    careful, calls = handler.do_GET, []

    def fail_twice(self):
        calls.append(1)
        return self.reply(status) if len(calls) <= 2 else careful(self)

    handler.do_GET = fail_twice
    assert storage.get("there").data == DATA
    assert len(calls) == 3
    handler.do_GET = lambda self: self.reply(status)
    with pytest.raises(cls):
        storage.get("there")


@pytest.mark.parametrize("fault", ["no answer", "half an answer"])
def test_broken_answers_are_tried_again(handler, storage, fault):
    careful, calls = handler.do_GET, []

    def fail_once(self):
        calls.append(1)
        if len(calls) > 1:
            careful(self)
            return
        if fault == "half an answer":
            self.reply(200, DATA[:4], length=10)
        self.close_connection = True

    handler.do_GET = fail_once
    assert storage.get("there").data == DATA
    assert len(calls) == 2


def test_a_server_that_is_not_there():
    with _Server(_Handler) as server:
        url = server.url
    storage = HttpStorage(url, HttpOptions(retry=FAST))
    with pytest.raises(UnreachableError, match="cannot be reached") as caught:
        storage.get("a")
    assert caught.value.hint


def test_a_wrong_part_is_refused(handler, storage):
    for told in ("bytes 3-5/10", "bytes 2-3/10", "bytes 2-4/4", "bytes 2-9/10", "3-5/10", None):
        handler.do_GET = lambda self, told=told: self.reply(206, b"345", Content_Range=told, ETag='"v1"')
        for call in (
            lambda: storage.get("there", start=2, end=5),
            lambda: storage.read_range("there", 2, 5),
        ):
            with pytest.raises((BadAnswerError, InvalidObjectSizeError)):
                call()


def test_compressed_answers_are_refused(handler, storage):
    handler.do_GET = lambda self: self.reply(200, gzip.compress(DATA), Content_Encoding="gzip")
    with pytest.raises(StorageError, match="Content-Encoding"):
        storage.get("there")


class _Redirecting(_Handler):
    """Sends everybody on."""

    to = ""
    seen: list = []  # noqa: RUF012

    def do_GET(self):
        self.seen.append((self.path, dict(self.headers)))
        self.reply(302, Location=self.path if self.path.endswith("/loop") else self.to)

    do_HEAD = do_GET


@pytest.fixture
def redirecting():
    front = type("Front", (_Redirecting,), {"seen": []})
    with _Server(front) as server:
        front.url = server.url
        yield front


def calls(storage):
    """Yields each way to read."""
    yield lambda: storage.get("anything")
    yield lambda: storage.get("anything", start=2, end=5)
    yield lambda: storage.head("anything")
    yield lambda: storage.read_range("anything", 2, 5)


def test_redirects_lead_nowhere_that_is_not_allowed(handler, redirecting):
    with _Server(handler) as target:
        redirecting.to = f"{target.url}/repo/there?signature=hush"
        storage = HttpStorage(redirecting.url, HttpOptions(headers=(("X-Api-Key", "hush"),), retry=FAST))
        for call in calls(storage):
            with pytest.raises(AccessDeniedError, match="redirected") as caught:
                call()
            assert target.url in caught.value.message
            assert "hush" not in str(caught.value.facts) + caught.value.message
            assert f"redirect_to={target.url}/" in caught.value.hint
        assert handler.seen == []
        for elsewhere in ("file:///etc/passwd", "ftp://127.0.0.1/x", "http://[", "http://user:pw@127.0.0.1/", "//x:y/"):
            redirecting.to = elsewhere
            with pytest.raises(AccessDeniedError):
                storage.get("anything")
        with pytest.raises(StorageError, match="redirects"):
            storage.get("loop")
        storage.close()


def test_redirects_are_followed_where_they_are_allowed_and_tell_no_secrets(handler, redirecting):
    with _Server(handler) as target:
        redirecting.to = f"{target.url}/repo/there"
        options = HttpOptions(headers=(("X-Api-Key", "hush"),), retry=FAST, redirect_to=(f"{target.url}/repo",))
        storage = HttpStorage(redirecting.url, options)
        assert storage.get("anything").data == DATA
        assert redirecting.seen[0][1]["X-Api-Key"] == "hush"
        assert "X-Api-Key" not in handler.seen[-1][2]
        for outside in ("/repository/there", "/repo/../there", "/repo/%2e%2e/there", "/"):
            redirecting.to = f"{target.url}{outside}"
            if ".." in outside:
                redirecting.to = f"{target.url}/repo/x/%2E%2E/%2E%2E/there"
            with pytest.raises(AccessDeniedError):
                storage.get("anything")
        storage.close()


def test_redirects_within_the_origin_are_followed(handler):
    careful = handler.do_GET

    def once_more(self):
        if self.path.startswith("/repo/there"):
            careful(self)
        else:
            self.seen.append((self.command, self.path, dict(self.headers)))
            self.reply(301, Location="/repo/there")

    handler.do_GET = once_more
    with _Server(handler) as server:
        storage = HttpStorage(f"{server.url}/old", HttpOptions(headers=(("X-Api-Key", "hush"),), retry=FAST))
        assert storage.get("anything").data == DATA
        assert [headers["X-Api-Key"] for _, _, headers in handler.seen] == ["hush", "hush"]
        storage.close()


def test_headers_that_cannot_be_sent_are_refused_without_their_value():
    for headers in (("X-Api-Key", "hush\n"), ("X-Api\r\nKey", "hush"), ("X-Api-Key", "h\u2026")):
        with pytest.raises(InvalidInputError, match="no header can hold") as caught:
            HttpOptions(headers=(headers,))
        assert "hush" not in str(caught.value)


def test_only_what_is_asked_for_is_read_from_a_server_without_ranges(handler, storage):
    """The whole object would be endless; the first bytes are enough."""

    def endless(self):
        self.send_response_only(200)
        self.send_header("ETag", '"v1"')
        self.end_headers()
        self.close_connection = True
        try:
            for _ in range(1000):
                self.wfile.write(b"x" * 65536)
        except OSError:
            handler.seen.append("cut off")

    careful = handler.do_GET
    handler.do_GET = lambda self: endless(self) if self.path == "/repo/there" else careful(self)
    assert storage.get("there", start=5, end=100_000).data == b"x" * 99_995
    storage.close()

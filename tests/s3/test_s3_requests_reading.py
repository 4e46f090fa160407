"""The requests that icefs signs and sends itself: signed as botocore signs them, and right after what services tell."""

import re
import threading
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from icefs.errors import AccessDeniedError, BadAnswerError, InvalidInputError, StorageError, UnreachableError
from icefs.storage.answers import AnswerError
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.answers import parse_list
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.requests import S3Requests
from icefs.storage.s3.store import S3Storage

KEYS = S3Credentials("AN-ID", "a-secret-to-keep", "a-token-to-keep")
PLAIN = {"ETag": '"v"', "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}
FAST = RetryPolicy(max_tries=4, initial_backoff_s=0.001, max_backoff_s=0.002)


class Scripted(ThreadingHTTPServer):
    """Answers with what a list of functions says; the last one stays."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.seen = []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def handle_request(self):
                owner.seen.append(
                    (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
                )
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                answer = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
                status, headers, body = answer() if callable(answer) else answer
                self.send_response_only(status)
                for name, value in {**PLAIN, "Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_PUT = do_HEAD = do_POST = handle_request

            def log_message(self, *_):
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def storage(self, **options):
        chosen = {"endpoint_url": self.url, "credentials": KEYS, "retry": FAST, **options}
        return S3Storage("bucket", "pre fix", S3Options(**chosen))


def error(status, code, headers=None, more=""):
    return status, headers or {}, f"<Error><Code>{code}</Code>{more}</Error>".encode()


def begun(storage):
    """Reads without a thread."""
    storage.access.requests()._find_target()
    done = threading.Event()
    assert storage.start_read("chunks/A+ü~ 1", 3, 9, lambda data: done.set())
    assert done.wait(20)


FINE = (200, {}, b"here")


@pytest.mark.parametrize(
    ("method", "call", "body"),
    [
        ("GET", lambda storage: storage.get("chunks/A+ü~ 1"), b""),
        ("GET", lambda storage: storage.get("chunks/A", start=0, end=4), b""),
        ("GET", lambda storage: storage.get_if_changed("repo", "v0"), b""),
        ("GET", lambda storage: begun(storage), b""),
        ("HEAD", lambda storage: storage.head("repo"), b""),
        ("PUT", lambda storage: storage.put("repo", b"data", if_match="v0"), b"data"),
        ("PUT", lambda storage: storage.put("repo", b"", create_only=True), b""),
    ],
)
def test_requests_are_signed_as_botocore_signs_them(method, call, body):
    with Scripted((200, {}, b"") if method == "PUT" else FINE) as server:
        storage = server.storage(requester_pays=True, region="eu-west-1")
        call(storage)
        [(sent_method, path, headers)] = server.seen
        storage.close()
    assert sent_method == method
    told = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=AN-ID/(\d{8})/eu-west-1/s3/aws4_request, "
        r"SignedHeaders=([a-z0-9;-]+), Signature=([0-9a-f]{64})",
        headers["authorization"],
    )
    assert "a-secret-to-keep" not in str(headers)
    assert headers["x-amz-request-payer"] == "requester"
    signed = {name: headers[name] for name in told[2].split(";")}
    assert {"host", "x-amz-date", "x-amz-content-sha256", "x-amz-security-token"} <= signed.keys()
    request = AWSRequest(method=method, url=server.url + path, data=body, headers=signed)
    request.context["timestamp"] = headers["x-amz-date"]
    signer = S3SigV4Auth(Credentials(KEYS.access_key_id, KEYS.secret_access_key), "s3", "eu-west-1")
    canonical = signer.canonical_request(request)
    assert signer.signature(signer.string_to_sign(request, canonical), request) == told[3]


def test_a_wrong_clock_is_set_right_once():
    ahead = format_datetime(datetime.now(UTC) + timedelta(hours=2), usegmt=True)
    with Scripted(error(403, "RequestTimeTooSkewed", {"Date": ahead}), FINE) as server:
        assert server.storage().get("repo").data == b"here"
        first, second = (
            datetime.strptime(headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
            for _, _, headers in server.seen
        )
    assert timedelta(hours=1, minutes=59) < second - first < timedelta(hours=2, minutes=1)
    with Scripted(error(403, "RequestTimeTooSkewed", {"Date": ahead})) as server:
        with pytest.raises(AccessDeniedError, match="TimeTooSkewed") as caught:
            server.storage().get("repo")
        assert "clock" in caught.value.hint
        assert len(server.seen) == 2


@pytest.mark.parametrize(
    "answer",
    [
        error(400, "AuthorizationHeaderMalformed", more="<Region>eu-north-1</Region>"),
        error(301, "PermanentRedirect", {"x-amz-bucket-region": "eu-north-1"}),
        (400, {"x-amz-bucket-region": "eu-north-1", "Content-Length": "0"}, b""),
    ],
)
def test_a_bucket_in_another_region_is_followed(answer):
    with Scripted(answer, FINE) as server:
        storage = server.storage()
        assert storage.get("repo").data == b"here"
        assert [headers["authorization"].split("/")[2] for _, _, headers in server.seen] == ["us-east-1", "eu-north-1"]
        assert storage.get("repo").data == b"here"
        assert len(server.seen) == 3
    with Scripted(answer) as server:
        with pytest.raises(StorageError):
            server.storage().get("repo")
        assert len(server.seen) == 2  # not in a circle


def test_what_is_secret_stays_out_of_errors_and_logs(caplog):
    caplog.set_level("DEBUG", logger="icefs")
    caplog.set_level("DEBUG", logger="urllib3")  # botocore's own words are never logged: see `daemon.spawn`
    for answer in (error(403, "AccessDenied", more="<AWSAccessKeyId>AN-ID</AWSAccessKeyId>"), error(500, "Oh")):
        with Scripted(answer) as server:
            with pytest.raises(StorageError) as caught:
                server.storage().get("repo")
            chain = [caught.value]
            while chain[-1].__cause__ is not None:
                chain.append(chain[-1].__cause__)
            told = " ".join(f"{part} {getattr(part, 'facts', '')} {getattr(part, 'hint', '')}" for part in chain)
            assert not any(secret in told + caplog.text for secret in ("a-secret", "a-token", "AN-ID", "Signature="))


def test_answers_that_make_no_sense():
    with Scripted((200, {"Content-Length": "5"}, b"abc")) as server:
        storage = server.storage(read_timeout_s=0.05, retry=RetryPolicy(max_tries=2, initial_backoff_s=0.001))
        with pytest.raises(UnreachableError):
            storage.get("repo")
    with Scripted((200, {}, b"<html>")) as server, pytest.raises(BadAnswerError):
        list(server.storage().iter_objects())
    with pytest.raises(AnswerError):
        parse_list(b"<ListBucketResult><Contents><Size>x</Size></Contents></ListBucketResult>")
    # 304 to a question without condition, and redirects are not followed to unknown hosts.
    for answer in ((304, {}, b""), (302, {"Location": "http://elsewhere.invalid/"}, b"")):
        with Scripted(answer) as server, pytest.raises(StorageError):
            server.storage().get("repo")


def test_a_connection_that_was_closed_while_idle_is_replaced():
    def closing():
        return 200, {"Connection": "close"}, b"here"

    with Scripted(closing) as server:
        storage = server.storage(retry=RetryPolicy(max_tries=1, first_contact_tries=1))
        for _ in range(3):
            assert storage.get("repo").data == b"here"
            time.sleep(0.01)


def test_what_cannot_be_a_bucket_is_refused_before_anything_is_sent():
    with Scripted(FINE) as server:
        with pytest.raises(InvalidInputError):
            S3Storage("no bucket!", "x", S3Options(endpoint_url=server.url, credentials=KEYS)).get("repo")
        assert server.seen == []


def test_addresses_are_botocores(monkeypatch):
    for options, url in (
        ({"region": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com/"),
        ({"region": "eu-west-1", "force_path_style": True}, "https://s3.eu-west-1.amazonaws.com/bucket/"),
        ({"endpoint_url": "https://store.example:443"}, "https://store.example:443/bucket/"),
        (
            {"endpoint_url": "http://store.example/below", "force_path_style": False},
            "http://bucket.store.example/below/",
        ),
    ):
        storage = S3Storage("bucket", "", S3Options(credentials=KEYS, **options))
        requests = S3Requests(storage.access.clients.connection(), "bucket", storage.options, lambda: None)
        assert requests._find_target().base_url == url
        storage.close()


def test_a_proxy_is_used_where_the_environment_names_one(monkeypatch):
    with Scripted(FINE) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        storage = S3Storage("bucket", "p", S3Options(endpoint_url="http://store.invalid", credentials=KEYS, retry=FAST))
        assert storage.get("repo").data == b"here"
        [(_, path, headers)] = proxy.seen
        assert path == "http://store.invalid/bucket/p/repo"
        assert headers["host"] == "store.invalid"
        storage.close()

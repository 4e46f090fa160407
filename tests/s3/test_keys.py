"""Keys that cannot be had, cannot be sent, or were replaced: what is said, and that nothing secret is."""

import json
import logging
import os
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

import icefs
from icefs.cli.main import main
from icefs.errors import AccessDeniedError, IcefsError, InvalidInputError, UnreachableError
from icefs.storage.http import HttpStorage
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage
from tests.support.bent_store import Answer, BentStore

FAST = RetryPolicy(max_tries=2, first_contact_tries=2, initial_backoff_s=0.001, max_backoff_s=0.002)
TOKEN = "FwoGZXIvSECRETTOKEN"


class Checking(BentStore):
    """A store that knows one key, and refuses others as a service does."""

    known = "GOODKEY"
    refusal = 403, "InvalidAccessKeyId"

    def right(self, asked):
        if f"Credential={self.known}/" in asked.headers.get("authorization", ""):
            return super().right(asked)
        status, code = self.refusal
        return Answer(status, {}, b"" if asked.method == "HEAD" else f"<Error><Code>{code}</Code></Error>".encode())


@pytest.fixture
def store():
    with Checking() as store:
        yield store


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """An environment in which nothing leads to keys."""
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def location(store):
    return f"s3://bucket/p?endpoint_url={store.url}&region=us-east-1&max_tries=1"


def failure(storage, error):
    """Returns the error of each kind of request, and that nothing of the keys is in any of them."""
    for call in (
        lambda: storage.get("repo"),
        lambda: storage.head("repo"),
        lambda: storage.put("repo", b""),
        lambda: storage.copy("repo", "x"),
        lambda: storage.delete(["x"]),
        lambda: list(storage.iter_objects()),
    ):
        with pytest.raises(error) as caught:
            call()
        told = "".join(traceback.format_exception(caught.value)) + str(caught.value.facts) + str(caught.value.hint)
        assert TOKEN not in told
        assert "SECRETKEYID" not in told
    storage.close()
    return caught.value


@pytest.mark.parametrize("config", ["", "[default]\nregion = us-east-1\n"])
@pytest.mark.parametrize(
    ("name", "value", "what"),
    [
        ("AWS_SESSION_TOKEN", TOKEN + "\n", "session token"),
        ("AWS_SESSION_TOKEN", TOKEN + "\u2026", "session token"),
        ("AWS_ACCESS_KEY_ID", "SECRETKEYID\r\nX: y", "access key id"),
        ("AWS_ACCESS_KEY_ID", "SECRETKEYIDß", "access key id"),
        ("AWS_SECRET_ACCESS_KEY", TOKEN + "\n", "secret access key"),
    ],
)
def test_keys_that_no_header_can_hold(bare, tmp_path, store, caplog, config, name, value, what):
    caplog.set_level(logging.DEBUG, "icefs")
    if config:
        (tmp_path / "config").write_text(config)  # then botocore finds the keys
    given = {"AWS_ACCESS_KEY_ID": "GOODKEY", "AWS_SECRET_ACCESS_KEY": "s", "AWS_SESSION_TOKEN": "t", name: value}
    for variable, text in given.items():
        bare.setenv(variable, text)
    error = failure(open_storage(location(store)), AccessDeniedError)
    assert f"the {what} for S3 has characters that no header can hold" in error.message
    assert store.seen == []
    assert TOKEN not in caplog.text


@pytest.mark.parametrize(
    ("process", "message"),
    [
        ("sh -c 'echo FwoGZXIvSECRETTOKEN >&2; exit 3'", "credential_process failed"),
        ("/nowhere/to/be/found", "credential_process cannot be run: No such file"),
        ("echo FwoGZXIvSECRETTOKEN", "does not print the JSON"),
        ("echo '{\"Version\": 1}'", "cannot be had|not whole|credential_process"),
    ],
)
def test_a_program_that_gives_no_keys(bare, tmp_path, store, caplog, process, message):
    caplog.set_level(logging.DEBUG, "icefs")
    (tmp_path / "config").write_text(f"[default]\ncredential_process = {process}\n")
    error = failure(open_storage(location(store)), AccessDeniedError)
    assert any(part in error.message for part in message.split("|"))
    assert error.hint
    assert TOKEN not in caplog.text


SSO = """
sso_account_id = 123456789012
sso_role_name = reader
"""


@pytest.mark.parametrize(
    "config",
    [
        f"[default]\n{SSO}sso_start_url = https://login.invalid/start\nsso_region = eu-west-1\n",
        f"[default]\n{SSO}sso_session = work\n"
        "[sso-session work]\nsso_start_url = https://login.invalid/start\nsso_region = eu-west-1\n",
    ],
)
def test_no_login_to_sso_is_told_with_the_command_that_makes_one(bare, tmp_path, store, config):
    (tmp_path / "config").write_text(config)
    error = failure(open_storage(location(store)), AccessDeniedError)
    assert "no valid login to AWS SSO" in error.message
    assert "aws sso login" in error.hint
    assert store.seen == []


@pytest.mark.parametrize("answer", ["none", "refusal", "page"])
def test_a_container_endpoint_that_gives_no_keys_is_told(bare, monkeypatch, store, answer):
    """It is down, refuses, or is something else; its output is not shown."""
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.SLEEP_TIME", 0)
    answers = {"refusal": Answer(403, {}, TOKEN.encode()), "page": Answer(200, {}, TOKEN.encode())}
    with BentStore() as endpoint:
        if answer in answers:
            monkeypatch.setattr(endpoint, "right", lambda asked: answers[answer])
        url = f"{endpoint.url}/keys" if answer in answers else "http://127.0.0.1:1/keys"
        bare.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        error = failure(open_storage(location(store)), AccessDeniedError)
    assert "gives this machine or container its credentials" in error.message
    assert "AWS_CONTAINER_CREDENTIALS_FULL_URI" in error.hint
    assert store.seen == []


@pytest.mark.parametrize("kind", ["icefs", "storage"])
@pytest.mark.parametrize("fault", ["42", "naive", "expired", "raises", "icefs error"])
def test_get_credentials_is_told_its_mistakes(bare, store, kind, fault):
    make = icefs.S3StaticCredentials if kind == "icefs" else S3Credentials

    def get_credentials():
        now = datetime.now(UTC)
        match fault:
            case "42":
                return 42
            case "naive":
                return make("GOODKEY", "s", None, now.replace(tzinfo=None) + timedelta(hours=1))
            case "expired":
                return make("GOODKEY", "s", None, now - timedelta(hours=1))
            case "raises":
                raise ValueError("mine")
        raise AccessDeniedError("my own words")

    if kind == "icefs":
        storage = icefs.s3_storage(
            bucket="bucket",
            prefix="p",
            endpoint_url=store.url,
            region="r",
            get_credentials=get_credentials,
            allow_http=True,
            force_path_style=True,
        )
    else:
        storage = open_storage(location(store), credentials=get_credentials)
    cls, words = {
        "42": (InvalidInputError, "get_credentials returned int"),
        "naive": (InvalidInputError, "get_credentials returned keys with a time of expiry that has no time zone"),
        "expired": (InvalidInputError, "get_credentials returned keys that have expired already"),
        "raises": (AccessDeniedError, "raised ValueError"),
        "icefs error": (AccessDeniedError, "my own words"),
    }[fault]
    with pytest.raises(cls, match=words) as caught:
        storage.get("repo")
    if fault == "raises":
        assert str(caught.value.__cause__) == "mine"
    storage.close()


@pytest.mark.parametrize(
    "code", ["InvalidAccessKeyId", "SignatureDoesNotMatch", "AccessDenied", "InvalidClientTokenId"]
)
def test_replaced_keys_are_read_again_whatever_the_refusal(bare, tmp_path, store, code):
    def write(key):
        text = f"[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n"
        (tmp_path / "credentials").write_text(text)

    store.refusal = 403, code
    storage = S3Storage("bucket", "p", S3Options(endpoint_url=store.url, region="r", retry=FAST))
    write("GOODKEY")
    storage.put("repo", b"here")
    for number in range(3):  # also right after another renewal, and one that found the old keys
        store.known = f"KEY{number}"
        asked = len(store.seen)
        with pytest.raises(AccessDeniedError, match=code):
            storage.get("repo")
        assert len(store.seen) == asked + 1  # nothing has changed that would make another try worth it
        write(store.known)
        assert storage.get("repo").data == b"here"
        assert storage.head("repo").size_bytes == 4
        storage.copy("repo", "backup")
    storage.close()


def test_a_callback_is_asked_again_when_its_keys_are_refused(bare, store):
    keys = ["OLDKEY", "GOODKEY"]
    storage = open_storage(location(store), credentials=lambda: S3Credentials(keys.pop(0), "s"))
    storage.access.retrier.policy = FAST
    storage.put("repo", b"here")
    assert keys == []
    storage.close()


@pytest.mark.parametrize("proxy", ["nonsense with spaces", "http://:0", "socks5://127.0.0.1:1", "http://["])
def test_a_proxy_that_is_no_url(bare, store, proxy):
    bare.setenv("http_proxy", proxy)
    bare.setenv("AWS_ACCESS_KEY_ID", "GOODKEY")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "s")
    storage = open_storage("s3://bucket/p?endpoint_url=http://store.invalid&region=us-east-1")
    for call in (lambda: storage.get("repo"), lambda: HttpStorage("http://store.invalid/x").get("repo")):
        with pytest.raises(InvalidInputError, match="http_proxy is not the URL of a proxy"):
            call()


def test_a_proxy_that_is_down_is_named_without_its_password(bare):
    bare.setenv("http_proxy", "http://user:hush@127.0.0.1:1")
    bare.setenv("AWS_ACCESS_KEY_ID", "GOODKEY")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "s")
    storage = open_storage("s3://bucket/p?endpoint_url=http://store.invalid&region=us-east-1&max_tries=1")
    with pytest.raises(UnreachableError, match=r"http://127\.0\.0\.1:1, the proxy for http://store.invalid") as caught:
        storage.get("repo")
    assert "hush" not in str(caught.value) + str(caught.value.facts)
    assert "http_proxy" in caught.value.hint


@pytest.mark.parametrize("code", ["AccessDenied", "RequestTimeTooSkewed"])
@pytest.mark.parametrize(("hours", "where"), [(2, "behind"), (-2, "ahead of")])
def test_a_wrong_clock_is_told_with_how_wrong_it_is(bare, store, monkeypatch, code, hours, where):
    ahead = format_datetime(datetime.now(UTC) + timedelta(hours=hours), usegmt=True)
    body = f"<Error><Code>{code}</Code></Error>".encode()
    monkeypatch.setattr(store, "right", lambda asked: Answer(403, {"Date": ahead}, body))
    storage = open_storage(location(store), access_key_id="other", secret_access_key="s")
    for call in (lambda: storage.get("repo"), lambda: storage.head("repo"), lambda: storage.copy("repo", "x")):
        with pytest.raises(AccessDeniedError, match=code) as caught:
            call()
        assert f"2 h 0 min {where} the service's" in caught.value.hint
    storage.close()


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (307, "TemporaryRedirect", "region="),
        (301, "PermanentRedirect", "region="),
        (400, "AuthorizationHeaderMalformed", "region="),
        (403, "InvalidObjectState", "archived"),
        (403, "ExpiredToken", "expired"),
    ],
)
def test_what_is_asked_by_head_gives_the_reason_too(bare, store, capsys, status, code, hint):
    store.refusal = status, code
    storage = open_storage(location(store), access_key_id="other", secret_access_key="s")
    for call in (lambda: storage.head("repo"), lambda: icefs.engine.repository.Repository.exists(storage)):
        with pytest.raises(IcefsError, match=code) as caught:
            call()
        assert hint in caught.value.hint
    storage.close()
    # The same words from a diagnosis, which asks in the same way; in JSON and in text.
    bare.setenv("AWS_ACCESS_KEY_ID", "other")
    bare.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert main(["doctor", location(store), "--json"]) == 1
    [problem] = [each for each in json.loads(capsys.readouterr().out)["checks"] if each["status"] == "problem"]
    assert code in problem["message"]
    assert hint in problem["todo"]
    main(["doctor", location(store)])
    assert hint in capsys.readouterr().out

"""Locations: what they mean, what is refused, and that they never tell secrets."""

import subprocess
import sys

import pytest

from icefs.errors import InvalidInputError
from icefs.storage.http import HttpStorage
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.storage.s3.options import S3Credentials
from icefs.storage.s3.store import S3Storage
from icefs.storage.url import open_storage, parse_location, redact


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("/data/repo", "/data/repo"),
        ("/data/repo/", "/data/repo"),
        ("/data/../x", "/x"),
        ("/odd?name=#%41", "/odd?name=#%41"),
        ("/a:b", "/a:b"),
        ("file:///data/my%20repo", "/data/my repo"),
        ("file://localhost/data", "/data"),
        ("FILE:///data?durable=false", "/data"),
    ],
)
def test_local_paths(url, path):
    storage = open_storage(url)
    assert isinstance(storage, LocalStorage)
    assert storage.url == path


def test_relative_paths_are_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert open_storage("repo").url == str(tmp_path / "repo")
    assert open_storage("./c:d").url == str(tmp_path / "c:d")


def test_memory():
    open_storage("memory:url-test").put("a", b"1")
    assert open_storage("memory:url-test").get("a").data == b"1"
    assert open_storage("memory://url-test").get("a").data == b"1"
    assert isinstance(open_storage("memory:"), MemoryStorage)
    assert list(open_storage("memory:").iter_objects()) == []


def test_s3():
    storage = open_storage(
        "s3://bucket/a/prefix/?endpoint_url=http://localhost:9000&region=eu-west-1&anonymous=true"
        "&force_path_style=false&concurrency=7&read_timeout_s=2.5&max_tries=1"
    )
    assert isinstance(storage, S3Storage)
    assert (storage.bucket, storage.prefix) == ("bucket", "a/prefix")
    options = storage.options
    assert (options.endpoint_url, options.region) == ("http://localhost:9000", "eu-west-1")
    assert (options.anonymous, options.force_path_style) == (True, False)
    assert (options.concurrency, options.read_timeout_s) == (7, 2.5)
    assert (options.retry.max_tries, options.retry.first_contact_tries) == (1, 1)
    assert storage.capabilities.concurrency == 7


def test_an_s3_storage_shows_a_location_that_opens_it_again():
    url = "s3://bucket/prefix?endpoint_url=http://localhost:9000&region=x&anonymous=true"
    storage = open_storage(url)
    assert storage.url == url
    secret = open_storage("s3://bucket", access_key_id="AKIDENTITY", secret_access_key="SECRET", session_token="TOKEN")
    assert secret.url == "s3://bucket/"
    for shown in (secret.url, repr(secret.options), str(secret.options.credentials)):
        assert not any(word in shown for word in ("AKIDENTITY", "SECRET", "TOKEN"))


def test_arguments_go_before_the_query():
    storage = open_storage("s3://bucket/p?region=one", region="two", endpoint_url=None)
    assert storage.options.region == "two"
    keys = S3Credentials("id", "secret")
    assert open_storage("s3://bucket", credentials=keys).options.credentials is keys
    given = open_storage("s3://bucket", access_key_id="a", secret_access_key="b").options.credentials
    assert given == S3Credentials("a", "b", None)


def test_http():
    storage = open_storage("https://example.org/data/repo/?max_tries=2", headers={"Authorization": "Bearer x"})
    assert isinstance(storage, HttpStorage)
    assert storage.url == "https://example.org/data/repo"
    assert "Bearer" not in repr(storage.options)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "empty"),
        ("s3://", "BUCKET"),
        ("s3:///prefix", "BUCKET"),
        ("file://host/data", "three slashes|file:///"),
        ("file://", "file:///"),
        ("ftp://host/x", "ftp"),
        ("s3://bucket?endpoint=x", "no option 'endpoint'"),
        ("s3://bucket?anonymous=perhaps", "neither true nor false"),
        ("s3://bucket?concurrency=0", "concurrency"),
        ("s3://bucket?concurrency=many", "concurrency"),
        ("s3://bucket?read_timeout_s=inf", "read_timeout_s"),
        ("s3://bucket?endpoint_url=localhost:9000", "http://"),
        ("file:///x?region=1", "no option 'region'"),
        ("http://", "http"),
    ],
)
def test_what_is_no_location_is_refused(url, says):
    with pytest.raises(InvalidInputError, match=says):
        open_storage(url)


def test_an_unknown_option_names_the_known_ones():
    with pytest.raises(InvalidInputError) as caught:
        open_storage("s3://bucket", regoin="x")
    assert "endpoint_url" in caught.value.hint
    assert "region" in caught.value.hint
    with pytest.raises(InvalidInputError):
        open_storage("/path", region="x")


@pytest.mark.parametrize("scheme", ["gs", "gcs"])
def test_google_cloud_storage_is_parsed(scheme):
    found = parse_location(f"{scheme}://bucket/a/b/?user_project=me&max_tries=2&anonymous=true")
    assert (found.scheme, found.root, found.prefix) == ("gcs", "bucket", "a/b")
    assert found.options == {"user_project": "me", "max_tries": 2, "anonymous": True}
    with pytest.raises(InvalidInputError, match="must not be part of a URL"):
        parse_location("gs://bucket/x?credentials=HUSH")


@pytest.mark.parametrize("scheme", ["az", "azure", "abfs", "abfss"])
def test_azure_is_parsed(scheme):
    found = parse_location(f"{scheme}://container/a/b/?account=lab&max_tries=2&anonymous=true")
    assert (found.scheme, found.root, found.prefix) == ("azure", "container", "a/b")
    assert found.options == {"account": "lab", "max_tries": 2, "anonymous": True}
    with pytest.raises(InvalidInputError, match="must not be part of a URL"):
        parse_location("az://container/x?sas_token=HUSH")


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/p?secret_access_key=HUSH",
        "s3://bucket/p?session_token=HUSH",
        "s3://bucket/p?access_key_id=HUSH",
        "s3://bucket/p?acess_key=HUSH",
        "s3://user:HUSH@bucket/p",
        "s3://bucket/p?endpoint_url=http://user:HUSH@host",
        "http://user:HUSH@host/p",
        "https://host/p?X-Amz-Signature=HUSH",
        "file://user:HUSH@host/p",
    ],
)
def test_secrets_in_a_url_are_refused_and_not_repeated(url):
    with pytest.raises(InvalidInputError) as caught:
        open_storage(url)
    assert "HUSH" not in f"{caught.value} {caught.value.hint} {caught.value.facts}"
    assert "HUSH" not in redact(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("/data/repo?x=1", "/data/repo?x=1"),
        ("memory:x", "memory:x"),
        ("s3://bucket/p?region=eu&anonymous=true", "s3://bucket/p?region=eu&anonymous=true"),
        ("s3://bucket/p?endpoint_url=http://h:9000", "s3://bucket/p?endpoint_url=http://h:9000"),
        ("s3://u:p@bucket/p?token=t&region=eu", "s3://***@bucket/p?token=***&region=eu"),
        ("https://host/p?sig=1", "https://host/p?sig=***"),
        ("s3://b?endpoint_url=http://u:p@h:9000/x", "s3://b?endpoint_url=http://***@h:9000/x"),
    ],
)
def test_redaction(url, shown):
    assert redact(url) == shown


def test_half_a_key_is_refused():
    with pytest.raises(InvalidInputError):
        open_storage("s3://bucket", access_key_id="a")
    with pytest.raises(InvalidInputError):
        open_storage("s3://bucket", access_key_id="a", secret_access_key="b", credentials=S3Credentials("a", "b"))


def test_a_local_repository_does_not_wait_for_clients_of_other_stores():
    code = "import sys, icefs.storage.url as u; u.open_storage('/x'); print(*sorted(sys.modules))"
    modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "icefs.storage.local.store" in modules
    assert not {"botocore", "boto3", "urllib3", "numpy", "zarr", "trio", "http.client"} & set(modules)

"""Services that are named in full are reached as botocore would reach them, without it."""

import os
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from icefs.errors import InvalidInputError
from icefs.storage.s3 import direct as s3_direct
from icefs.storage.s3.client import connect
from icefs.storage.s3.options import S3Credentials, S3Options
from icefs.storage.s3.session import find_target, open_client

URL = "http://127.0.0.1:8333"
KEYS = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "very secret"}


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    """An AWS environment with keys and no files."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.mark.parametrize(
    "url",
    [
        URL,
        f"{URL}/",
        "https://store.example.org",
        "https://store.example.org:443/",
        "http://store.example.org:80",
        "https://abc.r2.cloudflarestorage.com",
        "https://fly.storage.tigris.dev",
        "http://[::1]:9000",
        "http://localhost:9000",
        "http://minio",
        "https://Store.Example.org",
    ],
)
@pytest.mark.parametrize("region", [None, "eu-west-1", "auto", "garage", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize("bucket", ["bucket", "my.bucket", "My_Bucket-1", "0"])
def test_a_bucket_is_where_botocore_finds_it(url, region, bucket):
    options = S3Options(endpoint_url=url, region=region)
    direct = s3_direct.find(options)
    assert direct is not None
    opened = open_client(options)
    assert direct.target(bucket) == find_target(opened.client, bucket, is_signed=True)
    assert direct.endpoint_url == opened.client.meta.endpoint_url
    assert direct.keys == tuple(opened.keys.get_frozen_credentials())[:3]
    assert direct.ca_bundle == opened.ca_bundle


VARIABLES = [
    {"AWS_ENDPOINT_URL": URL},
    {"AWS_ENDPOINT_URL_S3": URL, "AWS_ENDPOINT_URL": "http://elsewhere:1"},
    {"AWS_ENDPOINT_URL": URL, "AWS_DEFAULT_REGION": "eu-central-1", "AWS_REGION": "eu-north-1"},
    {"AWS_ENDPOINT_URL": URL, "AWS_SESSION_TOKEN": "a token"},
    {"AWS_ENDPOINT_URL": URL, "AWS_CA_BUNDLE": "/etc/authorities.pem"},
    {"AWS_ENDPOINT_URL": URL, "AWS_CONFIG_FILE": "/nowhere/config", "AWS_EC2_METADATA_DISABLED": "true"},
    {"AWS_ENDPOINT_URL": URL, "AWS_SESSION_TOKEN": "", "AWS_DEFAULT_REGION": ""},
]


@pytest.mark.parametrize("variables", VARIABLES, ids=lambda variables: " ".join(variables))
@pytest.mark.parametrize(
    "options", [S3Options(), S3Options(anonymous=True), S3Options(credentials=S3Credentials("other", "keys", "token"))]
)
def test_variables_mean_what_botocore_takes_them_for(environment, variables, options):
    for name, value in variables.items():
        environment.setenv(name, value)
    direct = s3_direct.find(options)
    opened = open_client(options)
    assert direct.target("bucket") == find_target(opened.client, "bucket", is_signed=not options.anonymous)
    assert direct.ca_bundle == opened.ca_bundle
    if not options.anonymous:
        assert direct.keys == tuple(opened.keys.get_frozen_credentials())[:3]


@pytest.mark.parametrize(
    "options",
    [
        S3Options(),
        S3Options(endpoint_url=URL, profile="lab"),
        S3Options(endpoint_url=URL, force_path_style=False),
        S3Options(endpoint_url=URL, credentials=lambda: S3Credentials("a", "b", None, datetime.now(UTC))),
        S3Options(endpoint_url="https://s3.eu-west-1.amazonaws.com"),
        S3Options(endpoint_url="https://s3.dualstack.eu-west-1.api.aws"),
        S3Options(endpoint_url=f"{URL}/below"),
        S3Options(endpoint_url=f"{URL}?query"),
        S3Options(endpoint_url=URL, region="aws-global"),
        S3Options(endpoint_url=URL, region="Mars 1"),
    ],
)
def test_botocore_is_asked_where_anything_else_is_said(options):
    assert s3_direct.find(options) is None


@pytest.mark.parametrize(
    "variable",
    ["AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_ROLE_ARN", "AWS_USE_FIPS_ENDPOINT", "AWS_S3_USE_ARN_REGION"],
)
def test_botocore_is_asked_where_another_variable_is_set(environment, variable):
    environment.setenv(variable, "true")
    assert s3_direct.find(S3Options(endpoint_url=URL)) is None


@pytest.mark.parametrize("missing", KEYS)
def test_botocore_is_asked_where_a_key_is_missing(environment, missing):
    environment.setenv(missing, "")
    assert s3_direct.find(S3Options(endpoint_url=URL)) is None


@pytest.mark.parametrize("name", ["config", "credentials"])
def test_botocore_is_asked_where_there_are_files(environment, tmp_path, name):
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / name).write_text("[default]\nregion = eu-west-3\n")
    assert s3_direct.find(S3Options(endpoint_url=URL)) is None
    environment.setenv("AWS_CONFIG_FILE", str(tmp_path / "other"))
    environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "other"))
    assert s3_direct.find(S3Options(endpoint_url=URL)) is not None


@pytest.mark.parametrize("bucket", ["arn:aws:s3:us-east-1:123456789012:accesspoint/point", "", "a/b", ".."])
def test_botocore_is_asked_for_odd_buckets(bucket):
    assert s3_direct.find(S3Options(endpoint_url=URL)).target(bucket) is None


def test_an_endpoint_has_to_be_encrypted_here_too():
    with pytest.raises(InvalidInputError, match="is not encrypted"):
        connect(S3Options(endpoint_url=URL, allow_http=False))


def test_keys_are_not_shown():
    direct = s3_direct.find(S3Options(endpoint_url=URL))
    assert KEYS["AWS_SECRET_ACCESS_KEY"] not in repr(direct)


def test_botocore_is_not_loaded():
    program = """
import sys
from icefs.errors import IcefsError
from icefs.storage.retry import RetryPolicy
from icefs.storage.s3.store import S3Options, S3Storage
storage = S3Storage("bucket", "p", S3Options(endpoint_url="http://127.0.0.1:9", retry=RetryPolicy(max_tries=1)))
try:
    storage.get("repo")
except IcefsError as error:
    print(error.message)
print([name for name in sys.modules if name in ("botocore.client", "botocore.session", "botocore.parsers")])
print(storage.access.clients.connection().client.meta.endpoint_url)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [
        "cannot read s3://bucket/p/repo: http://127.0.0.1:9 cannot be reached",
        "[]",
        "http://127.0.0.1:9",
    ]

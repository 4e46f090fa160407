"""Whose endpoint and whose keys virtual chunks in S3 are read with."""

import re
from types import SimpleNamespace

import pytest

from icefs.engine.read.virtual import ContainerCredentials, VirtualResolver
from icefs.engine.read.workers import Workers
from icefs.errors import (
    InvalidInputError,
    UnauthorizedContainerError,
)
from icefs.format.config.storage import (
    S3Options,
    S3Store,
    TigrisStore,
)
from icefs.storage.s3.options import S3Credentials
from tests.support.virtual_refs import container, ref, resolver

THEIRS = "https://theirs.example"


@pytest.fixture
def opened_s3(monkeypatch):
    """Takes S3's place; keeps the options that it is opened with."""
    opened = []

    class FakeS3:
        def __init__(self, bucket, *, options):
            opened.append(options)

        def read_range(self, key, start, end, **_):
            return bytes(end - start)

    monkeypatch.setattr("icefs.storage.s3.store.S3Storage", FakeS3)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    return opened


KEYS = ContainerCredentials(s3=S3Credentials("a", "b"))

ANONYMOUS = ContainerCredentials(anonymous=True)

PROFILE = ContainerCredentials(profile="me")


@pytest.mark.parametrize(
    ("endpoint", "container_is_anonymous", "credentials", "is_refused"),
    [
        (None, False, None, False),
        (THEIRS, False, None, True),
        (THEIRS, False, PROFILE, True),
        (THEIRS, True, ContainerCredentials(anonymous=False), True),
        (THEIRS, True, None, False),
        (THEIRS, False, ANONYMOUS, False),
        (THEIRS, False, KEYS, False),
        ("http://theirs.example", False, None, True),
        ("http://theirs.example", True, None, True),
        ("http://theirs.example", False, ANONYMOUS, True),
        ("http://theirs.example", False, KEYS, True),
    ],
)
def test_an_endpoint_that_only_the_repository_names(
    opened_s3, monkeypatch, endpoint, container_is_anonymous, credentials, is_refused
):
    store = S3Store(S3Options(endpoint_url=endpoint, anonymous=container_is_anonymous))
    containers = [container("s3://trusted/", store)]

    def read(authorized, **named):
        VirtualResolver(containers, authorized, Workers(1), **named).read(ref("s3://trusted/x"))

    if is_refused:
        with pytest.raises(UnauthorizedContainerError, match=endpoint) as caught:
            read({"s3://trusted/": credentials})
        assert f"'s3://trusted/?endpoint_url={endpoint}'" in caught.value.hint
        assert opened_s3 == []
        # Each of the ways to name it.
        read({f"s3://trusted/?endpoint_url={endpoint}": credentials})
        read({"s3://trusted/": credentials}, named_endpoints=[f"{endpoint}/"])
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        read({"s3://trusted/": credentials})
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "https://mine.example")
        with pytest.raises(UnauthorizedContainerError):
            read({f"s3://trusted/?endpoint_url={endpoint}.evil.example": credentials})
        assert len(opened_s3) == 3
    else:
        read({"s3://trusted/": credentials})
    assert {options.endpoint_url for options in opened_s3} == {endpoint}


TIGRIS = "https://t3.storage.dev"


@pytest.mark.parametrize("endpoint", [None, TIGRIS, THEIRS])
@pytest.mark.parametrize("scheme", ["s3", "tigris"])
def test_a_store_of_tigris_gets_the_keys_only_where_tigris_is_named(opened_s3, scheme, endpoint):
    """Its own endpoint is named by the scheme; a repository cannot send the keys for an S3 bucket there."""
    prefix = f"{scheme}://trusted/"
    containers = [container(prefix, TigrisStore(S3Options(endpoint_url=endpoint)))]

    def read(authorized):
        VirtualResolver(containers, {authorized: None}, Workers(1)).read(ref(f"{prefix}x"))

    place = endpoint or TIGRIS
    if scheme == "tigris" and place == TIGRIS:
        read(prefix)
    else:
        with pytest.raises(UnauthorizedContainerError, match=place) as caught:
            read(prefix)
        assert opened_s3 == []
        [named] = re.findall(r"--allow-virtual '(.*)'", caught.value.hint)
        read(named)
    assert [options.endpoint_url for options in opened_s3] == [place]


def test_the_endpoint_of_the_repository_is_named(opened_s3):
    named = SimpleNamespace(url="s3://b/p?endpoint_url=http://localhost:9000&region=x")
    store = S3Store(S3Options(endpoint_url="http://localhost:9000/"))
    virtual = VirtualResolver([container("s3://t/", store)], {"s3://t/": None}, Workers(1), storage=named)
    virtual.read(ref("s3://t/x"))
    assert len(opened_s3) == 1


@pytest.mark.parametrize("prefix", ["s3://b/?region=x", "s3://b/?endpoint_url=", "s3://b/?endpoint_url=http://x&a=b"])
def test_an_authorised_prefix_has_no_other_options(prefix):
    with pytest.raises(InvalidInputError, match="endpoint_url"):
        resolver([], [prefix])

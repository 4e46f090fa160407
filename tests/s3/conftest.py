"""A place of its own on the S3 server for each test."""

import itertools

import pytest

from icefs.engine.write.repository import WritableRepository
from icefs.storage.s3.store import S3Storage
from tests.conformance.official import GROUP, array_json
from tests.support.ci import require
from tests.support.fault_proxy import FaultProxy
from tests.support.ministack_server import PROGRAM, MinistackServer
from tests.support.s3_places import make_bucket
from tests.support.s3_server import BUCKET, FAST

_numbers = itertools.count()


@pytest.fixture
def s3_prefix():
    """A prefix of the bucket icefs-tests that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def s3_storage(s3_server, s3_prefix):
    storage = S3Storage(BUCKET, s3_prefix, s3_server.options())
    yield storage
    storage.close()


@pytest.fixture
def proxy(s3_server):
    """A relay between client and server that delays and fails on demand."""
    with FaultProxy(s3_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def far_array(s3_server, s3_storage, s3_prefix, proxy, monkeypatch):
    """Makes a repository with an array `/a`, and returns its location behind the proxy."""

    def make(chunks, *, count, chunk_bytes, options):
        repository = WritableRepository.create(s3_storage)
        with repository.transaction("main", message="start") as session:
            session.nodes.put("/", GROUP)
            session.nodes.put("/a", array_json((count * chunk_bytes,), (chunk_bytes,)))
            for number, data in chunks.items():
                session.chunks.set("/a", (number,), data)
        for name, value in s3_server.environment().items():
            monkeypatch.setenv(name, value)
        return f"s3://icefs-tests/{s3_prefix}?endpoint_url={proxy.endpoint_url}&{options}"

    return make


@pytest.fixture
def shaky(s3_server, s3_prefix, proxy):
    """The storage through the proxy; nothing is planned yet."""
    storage = S3Storage(BUCKET, s3_prefix, s3_server.options(endpoint_url=proxy.endpoint_url, retry=FAST))
    yield storage
    storage.close()


@pytest.fixture(scope="session")
def ministack():
    require(PROGRAM.exists(), "ministack (scripts/setup.sh tests installs it)")
    with MinistackServer() as server:
        make_bucket(server.endpoint_url)
        yield server.endpoint_url


@pytest.fixture
def proxy_of_ministack(ministack):
    """As `proxy`, in front of a server that keeps names and checksums as they are."""
    with FaultProxy(ministack) as proxy:
        yield proxy

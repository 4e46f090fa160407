"""A place of its own on the emulator for each test."""

import itertools

import pytest

from icefs.storage.gcs.store import GcsStorage
from tests.support.fault_proxy import FaultProxy
from tests.support.gcs_server import BUCKET
from tests.support.s3_server import FAST

_numbers = itertools.count()


@pytest.fixture
def gcs_prefix():
    """A prefix of the bucket icefs-tests that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def gcs_storage(gcs_server, gcs_prefix):
    storage = GcsStorage(BUCKET, gcs_prefix, gcs_server.options())
    yield storage
    storage.close()


@pytest.fixture
def proxy(gcs_server):
    """A relay between client and server that delays and fails on demand."""
    with FaultProxy(gcs_server.endpoint_url) as proxy:
        yield proxy


@pytest.fixture
def shaky(gcs_server, gcs_prefix, proxy):
    """The storage through the proxy; nothing is planned yet."""
    storage = GcsStorage(BUCKET, gcs_prefix, gcs_server.options(endpoint_url=proxy.endpoint_url, retry=FAST))
    yield storage
    storage.close()

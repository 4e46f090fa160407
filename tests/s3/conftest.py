"""A place of its own on the S3 server for each test."""

import itertools

import pytest

from icefs.storage.s3 import S3Storage

_numbers = itertools.count()


@pytest.fixture
def s3_prefix():
    """A prefix of the bucket icefs-tests that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def s3_storage(s3_server, s3_prefix):
    storage = S3Storage("icefs-tests", s3_prefix, s3_server.options())
    yield storage
    storage.close()

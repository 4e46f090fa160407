"""S3 storage against a real server, and against one that fails."""

import pytest

from icefs.storage.s3 import S3Storage
from tests.support.storage_contract import StorageContract


class TestS3(StorageContract):
    keeps_backslashes = False  # SeaweedFS keeps its objects in directories.

    @pytest.fixture
    def storage(self, s3_storage):
        return s3_storage

    @pytest.fixture
    def other(self, s3_server, s3_prefix):
        storage = S3Storage("icefs-tests", s3_prefix, s3_server.options())
        yield storage
        storage.close()

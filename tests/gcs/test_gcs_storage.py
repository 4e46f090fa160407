"""The storage for Google Cloud Storage against the emulator."""

import pytest

from icefs.engine.write.store_probe import ignored_conditions
from icefs.storage.gcs.store import GcsStorage
from tests.support.gcs_server import BUCKET
from tests.support.storage_contract import StorageContract


class TestGcs(StorageContract):
    copies_conditionally = False  # the emulator does not; see `test_gcs_precise`

    @pytest.fixture
    def storage(self, gcs_storage):
        return gcs_storage

    @pytest.fixture
    def other(self, gcs_server, gcs_prefix):
        storage = GcsStorage(BUCKET, gcs_prefix, gcs_server.options())
        yield storage
        storage.close()


def test_conditions_hold(gcs_storage):
    assert ignored_conditions(gcs_storage) == []
    assert list(gcs_storage.iter_objects()) == []

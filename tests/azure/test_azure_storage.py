"""Azure storage against the emulator."""

import pytest

from icefs.storage.azure.store import AzureStorage
from tests.support.azurite import CONTAINER
from tests.support.storage_contract import StorageContract


class TestAzure(StorageContract):
    lost_characters = "\\\n"
    many_objects = 300

    @pytest.fixture
    def storage(self, azurite, azure_prefix):
        storage = AzureStorage(CONTAINER, azure_prefix, azurite.options(), page_objects=70)
        yield storage
        storage.close()

    @pytest.fixture
    def other(self, azurite, azure_prefix):
        storage = AzureStorage(CONTAINER, azure_prefix, azurite.options())
        yield storage
        storage.close()

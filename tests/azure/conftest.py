"""A place of its own on the emulator for each test."""

import itertools

import pytest

from icefs.storage.azure.store import AzureStorage
from tests.support.azurite import CONTAINER, FAST
from tests.support.fault_proxy import FaultProxy

_numbers = itertools.count()


@pytest.fixture
def azure_prefix():
    """A prefix of the container icefs-tests that no other test uses."""
    return f"test/{next(_numbers)}"


@pytest.fixture
def azure_storage(azurite, azure_prefix):
    storage = AzureStorage(CONTAINER, azure_prefix, azurite.options())
    yield storage
    storage.close()


@pytest.fixture
def proxy(azurite):
    """A relay between client and server that delays and fails on demand."""
    with FaultProxy(azurite.root_url) as proxy:
        yield proxy


@pytest.fixture
def shaky(azurite, azure_prefix, proxy):
    """The storage through the proxy; nothing is planned yet."""
    endpoint_url = azurite.endpoint_url.replace(azurite.root_url, proxy.endpoint_url)
    storage = AzureStorage(CONTAINER, azure_prefix, azurite.options(endpoint_url=endpoint_url, retry=FAST))
    yield storage
    storage.close()

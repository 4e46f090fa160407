"""Each field of a configuration's `storage` is obeyed: seen in the requests that reach azurite."""

from collections.abc import Iterator
from typing import Any

import pytest

from icefs.storage.azure.store import AzureStorage
from tests.support.azurite import CONTAINER
from tests.support.fault_proxy import FaultProxy
from tests.support.setting_cases import CASES, AzureWire, Site, leaves, programs_obey


@pytest.fixture
def site(azurite: Any, azure_prefix: str, proxy: FaultProxy) -> Iterator[Site]:
    endpoint_url = azurite.endpoint_url.replace(azurite.root_url, proxy.endpoint_url)
    storage = AzureStorage(CONTAINER, azure_prefix, azurite.options(endpoint_url=endpoint_url))
    site = Site(AzureWire(), proxy, storage, AzureStorage(CONTAINER, azure_prefix, azurite.options()))
    yield site
    site.close()


@pytest.mark.parametrize("name", sorted(leaves()))
def test_a_field_is_obeyed(site: Site, name: str) -> None:
    CASES[name](site)


def test_commands_and_mounts_obey(azurite: Any, azure_prefix: str, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in azurite.environment().items():
        monkeypatch.setenv(name, value)
    endpoint_url = azurite.endpoint_url.replace(azurite.root_url, site.proxy.endpoint_url)
    programs_obey(site, f"az://{CONTAINER}/{azure_prefix}?endpoint_url={endpoint_url}")


def test_a_class_of_another_service_is_named_at_open(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    with site.opened(chunks_storage_class="STANDARD_IA", metadata_storage_class="Cool") as repository:
        assert "storage.chunks_storage_class has no effect" in caplog.text
        assert "metadata_storage_class has no effect" not in caplog.text
        site.commit(repository)
    found = {site.wire.kind(each): site.wire.storage_class(each) for each in site.writes()}
    assert (found["chunks"], found["snapshots"]) == (None, "Cool")

"""Each field of a configuration's `storage` is obeyed: seen in the requests that reach the emulator."""

from collections.abc import Iterator
from typing import Any

import pytest

from icefs.storage.gcs.store import GcsStorage
from tests.support.fault_proxy import FaultProxy
from tests.support.gcs_server import BUCKET
from tests.support.setting_cases import CASES, GcsWire, Site, leaves, programs_obey


@pytest.fixture
def site(gcs_server: Any, gcs_prefix: str, proxy: FaultProxy) -> Iterator[Site]:
    storage = GcsStorage(BUCKET, gcs_prefix, gcs_server.options(endpoint_url=proxy.endpoint_url))
    site = Site(GcsWire(), proxy, storage, GcsStorage(BUCKET, gcs_prefix, gcs_server.options()))
    yield site
    site.close()


@pytest.mark.parametrize("name", sorted(leaves()))
def test_a_field_is_obeyed(site: Site, name: str) -> None:
    CASES[name](site)


def test_commands_and_mounts_obey(gcs_server: Any, gcs_prefix: str, site: Site) -> None:
    programs_obey(site, gcs_server.location(gcs_prefix).replace(gcs_server.endpoint_url, site.proxy.endpoint_url))

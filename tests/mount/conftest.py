"""For all tests on real mounts: nothing stale before, the generated repositories of the conformance tests."""

import pytest

from tests.conformance.conftest import generated, oracle_of
from tests.support.mounting import require_fuse, sweep_stale_mounts

__all__ = ["generated", "oracle_of"]


@pytest.fixture(scope="session", autouse=True)
def fuse():
    """Sweeps away what a test process that died left mounted."""
    require_fuse()
    sweep_stale_mounts()

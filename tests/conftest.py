"""For all tests: Hypothesis profiles, and assertions with values in the shared suites."""

import os

import pytest
from hypothesis import settings

from tests.support.ci import IN_CI

pytest.register_assert_rewrite("tests.support.storage_contract")

settings.register_profile("dev", max_examples=25, deadline=None)
settings.register_profile("ci", max_examples=100, deadline=None, derandomize=True)
settings.register_profile("deep", max_examples=2000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if IN_CI else "dev"))

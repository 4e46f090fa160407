"""The generated repositories and what the official library says of them, made once in a test session and on demand."""

from collections.abc import Callable
from functools import cache

import pytest

from tests.conformance import generate, oracle
from tests.conformance.official import GeneratedRepo
from tests.conformance.oracle import RepoContent


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], GeneratedRepo]:
    """A function that returns the generated repository of a name from `generate.NAMES`; nobody may change it."""
    directory = tmp_path_factory.mktemp("generated")
    return cache(lambda name: generate.generate(name, directory))


@pytest.fixture(scope="session")
def oracle_of(generated: Callable[[str], GeneratedRepo]) -> Callable[[str], RepoContent]:
    """A function that returns what the official library says of a generated repository."""
    return cache(lambda name: oracle.oracle_of(generated(name)))

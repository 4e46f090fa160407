"""The generated repositories and what the official library says of them, made once in a test session and on demand."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from tests.conformance import generate, official, oracle
from tests.conformance.commit_base import BASE
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


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """A function that returns a repository of a spec version with one commit, which nobody may change."""
    directory = tmp_path_factory.mktemp("bases")

    @cache
    def make(spec_version: int) -> Path:
        path = directory / f"v{spec_version}"
        official.commit(official.create(path, spec_version), "base", BASE)
        return path

    return make

"""What the tests of the command line share."""

import json
from pathlib import Path

import pytest

from icefs.cli.main import main

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def demo():
    """The repository of `make demo`; only read."""
    return str(PROJECT / "tests/conformance/data/demo-repo")


@pytest.fixture
def run(capsysbinary):
    """Runs a command line that must succeed, and returns what it printed."""

    def call(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsysbinary.readouterr()
        assert (code, captured.err.decode()) == (0, "")
        return captured.out.decode()

    return call


@pytest.fixture
def run_json(run):
    """Runs a command line with --json and parses what it printed."""
    return lambda *arguments: json.loads(run(*arguments, "--json"))


@pytest.fixture
def fail(capsysbinary):
    """Runs a command line that must fail with an exit code, and returns its one line without `icefs: `."""

    def call(code, *arguments):
        assert main([str(argument) for argument in arguments]) == code
        captured = capsysbinary.readouterr()
        assert captured.out == b""
        line = captured.err.decode()
        assert line.startswith("icefs: ")
        assert line.endswith("\n")
        assert line.count("\n") == 1
        return line.removeprefix("icefs: ").strip()

    return call

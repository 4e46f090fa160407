"""JSON.md and what `--json` prints agree."""

import re

import pytest

from tests.support.hints import absolute_nodes
from tests.unit.cli.conftest import PROJECT

PAGE = (PROJECT / "icefs/cli/JSON.md").read_text()
DOCUMENTED = {
    command: re.findall(r"(?m)^\| `(\w+)` \|", section)
    for heading, section in re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", PAGE)
    for command in re.findall(r"`icefs ([a-z -]+)`", heading)
}


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("ls", ["DEMO", "weather"]),
        ("ls --view", ["npy", "DEMO"]),
        ("cat", ["DEMO", "weather/time/c/0"]),
        ("log", ["DEMO"]),
        ("branch list", ["DEMO"]),
        ("tag list", ["DEMO"]),
        ("diff", ["DEMO", "v1.0", "main"]),
        ("info", ["DEMO"]),
        ("blame", ["DEMO", "weather/time"]),
        ("stats", ["DEMO"]),
    ],
)
def test_the_fields_are_those_of_the_page(command, arguments, run_json, demo):
    value = run_json(*command.split(), *(demo if argument == "DEMO" else argument for argument in arguments))
    for entry in value if isinstance(value, list) else [value]:
        assert list(entry) == DOCUMENTED[command]
    assert absolute_nodes(value) == []


def test_the_page_has_every_command():
    from icefs.cli.support.registry import COMMANDS

    assert {command.split()[0] for command in DOCUMENTED} == set(COMMANDS)

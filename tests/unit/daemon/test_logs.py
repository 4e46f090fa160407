"""What a line of the log looks like, and which mount and branch it names."""

import json
import logging
import sys

import pytest

from icefs.daemon.logs import LineFormatter, branch_in
from icefs.log_context import current_branch, in_branch
from tests.support.log_records import record


def test_lines_know_their_mount_and_branch():
    lines = LineFormatter("text", "/mnt/x", None)
    assert lines.format(record("hello %s", "you")).endswith(" WARNING icefs.x [/mnt/x]: hello you")
    assert lines.format(record("a", branch="dev")).endswith(" [/mnt/x dev]: a")
    assert in_branch("b", lambda: lines.format(record("a")))().endswith(" [/mnt/x b]: a")
    assert current_branch() is None
    assert LineFormatter("text", "/mnt/x", "main").format(record("a")).endswith(" [/mnt/x main]: a")


def test_a_line_of_json_is_an_object_without_secrets():
    try:
        raise ValueError('password="abc123"')
    except ValueError:
        failure = sys.exc_info()
    line = LineFormatter("json", "/mnt/x", "main").format(
        record('a "quoted" Authorization: Basic abc" word', exc_info=failure, level=logging.ERROR)
    )
    assert "\n" not in line
    told = json.loads(line)
    assert (told["level"], told["logger"], told["mount"], told["branch"]) == ("error", "icefs.x", "/mnt/x", "main")
    assert told["message"] == 'a "quoted" Authorization: ***" word'
    assert "Traceback" in told["trace"]
    assert "abc123" not in line
    assert told["time"].endswith("Z")


def test_lines_for_the_journal_have_priorities():
    lines = LineFormatter("text", "/m", None, journal=True)
    assert lines.format(record("a\nb", level=logging.ERROR)) == "<3>ERROR icefs.x [/m]: a\\nb"
    error = record("a", level=logging.ERROR)
    error.exc_info = (ValueError, ValueError("b"), None)
    assert lines.format(error) == "<3>ERROR icefs.x [/m]: a\n<3>ValueError: b"


def test_facts_of_a_line_are_json_without_secrets():
    lines = LineFormatter("json", "/m", None, secrets=["abc/123"])
    told = json.loads(lines.format(record("a", facts={"object": "s3://b/abc/123", "attempt": 2})))
    assert told["facts"] == {"object": "s3://b/***", "attempt": 2}
    assert "facts" not in json.loads(lines.format(record("a")))


@pytest.mark.parametrize(
    ("path", "branch"),
    [
        ("/branches/main/a/c/0", "main"),
        ("/branches/feature%2Fx", "feature/x"),
        ("/branches", None),
        ("/tags/main", None),
        ("/a/branches/main", None),
        ("", None),
    ],
)
def test_the_branch_of_a_path(path, branch):
    assert branch_in(path) == branch

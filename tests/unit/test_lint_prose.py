"""The linter of prose finds what it should: each phrase, in each kind of text, at its line."""

import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "lint_prose.py"
spec = importlib.util.spec_from_file_location("lint_prose", SCRIPT)
lint_prose = importlib.util.module_from_spec(spec)
spec.loader.exec_module(lint_prose)


def found(text: str) -> list[tuple[int, str]]:
    return [(line, name) for line, name, _ in lint_prose.findings_in(lint_prose.Block(1, text))]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Stops whoever reads.", "whoever"),
        ("Returns who counts.", "who"),
        ("The kernel is told of it.", "is told"),
        ("The kernel is\n    told of it.", "is told"),
        ("It takes note of a change.", "takes note"),
        ("Nobody hears of it.", "hears of"),
        ("Files, of which there are many.", "of which there"),
        ("The file beside it.", "beside"),
        ("It is written anew.", "anew"),
        ("The request is cut off.", "cut off"),
        ("The lower tree has it.", "lower"),
        ("And what is lost is gone.", "headless what"),
        ("Done. What is lost stays away.", "What"),
        ("Title.\n\n    What is lost stays away.", "What"),
    ],
)
def test_a_banned_phrase_is_found(text, name):
    assert name in [finding for _, finding in found(text)]


@pytest.mark.parametrize(
    "text",
    [
        "What changed in a commit.",
        "Is it there? What does it say?",
        "The user who asked.",
        "Files that can be told apart.",
        "The lower bound, in lowercase.",
        "Says `who is told` about ``whoever``.",
        "Reports what changed.",
    ],
)
def test_plain_words_are_left(text):
    assert found(text) == []


def test_a_finding_is_at_its_line():
    assert found("One.\n\n    Two lines,\n    which whoever reads.") == [(4, "whoever")]


def test_docstrings_comments_and_messages_are_read():
    source = '"""Written anew."""\n# Written\n# anew.\nx = "it is written anew"\ny = "anew"  # anew\n'
    lines = [(block.line, block.text) for block in lint_prose.python_blocks(source, messages=True)]
    assert lines == [(1, "Written anew."), (4, "it is written anew"), (2, "Written\nanew."), (5, "anew")]


def test_blocks_of_code_in_markdown_are_left():
    [block] = lint_prose.markdown_blocks("anew\n```\nwhoever\n```\n    who\nanew\n")
    assert found(block.text) == [(1, "anew"), (6, "anew")]


def test_each_kind_of_file_is_checked():
    checked = set(lint_prose.files())
    assert {"README.md", "icefs/ARCHITECTURE.md", "icefs/errors.py", "tests/conftest.py", "scripts/demo.py"} <= checked
    assert "tests/unit/test_lint_prose.py" not in checked  # it has the phrases

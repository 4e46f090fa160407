"""Argument types that several commands share."""

import click
import pytest

from icefs.cli import options
from icefs.cli.options import parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("1000", 1000),
        ("1000b", 1000),
        ("512k", 512 << 10),
        ("8M", 8 << 20),
        ("1.5GiB", 3 << 29),
        ("2 TB", 2 << 40),
    ],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "M", "-1", "1e3", "8MM", "8X", "1..5", "٣"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        parse_size(text)


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    row = (
        "e28e05d1c0a9b7f3",
        "orphaned",
        "main",
        "12",
        "1.2 GiB",
        "3 d",
        "1CECHNKREP0F1RSTCMT0",
        "s3://bucket/" + "x" * 60,
    )
    headers = ("id", "state", "branch", "changes", "size", "age", "base", "repository")
    options.print_rows(headers, [row], whole=("id", "state"))
    lines = click.unstyle(capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["e28e05d1c0a9b7f3", "orphaned"] for line in lines)
    assert "…" not in "".join(lines)
    assert "".join(lines[2:]).count("x") == 60

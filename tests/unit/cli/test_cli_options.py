"""Argument types that several commands share."""

import re

import click
import pytest

from icefs.cli.main import main
from icefs.cli.support import options
from icefs.cli.support.options import parse_size


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


HEADERS = ("id", "state", "branch", "changes", "size", "age", "base", "repository", "mountpoint")
FOLDING = ("branch", "repository", "mountpoint")
ID, BASE = "e28e05d1c0a9b7f3", "1CECHNKREP0F1RSTCMT0"


def _row(length: int) -> tuple[str, ...]:
    return (ID, "unmounted", "main", "12", "1.2-GiB", "3-d", BASE, "s3://" + "r" * length, "/" + "m" * length)


def _print(rows: list[tuple[str, ...]]) -> None:
    options.print_rows(HEADERS, rows, folding=FOLDING, none="there are none")


@pytest.mark.parametrize("num_rows", [1, 3])
@pytest.mark.parametrize("length", [10, 60, 300])
@pytest.mark.parametrize("width", [30, 60, 80, 120, 200])
def test_a_narrow_terminal_breaks_no_id_and_cuts_nothing_off(monkeypatch, capsys, width, length, num_rows):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(width))
    _print([_row(length)] * num_rows)
    text = click.unstyle(capsys.readouterr().out)
    words = text.split()
    # Below 60 columns an id next to its name may be wider than the terminal, which then breaks the line itself.
    assert max(map(len, text.splitlines())) <= max(width, 33)
    for whole in (ID, BASE, "unmounted", "1.2-GiB"):
        assert words.count(whole) == num_rows
    for header in HEADERS:
        assert header in words
    assert "…" not in text
    # The names of the columns have no r and m next to each other.
    assert sum(len(found) for found in re.findall(r"(?<![a-z])r+(?![a-z])", text)) == length * num_rows
    assert sum(len(found) for found in re.findall(r"(?<![a-z])m+(?![a-z])", text)) == length * num_rows


def test_a_wide_terminal_shows_a_line_for_each_row_and_a_narrow_one_a_block(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    _print([_row(30)] * 2)
    wide = click.unstyle(capsys.readouterr().out).splitlines()
    assert [line.split()[0] for line in wide if ID in line and BASE in line] == [ID, ID]
    monkeypatch.setenv("COLUMNS", "80")
    _print([_row(30)] * 2)
    narrow = click.unstyle(capsys.readouterr().out)
    blocks = [[line.split() for line in block.splitlines()] for block in narrow.strip().split("\n\n")]
    assert blocks == [[[header, cell] for header, cell in zip(HEADERS, _row(30), strict=True)]] * 2


def test_a_pipe_gets_a_line_of_tabs_for_each_row_whatever_the_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "60")
    _print([_row(300)] * 2)
    assert capsys.readouterr().out == ("\t".join(_row(300)) + "\n") * 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_an_empty_list_says_so_and_prints_no_header(monkeypatch, capsys, is_terminal):
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal, raising=False)
    _print([])
    assert capsys.readouterr() == ("", "there are none\n")


def test_no_working_trees_are_said_to_be_none(tmp_path, capsys):
    assert main(["sessions", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr() == ("", "there are no working trees with changes\n")

"""Argument types that several commands share."""

import click
import pytest

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

"""Names that NetCDF forbids."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.views.cf.names import (
    MAX_NAME_BYTES,
    NON_COORDINATE_PREFIX,
    RESERVED_ATTRIBUTES,
    UniqueNames,
    original_name,
    shown_name,
)

ODD = st.one_of(
    st.text(),
    st.text(alphabet="_%/ ab2F5\0\x7f\u0301e\ud800é~-.", max_size=12),
    st.sampled_from(
        ["", " ", "_", "%", "_%", "_%%", ".", "..", "e\u0301", "é", "/", "_/", "%5F", NON_COORDINATE_PREFIX]
    ),
)

SHOWN = [
    ("t2m", "t2m"),
    ("Größe (m)", "Größe (m)"),
    ("a.b-c+d@e", "a.b-c+d@e"),
    ("", "_%"),
    ("a/b", "a%2Fb"),
    ("100%", "100%25"),
    ("-x", "_%2Dx"),
    ("_/x", "_%5F%2Fx"),
    ("/x", "_%2Fx"),
    ("x ", "x%20"),
    ("x\0", "x%00"),
    ("e\u0301", "e%CC%81"),
    (".\u0301", "_%2E%CC%81"),
    ("\ud800", "_%ED%A0%80"),
    ("_nc4_non_coord_x", "_%5Fnc4_non_coord_x"),
]


@pytest.mark.parametrize(("name", "shown"), SHOWN)
def test_forbidden_names_are_escaped(name, shown):
    assert shown_name(name) == shown
    assert original_name(shown) == name


def test_reserved_names_are_escaped():
    for name in RESERVED_ATTRIBUTES:
        shown = shown_name(name, RESERVED_ATTRIBUTES)
        assert shown not in RESERVED_ATTRIBUTES
        assert original_name(shown) == name


@given(ODD)
def test_names_are_allowed_and_come_back(name):
    shown = shown_name(name)
    assert 0 < len(shown.encode()) <= MAX_NAME_BYTES
    assert shown[0].isascii() is False or shown[0].isalnum() or shown[0] == "_"
    assert not shown[-1].isspace()
    assert not any(character < " " or character in "/\x7f" for character in shown)
    assert unicodedata.is_normalized("NFC", shown)
    assert shown_name(name) == shown
    if "%~" not in shown:
        assert original_name(shown) == name


@given(ODD, ODD)
def test_no_two_names_are_shown_alike(one, other):
    assert (shown_name(one) == shown_name(other)) == (one == other)


def test_long_names_are_shortened_with_a_hash():
    names = ["x" * 199 + end for end in ("a", "ab", "abc", "é", "%")] + ["é" * 300, "é" * 299 + "e", "/" * 300]
    shown = [shown_name(name) for name in names]
    assert len(set(shown)) == len(names)
    assert shown[0] == names[0]
    assert all("%~" in name and original_name(name) is None for name in shown[1:])


def test_unique_names_get_numbers():
    names = UniqueNames(["a"])
    assert [names.take(name) for name in ("b", "a", "a", "b")] == ["b", "a~2", "a~3", "b~2"]

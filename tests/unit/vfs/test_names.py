import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.vfs.names import decode_ref, encode_ref


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("main", "main"),
        ("feature/x", "feature%2Fx"),
        ("100%", "100%25"),
        ("", "%"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "..."),
        ("a\0b", "a%00b"),
        ("grün", "grün"),
        (".icefs", ".icefs"),
        ("x\n y", "x\n y"),
    ],
)
def test_a_ref_has_one_file_name(name, text):
    assert encode_ref(name) == text
    assert decode_ref(text) == name


@pytest.mark.parametrize("text", ["a%2f", "a%", "a%4", "a%41", "%2E%", "a/b", ".", "..", "", "%2E%2E%2E"])
def test_other_spellings_are_nobodys(text):
    assert decode_ref(text) is None


def test_names_that_no_directory_can_have():
    assert encode_ref("x" * 256) is None
    assert encode_ref("/" * 86) is None
    assert encode_ref("x" * 255) == "x" * 255
    assert encode_ref("\ud800") is None


@given(st.text(max_size=30))
def test_encoding_is_reversible_and_makes_file_names(name):
    text = encode_ref(name)
    if text is not None:
        assert "/" not in text
        assert "\0" not in text
        assert text not in ("", ".", "..")
        assert decode_ref(text) == name

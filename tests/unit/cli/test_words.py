"""Names, commands and counts as they are printed: nothing hidden, nothing obeyed, nothing that a shell misreads."""

import json
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.words import command, plural, quoted, shell_word, some, visible, visible_json, visible_lines
from tests.support.hostile_words import HOSTILE, is_hidden, words_that_arrive

WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=12)


def test_every_character_that_does_not_show_is_escaped_and_no_other_of_those_in_use():
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if is_hidden(char):
            assert visible(char).isascii(), hex(code)
            assert visible(char) != char, hex(code)
        elif unicodedata.category(char) != "Cn":
            assert visible(char) == char, hex(code)


def test_names_and_texts():
    assert quoted("a/b c") == "a/b c"
    assert quoted("x\nNothing") == '"x\\nNothing"'
    assert quoted('"\\\x1b') == '"\\"\\\\\\x1b"'
    assert quoted("a\\n") == "a\\n"  # which is not what a newline becomes
    assert visible("\u202e\udce9\x07\U000e0041") == "\\u202e\\xe9\\x07\\U000e0041"
    assert visible_lines("one\r\n\ttwo\x1b[1m") == "one\n\ttwo\\x1b[1m"


@given(st.text(max_size=40))
def test_json_keeps_its_value_and_shows_nothing_hidden(text):
    document = visible_json(json.dumps({text: [text]}, ensure_ascii=False, indent=2))
    assert json.loads(document) == {text: [text]}
    assert not any(map(is_hidden, document.replace("\n", "")))


@pytest.mark.parametrize("word", HOSTILE)
def test_a_shell_reads_a_printed_command_as_it_is_meant(word, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = command("branch create", word, "REF", repo=word, ref=None)
    assert not any(map(is_hidden, line))
    assert "'" not in line  # which messages put around it
    if word.startswith("-"):
        expected = ["branch", "create", f"--repo={word}", "--", word, "REF"]
    else:
        expected = ["branch", "create", word, "REF", "--repo", word]
    assert words_that_arrive(line) == expected
    assert list(tmp_path.iterdir()) == []


@given(st.lists(WORDS, min_size=1, max_size=30))
def test_any_words_arrive(words):
    assert words_that_arrive("icefs " + " ".join(map(shell_word, words))) == words


def test_counts():
    assert [plural(count, "chunk") for count in (0, 1, 2, 1000)] == ["0 chunks", "1 chunk", "2 chunks", "1,000 chunks"]
    assert [plural(count, "branch", "branches") for count in (1, 2)] == ["1 branch", "2 branches"]
    assert some(["a", "b"], 2) == "a, b"
    assert some(["a", "b", "c"], 2, "; ") == "a; b and 1 more"

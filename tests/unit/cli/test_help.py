"""Help: every topic and command, as text, JSON and manual pages that roff has nothing to say against."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from icefs.cli.main import icefs, main
from icefs.cli.support import manpages
from icefs.cli.support.exit_codes import EXIT_CODES, NOT_FOUND, USAGE
from icefs.cli.support.markdown import Block, Span, as_text, blocks
from icefs.cli.support.registry import COMMANDS
from icefs.cli.support.topics import TOPICS, topic_source, topic_title
from tests.support.ci import require


def told(capsys, *arguments):
    assert main([*arguments]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_help_lists_topics_and_commands(capsys):
    text = told(capsys, "help")
    for name in (*TOPICS, *COMMANDS):
        assert re.search(rf"^  {name}\s", text, re.MULTILINE), name


@pytest.mark.parametrize("name", TOPICS)
def test_each_topic_is_text_without_marks(capsys, name):
    text = told(capsys, "help", name)
    assert len(text) > 200
    assert "`" not in text
    assert max(map(len, text.splitlines())) <= 130
    value = json.loads(told(capsys, "help", "--json", name))
    assert value["kind"] == "topic"
    assert value["name"] == name


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_the_help_that_it_prints_itself(capsys, name):
    asked = told(capsys, "help", name)
    assert asked.startswith(f"Usage: icefs {name}")
    assert asked.strip() == told(capsys, name, "--help").strip()


def leaves(command, *names):
    inner = getattr(command, "commands", None)
    if inner is None:
        yield names
        return
    for name, one in inner.items():
        yield from leaves(one, *names, name)


@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_shows_what_only_click_should_see(capsys, name):
    command = icefs.get_command(click.Context(icefs), name)
    for words in [(name,), *leaves(command, name)]:
        text = told(capsys, *words, "--help")
        assert "\b" not in text
        assert "\\b" not in text
    assert "\\eb" not in manpages.command_page(name, icefs)
    assert "\b" not in manpages.command_page(name, icefs)


def test_commands_in_groups_and_wrong_words(capsys):
    assert told(capsys, "help", "branch", "delete").startswith("Usage: icefs branch delete")
    assert main(["help", "nonsense"]) == USAGE
    assert capsys.readouterr().err == ("icefs: there is no topic and no command nonsense; 'icefs help' lists both\n")
    assert main(["help", "status", "more"]) == USAGE


def test_exit_codes_are_those_of_the_table(capsys):
    text = told(capsys, "help", "exit-codes")
    for code, meaning in EXIT_CODES.items():
        assert f"{code}: {meaning}" in " ".join(text.split())
    assert str(NOT_FOUND) in text


def test_topics_name_only_commands_and_options_that_exist(capsys):
    """A command that was renamed is renamed in the topics, too."""
    options = {
        option
        for name in COMMANDS
        for option in re.findall(r"--[a-z-]+", told(capsys, name, "--help") + inner_help(capsys, name))
    }
    for name in TOPICS:
        if name == "json":
            continue
        source = topic_source(name)
        code = "\n".join([*re.findall(r"`(icefs [^`]+)`", source), *re.findall(r"^icefs .*$", source, re.MULTILINE)])
        for command in re.findall(r"^icefs\s([a-z-]+)\b", code, re.MULTILINE):
            assert command in COMMANDS, (name, command)
        foreign = {"--now", "--device", "--cap-add", "--security-opt"}  # of systemctl and docker
        assert set(re.findall(r"--[a-z][a-z-]*", source)) <= options | foreign, name


def test_the_readme_names_topics_that_exist():
    readme = (Path(__file__).parents[3] / "README.md").read_text()
    table = re.search(r"\| topic \| about \|\n\|[-|]+\|\n((?:\|.*\|\n)+)", readme)
    listed = [name for row in table[1].splitlines() for name in re.findall(r"`([a-z0-9-]+)`", row.split("|")[1])]
    assert sorted(listed) == sorted(TOPICS)
    assert set(re.findall(r"`icefs help ([a-z]\S*?)`", readme)) <= {*TOPICS, *COMMANDS}


def inner_help(capsys, name):
    inner = re.findall(r"^  ([a-z]+) ", told(capsys, name, "--help").partition("Commands:")[2], re.MULTILINE)
    return "".join(told(capsys, name, one, "--help") for one in inner)


def test_manual_pages_are_good_roff(tmp_path, capsys):
    require(shutil.which("groff") is not None, "groff, from Debian's groff-base")
    told(capsys, "help", "--man", str(tmp_path))
    pages = sorted(tmp_path.rglob("*.[178]"))
    assert len(pages) == 1 + len(COMMANDS) + len(TOPICS) + len(manpages.HELPERS)
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-cbou", *map(str, pages)], capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.count("NAME") >= len(pages)
    assert "…" in done.stdout
    assert all(page.read_bytes().isascii() for page in pages)
    shown = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", str(tmp_path / "man1/icefs-commit.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for option in ("--amend", "--meta", "--rebase", "--skip-invalid"):
        assert option in shown
    assert "EXIT STATUS" in shown
    assert "icefs.lock#0" in shown
    assert "[PATH]\n" not in shown.partition("\nOPTIONS\n")[2]
    serve = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", str(tmp_path / "man1/icefs-serve.1")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '\n           mountpoint = "/mnt/era5"\n           branch = "main"\n' in serve
    topic = subprocess.run(
        ["groff", "-man", "-Tascii", "-P-cbou", str(tmp_path / "man7/icefs-layout.7")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "MNT/branches/NAME/     a branch: read and write" in topic
    assert ".icefs/            control files of the mount" in topic


def test_pages_are_written_as_json_says(tmp_path, capsys):
    value = json.loads(told(capsys, "help", "--man", str(tmp_path), "--json"))
    assert str(tmp_path / "man1/icefs.1") in value["pages"]


def test_what_roff_would_take_for_a_request_is_text():
    page = manpages.topic_page("layout")
    for line in page.splitlines():
        if line.startswith((".", "'")):
            assert line.split()[0] in {".TH", ".SH", ".PP", ".nf", ".fi", ".RS", ".RE", ".TP", ".IP"}, line


def test_blocks_of_markdown():
    source = (
        "# T\n\none `x`\ntwo\n- `a`, `b`: x\n  y\n- `z`\n- **p** <Q> `r\n  s`\n\n```\n.c\n\n d\n```\n## H\n"
        "| a | b |\n|---|---|\n| `c` | d \\| `e` |\n"
    )
    assert list(blocks(source)) == [
        Block("title", (Span("T"),)),
        Block("text", (Span("one "), Span("x", is_code=True), Span(" two"))),
        Block("item", (Span("x y"),), (Span("a", is_code=True), Span(", "), Span("b", is_code=True))),
        Block("item", (Span("z", is_code=True),)),
        Block("item", (Span("p <Q> "), Span("r s", is_code=True))),
        Block("code", (Span(".c\n\n d"),)),
        Block("heading", (Span("H"),)),
        Block("row", (Span("b"),), (Span("a"),)),
        Block("row", (Span("d | "), Span("e", is_code=True)), (Span("c", is_code=True),)),
    ]
    assert as_text(source).splitlines() == [
        "T",
        "",
        "one x two",
        "",
        "  - a, b: x y",
        "  - z",
        "  - p <Q> r s",
        "",
        "    .c",
        "",
        "     d",
        "",
        "H",
        "",
        "  a: b",
        "  c: d | e",
    ]


@pytest.mark.parametrize("name", TOPICS)
def test_a_topic_begins_with_its_title_and_no_block_is_empty(name):
    first, *others = blocks(topic_source(name))
    assert first == Block("title", (Span(topic_title(name)),))
    assert others
    assert all(block.spans for block in others)

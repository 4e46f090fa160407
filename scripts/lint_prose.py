"""Finds phrases that the rules of prose in `icefs/ARCHITECTURE.md` rule out, in everything that a person reads.

    python scripts/lint_prose.py          checks everything, as `make lint` does
    python scripts/lint_prose.py PATH …   checks the files below these paths

It reads docstrings, comments and messages in Python files, and Markdown. Code in backticks or in blocks is left out.
"""

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ROOTS = ("icefs", "tests", "scripts", "README.md", "systemd")
LEFT_OUT = ("tests/data/", "tests/conformance/data/", "scripts/lint_prose.py", "tests/unit/test_lint_prose.py")

BANNED = {
    "whoever": (r"\b(?:whoever|whomever)\b", "name the caller, reader, writer, program or process"),
    "who": (
        r"(?<!\buser )(?<!\busers )(?<!\bpeople )(?<!\bperson )(?<!\bowner )(?<!\bowners )(?<!body )(?<!\buser, )"
        r"\bwho\b(?![-'])",
        "name the caller, reader, writer, user, program or process",
    ),
    "is told": (
        r"\b(?:is|are|was|were|be|been|being|gets?|got) told\b(?! apart| from)",
        "the thing reports, notifies, records",
    ),
    "takes note": (r"\b(?:takes?|took|taken|taking) note\b", "records"),
    "hears of": (r"\b(?:hears?|heard|hearing) of\b", "learns, sees, receives"),
    "of which there": (r"\bof which there\b", "say how many there are"),
    "beside": (r"\bbeside\b", "next to, besides, in addition to, as well as"),
    "anew": (r"\banew\b", "again, or the verb with re-"),
    "cut off": (r"\bcut(?:s|ting)? off\b|\bcut-offs?\b", "interrupt"),
    "lower": (
        r"\blower (?:tree|path|entry|entries|node|nodes|directory|directories|file|files|layer|stat)\b"
        r"|\b(?:the|its|a|of|no) lower\b(?! (?:bound|limit|half|part|level|case|number|one|end))",
        "base, base snapshot",
    ),
    "headless what": (
        r"\bwhat (?:is|are|was|were|it|they|has|had) (?:\w+ ){1,4}(?:is|are|was|were|stays?|goes|comes)\b",
        "name the thing",
    ),
    "What": (r"(?:(?<=[.!?;] )|\n *)What\b[^.?!]*(?:[.!]|$)", "begin the sentence with the thing"),
}
PATTERNS = {name: re.compile(pattern, re.IGNORECASE if name != "What" else 0) for name, (pattern, _) in BANNED.items()}


class Finding(NamedTuple):
    """A banned phrase: where it stands, and what it is."""

    path: str
    line: int
    name: str
    text: str


class Block(NamedTuple):
    """Prose that belongs together, from one line of a file on."""

    line: int
    text: str


def without_code(text: str) -> str:
    """Returns the text with the code in backticks as one word of the same length and lines."""
    return re.sub(r"``?[^`]+``?", lambda match: re.sub(r"[^\n]", "_", match.group()), text)


def findings_in(block: Block) -> Iterator[tuple[int, str, str]]:
    """Yields line, name and words of each banned phrase of a block."""
    text = without_code(block.text)
    flat = re.sub(r"\n(?!\s*\n)\s*", lambda match: " " + "\0" * (len(match.group()) - 1), text)
    words, positions = flat, None
    if "\0" in flat:
        positions = [at for at, character in enumerate(flat) if character != "\0"]
        words = flat.replace("\0", "")
    for name, pattern in PATTERNS.items():
        for match in pattern.finditer(words):
            start = match.end() - len(match.group().lstrip())
            at = positions[start] if positions else start
            context = words[max(0, match.start() - 20) : match.end() + 20] if name == "who" else match.group()[:60]
            yield block.line + text.count("\n", 0, at), name, " ".join(context.split())


def python_blocks(source: str, messages: bool) -> Iterator[Block]:
    """Yields the docstrings, comments and, where wanted, messages of a Python file."""
    tree = ast.parse(source)
    docstrings = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.add(node.value)
            yield Block(node.value.lineno, node.value.value)
    if messages:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or node in docstrings:
                continue
            if len(node.value.split()) > 2:
                yield Block(node.lineno, node.value)
    yield from comment_blocks(source)


def comment_blocks(source: str) -> Iterator[Block]:
    """Yields comments; those on lines that follow each other are one block."""
    lines: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        line, own = token.start[0], token.line.lstrip().startswith("#")
        text = re.sub(r"noqa.*|type: ignore\S*", "", token.string).lstrip("#").strip()
        if lines and own and line == last + 1:
            lines.append(text)
        else:
            if lines:
                yield Block(first, "\n".join(lines))
            lines, first = [text], line
        last = line
    if lines:
        yield Block(first, "\n".join(lines))


def markdown_blocks(source: str) -> Iterator[Block]:
    """Yields a Markdown file's text without its blocks of code; tables lie within it, one row a line."""
    text = re.sub(
        r"^```.*?^```", lambda match: "\n" * match.group().count("\n"), source, flags=re.MULTILINE | re.DOTALL
    )
    yield Block(1, re.sub(r"^(?: {4}|\t).*$", "", text, flags=re.MULTILINE))


def files() -> Iterator[str]:
    """Yields the paths of the files that are read."""
    for root in ROOTS:
        path = ROOT / root
        found = [path] if path.is_file() else sorted([*path.rglob("*.py"), *path.rglob("*.md")])
        for file in found:
            name = str(file.relative_to(ROOT))
            if not name.startswith(LEFT_OUT) and "/node_modules/" not in name:
                yield name


def lint(name: str) -> Iterator[Finding]:
    """Yields the banned phrases of one file."""
    source = (ROOT / name).read_text()
    blocks = markdown_blocks(source) if name.endswith(".md") else python_blocks(source, not name.startswith("tests/"))
    for block in blocks:
        for line, phrase, text in findings_in(block):
            yield Finding(name, line, phrase, text)


def report(found: list[Finding]) -> None:
    """Prints findings, one a line."""
    for finding in sorted(found):
        print(f"{finding.path}:{finding.line}: {finding.name}: “{finding.text}” ({BANNED[finding.name][1]})")


def main(paths: list[str]) -> int:
    """Checks the files below some paths, or all; returns the exit code."""
    found = [finding for name in files() if not paths or name.startswith(tuple(paths)) for finding in lint(name)]
    report(found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

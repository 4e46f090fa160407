"""Markdown, read by markdown-it-py (CommonMark and tables) into the blocks that help and manual pages have.

Of Markdown there is what the topics need: headings, paragraphs, flat lists whose items may begin with a term and a
colon, tables, and fenced code; in a line there may be `code`, emphasis and links.
"""

from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final, NamedTuple

import click
from markdown_it import MarkdownIt
from markdown_it.token import Token

_WIDTH: Final = 100


class Span(NamedTuple):
    """A piece of a line.

    Attributes:
        text: What it says, without marks.
        is_code: Whether the source has it in backticks.
    """

    text: str
    is_code: bool = False


class Block(NamedTuple):
    """A piece of a topic.

    Attributes:
        kind: `title`, `heading`, `text`, `item`, `row` or `code`.
        spans: What it says; code keeps its lines, everything else is one line.
        term: What `spans` explains: the first cell of a row, or the code that an item begins with, before a colon.
    """

    kind: str
    spans: tuple[Span, ...]
    term: tuple[Span, ...] = ()


def blocks(source: str) -> Iterator[Block]:
    """Yields the pieces of a topic, in order."""
    kind, cells = "text", list[tuple[Span, ...]]()
    for token in MarkdownIt("commonmark").enable("table").parse(source):
        if token.type == "heading_open":
            kind = "title" if token.tag == "h1" else "heading"
        elif token.type == "list_item_open":
            kind = "item"
        elif token.type == "tr_open":
            kind, cells = "row", []
        elif token.type == "tr_close":
            yield Block("row", _joined(cells[1:]), cells[0])
            kind = "text"
        elif token.type == "fence":
            yield Block("code", (Span(token.content.removesuffix("\n")),))
        elif token.type == "inline" and kind == "row":
            cells.append(_spans(token))
        elif token.type == "inline":
            yield _item(_spans(token)) if kind == "item" else Block(kind, _spans(token))
            kind = "text"


def _spans(inline: Token) -> tuple[Span, ...]:
    spans: list[Span] = []
    for child in inline.children or []:
        is_code = child.type == "code_inline"
        text = " " if child.type in {"softbreak", "hardbreak"} else child.content
        if spans and not is_code and not spans[-1].is_code:
            text = spans.pop().text + text
        spans.append(Span(text, is_code))
    return tuple(one for one in spans if one.text)


def _item(spans: tuple[Span, ...]) -> Block:
    """Makes an item; its term is code, or code separated by commas, that ends at a colon."""
    term = tuple(takewhile(lambda one: one.is_code or one.text == ", ", spans))
    if not term or len(term) == len(spans) or not spans[len(term)].text.startswith(": "):
        return Block("item", spans)
    first, *others = spans[len(term) :]
    return Block("item", tuple(one for one in (Span(first.text[2:]), *others) if one.text), term)


def _joined(cells: list[tuple[Span, ...]]) -> tuple[Span, ...]:
    return tuple(span for number, cell in enumerate(cells) for span in ((Span(" | "),) * bool(number) + cell))


def plain(spans: Iterable[Span]) -> str:
    """Returns the text of spans."""
    return "".join(one.text for one in spans)


def as_text(source: str) -> str:
    """Returns a topic for the terminal, wrapped at 100 columns."""
    parts: list[str] = []
    before = ""
    for block in blocks(source):
        if before and not (block.kind == before and block.kind in {"item", "row"}):
            parts.append("")
        before = block.kind
        text = ": ".join(plain(spans) for spans in (block.term, block.spans) if spans)
        if block.kind == "title":
            parts.append(text)
        elif block.kind == "heading":
            parts.append(text.upper())
        elif block.kind == "code":
            parts += [f"    {line}".rstrip() for line in text.splitlines()]
        elif block.kind == "item":
            parts.append(click.wrap_text(text, _WIDTH, "  - ", "    "))
        elif block.kind == "row":
            parts.append(click.wrap_text(text, _WIDTH, "  ", "      "))
        else:
            parts.append(click.wrap_text(text, _WIDTH))
    return "\n".join(parts)

"""What people read: names from outside made visible, commands that a shell takes as they are meant, counts.

Repositories, paths and other people's messages may hold anything: what a terminal obeys, what turns the direction of
writing, newlines that would make a line of their own. None of it is printed raw, on a terminal or into a pipe. JSON
keeps every character, in its own escapes.
"""

import re
from collections.abc import Iterable
from typing import Final

# Control characters (Cc), surrogates (Cs), line and paragraph separators (Zl, Zp), and the format characters (Cf) that
# show nothing or turn the direction of writing. The joiners that Persian and emoji are written with stay.
_HIDDEN: Final = (
    "\x00-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b\u200e\u200f\u2028-\u202e"
    "\u2060-\u206f\ufeff\ufff9-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e007f\ud800-\udfff"
)
_ONE_LINE: Final = re.compile(f"[{_HIDDEN}]")
_LINES: Final = re.compile(f"(?![\n\t])[{_HIDDEN}]")
_JSON: Final = re.compile(f"(?![\n\t])[{_HIDDEN}]")
_FEW: Final = 5
_NAMED: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}
_SAFE_WORD: Final = re.compile(r"[\w@%+=:,./-]+", re.ASCII)
# Within double quotes a shell takes all others for themselves; an interactive one obeys `!`, and `'` is what
# messages put around a command.
_NOT_IN_QUOTES: Final = re.compile(f"[{_HIDDEN}!']")


def visible(text: str) -> str:
    r"""Writes text on one line, with escapes such as `\n` and `\x1b` for what does not show or does more than that."""
    return _ONE_LINE.sub(_escape, text)


def visible_lines(text: str) -> str:
    """Writes text like `visible`, and keeps its lines and tabs."""
    return _LINES.sub(_escape, text.replace("\r\n", "\n"))


def quoted(name: str) -> str:
    r"""Writes a name as it is, or, where a part of it would not show, in double quotes with escapes, as git does."""
    if _ONE_LINE.search(name) is None and not name.startswith('"'):
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{visible(escaped)}"'


def _escape(found: re.Match[str]) -> str:
    char = found[0]
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_json(document: str) -> str:
    """Writes what does not show in the texts of a JSON document as JSON's own escapes; its value stays the same."""
    return _JSON.sub(_escape_json, document)


def _escape_json(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))


# Nodes.


def node_name(path: str) -> str:
    """Writes a node's path for people, as Icechunk and Zarr name nodes: `/group/array`, and `/` for the root."""
    return f"/{path.strip('/')}"


def node_key(path: str) -> str:
    """Writes a node's path for programs, as Zarr's keys begin: `group/array`, and `""` for the root."""
    return path.strip("/")


# Commands.


def shell_word(text: str) -> str:
    """Writes a word so that a POSIX shell takes it as it is; there is never a `'` or a line break in it."""
    if _SAFE_WORD.fullmatch(text):
        return text
    if _NOT_IN_QUOTES.search(text) is None:
        return '"' + re.sub(r'([$`"\\])', r"\\\1", text) + '"'
    body = text.rstrip("\n")
    octal = "".join(map(_octal, body.encode("utf-8", "surrogateescape")))
    if octal.startswith("-"):  # which printf would take for an option
        octal = f"\\{ord('-'):03o}{octal[1:]}"
    # A shell takes newlines from the end of a command's output; the third character of IFS is one.
    return f'"$(printf "{octal}"){"${IFS#??}" * (len(text) - len(body))}"'


def _octal(byte: int) -> str:
    char = chr(byte)
    return char if char == " " or (_SAFE_WORD.fullmatch(char) and char != "%") else f"\\{byte:03o}"


def command(name: str, *arguments: str, **options: str | None) -> str:
    """Writes a command line of icefs that can be pasted into a shell.

    Args:
        name: The subcommand, as `mount` or `branch create`.
        arguments: Its arguments.
        options: Values of its long options; those that are None are left out.
    """
    flags = []
    for option, value in options.items():
        if value is not None:
            flag = f"--{option.replace('_', '-')}"
            flags.append(f"{flag}={shell_word(value)}" if value.startswith("-") else f"{flag} {shell_word(value)}")
    words = [shell_word(argument) for argument in arguments]
    if any(argument.startswith("-") for argument in arguments):
        return " ".join(["icefs", name, *flags, "--", *words])
    return " ".join(["icefs", name, *words, *flags])


# Suggestions.


def suggestion(word: str, known: Iterable[str]) -> str | None:
    """Returns a hint at the names that a misspelt one comes close to; None where none does."""
    import difflib  # which only an error needs

    close = difflib.get_close_matches(word, list(known), 2, 0.65)
    return f"did you mean {' or '.join(map(quoted, close))}?" if close else None


def known_names(kind: str, names: Iterable[str]) -> str | None:
    """Returns a hint at the few names that there are; None where there are too many."""
    shown = sorted(names)
    if not shown:
        return f"there is no {kind} at all"
    return f"there {'is' if len(shown) == 1 else 'are'} {', '.join(map(quoted, shown))}" if len(shown) <= _FEW else None


# Counts.


def plural(number: int, word: str, words: str | None = None) -> str:
    """Writes a number with its word: `1 chunk`, `2,000 chunks`; `words` is the plural where it is not word + s."""
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def some(texts: list[str], shown: int, separator: str = ", ") -> str:
    """Joins the first of some texts, and says how many more there are."""
    more = f" and {len(texts) - shown:,} more" if len(texts) > shown else ""
    return separator.join(texts[:shown]) + more

"""Names that mislead a reader, a terminal or a shell, and what of a program's output would do so."""

import re
import subprocess
import unicodedata

HOSTILE = (
    "with space",
    "it's",
    'say "hi"',
    "a&b;c|d",
    "$(touch owned)",
    "`touch owned`",
    "back\\slash\\n",
    "line\nNothing to commit",
    "end\n\n",
    "\x1b]0;title\x07",
    "\u202etxt.exe",
    "\x9b31m",
    "-rf",
    "-n \x1b",
    "--help",
    "!event",
    "100%s",
    "~",
    "*",
    "#",
    "tab\tbed",
    "b\udce9",  # a byte that is no UTF-8
    "日本",
    "",
)
TOGETHER = (
    'it\'s "a" & b;c|d $(touch owned)`touch owned`\\n!e %s ~*#',
    "line\nNothing to commit\n\n",
    "-rf \x1b]0;title\x07\x9b31m\u202e\ttxt",
    "--help b\udce9 日本",
)
"""The same in few, for tests that take long."""

_KEPT = "\u200c\u200d"  # which Persian and emoji are written with
_SGR = re.compile("\x1b\\[[0-9;]*m")  # colours, which icefs itself prints on a terminal
_CITED = re.compile("'(icefs [^']*)'|: (icefs [^'\n]*)$", re.MULTILINE)


def is_hidden(char):
    """Tells whether a character does not show on a terminal, or does more than that."""
    return unicodedata.category(char) in ("Cc", "Cs", "Cf", "Zl", "Zp") and char not in _KEPT


def hidden_in(output, *, colours=False):
    """Returns what does not show, or does more than that, in what a command printed."""
    text = _SGR.sub("", output) if colours else output
    return [char for char in text if char not in "\n\t" and is_hidden(char)]


def printed_commands(text):
    """Returns the command lines that a text gives its reader, without those that only name a command."""
    return [one or other for one, other in _CITED.findall(text) if " " in (one or other).removeprefix("icefs ")]


def words_that_arrive(line):
    """Lets a shell read a command line, with `icefs` a function that shows its arguments."""
    script = f'icefs() {{ for word in "$@"; do printf \'%s\\0\' "$word"; done; }}\n{line}'
    done = subprocess.run(["sh", "-c", script], capture_output=True, check=True)
    assert done.stderr == b""
    return done.stdout.decode("utf-8", "surrogateescape").split("\0")[:-1]

"""Numbers in texts, and the words that they count: held to each other."""

import re

# What is counted somewhere; a number before one of them has to fit.
NOUNS = {
    "chunk": "chunks",
    "node": "nodes",
    "file": "files",
    "key": "keys",
    "snapshot": "snapshots",
    "manifest": "manifests",
    "object": "objects",
    "branch": "branches",
    "tag": "tags",
    "commit": "commits",
    "change": "changes",
    "transaction log": "transaction logs",
    "virtual chunk": "virtual chunks",
    "working tree": "working trees",
    "mount": "mounts",
    "failure": "failures",
    "manual page": "manual pages",
    "array": "arrays",
    "group": "groups",
    "byte": "bytes",
    "older commit": "older commits",
    "other": "others",
}
_WORDS = sorted({*NOUNS, *NOUNS.values()}, key=len, reverse=True)
_COUNTED = re.compile(rf"(?<![\w.:/x-])(\d[\d,]*)(?: unused)? ({'|'.join(_WORDS)})\b(?! of\b)")
_VERBS = re.compile(
    rf"(?<![\d,])1 ({'|'.join(NOUNS)})( \([^)]*\))? (are|were)\b"
    rf"|(?<![\d,])(?!1 )\d+ ({'|'.join(NOUNS.values())})( \([^)]*\))? (is|was)\b"
)


def check(text):
    """Holds a text to its numbers; returns what is counted in it."""
    found = []
    for number, word in _COUNTED.findall(text):
        assert word in (NOUNS if number == "1" else NOUNS.values()), f"{number} {word}: {text}"
        found.append(int(number.replace(",", "")))
    assert _VERBS.search(text) is None, text
    return found

"""What an error line of a command must be like: the thing named once, and a hint that has sense for the command."""

import json
import re

# Hints that have sense for some commands and places only: a hint that matches needs a command line that matches.
SENSELESS_BUT_FOR = {
    r"AWS|anonymous|credentials": r"s3://",
    r"endpoint|network": r"(s3|http)://",
    r"'icefs status'": r"status|commit|rebase|discard|mnt",
    r"restore (it|the object) from a copy": r"damaged|incomplete",
    r"try again later": r"(s3|http)://",
    r"official library": r"nothing",
    r"--allow-virtual": r"cat|export|mount",
    r"choose another name": r"create",
}


def check(line, arguments):
    """Holds one line of an error to the rules."""
    assert line.count("\n") == 1, line
    message, _, hint = line.strip().removeprefix("icefs: ").partition("; ")
    assert re.search(r"(\S+): \1:", message) is None, line  # a path or a reason said twice
    for argument in arguments:
        if "/" in argument:
            assert len(re.findall(re.escape(argument) + r"(?![\w/.-])", message)) <= 1, line
    for pattern, needed in SENSELESS_BUT_FOR.items():
        if re.search(pattern, hint):
            assert re.search(needed, " ".join(arguments)), line
    return message, hint


def check_json(document, line, code):
    """Holds an error for programs to the line that people get of the same command."""
    assert document.count("\n") == 1, document
    told = json.loads(document)["error"]
    assert [*told][:5] == ["kind", "message", "hint", "exit_code", "type"]
    assert told["exit_code"] == code
    assert re.fullmatch(r"[a-z][a-z0-9-]*|E[A-Z0-9]+", told["kind"]), told
    shown = told["message"].rstrip(".") + (f"; {told['hint']}" if told["hint"] else "")
    assert line.strip() == f"icefs: {shown}"
    assert absolute_nodes(told) == []


# Fields of JSON that name nodes, keys or files of a tree, in lists, as keys of an object, or alone.
PATHS = (
    "path", "from", "to", "key", "new_nodes", "updated_nodes", "deleted_nodes", "new_groups", "new_arrays",
    "deleted_groups", "deleted_arrays", "updated_groups", "updated_arrays", "updated_chunks", "chunks", "metadata",
    "untracked", "lost", "cut", "changed", "paths", "kept_back", "replaced", "arrays", "deleted",
)  # fmt: skip


def absolute_nodes(value, name=""):
    """Returns the paths in a JSON document that begin with a slash."""
    found = [value] if name in PATHS and isinstance(value, str) and value.startswith("/") else []
    if isinstance(value, list):
        return [path for item in value for path in absolute_nodes(item, name)]
    if isinstance(value, dict):
        found += [key for key in value if name in PATHS and key.startswith("/")]
        return found + [path for key, item in value.items() for path in absolute_nodes(item, key)]
    return found

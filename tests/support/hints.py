"""What an error line of a command must be like: the thing named once, and a hint that has sense for the command."""

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

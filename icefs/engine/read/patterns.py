"""Regular expressions of a configuration, which say what arrays a rule is for."""

import functools
import re

from icefs.paths import NodePath


def is_in_path(regex: str, path: NodePath) -> bool:
    """Tells whether an expression is found in an array's path."""
    return is_found(regex, path)


def is_in_name(regex: str, path: NodePath) -> bool:
    """Tells whether an expression is found in the last segment of an array's path."""
    return is_found(regex, path.rpartition("/")[2])


def is_found(regex: str, text: str) -> bool:
    """Tells whether an expression is found in a text; a malformed one never is, as in the official library."""
    pattern = _compiled(regex)
    return pattern is not None and pattern.search(text) is not None


@functools.cache
def _compiled(regex: str) -> re.Pattern[str] | None:
    try:
        return re.compile(regex)
    except re.error:
        return None

"""Names of branches and tags as file names, and back.

A ref may have any name; a file name has no `/` and no NUL, is not empty, `.` or `..`, and has at most 255 bytes.
Any other character is percent-encoded, `%` itself always; the empty name is `%`. A name that is too long even so has
no directory.
"""

from typing import Final

MAX_NAME_BYTES: Final = 255

_ENCODED: Final = {"%": "%25", "/": "%2F", "\0": "%00"}
_DECODED: Final = {text: char for char, text in _ENCODED.items()}
_WHOLE: Final = {"": "%", ".": "%2E", "..": "%2E%2E"}
_WHOLE_BACK: Final = {text: name for name, text in _WHOLE.items()}


def encode_ref(name: str) -> str | None:
    """Returns the file name of a ref, or None if it can have none: too long, or not Unicode."""
    text = _WHOLE.get(name)
    if text is None:
        text = "".join(_ENCODED.get(char, char) for char in name)
    try:
        return text if len(text.encode()) <= MAX_NAME_BYTES else None
    except UnicodeEncodeError:
        return None


def decode_ref(text: str) -> str | None:
    """Returns the ref that a file name stands for, or None if it is not the one file name of any ref."""
    if text in _WHOLE_BACK:
        return _WHOLE_BACK[text]
    first, *rest = text.split("%")
    name = first
    for part in rest:
        char = _DECODED.get(f"%{part[:2]}")
        if char is None:
            return None
        name += char + part[2:]
    return name if encode_ref(name) == text else None

"""Headers that a user adds to the requests to a service, which may hold secrets: no text shows their values."""

import re
from collections.abc import Mapping
from typing import Final

from icefs.errors import InvalidInputError

type ExtraHeaders = tuple[tuple[str, str], ...]
"""Names in lower case, with their values."""

_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE: Final = re.compile(r"[\t\x20-\x7e]*")
_OWN: Final = frozenset(
    (
        *("accept-encoding", "authorization", "connection", "content-encoding", "content-length", "content-md5"),
        *("content-type", "date", "expect", "host", "if-match", "if-modified-since", "if-none-match"),
        *("if-unmodified-since", "range", "trailer", "transfer-encoding", "upgrade", "x-amz-content-sha256"),
        *("x-amz-copy-source", "x-amz-copy-source-if-match", "x-amz-date", "x-amz-security-token"),
    )
)


def extra_headers(*groups: Mapping[str, str] | None) -> ExtraHeaders:
    """Joins groups of headers; of a name that is in several, the last value counts.

    Raises:
        InvalidInputError: a name or value cannot be sent, or is one that icefs sets itself.
    """
    joined: dict[str, str] = {}
    for group in groups:
        for name, value in (group or {}).items():
            lower = name.lower()
            if not _NAME.fullmatch(lower):
                raise InvalidInputError(f"{name!r} cannot be the name of a header")
            if lower in _OWN or lower.startswith(("x-amz-checksum-", "x-amz-meta-icechunk")):
                raise InvalidInputError(f"the header {name} cannot be given: icefs sets it itself")
            if not _VALUE.fullmatch(value):
                raise InvalidInputError(f"the value of the header {name} has characters that cannot be sent")
            joined[lower] = value.strip()
    return tuple(joined.items())

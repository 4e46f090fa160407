"""Whether an answer over HTTP comes from the store, and holds the bytes that were asked for.

Proxies, login pages and gateways answer in a store's place. Their answers have any status, any body and any header. An
answer is used only if it proves itself:

    206    its Content-Range is the range that was asked for
    200    to a request without a Range: the object; to one with a Range: where something proves it to be the object
    404    the store says so in its own words (S3: an XML error)

Everything else is an `AnswerError`. The storages translate it into a `BadAnswerError`, and try again.
Source: RFC 9110, sections 13 to 15.
"""

import re
from collections.abc import Mapping
from typing import Final

from urllib3 import BaseHTTPResponse

from icefs.errors import BadAnswerError
from icefs.storage.base import range_end

type Headers = Mapping[str, str]
"""Header fields; names in any case."""

_PAGES: Final = ("text/html", "application/xhtml+xml")
_DOCUMENTS: Final = (*_PAGES, "text/xml", "application/xml")
_MARKUP: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|\?xml|error)\b", re.IGNORECASE)
_RANGE: Final = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19}|\*)", re.IGNORECASE)
# Services keep the second one when an SDK sent the object in pieces; the bytes are not changed.
_ENCODINGS: Final = frozenset(("", "identity", "aws-chunked"))

_PIECE: Final = 1 << 20


class AnswerError(Exception):
    """An answer is not the store's, or not about what was asked.

    Attributes:
        reason: The fault, as the end of "… answered …"; without anything secret.
        status: Of the answer.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.status = status


def bad_answer(error: AnswerError, *, action: str, endpoint: str) -> BadAnswerError:
    """Translates an `AnswerError`.

    Args:
        error: The fault.
        action: The operation, as "read s3://bucket/key".
        endpoint: The URL of the service.
    """
    return BadAnswerError(
        f"cannot {action}: {endpoint} answered {error.reason}",
        hint="a login page or a proxy may answer in the store's place: check the endpoint and the network",
        status=error.status,
        endpoint=endpoint,
    )


def is_page(headers: Headers) -> bool:
    """Tells whether an answer says that it is a web page."""
    return _media_type(headers) in _PAGES


def is_document(headers: Headers) -> bool:
    """Tells whether an answer says that it is a web page or XML, which no object of a repository is."""
    return _media_type(headers) in _DOCUMENTS


def looks_like_markup(data: bytes | bytearray) -> bool:
    """Tells whether bytes begin as a web page or an XML document does."""
    return _MARKUP.match(data) is not None


def _media_type(headers: Headers) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def describe(status: int, headers: Headers) -> str:
    """Describes an answer, as "200 with a web page"."""
    return f"{status} with a web page" if is_page(headers) else str(status)


def content_encoding(headers: Headers) -> str | None:
    """Returns how the bytes of an answer were changed on their way; None if they are as they are stored."""
    given = headers.get("Content-Encoding", "")
    names = [name.strip().lower() for name in given.split(",")]
    return None if _ENCODINGS.issuperset(names) else given


def content_length(headers: Headers, status: int = 0) -> int:
    """Returns the length of an answer's body.

    Raises:
        AnswerError: it is not told.
    """
    text = headers.get("Content-Length", "")
    if not text.isascii() or not text.isdecimal():
        raise AnswerError(f"{describe(status, headers)} without a length", status)
    return int(text)


def range_size(headers: Headers, start: int, end: int | None, *, name: str) -> tuple[int, int | None]:
    """Returns the end of the range in an answer of status 206, and the size of the object, if the answer gives it.

    Args:
        headers: The answer's.
        start: The first byte that was asked for.
        end: One past the last; None for the rest of the object.
        name: The object, for errors.

    Raises:
        AnswerError: it is another range, or it does not say which.
        InvalidObjectSizeError: the object is too short for the range, or too long to be read whole.
    """
    found = _RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if found is None:
        raise AnswerError("206 without saying which range it is", 206)
    first, last, size = int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])
    if first != start:
        raise AnswerError(f"with bytes from {first} on, where bytes from {start} on were asked for", 206)
    if size is not None:
        expected = range_end(size, start, end, name=name)
    elif end is not None:
        expected = end
    else:
        raise AnswerError("206 without saying how long the object is", 206)
    if last + 1 != expected:
        raise AnswerError(f"with bytes up to {last}, where bytes up to {expected - 1} were asked for", 206)
    return expected, size


def read_exactly(response: BaseHTTPResponse, size: int) -> bytes:
    """Reads a body that has to be so many bytes long.

    Raises:
        AnswerError: it is not.
    """
    announced = response.length_remaining
    if announced not in (None, size):
        raise AnswerError(f"{response.status} with {announced} bytes instead of {size}", response.status)
    data: bytes = response.read(decode_content=False) if announced == size else b""
    while announced is None and (more := response.read(min(_PIECE, size + 1 - len(data)), decode_content=False)):
        data += more
    if len(data) != size:
        raise AnswerError(f"{response.status} with other than {size} bytes", response.status)
    return data

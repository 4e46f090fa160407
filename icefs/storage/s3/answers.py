"""The answers of S3 services, and how they differ from those of a proxy or a login page.

Source: "Amazon S3 API Reference", the answers of each operation; RFC 9110.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from urllib3 import BaseHTTPResponse, HTTPHeaderDict

from icefs.clock import to_micros
from icefs.storage.answers import (
    AnswerError,
    Headers,
    content_encoding,
    content_length,
    describe,
    is_document,
    is_page,
    looks_like_markup,
    range_size,
    read_exactly,
)
from icefs.storage.base import Object, Version, range_end

_ERROR: Final = re.compile(rb"\s*(?:\xef\xbb\xbf)?\s*(?:<\?xml[^>]{0,200}\?>)?\s*<(?:Error|ErrorResponse)[\s>]")
_CODE: Final = re.compile(rb"<Code>\s*([A-Za-z0-9_.-]{1,128})\s*</Code>")
_MD5: Final = re.compile(r"[0-9a-f]{32}")
_CONDITIONS: Final = ("if-match", "if-none-match", "if-unmodified-since")
# What decides whether an object is there, or was changed: it has to be the store's word.
_DECISIVE: Final = frozenset((404, 409, 412))
# A service that sends a whole object instead of a range: larger ones are not read to find out what they are.
_MAX_PROVEN_BYTES: Final = 64 << 20


# What went wrong.


def error_code(data: bytes) -> str | None:
    """Returns the code of an XML error document; None if a body is none."""
    found = _CODE.search(data) if _ERROR.match(data) else None
    return None if found is None else found[1].decode()


def check_refusal(method: str, status: int, headers: Headers, data: bytes, asked: Headers) -> None:
    """Refuses to believe an answer other than success that the service itself cannot have given.

    Args:
        method: The request's.
        status: 300 or more.
        headers: The answer's.
        data: Its body; empty for HEAD.
        asked: The request's headers; their names in lower case.

    Raises:
        AnswerError: it is another's.
    """
    is_reading = method in ("GET", "HEAD")
    is_conditional = not (set(_CONDITIONS) - ({"if-none-match"} if is_reading else set())).isdisjoint(asked)
    tag = headers.get("ETag") or asked.get("if-none-match")
    if status == 304 and (tag is None or version_of(tag) != version_of(asked.get("if-none-match", ""))):
        raise AnswerError("304, although nothing says that the object is the same", status)
    if status == 409 and is_reading:
        raise AnswerError("409 to a request that changes nothing", status)
    if status == 412 and not is_conditional:
        raise AnswerError("412 to a request without a condition", status)
    if status == 416 and "range" not in asked:
        raise AnswerError("416 to a request without a range", status)
    if status in _DECISIVE and error_code(data) is None and (data.strip() or is_page(headers)):
        raise AnswerError(f"{describe(status, headers)}, which is not an answer of S3", status)


def check_client_refusal(response: Mapping[str, Any], *, is_conditional: bool) -> None:
    """Does as `check_refusal` with an error that boto3 has parsed.

    Args:
        response: The error's facts, as boto3 gives them.
        is_conditional: Whether the request had a condition.

    Raises:
        AnswerError: the refusal is not the store's.
    """
    status, headers = _told_by_client(response)
    code = str(response.get("Error", {}).get("Code", ""))
    if status in (409, 412) and not is_conditional:
        raise AnswerError(f"{status} to a request without a condition", status)
    is_coded = bool(code) and not code.isdecimal()
    if status in _DECISIVE and not is_coded and (_has_body(headers) or is_page(headers)):
        raise AnswerError(f"{describe(status, headers)}, which is not an answer of S3", status)


def _told_by_client(response: Mapping[str, Any]) -> tuple[int, Headers]:
    """Returns status and headers of an answer that boto3 has parsed."""
    metadata = response.get("ResponseMetadata", {})
    return int(metadata.get("HTTPStatusCode", 0)), HTTPHeaderDict(metadata.get("HTTPHeaders", {}))


def _has_body(headers: Headers) -> bool:
    """Tells whether there may be a body: without a length, it ends with the connection (RFC 9112, section 6.3)."""
    return headers.get("Content-Length") != "0" or "Transfer-Encoding" in headers


# Entity tags.


def version_of(tag: str) -> Version:
    """Returns the version that an entity tag names.

    A proxy that compresses makes tags weak, and passes conditions on to the service as they are: the service knows
    the strong tag.
    """
    return tag.strip().removeprefix("W/").strip('"')


def quoted(version: Version) -> str:
    """Returns the entity tag to send for a version."""
    return '"' + version_of(version) + '"'


def entity_tag(headers: Headers, status: int) -> str:
    """Returns the entity tag in an answer, which each answer about an object has.

    Raises:
        AnswerError: there is none.
    """
    tag = headers.get("ETag", "")
    if not version_of(tag):
        raise AnswerError(f"{describe(status, headers)} without an entity tag", status)
    return tag


# Objects.


@dataclass(frozen=True, slots=True)
class Wanted:
    """The object or range that a request asks for.

    Attributes:
        where: The object, for errors.
        start: The first byte.
        end: One past the last; None reads to the end.
        etag: The entity tag that it has to have, if that was a condition.
        is_own: Whether it is an object of a repository, and not just anybody's.
    """

    where: str
    start: int = 0
    end: int | None = None
    etag: str | None = None
    is_own: bool = True

    @property
    def is_range(self) -> bool:
        """Whether it is asked for with a Range."""
        return self.start > 0 or self.end is not None


def receive(response: BaseHTTPResponse, wanted: Wanted) -> Object:
    """Reads the answer to a GET.

    Raises:
        AnswerError: it does not hold what was asked for.
        InvalidObjectSizeError: the object is shorter than that.
    """
    status, headers = response.status, response.headers
    version = version_of(entity_tag(headers, status))
    if status == 206 and wanted.is_range:
        end, _ = range_size(headers, wanted.start, wanted.end, name=wanted.where)
        data = read_exactly(response, end - wanted.start)
    elif status == 200 and wanted.is_range:
        data = _receive_whole(response, wanted, version)
    elif status == 200:
        _check_own(headers, wanted)
        data = read_exactly(response, range_end(content_length(headers, status), 0, None, name=wanted.where))
        if wanted.is_own and looks_like_markup(data) and not _is_md5(data, version):
            raise AnswerError("200 with a document instead of the object", 200)
    else:
        raise AnswerError(describe(status, headers), status)
    return Object(data, version)


def _check_own(headers: Headers, wanted: Wanted) -> None:
    """Refuses what no object of a repository is; what is somebody else's may be a web page, or compressed."""
    if wanted.is_own and (is_document(headers) or content_encoding(headers) is not None):
        encoding = content_encoding(headers)
        how = "with a document" if encoding is None else f"with a body in the encoding {encoding}"
        raise AnswerError(f"200 {how} instead of an object", 200)


def _receive_whole(response: BaseHTTPResponse, wanted: Wanted, version: Version) -> bytes:
    """Cuts a range out of a whole object that came instead, if it is certain that it is that object.

    It is if its entity tag was a condition, or is the MD5 of its bytes, or if the object is asked for whole and has the
    right length.
    """
    headers = response.headers
    size = content_length(headers, 200)
    is_wanted = wanted.etag is not None and version == version_of(wanted.etag)
    is_all = wanted.start == 0 and wanted.end == size
    can_prove = _MD5.fullmatch(version) is not None and size <= _MAX_PROVEN_BYTES
    if is_page(headers) or not (is_wanted or is_all or can_prove):
        raise AnswerError(f"{describe(200, headers)} instead of the range that was asked for", 200)
    _check_own(headers, wanted)
    data = read_exactly(response, range_end(size, 0, None, name=wanted.where))
    if not is_wanted and not _is_md5(data, version) and (not is_all or looks_like_markup(data)):
        raise AnswerError("200 with something else instead of the range that was asked for", 200)
    return data[wanted.start : range_end(size, wanted.start, wanted.end, name=wanted.where)]


def _is_md5(data: bytes, version: Version) -> bool:
    """Tells whether an entity tag is what most services make it: the MD5 of the bytes."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest() == version


@dataclass(frozen=True, slots=True)
class Described:
    """The facts of an object in a service's answer.

    Attributes:
        size: Its length in bytes.
        modified: When it was last modified, in microseconds since the epoch.
        version: Its version.
        has_weak_tag: Whether the entity tag is a weak one.
        headers: All of it.
    """

    size: int
    modified: int
    version: Version
    has_weak_tag: bool
    headers: Headers


def described(response: BaseHTTPResponse) -> Described:
    """Reads the answer to a HEAD, or to a GET of the first byte.

    Raises:
        AnswerError: it says too little, or is about a web page.
    """
    status, headers = response.status, response.headers
    if status == 206:
        _, size = range_size(headers, 0, 1, name="the object")
        if size is None:
            raise AnswerError("206 without saying how long the object is", status)
        read_exactly(response, 1)
    elif status == 200:
        size = content_length(headers, status)
    else:
        raise AnswerError(describe(status, headers), status)
    tag = entity_tag(headers, status)
    if is_page(headers):
        raise AnswerError(describe(status, headers), status)
    return Described(size, last_modified(headers, status), version_of(tag), tag.startswith("W/"), headers)


def last_modified(headers: Headers, status: int) -> int:
    """Returns when an object was last modified, in microseconds since the epoch.

    Raises:
        AnswerError: it does not say.
    """
    try:
        moment = parsedate_to_datetime(headers.get("Last-Modified", ""))
    except ValueError:
        raise AnswerError(f"{describe(status, headers)} without a time of modification", status) from None
    return to_micros(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))


# Writing and deleting.


def stored(response: BaseHTTPResponse, data: bytes) -> Version:
    """Returns the version that a PUT wrote.

    The answer has an entity tag and no body. Its media type does not matter: services that are built on a web framework
    send that framework's default, `text/html`.

    Raises:
        AnswerError: it is not an answer to a PUT.
    """
    status, headers = response.status, response.headers
    if status != 200 or data.strip():
        raise AnswerError(f"{describe(status, headers)}, which is not S3's answer to a write", status)
    return version_of(entity_tag(headers, status))


def told(response: Mapping[str, Any], *path: str) -> Any:
    """Returns a value that must be in an answer that boto3 has parsed.

    Raises:
        AnswerError: it is not there.
    """
    value: Any = response
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not value:
        status, headers = _told_by_client(response)
        raise AnswerError(f"{describe(status, headers)} without {path[-1]}", status)
    return value


def check_deleted(response: Mapping[str, Any]) -> None:
    """Raises AnswerError where an answer is none to a deletion, which has no body."""
    status, headers = _told_by_client(response)
    if status not in (200, 204) or (status == 200 and _has_body(headers)):
        raise AnswerError(f"{status}, which is not S3's answer to a deletion", status)


# Listing.


@dataclass(frozen=True, slots=True)
class ListPage:
    """A page of a listing.

    Attributes:
        objects: Name, size, time of last modification in microseconds, and entity tag of each object.
        prefixes: The common prefixes.
        next_token: What to ask for the next page with; None after the last.
    """

    objects: list[tuple[str, int, int, str]]
    prefixes: list[str]
    next_token: str | None


def parse_list(data: bytes, prefix: str = "", *, token: str | None = None, status: int = 200) -> ListPage:
    """Reads the answer to ListObjectsV2.

    Args:
        data: Its body.
        prefix: What all names begin with.
        token: The one that this page was asked for with.
        status: The answer's.

    Raises:
        AnswerError: it is none, or one to another question.
    """
    what = "an answer that is not a listing"
    try:
        root = ElementTree.fromstring(data)
        for element in root.iter():
            element.tag = element.tag.rpartition("}")[2]  # some services leave the name space out
        if status != 200 or root.tag != "ListBucketResult":
            raise AnswerError(f"{status} with {what}", status)
        read = unquote_plus if root.findtext("EncodingType") == "url" else str
        objects = [
            (
                read(item.findtext("Key", "")),
                int(item.findtext("Size", "")),
                to_micros(datetime.fromisoformat(item.findtext("LastModified", ""))),
                item.findtext("ETag", ""),
            )
            for item in root.findall("Contents")
        ]
        prefixes = [read(item.findtext("Prefix", "")) for item in root.findall("CommonPrefixes")]
    except (ElementTree.ParseError, ValueError) as error:
        raise AnswerError(f"{status} with {what} ({type(error).__name__})", status) from error
    asked = root.findtext("Prefix")
    # What XML cannot hold comes back as something else.
    is_other = asked is not None and prefix.isprintable() and prefix not in (asked, read(asked))
    if is_other or not all(name.startswith(prefix) for name in (*(each[0] for each in objects), *prefixes)):
        raise AnswerError(f"{status} with a listing of something else", status)
    if root.findtext("IsTruncated") != "true":
        return ListPage(objects, prefixes, None)
    next_token = root.findtext("NextContinuationToken")
    if not next_token or next_token == token:
        raise AnswerError(f"{status} with a part of a listing that does not say how it goes on", status)
    return ListPage(objects, prefixes, next_token)

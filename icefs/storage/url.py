"""Where repositories are, as users write it: a path, or a URL with options as its query.

    PATH                      file:///PATH
    s3://bucket/prefix?endpoint_url=http://localhost:9000&region=eu-west-1&anonymous=true
    http://host/path          https://host/path       (reading only; ?redirect_to=https://other.host/path/ allows
                                                       redirects below that place)
    memory:NAME               memory:                 (this process only)

Paths and prefixes are taken literally, but for the percent-encoding of `file://` and `http(s)://` URLs. Keys that
give access are never part of a URL: they come from the AWS environment, or as arguments of `open_storage`.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from icefs.errors import InvalidInputError, UnsupportedError
from icefs.storage.base import Storage
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.storage.retry import RetryPolicy

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LATER = ("gs", "gcs", "az", "azure", "abfs", "abfss")
_SECRET = "***"


def _boolean(text: str) -> bool:
    value = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}.get(text.lower())
    if value is None:
        raise ValueError(f"{text!r} is neither true nor false")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError(f"{text} is less than 1")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(f"{text} is no time")
    return value


_COMMON: Final[dict[str, Callable[[str], Any]]] = {
    "concurrency": _positive,
    "max_tries": _positive,
    "connect_timeout_s": _seconds,
    "read_timeout_s": _seconds,
}
_OPTIONS: Final[dict[str, dict[str, Callable[[str], Any]]]] = {
    "file": {"durable": _boolean},
    "memory": {},
    "http": {"redirect_to": str, **_COMMON},
    "s3": {
        "endpoint_url": str,
        "region": str,
        "profile": str,
        "anonymous": _boolean,
        "force_path_style": _boolean,
        "allow_http": _boolean,
        "requester_pays": _boolean,
        **_COMMON,
    },
}
# Only as arguments, never in a URL.
_ARGUMENTS: Final[dict[str, tuple[str, ...]]] = {
    "s3": ("access_key_id", "secret_access_key", "session_token", "credentials"),
    "http": ("headers",),
}


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed location.

    Attributes:
        scheme: `file`, `s3`, `memory` or `http` (also for https).
        root: The absolute path; the bucket; the name; the URL without its query.
        prefix: What follows the bucket and its slash, without slashes at its end; empty for the others.
        options: The query, parsed.
    """

    scheme: str
    root: str
    prefix: str
    options: Mapping[str, Any]


def parse_location(url: str) -> Location:
    """Parses a location.

    Raises:
        InvalidInputError: it is none, or has an option that its kind does not know.
        UnsupportedError: it is of a kind that icefs does not know yet.
    """
    if not url or "\0" in url:
        raise InvalidInputError("a repository location must not be empty")
    if url.startswith("memory:"):
        return Location("memory", url.removeprefix("memory:").lstrip("/"), "", {})
    match = _SCHEME.match(url)
    if match is None:
        return Location("file", os.path.abspath(url), "", {})
    scheme = match[1].lower()
    before, _, query = url.partition("?")
    if scheme in _LATER:
        raise UnsupportedError(f"{scheme}:// is not supported yet", hint="use a path, s3://, http(s):// or file://")
    if scheme not in ("file", "s3", "http", "https"):
        raise InvalidInputError(
            f"{scheme}:// is not a repository location", hint="use a path, s3://, http(s):// or file://"
        )
    kind = "http" if scheme == "https" else scheme
    options = _parse_query(kind, query)
    rest = before[match.end() :]
    if kind == "http":
        return Location(kind, before, "", options)
    host, slash, path = rest.partition("/")
    if kind == "file":
        if host not in ("", "localhost") or not slash:
            raise InvalidInputError(f"{redact(url)} is not file:///PATH", hint="write three slashes before the path")
        return Location(kind, os.path.abspath("/" + unquote(path)), "", options)
    if not host or "@" in host:
        raise InvalidInputError(f"{redact(url)} is not s3://BUCKET/PREFIX")
    return Location(kind, host, path.rstrip("/"), options)


def _parse_query(kind: str, query: str) -> dict[str, Any]:
    options = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in _ARGUMENTS.get(kind, ()):
            raise InvalidInputError(
                f"{name} must not be part of a URL, where others could read it",
                hint="put it into the AWS environment or configuration files",
            )
        _check_option(kind, name, ())
        try:
            options[name] = _OPTIONS[kind][name](text)
        except ValueError as error:
            raise InvalidInputError(f"the option {name} is not valid: {error}") from None
    return options


def _check_option(kind: str, name: str, more: tuple[str, ...]) -> None:
    known = (*_OPTIONS[kind], *more)
    if name not in known:
        # The value is not repeated: it may be a key under a misspelt name.
        raise InvalidInputError(
            f"{kind} locations have no option {name!r}",
            hint=f"the options are {', '.join(known)}" if known else "there are no options",
        )


def open_storage(url: str, **options: Any) -> Storage:
    """Opens the storage at a location; makes no request and creates nothing.

    Args:
        url: The location; see `parse_location`.
        options: What the query may hold, with Python values, and goes before it. For S3 also `access_key_id`,
            `secret_access_key`, `session_token`, or `credentials` (`S3Credentials`, or a callback that returns
            them); for HTTP also `headers` (a mapping).

    Raises:
        InvalidInputError: the location or an option is not valid.
        UnsupportedError: it is of a kind that icefs does not know yet.
    """
    location = parse_location(url)
    given = {name: value for name, value in options.items() if value is not None}
    for name in given:
        _check_option(location.scheme, name, _ARGUMENTS.get(location.scheme, ()))
    merged = {**location.options, **given}
    match location.scheme:
        case "memory":
            return MemoryStorage(location.root)
        case "file":
            return LocalStorage(location.root, **merged)
        case "http":
            return _open_http(location.root, merged)
        case _:
            return _open_s3(location.root, location.prefix, merged)


def _take_retry(options: dict[str, Any]) -> None:
    tries = options.pop("max_tries", None)
    if tries is not None:
        options["retry"] = RetryPolicy(
            max_tries=tries, first_contact_tries=min(tries, RetryPolicy().first_contact_tries)
        )


def _open_http(url: str, options: dict[str, Any]) -> Storage:
    # Lazy: urllib3 takes 90 ms, which a local repository need not wait for.
    from icefs.storage.http import HttpStorage
    from icefs.storage.http_client import HttpOptions

    _take_retry(options)
    if "headers" in options:
        options["headers"] = tuple(dict(options["headers"]).items())
    if "redirect_to" in options:
        options["redirect_to"] = (options["redirect_to"],)
    return HttpStorage(url, HttpOptions(**options))


def _open_s3(bucket: str, prefix: str, options: dict[str, Any]) -> Storage:
    # Lazy: botocore takes 300 ms, which a local repository need not wait for.
    from icefs.storage.s3.options import S3Credentials, S3Options
    from icefs.storage.s3.store import S3Storage

    _take_retry(options)
    keys = [options.pop(name, None) for name in ("access_key_id", "secret_access_key", "session_token")]
    if any(key is not None for key in keys):
        if keys[0] is None or keys[1] is None:
            raise InvalidInputError("access_key_id and secret_access_key belong together")
        if "credentials" in options:
            raise InvalidInputError("give either credentials or access_key_id and secret_access_key")
        options["credentials"] = S3Credentials(*keys)
    return S3Storage(bucket, prefix, S3Options(**options))


def redact(url: str) -> str:
    """Returns a location without what could be secret: user names, passwords, and unknown query values."""
    before, question, query = url.partition("?")
    match = _SCHEME.match(before)
    if match is not None:
        authority, slash, path = before[match.end() :].partition("/")
        if "@" in authority:
            authority = f"{_SECRET}@{authority.rpartition('@')[2]}"
        before = f"{match[0]}{authority}{slash}{path}"
    elif question:
        return url  # A path with a question mark in it.
    if not question:
        return before
    harmless = {name for options in _OPTIONS.values() for name in options}
    shown = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in ("endpoint_url", "redirect_to") and urlsplit(value).scheme:
            value = redact(value)
        shown.append((name, value if name in harmless else _SECRET))
    return f"{before}?{urlencode(shown, safe='/:*@')}"

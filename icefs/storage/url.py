"""Where repositories are, as users write it: a path, or a URL with options as its query.

    PATH                      file:///PATH
    s3://bucket/prefix?endpoint_url=http://localhost:9000&region=eu-west-1&anonymous=true
    gs://bucket/prefix?user_project=NAME              (also gcs://)
    az://container/prefix?account=NAME                (also azure://)
    abfs://container@account.dfs.core.windows.net/prefix                     (also abfss://)
    http://host/path          https://host/path       (reading only; ?redirect_to=https://other.host/path/ allows
                                                       redirects below that place)
    memory:NAME               memory:                 (this process only)

Paths and prefixes are taken literally, but for the percent-encoding of `file://` and `http(s)://` URLs. Keys that
give access are never part of a URL: they come from the environment, or as arguments of `open_storage`. `kinds` lists
the options of each kind of store.
"""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl, unquote, urlencode

from icefs.errors import InvalidInputError, UnsupportedError
from icefs.storage.base import Storage
from icefs.storage.kinds import COMMON_OPTIONS, KIND_OF_SCHEME, KINDS, Kind
from icefs.storage.local.store import LocalStorage
from icefs.storage.memory import MemoryStorage
from icefs.storage.retry import RetryPolicy

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_SECRET = "***"
# What programs leave that append a signature to a location with options: ?region=eu?sv=2024-01-01&sig=…
_APPENDED: Final = re.compile(r"[?&;#][^=]*=")
_CONTAINER: Final = re.compile(r"[a-z0-9$-]{3,63}")
_URL_OPTIONS: Final = ("endpoint_url", "redirect_to")
_WRITTEN: Final = "use a path, s3://, gs://, az://, http(s):// or file://"


@dataclass(frozen=True, slots=True)
class Location:
    """A parsed location.

    Attributes:
        scheme: The kind: `file`, `s3`, `gcs`, `azure`, `memory` or `http` (also for https).
        root: The absolute path; the bucket or container; the name; the URL without its query.
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
    kind = KIND_OF_SCHEME.get(scheme)
    if kind is None or kind.name == "memory":
        raise InvalidInputError(f"{scheme}:// is not a repository location", hint=_WRITTEN)
    options = _parse_query(kind, query)
    rest = before[match.end() :]
    if kind.name == "http":
        return Location("http", before, "", options)
    host, slash, path = rest.partition("/")
    if kind.name == "file":
        if host not in ("", "localhost") or not slash:
            raise InvalidInputError(f"{redact(url)} is not file:///PATH", hint="write three slashes before the path")
        return Location("file", os.path.abspath("/" + unquote(path)), "", options)
    # Before the @ is a container of Azure, which is no secret; elsewhere a password may be.
    if not host or ("@" in host and kind.name != "azure"):
        raise InvalidInputError(f"{redact(url)} is not {kind.form}")
    return Location(kind.name, host, path.rstrip("/"), options)


def _parse_query(kind: Kind, query: str) -> dict[str, Any]:
    options = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name in kind.arguments:
            raise InvalidInputError(
                f"{name} must not be part of a URL, where others could read it", hint=f"put it into {kind.keys_belong}"
            )
        _check_option(kind, name, ())
        if _APPENDED.search(text):
            # The value is not repeated, here and in what refuses it later: a signature may be in it.
            raise InvalidInputError(
                f"the option {name} is not valid: there is another query in its value",
                hint="separate the options by &; signatures and keys belong into " + kind.keys_belong,
            )
        try:
            options[name] = kind.options[name](text)
        except ValueError as error:
            raise InvalidInputError(f"the option {name} is not valid: {error}") from None
    return options


def _check_option(kind: Kind, name: str, more: tuple[str, ...]) -> None:
    known = (*kind.options, *more)
    if name not in known:
        # The value is not repeated: it may be a key under a misspelt name.
        raise InvalidInputError(
            f"{kind.name} locations have no option {name!r}",
            hint=f"the options are {', '.join(known)}" if known else "there are no options",
        )


def open_storage(url: str, **options: Any) -> Storage:
    """Opens the storage at a location; makes no request and creates nothing.

    Args:
        url: The location; see `parse_location`.
        options: What the query may hold, with Python values, and goes before it. For S3 also `access_key_id`,
            `secret_access_key`, `session_token`, or `credentials` (`S3Credentials`, or a callback that returns
            them); for Google Cloud Storage also `credentials` (`GcsCredentials`); for Azure also `account_key`,
            `sas_token`, `bearer_token`, `connection_string`, or `credentials` (`AzureCredentials`, or a callback that
            returns them); for HTTP also `headers` (a mapping).

    Raises:
        InvalidInputError: the location or an option is not valid.
        UnsupportedError: it is of a kind that icefs does not know yet.
    """
    location = parse_location(url)
    given = {name: value for name, value in options.items() if value is not None}
    kind = KINDS[location.scheme]
    for name in given:
        _check_option(kind, name, kind.arguments)
    merged = {**location.options, **given}
    return _OPENERS[location.scheme](location, merged)


def _take_retry(options: dict[str, Any]) -> None:
    options["named"] = frozenset(options) & frozenset(COMMON_OPTIONS)
    tries = options.pop("max_tries", None)
    if tries is not None:
        options["retry"] = RetryPolicy(
            max_tries=tries, first_contact_tries=min(tries, RetryPolicy().first_contact_tries)
        )


def _open_memory(location: Location, options: dict[str, Any]) -> Storage:
    return MemoryStorage(location.root, **options)


def _open_local(location: Location, options: dict[str, Any]) -> Storage:
    return LocalStorage(location.root, **options)


def _open_http(location: Location, options: dict[str, Any]) -> Storage:
    # Lazy: urllib3 takes 90 ms, which a local repository need not wait for.
    from icefs.storage.http import HttpStorage
    from icefs.storage.http_client import HttpOptions

    _take_retry(options)
    if "headers" in options:
        options["headers"] = tuple(dict(options["headers"]).items())
    if "redirect_to" in options:
        options["redirect_to"] = (options["redirect_to"],)
    return HttpStorage(location.root, HttpOptions(**options))


def _open_s3(location: Location, options: dict[str, Any]) -> Storage:
    # Lazy: botocore takes 300 ms, which a local repository need not wait for.
    from icefs.storage.s3.headers import extra_headers
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
    both = options.pop("headers", None)
    for name in ("read_headers", "write_headers"):
        options[name] = extra_headers(both, options.get(name))
    return S3Storage(location.root, location.prefix, S3Options(**options))


def open_gcs(location: Location, options: dict[str, Any]) -> Storage:
    """Opens a place in Google Cloud Storage with options as `open_storage` takes; raises as that."""
    options = {name: value for name, value in options.items() if value is not None}
    try:
        # Lazy: Google's library takes a second, and is an extra.
        from icefs.storage.gcs.options import GcsOptions
        from icefs.storage.gcs.store import GcsStorage
    except ModuleNotFoundError as error:
        raise missing_extra(error, "gcs", f"gs://{location.root}") from None

    _take_retry(options)
    return GcsStorage(location.root, location.prefix, GcsOptions(**options))


def open_azure(location: Location, options: dict[str, Any]) -> Storage:
    """Opens a place in Azure Blob Storage with options as `open_storage` takes; raises as that."""
    options = {name: value for name, value in options.items() if value is not None}
    try:
        # Lazy: Microsoft's library takes 450 ms, and is an extra.
        from icefs.storage.azure.options import AzureCredentials, AzureOptions, account_of_host
        from icefs.storage.azure.store import AzureStorage
    except ModuleNotFoundError as error:
        raise missing_extra(error, "azure", redact(f"az://{location.root}")) from None

    _take_retry(options)
    container, at, host = location.root.rpartition("@")
    if at:
        account, endpoint_url = account_of_host(host)
        if options.setdefault("account", account) != account:
            raise InvalidInputError(f"the location names the account {account}, and the option another one")
        if endpoint_url is not None:
            options.setdefault("endpoint_url", endpoint_url)
    else:
        container = location.root
    ways = ("account_key", "sas_token", "bearer_token", "connection_string")
    given = {name: options.pop(name) for name in ways if name in options}
    if given:
        if "credentials" in options:
            raise InvalidInputError(f"give either credentials or {' or '.join(given)}")
        options["credentials"] = AzureCredentials(**given)
    return AzureStorage(container, location.prefix, AzureOptions(**options))


_OPENERS: Final[Mapping[str, Callable[[Location, dict[str, Any]], Storage]]] = {
    "memory": _open_memory,
    "file": _open_local,
    "http": _open_http,
    "s3": _open_s3,
    "gcs": open_gcs,
    "azure": open_azure,
}


def missing_extra(error: ModuleNotFoundError, extra: str, place: str) -> UnsupportedError:
    """Says how to install what a store needs; raises an error again that is about something else.

    Args:
        error: The import that failed.
        extra: The extra of icefs.
        place: What was to be opened.
    """
    if error.name is None or error.name.startswith("icefs"):
        raise error
    return UnsupportedError(
        f"{place} cannot be opened: the Python package {error.name.partition('.')[0]} is not installed",
        hint=f"pip install 'icefs[{extra}]'",
    )


def redact(url: str) -> str:
    """Returns a location without what could be secret: user names, passwords, and unknown query values.

    The container before the @ of `abfs://` is shown, for it is part of the repository's name.
    """
    before, question, query = url.partition("?")
    match = _SCHEME.match(before)
    if match is not None:
        authority, slash, path = before[match.end() :].partition("/")
        name, at, host = authority.rpartition("@")
        kind = KIND_OF_SCHEME.get(match[1].lower())
        if at and not (kind is not None and kind.name == "azure" and _CONTAINER.fullmatch(name)):
            authority = f"{_SECRET}@{host}"
        before = f"{match[0]}{authority}{slash}{path}"
    elif question:
        return url  # A path with a question mark in it.
    if not question:
        return before
    shown = [(name, _redact_value(name, value)) for name, value in parse_qsl(query, keep_blank_values=True)]
    return f"{before}?{urlencode(shown, safe='/:*@')}"


def _redact_value(name: str, value: str) -> str:
    if not any(name in kind.options for kind in KINDS.values()) or _APPENDED.search(value):
        return _SECRET
    if name in _URL_OPTIONS and "@" in value:
        return redact(value) if _SCHEME.match(value) else _SECRET
    return value

"""Requests to a web server: redirects are followed within bounds, and nothing secret goes elsewhere."""

import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import urllib3
from urllib3 import exceptions as http_errors

from icefs.errors import AccessDeniedError, InvalidInputError, StorageError, UnreachableError, UnsupportedError
from icefs.storage.deadlines import ended_after, timeout_within
from icefs.storage.proxies import proxy_of
from icefs.storage.retry import RetryPolicy
from icefs.storage.settings import StoreSettings

_MAX_REDIRECTS: Final = 5
_REDIRECTS: Final = frozenset((301, 302, 303, 307, 308))
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TRUE: Final = ("true", "1", "yes", "on")
_DURATION_PART: Final = re.compile(r"([0-9]+)\s*([a-z]+)\s*")
_UNITS_S: Final = {
    **dict.fromkeys(("ms", "msec", "millis"), 0.001),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), 3600.0),
}
_VALUE: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]*")


@dataclass(frozen=True, slots=True)
class HttpOptions:
    """How to talk to a web server.

    Attributes:
        headers: Sent with every request; may hold secrets.
        concurrency: How many connections are kept.
        connect_timeout_s: How long to wait for a connection.
        read_timeout_s: How long to wait for the next bytes of an answer.
        retry: When to try again.
        user_agent: Added to the User-Agent header, for the owner's access logs.
        redirect_to: URL prefixes that redirects may lead below, besides the origin itself. Headers do not go there.
        has_encoded_keys: Whether keys are paths of a URL already, with what they encode.
        named: The names of the settings that the user has named, and that a repository's leave as they are.
    """

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    concurrency: int = 16
    connect_timeout_s: float = 5.0
    read_timeout_s: float = 30.0
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    user_agent: str = ""
    redirect_to: tuple[str, ...] = ()
    has_encoded_keys: bool = False
    named: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        for name, value in (*self.headers, ("User-Agent", self.user_agent)):
            # What the value is stays untold: it may be a secret.
            if not _VALUE.fullmatch(value) or not _NAME.fullmatch(name):
                raise InvalidInputError(
                    f"the header {name!r} has characters that no header can hold",
                    hint="look for a line break at its end",
                )

    def with_settings(self, settings: StoreSettings) -> "HttpOptions":
        """Returns options that obey the settings of reads, but in the fields that the user has named."""
        settings = settings.without(self.named)
        changed: dict[str, Any] = {"retry": self.retry.with_settings(settings)}
        for name in ("connect_timeout_s", "read_timeout_s"):
            value = getattr(settings, name)
            if value is not None:
                changed[name] = value
        return replace(self, **changed)


def options_of_config(base_url: str, config: Mapping[str, str]) -> HttpOptions:
    """Reads the options that the official library knows, under their names there.

    Args:
        base_url: The location, which `allow_http` may refuse.
        config: `allow_http`, `timeout` and `connect_timeout` (as `30s` or `1m 30s`), `user_agent`.

    Raises:
        UnsupportedError: an option has no meaning here; its value is not repeated, for it may be a secret.
        InvalidInputError: a value is none, or the location is not encrypted, and has to be.
    """
    options = HttpOptions()
    for name, value in config.items():
        match name.lower():
            case "allow_http":
                if value.lower() not in _TRUE and urlsplit(base_url).scheme == "http":
                    raise InvalidInputError(
                        f"the location {base_url} is not encrypted", hint="set allow_http to use it all the same"
                    )
            case "timeout":
                options = replace(options, retry=replace(options.retry, attempt_timeout_s=_duration_s(name, value)))
            case "connect_timeout":
                options = replace(options, connect_timeout_s=_duration_s(name, value))
            case "user_agent":
                options = replace(options, user_agent=value)
            case _:
                raise UnsupportedError(
                    f"icefs knows no option {name!r} of web servers",
                    hint="it knows allow_http, timeout, connect_timeout and user_agent",
                )
    return options


def _duration_s(name: str, text: str) -> float:
    parts = [(float(number), _UNITS_S.get(unit)) for number, unit in _DURATION_PART.findall(text)]
    if not parts or _DURATION_PART.sub("", text).strip() or any(unit is None for _, unit in parts):
        raise InvalidInputError(f"the option {name} is no time such as 30s")
    return sum(number * unit for number, unit in parts if unit is not None)


class HttpClient:
    """Sends requests to the server of a base URL. Safe for threads."""

    def __init__(self, base_url: str, options: HttpOptions) -> None:
        """Connects to nothing yet.

        Raises:
            InvalidInputError: the environment's proxy, or a prefix of `redirect_to`, is no URL.
        """
        self._base = urlsplit(base_url)
        self._allowed = [_prefix(url) for url in options.redirect_to]
        proxy = proxy_of(base_url)
        make = partial(urllib3.ProxyManager, proxy) if proxy is not None else urllib3.PoolManager
        self._pool = make(
            maxsize=options.concurrency,
            timeout=timeout_within(options.connect_timeout_s, options.read_timeout_s, None),
        )
        self._options = options
        # The bytes as they are stored; and a proxy must not answer with an older version.
        self._headers = {
            "User-Agent": f"icefs {options.user_agent}".rstrip(),
            "Accept-Encoding": "identity",
            "Cache-Control": "no-cache",
        }
        self._own_headers = dict(options.headers)

    @contextmanager
    def send(
        self, method: str, url: str, headers: Mapping[str, str], *, limit_s: float | None = None
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """Sends a request; gives the answer with its body unread. All of that ends after `limit_s`.

        Raises:
            AccessDeniedError: it is a redirect to a place that is not allowed.
            UnreachableError: there is no answer.
            StorageError: there are too many redirects.
        """
        ends_at = None if limit_s is None else time.monotonic() + limit_s
        try:
            response = self._follow(method, url, headers, limit_s)
            try:
                with ended_after(response, None if ends_at is None else max(ends_at - time.monotonic(), 0.001)):
                    yield response
                if response.length_remaining == 0:
                    response.drain_conn()
                    response.release_conn()
            finally:
                # What was not read to its end cannot be used again.
                response.close()
        except http_errors.HTTPError as error:
            raise _transport_error(error, url) from error

    def _follow(
        self, method: str, url: str, headers: Mapping[str, str], limit_s: float | None
    ) -> urllib3.BaseHTTPResponse:
        place = url
        for _ in range(_MAX_REDIRECTS + 1):
            own = self._own_headers if _origin(urlsplit(place)) == _origin(self._base) else {}
            response = self._pool.request(
                method,
                place,
                headers={**self._headers, **own, **headers},
                retries=False,
                redirect=False,
                preload_content=False,
                timeout=timeout_within(self._options.connect_timeout_s, self._options.read_timeout_s, limit_s),
            )
            target = response.headers.get("Location")
            if response.status not in _REDIRECTS or target is None:
                return response
            response.close()
            place = self._check_redirect(url, place, target)
        raise StorageError(f"cannot read {url}: more than {_MAX_REDIRECTS} redirects", url=url)

    def _check_redirect(self, url: str, place: str, target: str) -> str:
        """Returns where a redirect leads, if it may be followed."""
        try:
            parts = urlsplit(urljoin(place, target))
            is_allowed = self._may_follow(parts)
        except ValueError:
            raise AccessDeniedError(
                f"cannot read {url}: it is redirected to something that is no URL", url=url
            ) from None
        if is_allowed:
            return parts._replace(fragment="").geturl()
        # Its query is left out: it may hold a signature.
        there = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        raise AccessDeniedError(
            f"cannot read {url}: it is redirected to {there}, which is not allowed",
            hint=f"if you trust that place: --allow-virtual {there}/ for virtual chunks, or"
            f" ?redirect_to={there}/ at a repository's location",
            url=url,
            redirected_to=there,
        )

    def _may_follow(self, target: SplitResult) -> bool:
        if target.scheme not in _DEFAULT_PORTS or not target.hostname or "@" in target.netloc:
            return False
        if _origin(target) == _origin(self._base) or _is_upgrade(self._base, target):
            return True
        segments = unquote(target.path).split("/")
        return {".", ".."}.isdisjoint(segments) and any(
            _origin(target) == _origin(prefix) and (target.path or "/").startswith(prefix.path)
            for prefix in self._allowed
        )

    def close(self) -> None:
        """Closes the connections."""
        self._pool.clear()


def _origin(parts: SplitResult) -> tuple[str, str, int]:
    return parts.scheme, parts.hostname or "", parts.port or _DEFAULT_PORTS.get(parts.scheme, 0)


def _is_upgrade(base: SplitResult, target: SplitResult) -> bool:
    """Tells whether a redirect leads to the same host, but over an encrypted connection."""
    return _origin(base) == ("http", target.hostname or "", 80) and _origin(target)[::2] == ("https", 443)


def _prefix(url: str) -> SplitResult:
    parts = urlsplit(url if url.endswith("/") else f"{url}/")
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname or parts.query or parts.fragment:
        raise InvalidInputError("redirect_to is not a URL prefix that redirects may lead below")
    return parts


def _transport_error(error: http_errors.HTTPError, url: str) -> StorageError:
    reason = error.reason if isinstance(error, http_errors.MaxRetryError) else error
    if isinstance(reason, http_errors.SSLError | ssl.SSLError):
        failure = UnreachableError(f"cannot read {url}: no trusted connection", hint="check the certificate", url=url)
        failure.is_transient = False
        return failure
    never_connected = isinstance(reason, http_errors.NewConnectionError | http_errors.ConnectTimeoutError)
    what = "the server cannot be reached" if never_connected else "the server broke off its answer"
    return UnreachableError(
        f"cannot read {url}: {what}",
        hint="check the address and the network" if never_connected else None,
        url=url,
        never_connected=never_connected,
        cause=type(reason).__name__,
    )

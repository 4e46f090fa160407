"""URLs that lead to a store: a web server answers with a redirect to the store's own location.

A service that decides which bucket a repository lies in gives its users one such URL. Redirects to other web pages are
followed, whatever host they lead to, as each is only asked for its `Location`; nothing that could be secret is sent.

Source: the official library's documentation of `redirect_storage`.
"""

from functools import partial
from typing import Final
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3 import exceptions as http_errors

from icefs.errors import BadAnswerError, InvalidInputError, StorageError, ThrottledError, UnreachableError
from icefs.storage.proxies import proxy_of
from icefs.storage.retry import Retrier, RetryPolicy

_MAX_REDIRECTS: Final = 10
_WEB: Final = ("http", "https")
_PASSING: Final = (408, 429, 500, 502, 503, 504)
_WAIT_S: Final = urllib3.Timeout(connect=5.0, read=30.0)


def find_target(url: str, retry: RetryPolicy | None = None) -> str:
    """Follows redirects from a URL until one leads to something else than a web page; returns where that is.

    Args:
        url: Begins with `http://` or `https://`.
        retry: When to try again.

    Raises:
        InvalidInputError: it is no such URL.
        UnreachableError, ThrottledError: a server does not answer.
        BadAnswerError: an answer is no redirect.
        StorageError: there are too many redirects.
    """
    _check_url(url)
    retrier = Retrier(RetryPolicy() if retry is None else retry)
    place = url
    for _ in range(_MAX_REDIRECTS + 1):
        place = retrier.run(partial(_ask, place, url), verb="read", name=url)
        if urlsplit(place).scheme not in _WEB:
            return place
        _check_url(place)
    raise StorageError(f"{url} leads to no store: more than {_MAX_REDIRECTS} redirects", url=url)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        is_one = parts.scheme in _WEB and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_one = False
    if not is_one or not url.isprintable() or " " in url:
        raise InvalidInputError("a redirect starts at http://host or https://host")
    if "@" in parts.netloc:
        raise InvalidInputError("a web location must not hold a user name or password")


def _ask(place: str, url: str) -> str:
    """Returns where a page redirects to."""
    proxy = proxy_of(place)
    pool = urllib3.PoolManager() if proxy is None else urllib3.ProxyManager(proxy)
    with pool:
        try:
            answer = pool.request(
                "GET",
                place,
                headers={"User-Agent": "icefs", "Cache-Control": "no-cache"},
                timeout=_WAIT_S,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except http_errors.HTTPError as error:
            raise UnreachableError(
                f"{url} leads to no store: {urlsplit(place).netloc} cannot be reached",
                hint="check the address and the network",
                url=url,
                cause=type(error).__name__,
            ) from error
        status, target = answer.status, answer.headers.get("Location")
        answer.close()
    if status in _PASSING:
        kind = ThrottledError if status in (429, 503) else UnreachableError
        raise kind(f"{url} leads to no store: {urlsplit(place).netloc} answers with {status}", url=url)
    if not 300 <= status < 400 or not target:
        raise BadAnswerError(f"{url} leads to no store: the answer is {status}, and no redirect to one", url=url)
    try:
        return urljoin(place, target)
    except ValueError:
        raise BadAnswerError(f"{url} leads to no store: it is redirected to something that is no URL") from None

"""The proxy that the environment names for a URL."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from icefs.errors import InvalidInputError


def proxy_of(url: str) -> str | None:
    """Returns the proxy that the environment names for a URL.

    Raises:
        InvalidInputError: its value is no URL.
    """
    parts = urlsplit(url)
    proxy = None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)
    if not proxy:
        return None
    named = proxy if "://" in proxy else f"http://{proxy}"
    try:
        found = urlsplit(named)
        is_url = found.scheme in ("http", "https") and bool(found.hostname) and found.port != 0
    except ValueError:
        is_url = False
    if not is_url or not named.isprintable() or " " in named:
        raise InvalidInputError(
            f"the environment's {parts.scheme}_proxy is not the URL of a proxy",
            hint="write http://HOST:PORT, or unset it",
        )
    return named


def proxy_name(url: str) -> str | None:
    """Returns the proxy for a URL as it may be shown: without user and password; None without a proxy."""
    proxy = proxy_of(url)
    if proxy is None:
        return None
    parts = urlsplit(proxy)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

"""Where a bucket is, and how its requests are signed."""

from dataclasses import dataclass
from urllib.parse import urlsplit

from icefs.storage.proxies import proxy_of


@dataclass(frozen=True, slots=True)
class Target:
    """Where a bucket is, and how it is asked.

    Attributes:
        base_url: Everything before an object's name, with a slash at its end.
        host: The Host header.
        base_path: The path of `base_url`, encoded.
        origin: What a request line has before the path: nothing, unless a proxy reads it.
        region: What requests are signed for.
        service: The service's name in signatures.
        is_signed: Whether requests are signed at all.
        has_proxy: Whether requests go through a proxy.
    """

    base_url: str
    host: str
    base_path: str
    origin: str
    region: str
    service: str
    is_signed: bool
    has_proxy: bool


def target_of(url: str, *, region: str, service: str, is_signed: bool) -> Target:
    """Returns the target of the requests to a bucket.

    Args:
        url: Everything before an object's name, with a slash at its end.
        region: What requests are signed for.
        service: The service's name in signatures.
        is_signed: Whether requests are signed.
    """
    parts = urlsplit(url)
    has_proxy = proxy_of(url) is not None
    return Target(
        url,
        parts.netloc.removesuffix({"http": ":80", "https": ":443"}[parts.scheme]),
        parts.path,
        f"http://{parts.netloc}" if parts.scheme == "http" and has_proxy else "",
        region,
        service,
        is_signed,
        has_proxy,
    )


def is_aws(url: str) -> bool:
    """Tells whether an endpoint is one of AWS."""
    return (urlsplit(url).hostname or "").endswith((".amazonaws.com", ".amazonaws.com.cn"))

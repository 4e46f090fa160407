"""Where a redirect leads: the location of a store, as the official library reads it."""

from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl, unquote, urlsplit

from icefs.errors import BadAnswerError
from icefs.storage.redirects import find_target

_NEEDED: Final = {"s3": "region", "tigris": "region", "r2": "account_id"}
_WEB: Final = {f"{scheme}+{marker}": scheme for scheme in ("http", "https") for marker in ("icechunk", "ic")}


@dataclass(frozen=True, slots=True)
class RedirectTarget:
    """A place in a store.

    Attributes:
        kind: `s3`, `r2`, `tigris`, `gs` or `http`.
        place: The bucket; of `http` the URL.
        prefix: The prefix in the bucket, without slashes at its ends.
        region: The bucket's region.
        account_id: The account of R2.
    """

    kind: str
    place: str
    prefix: str = ""
    region: str | None = None
    account_id: str | None = None


def find_redirect_target(base_url: str) -> RedirectTarget:
    """Asks a web server where a repository is; raises as `redirect_storage`."""
    location = find_target(base_url)
    scheme, _, rest = location.partition("://")
    if scheme in _WEB:
        return RedirectTarget("http", f"{_WEB[scheme]}://{rest}")
    try:
        parts = urlsplit(location)
    except ValueError:
        raise BadAnswerError(f"{base_url} leads to something that is no URL") from None
    kind = "gs" if parts.scheme == "gcs" else parts.scheme
    if not parts.netloc or "@" in parts.netloc:
        raise BadAnswerError(f"{base_url} leads to a location without a bucket")
    if kind not in ("gs", *_NEEDED):
        raise BadAnswerError(
            f"{base_url} leads to no store that icefs knows: {kind}://{parts.netloc}",
            hint="a redirect leads to s3://, gs://, r2://, tigris://, http+icechunk:// or https+icechunk://",
        )
    options = dict(parse_qsl(parts.query))
    needed = _NEEDED.get(kind)
    if needed is not None and needed not in options:
        raise BadAnswerError(f"{base_url} leads to a location of {kind}:// without the {needed} of its bucket")
    prefix = unquote(parts.path).strip("/")
    return RedirectTarget(kind, parts.netloc, prefix, options.get("region"), options.get("account_id"))

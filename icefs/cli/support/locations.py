"""Reads what a user types for a repository: `REPO`, `REPO@REF`, or a path in a mount."""

import os
import re

_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*)://|memory:", re.IGNORECASE)


def is_url(text: str) -> bool:
    """Tells a location with a scheme from a local path."""
    return _SCHEME.match(text) is not None


def split_ref(text: str) -> tuple[str, str | None]:
    """Splits `REPO@REF` into the location and the version, None where there is none.

    The last `@` counts, and only behind the last `/`. A local path may hold `@` itself: what exists wins, the
    longest such path first, and then the version may hold `/` (`repo@feature/x`). In a URL with options the
    version may stand before the `?` or at the very end, as it does when a shell expands `"$REPO@main"`.
    """
    match = _SCHEME.match(text)
    if match is None:
        return _split_path(text)
    start = match.end()
    if (match["scheme"] or "").lower() in ("http", "https"):  # user@host is not a version
        start = text.find("/", start)
        if start < 0:
            return text, None
    base, mark, query = text.partition("?")
    cut = base.rfind("@", start)
    if cut > base.rfind("/") and base[cut + 1 :]:
        return base[:cut] + mark + query, base[cut + 1 :]
    location, at, ref = query.rpartition("@")
    if at and ref and not set("/:&=").intersection(ref):
        return base + mark + location, ref
    return text, None


def _split_path(text: str) -> tuple[str, str | None]:
    if os.path.exists(text):  # which, unlike Path.exists, says no of a place whose daemon is dead
        return text, None
    cut = len(text)
    while (cut := text.rfind("@", 0, cut)) > 0:
        if text[cut + 1 :] and os.path.exists(text[:cut]):
            return text[:cut], text[cut + 1 :]
    cut = text.rfind("@")
    if cut > max(text.rfind("/"), 0) and text[cut + 1 :]:
        return text[:cut], text[cut + 1 :]
    return text, None

"""Where repositories were cloned from, as this machine's user cloned them.

A note for each, in the user's state directory, and not in the repository: everybody who writes to that could have the
next `icefs push` send its chunks elsewhere.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Final

from icefs.bounded import Limits, keep_within
from icefs.cli.support.transfers import state_home
from icefs.private import make_private
from icefs.storage.base import Storage

_LIMITS: Final = Limits(max_files=1000)
_MAX_BYTES: Final = 64 << 10


def _path(storage: Storage) -> Path:
    name = hashlib.sha256(storage.identity.encode(errors="surrogateescape")).hexdigest()
    return state_home() / "origins" / f"{name}.json"


def remember_origin(storage: Storage, url: str) -> None:
    """Notes where a repository was cloned from; a state directory that cannot be written to is no error.

    Args:
        storage: The new repository's place.
        url: The other one's location, without secrets.
    """
    path = _path(storage)
    with contextlib.suppress(OSError):
        make_private(path.parent)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump({"repository": storage.url, "origin": url}, file)
        os.replace(file.name, path)
        keep_within(path.parent, "*.json", _LIMITS, own=path)


def recall_origin(storage: Storage) -> str | None:
    """Returns where a repository was cloned from; None where this user has not done so, or long ago."""
    try:
        with open(_path(storage), encoding="utf-8") as file:
            noted = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError):
        return None
    url = noted.get("origin") if isinstance(noted, dict) else None
    return url if isinstance(url, str) else None

"""Where answers about histories are kept on this machine."""

import hashlib
import os
from pathlib import Path

from icefs.engine.lineage_cache import LineageCache
from icefs.engine.repository import Repository


def open_lineage_cache(repository: Repository) -> LineageCache:
    """Opens the place where answers about a repository's history are kept on this machine."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    digest = hashlib.sha256(repository.storage.url.encode()).hexdigest()[:24]
    return LineageCache(Path(home, "icefs", "history", f"{digest}.db"))

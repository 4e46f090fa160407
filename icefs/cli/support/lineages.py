"""Where answers about histories are kept on this machine."""

from icefs.engine.history.lineage_cache import LineageCache, default_cache_path
from icefs.engine.repository import Repository


def open_lineage_cache(repository: Repository) -> LineageCache:
    """Opens the place where answers about a repository's history are kept on this machine."""
    return LineageCache(default_cache_path(repository.storage.url))

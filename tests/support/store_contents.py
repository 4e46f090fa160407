"""What the official library finds in a branch, by key."""

from pathlib import Path

import icechunk
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import _collect_aiterator, sync


def read_branch(repository: Path, branch: str) -> dict[str, bytes]:
    """Returns the bytes of every key."""
    official = icechunk.Repository.open(icechunk.local_filesystem_storage(str(repository)))
    store = official.readonly_session(branch).store
    found = {}
    for key in sync(_collect_aiterator(store.list())):
        value = sync(store.get(key, default_buffer_prototype()))
        assert value is not None, key
        found[key] = value.to_bytes()
    return found

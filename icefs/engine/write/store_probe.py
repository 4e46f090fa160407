"""Whether an object store keeps the conditions of writes, which is all that stands between two writers."""

from typing import Final

from icefs.errors import PreconditionFailedError
from icefs.format.ids import ChunkId
from icefs.format.layout import CHUNKS, chunk_key
from icefs.storage.base import ObjectInfo, Storage

PROBE: Final = b"icefs tries whether this store keeps conditions\n"
"""What is written; a probe that was interrupted leaves it at a chunk's name, where garbage collection finds it."""
_NO_VERSION: Final = "0" * 32


def is_probe(info: ObjectInfo) -> bool:
    """Tells whether an object is one that an interrupted trial may have left."""
    return info.key.startswith(f"{CHUNKS}/") and len(PROBE) <= info.size_bytes <= len(PROBE) + 1


def ignored_conditions(storage: Storage) -> list[str]:
    """Returns which conditions of writes a store ignores: `If-None-Match`, `If-Match`.

    Writes an object of its own, and deletes it. A store that needs no trial ignores none.

    Raises:
        StorageError: the object cannot be written; or the store refuses a condition that holds.
    """
    if not storage.capabilities.must_be_tried:
        return []
    key = chunk_key(ChunkId.random())
    ignored = []
    try:
        storage.put(key, PROBE, create_only=True)
        try:
            storage.put(key, PROBE + b"2", create_only=True)
            ignored.append("If-None-Match")
        except PreconditionFailedError:
            pass
        try:
            storage.put(key, PROBE + b"3", if_match=_NO_VERSION)
            ignored.append("If-Match")
        except PreconditionFailedError:
            pass
        if not ignored:
            storage.put(key, PROBE, if_match=storage.head(key).version)
    finally:
        storage.delete([key])
    return ignored

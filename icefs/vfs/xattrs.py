"""The extended attributes that say where a file's bytes come from."""

from typing import Final

from icefs.engine.repository import Repository
from icefs.format.ids import SnapshotId
from icefs.format.layout import chunk_key
from icefs.format.manifest.refs import ChunkRef, InlineRef, NativeRef
from icefs.storage.url import redact

PREFIX: Final = "user.icefs."


def describe(repository: Repository, snapshot_id: SnapshotId, ref: ChunkRef | None) -> dict[str, bytes]:
    """Returns the attributes of a file or directory of a snapshot.

    Args:
        repository: Resolves the locations of virtual chunks.
        snapshot_id: The snapshot.
        ref: The reference behind a chunk; None for what is no chunk.
    """
    values: dict[str, str] = {"snapshot": str(snapshot_id)}
    if ref is not None:
        values["kind"] = ref.kind.name.lower()
        values["length"] = str(ref.length_bytes)
        if isinstance(ref, NativeRef):
            place, question, query = redact(repository.storage.url).partition("?")
            values["location"] = f"{place.rstrip('/')}/{chunk_key(ref.chunk_id)}{question}{query}"
            values["offset"] = str(ref.offset_bytes)
        elif not isinstance(ref, InlineRef):
            values["location"] = redact(ref.location)
            values["offset"] = str(ref.offset_bytes)
    return {PREFIX + name: value.encode(errors="surrogatepass") for name, value in values.items()}

"""What a commit tells of nodes that are whole and valid, and yet not what everybody can read."""

from collections.abc import Mapping
from typing import Final

from icefs.format.zarr_json import ChunkKeyEncoding, chunk_key_encoding_of, document_of
from icefs.paths import NodePath

_SHOWN: Final = 20


def commit_notes(nodes: Mapping[NodePath, bytes]) -> list[str]:
    """Returns a line for each array that only icefs reads, of the first few.

    The official library finds chunks under the keys of the default encoding with the separator `/` alone. The chunks of
    other arrays are stored all the same, and zarr-python fails on them through it.

    Args:
        nodes: The zarr.json of nodes that were made or rewritten, by path.
    """
    notes = []
    for path, data in nodes.items():
        encoding = chunk_key_encoding_of(data)
        if encoding == ChunkKeyEncoding() or (document_of(data) or {}).get("node_type") != "array":
            continue
        told = f"encoding {encoding.name!r}" if encoding.name != "default" else f"separator {encoding.separator!r}"
        notes.append(
            f"{path}: the official library cannot read its chunks, whose keys have the {told}; it reads those of the "
            "default encoding with the separator '/'"
        )
    return [*notes[:_SHOWN], *([f"and {len(notes) - _SHOWN} more arrays"] if len(notes) > _SHOWN else ())]

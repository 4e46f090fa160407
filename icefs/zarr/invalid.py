"""Files of a hierarchy that no reader could read as what their names say, and why."""

from collections.abc import Sequence
from typing import NamedTuple

from icefs.errors import InvalidMetadataError
from icefs.format.chunk_sizes import ChunkSizes
from icefs.paths import NodePath, TreePath
from icefs.zarr.keys import ChunkKeyLayout


class Invalid(NamedTuple):
    """A file that cannot be committed or imported, or waits for one that cannot be, and why."""

    path: TreePath
    reason: str


def metadata_reason(error: InvalidMetadataError) -> str:
    """Says why a `zarr.json` is invalid, without its path, which stands before that."""
    return f"is not valid: {error.facts['reason']}"


def no_chunk_reason(array: tuple[NodePath, ChunkKeyLayout] | None) -> str:
    """Says why a file with the name of a chunk is none.

    Args:
        array: The nearest array above the file, and how the keys of its chunks are written; None if there is none.
    """
    if array is None:
        return "has the name of a chunk, but there is no array above it"
    path, layout = array
    return f"is no chunk of {path}: its chunks have names such as {layout.format((0,) * layout.ndim)}"


def unfit_reason(sizes: ChunkSizes, path: NodePath, index: Sequence[int], size_bytes: int) -> str | None:
    """Says why a file cannot be a chunk because of its size; None if it can.

    Args:
        sizes: The sizes that the array's chunks may have.
        path: The array.
        index: The chunk; inside the array's grid.
        size_bytes: The length of the file.
    """
    reason = sizes.reason(index, size_bytes)
    return None if reason is None else f"is the chunk {list(index)} of {path} and {reason}"

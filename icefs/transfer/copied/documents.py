"""The `zarr.json` that a copy gets.

Chunks keep their shape unless they are so small that a reader, or a store of objects, would be slow with them, or there
are none. Codecs that every reader of Zarr v3 has are kept; where there are others, the copy is compressed with zstd,
after a shuffle where the file has one, too.
"""

import math
from collections.abc import Sequence
from typing import Any, Final

from icefs.transfer.files.model import Document, chunk_shape_of

CORE_CODECS: Final = frozenset(
    {"bytes", "gzip", "zstd", "blosc", "crc32c", "transpose", "sharding_indexed", "vlen-utf8", "vlen-bytes"}
)
_SMALL_BYTES: Final = 64 << 10
_GOOD_BYTES: Final = 1 << 20
_LARGE_BYTES: Final = 16 << 20
_ZSTD: Final[Document] = {"name": "zstd", "configuration": {"level": 3, "checksum": False}}
TEXT_BYTES: Final = 16
"""What an element of text is taken to have, where its size says nothing."""


def stored_document(
    document: Document, chunk_shape: Sequence[int] | None, itemsize: int, *, is_shuffled: bool = False
) -> Document:
    """Returns an array's document with chunks and codecs for a copy.

    Args:
        document: The array's, as the file has it.
        chunk_shape: The shape of its chunks in the file; None where its values are in one piece.
        itemsize: The bytes of an element.
        is_shuffled: Whether the file shuffles the bytes of elements before it compresses them.
    """
    chunks = good_chunks(document["shape"], chunk_shape, itemsize)
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}
    return {**document, "chunk_grid": grid, "codecs": _codecs(document, itemsize, is_shuffled=is_shuffled)}


def keeps_codecs(document: Document) -> bool:
    """Tells whether all readers of Zarr v3 have the codecs of an array."""
    return all(map(_is_core, document.get("codecs", [])))


def _is_core(codec: Document) -> bool:
    inside = (codec.get("configuration") or {}).get("codecs", [])  # those in a shard
    return codec.get("name") in CORE_CODECS and all(map(_is_core, inside))


def good_chunks(shape: Sequence[int], chunk_shape: Sequence[int] | None, itemsize: int) -> tuple[int, ...]:
    """Returns the shape of chunks of a good size: whole multiples of small ones, the same, or parts of one piece."""
    if chunk_shape is None:
        return _parts([max(size, 1) for size in shape], itemsize)
    chunks = [max(chunk, 1) for chunk in chunk_shape]
    if math.prod(chunks) * itemsize >= _SMALL_BYTES:
        return tuple(chunks)
    for axis, size in enumerate(shape):
        times = min(_GOOD_BYTES // (math.prod(chunks) * itemsize), math.ceil(size / chunks[axis]))
        chunks[axis] *= max(times, 1)
    return tuple(chunks)


def with_room(document: Document, axis: int, itemsize: int) -> Document:
    """Returns the document of an array that grows along an axis: with chunks of a good size there."""
    chunks = list(chunk_shape_of(document))
    rest = max(math.prod(chunks) // chunks[axis] * itemsize, 1)
    if chunks[axis] * rest < _SMALL_BYTES:
        chunks[axis] *= max(_SMALL_BYTES // (rest * chunks[axis]), 1)
    return {**document, "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunks}}}


def _parts(shape: list[int], itemsize: int) -> tuple[int, ...]:
    if math.prod(shape) * itemsize <= _LARGE_BYTES:
        return tuple(shape)
    for axis in range(len(shape)):
        below = math.prod(shape[axis + 1 :]) * itemsize
        shape[axis] = max(min(_GOOD_BYTES // below, shape[axis]), 1)
        if math.prod(shape) * itemsize <= _LARGE_BYTES:
            break
    return tuple(shape)


def _codecs(document: Document, itemsize: int, *, is_shuffled: bool) -> list[Any]:
    if document["data_type"] == "string":
        return [{"name": "vlen-utf8"}, _ZSTD]
    plain: Document = {"name": "bytes"}
    if itemsize > 1:
        plain["configuration"] = {"endian": "little"}
    if is_shuffled and itemsize > 1:
        settings = {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "typesize": itemsize, "blocksize": 0}
        return [plain, {"name": "blosc", "configuration": settings}]
    return [plain, _ZSTD]

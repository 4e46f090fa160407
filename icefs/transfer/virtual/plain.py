"""Values of small arrays as chunks of plain bytes: little-endian, in C order, without compression."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from icefs.transfer.files.model import Document

type Index = tuple[int, ...]


def plain_document(document: Document, dtype: np.dtype[Any], chunk_shape: Sequence[int]) -> Document:
    """Returns an array's document with other chunks, of plain bytes."""
    codec: Document = {"name": "bytes"}
    if dtype.itemsize > 1 and dtype.kind in "biufc":
        codec["configuration"] = {"endian": "little"}
    grid = {"name": "regular", "configuration": {"chunk_shape": [max(size, 1) for size in chunk_shape]}}
    return {**document, "chunk_grid": grid, "codecs": [codec]}


def is_plain(document: Document) -> bool:
    """Tells whether the chunks of an array are plain bytes, as `plain_document` has them."""
    codecs = document.get("codecs", [])
    return (
        len(codecs) == 1
        and codecs[0].get("name") == "bytes"
        and codecs[0].get("configuration", {}).get("endian", "little") == "little"
    )


def encode(
    values: npt.NDArray[Any], chunk_shape: Sequence[int], start: int, axis: int
) -> Iterator[tuple[Index, bytes]]:
    """Yields the chunks of an array from one position of an axis on; chunks at an edge are padded with zeros."""
    little = values.astype(values.dtype.newbyteorder("<"))
    grid = [range(math.ceil(size / chunk)) for size, chunk in zip(values.shape, chunk_shape, strict=True)]
    if grid:
        grid[axis] = range(start // chunk_shape[axis], len(grid[axis]))
    for index in itertools.product(*grid):
        part = little[tuple(slice(at * size, (at + 1) * size) for at, size in zip(index, chunk_shape, strict=True))]
        chunk = np.zeros(tuple(chunk_shape), little.dtype)
        chunk[tuple(slice(0, size) for size in part.shape)] = part
        yield index, chunk.tobytes()


def decode(document: Document, chunks: Mapping[Index, bytes], box: tuple[slice, ...] | None = None) -> npt.NDArray[Any]:
    """Returns the values of an array, whatever its codecs are; those of missing chunks are the fill value.

    Args:
        document: The array's.
        chunks: The bytes of its chunks, encoded; those of the box suffice.
        box: The part that is wanted, by half-open ranges; all, if None.

    Raises:
        ValueError, TypeError, RuntimeError: the chunks cannot be decoded, or no codec of the name is installed.
    """
    import json

    import zarr
    from zarr.core.buffer import default_buffer_prototype
    from zarr.storage import MemoryStore

    keyed = {**document, "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}}}
    make = default_buffer_prototype().buffer.from_bytes
    stored = {"zarr.json": make(json.dumps(keyed).encode())}
    for index, data in chunks.items():
        stored["/".join(("c", *map(str, index)))] = make(data)
    # As zarr pleases: the fill value of what is missing, no padding.
    with warnings.catch_warnings(action="ignore"):  # of codecs and types that the specification lacks
        array = zarr.open_array(MemoryStore(stored), mode="r", zarr_format=3)
    shape = document["shape"] if box is None else [part.stop - part.start for part in box]
    return np.asarray(array[... if box is None else box]).reshape(shape)

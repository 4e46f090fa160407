"""Chunks of plain bytes as several smaller ones: each a range of the same bytes."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from icefs.transfer.files.documents import itemsize_of
from icefs.transfer.virtual.model import References, VirtualArray


def is_plain(array: VirtualArray) -> bool:
    """Tells whether all chunks of an array are references to plain bytes, in C order."""
    codecs = [codec.get("name") for codec in array.document.get("codecs", [])]
    if codecs != ["bytes"] or array.chunks or array.values is not None or not array.shape:
        return False
    return bool((array.refs.lengths == math.prod(array.chunk_shape) * itemsize_of(array.document)).all())


def split(array: VirtualArray, chunk_shape: Sequence[int]) -> VirtualArray:
    """Returns an array with smaller chunks.

    Args:
        array: An array that `is_plain`.
        chunk_shape: The shape of the chunks: that of the array's, but for one axis, whose chunks it divides; and 1 for
            the axes before that.

    Raises:
        ValueError: such chunks are no ranges of the array's.
    """
    old, new = array.chunk_shape, tuple(chunk_shape)
    if old == new:
        return array
    axis = next(at for at, size in enumerate(new) if size != 1 or at == len(new) - 1)
    if old[axis] % new[axis] or old[axis + 1 :] != new[axis + 1 :]:
        raise ValueError(f"chunks of {new} are no ranges of bytes of chunks of {old}")
    itemsize = itemsize_of(array.document)
    times = [mine // theirs for mine, theirs in zip(old, new, strict=True)]
    within = np.indices(times).reshape(len(times), -1)
    starts = np.arange(within.shape[1], dtype=np.uint64) * np.uint64(math.prod(new) * itemsize)
    refs = array.refs
    coords = [
        (column[:, None] * number + inside[None, :]).reshape(-1)
        for column, number, inside in zip(refs.coords, times, within, strict=True)
    ]
    # Chunks at an edge reach over it, and parts of them lie behind it.
    is_inside = np.ones(len(refs) * len(starts), np.bool_)
    for column, size, chunk in zip(coords, array.shape, new, strict=True):
        is_inside &= column < -(-size // chunk)
    divided = References(
        [column[is_inside] for column in coords],
        refs.files,
        np.repeat(refs.rows, len(starts))[is_inside],
        (refs.offsets[:, None] + starts[None, :]).reshape(-1)[is_inside],
        np.full(int(is_inside.sum()), math.prod(new) * itemsize, np.uint64),
    )
    grid = {"name": "regular", "configuration": {"chunk_shape": list(new)}}
    return replace(array, document={**array.document, "chunk_grid": grid}, refs=divided)

"""Arrays of references of several files as one.

Of arrays that must be the same in each file, those whose values are known are compared; of those that are only referred
to the first file's counts, if its type, shape, codecs and coding attributes are the others' too.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from icefs.errors import InvalidInputError
from icefs.transfer.files.combine import check_alike
from icefs.transfer.virtual.model import References, VirtualArray
from icefs.transfer.virtual.plain import plain_document

# A dimension grows by appending: its coordinate gets chunks that leave room.
_GROWING: Final = 1024


def same(arrays: Sequence[VirtualArray]) -> VirtualArray:
    """Returns the first of arrays that are the same but for the file that they are in.

    Raises:
        InvalidInputError: they differ (kind `not-alike`).
    """
    first = arrays[0]
    for other in arrays[1:]:
        check_alike(first.path, first.document, first.file, other.document, other.file)
        if (first.values is None) != (other.values is None) or not _equal(first.values, other.values):
            raise InvalidInputError(
                f"the values of {first.path} in {first.file} and {other.file} differ",
                kind="not-alike",
                hint="--concat DIM joins files along a dimension that the array has; --drop leaves it out",
            )
    return first


def _equal(one: Any, other: Any) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.array_equal(one, other, equal_nan=one.dtype.kind in "fc"))


def join(arrays: Sequence[VirtualArray], dimension: str) -> VirtualArray:
    """Returns arrays behind each other along a dimension.

    Raises:
        InvalidInputError: they do not fit (kind `not-alike`).
    """
    first = arrays[0]
    axis = first.dimensions.index(dimension)
    for other in arrays[1:]:
        check_alike(
            first.path,
            first.document,
            first.file,
            other.document,
            other.file,
            axis=axis,
            chunks_matter=first.values is None or other.values is None,
        )
    shape = list(first.shape)
    shape[axis] = sum(array.shape[axis] for array in arrays)
    document = {**first.document, "shape": shape}
    if all(array.values is not None for array in arrays):
        values = np.concatenate([array.values for array in arrays if array.values is not None], axis=axis)
        chunk_shape = [max(size, 1) for size in shape]
        if len(shape) == 1:
            chunk_shape[axis] = max(chunk_shape[axis], _GROWING)
        document = plain_document(document, values.dtype, chunk_shape)
        return replace(first, document=document, refs=References.none(len(shape)), values=values)
    size = first.chunk_shape[axis]
    parts, chunks, start = [], {}, 0
    for at, array in enumerate(arrays):
        if array.shape[axis] % size and at < len(arrays) - 1:
            raise InvalidInputError(
                f"{first.path} cannot be joined: {array.file} has {array.shape[axis]} values of {dimension}, which do "
                f"not fill its chunks of {size}, and {arrays[at + 1].file} follows",
                kind="not-alike",
                hint=f"copy its values with --loadable {first.path}, or leave it out with --drop {first.path}",
            )
        parts.append(array.refs.shifted(axis, start))
        for index, data in array.chunks.items():
            chunks[(*index[:axis], index[axis] + start, *index[axis + 1 :])] = data
        start += array.shape[axis] // size
    return replace(first, document=document, refs=References.joined(parts), chunks=chunks)

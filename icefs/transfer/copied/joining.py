"""Arrays of several files as one: behind each other along a dimension, or the same in each.

Times that count from another date, or in another unit, than those of the first file are translated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from icefs.errors import InvalidInputError
from icefs.transfer.copied.documents import with_room
from icefs.transfer.copied.model import Box, CopiedArray, Part, Read, Values, boxes
from icefs.transfer.files.combine import check_alike
from icefs.transfer.files.fill_values import decode_fill_value
from icefs.transfer.files.times import Coding, translation

_MISSING: Final = ("_FillValue", "missing_value")


def join(arrays: Sequence[CopiedArray], dimension: str) -> CopiedArray:
    """Returns arrays behind each other along a dimension.

    Raises:
        InvalidInputError: they do not fit (kind `not-alike`).
    """
    first = arrays[0]
    axis = first.dimensions.index(dimension)
    parts = [Part(first.file, first.shape[axis], first.read)]
    for other in arrays[1:]:
        other = in_coding(other, first.coding, first.document, first.file)
        check_alike(
            first.path,
            first.document,
            first.file,
            other.document,
            other.file,
            axis=axis,
            chunks_matter=False,
            codecs_matter=False,
        )
        parts.append(Part(other.file, other.shape[axis], other.read))
    shape = list(first.shape)
    shape[axis] = sum(part.length for part in parts)
    document = with_room({**first.document, "shape": shape}, axis, first.itemsize)
    return replace(first, document=document, parts=tuple(parts), axis=axis)


def same(arrays: Sequence[CopiedArray]) -> CopiedArray:
    """Returns the first of arrays that are the same but for the file that they are in.

    Raises:
        InvalidInputError: they differ (kind `not-alike`); or one cannot be decoded.
        ObjectModifiedError, StorageError: as `Read`.
    """
    first = arrays[0]
    for other in arrays[1:]:
        check_alike(
            first.path,
            first.document,
            first.file,
            other.document,
            other.file,
            chunks_matter=False,
            codecs_matter=False,
        )
        check_equal(first, first.read, first.file, other)
    return first


def check_equal(array: CopiedArray, read: Read, name: str, other: CopiedArray) -> None:
    """Refuses two arrays of one shape whose values differ.

    Args:
        array: The one.
        read: Reads its values.
        name: Where it is.
        other: The other.

    Raises:
        InvalidInputError: they differ (kind `not-alike`), or cannot be decoded.
        ObjectModifiedError, StorageError: as `Read`.
    """
    for box in boxes(array.shape, array.chunk_shape):
        mine, theirs = read(box), other.read(box)
        if not np.array_equal(mine, theirs, equal_nan=mine.dtype.kind in "fc"):
            raise InvalidInputError(
                f"the values of {array.path} in {name} and {other.file} differ",
                kind="not-alike",
                hint="--concat DIM joins files along a dimension that the array has; --drop leaves it out",
            )


def in_coding(array: CopiedArray, coding: Coding | None, document: Mapping[str, Any], name: str) -> CopiedArray:
    """Returns an array whose numbers name the same times in another coding; the same where there is nothing to do.

    Args:
        array: The array.
        coding: The coding; None if the numbers of the other array are no times.
        document: The other array's.
        name: Where that is.

    Raises:
        InvalidInputError: the times cannot be translated (kind `not-alike`).
    """
    own = array.coding
    if own is None or coding is None or own == coding:
        return array
    attributes = array.document.get("attributes") or {}

    def refused(error: Exception) -> InvalidInputError:
        return InvalidInputError(
            f"{array.path} of {array.file} cannot be translated to the units that it has in {name}: {error}",
            kind="not-alike",
            hint="write the times of all files with the same units, or import this file into a group of its own",
        )

    try:
        if "scale_factor" in attributes or "add_offset" in attributes:
            raise ValueError("its times are packed")
        missing = _missing(attributes, array)
        translate = translation(own, coding, missing)
    except (ValueError, TypeError) as error:
        raise refused(error) from error

    def reading(read: Read) -> Read:
        def translated(box: Box) -> Values:
            values = read(box)
            try:
                return translate(values)
            except ValueError as error:
                raise refused(error) from error

        return translated

    theirs = document.get("attributes") or {}
    coded = {key: theirs[key] for key in ("units", "calendar") if key in theirs}
    kept = {key: value for key, value in attributes.items() if key not in ("units", "calendar")}
    return replace(
        array,
        document={**array.document, "attributes": {**kept, **coded}},
        parts=tuple(part._replace(read=reading(part.read)) for part in array.parts),
        coding=coding,
    )


def _missing(attributes: Mapping[str, Any], array: CopiedArray) -> Values | None:
    """Returns the numbers that stand for no time."""
    dtype = np.dtype(array.document["data_type"])
    found = [
        decode_fill_value(value, dtype)
        for name in _MISSING
        if name in attributes
        for value in (attributes[name] if isinstance(attributes[name], list) else [attributes[name]])
    ]
    return np.array(found, dtype) if found else None

"""What a view needs of an array's `zarr.json`, checked: it may say anything.

Source: Zarr v3 "Array metadata".
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from icefs.errors import NotShownError
from icefs.format.zarr_json import document_of

_MAX_DIMENSIONS: Final = 32
"""Of numpy 1, which programs that read Zarr v2 use."""
_MAX_ELEMENTS: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Codec:
    """One of an array's codecs."""

    name: str
    configuration: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ArrayDocument:
    """An array's metadata.

    Attributes:
        shape: Its shape.
        stored_chunks: The shape of what a key holds: of shards, where it has shards.
        names: The dimensions' names; None for one without.
        attributes: Its attributes.
        fill_value: Its fill value, as JSON has it.
        codecs: Its codecs.
    """

    shape: tuple[int, ...]
    stored_chunks: tuple[int, ...]
    names: tuple[str | None, ...]
    attributes: Mapping[str, Any]
    fill_value: Any
    codecs: Sequence[Codec]


def attributes_of(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the attributes of a node; none where the member is no object."""
    found = document.get("attributes")
    return found if isinstance(found, dict) else {}


def is_array(document: Mapping[str, Any]) -> bool:
    """Tells whether a node is an array."""
    return document.get("node_type") == "array"


def read_document(data: bytes) -> Mapping[str, Any]:
    """Parses a node's `zarr.json`; one that is no JSON object has no members."""
    return document_of(data) or {}


def read_array(document: Mapping[str, Any]) -> ArrayDocument:
    """Reads an array's metadata.

    Raises:
        NotShownError: it is not valid, or its chunk grid is not regular.
    """
    shape = _sizes(document.get("shape"), "shape")
    grid = document.get("chunk_grid")
    configuration = grid.get("configuration") if isinstance(grid, dict) else None
    if not isinstance(configuration, dict) or not isinstance(grid, dict) or grid.get("name") != "regular":
        raise NotShownError("its chunk grid is not regular")
    chunks = _sizes(configuration.get("chunk_shape"), "chunk shape")
    if len(chunks) != len(shape) or 0 in chunks:
        raise NotShownError("its chunk shape does not fit its shape")
    if len(shape) > _MAX_DIMENSIONS:
        raise NotShownError(f"it has {len(shape)} dimensions, more than {_MAX_DIMENSIONS}")
    if math.prod(shape) > _MAX_ELEMENTS:
        raise NotShownError("it has more elements than 64 bits count")
    return ArrayDocument(
        shape,
        chunks,
        _names(document, len(shape)),
        attributes_of(document),
        document.get("fill_value"),
        _codecs(document),
    )


def _sizes(found: Any, what: str) -> tuple[int, ...]:
    if not isinstance(found, list) or not all(type(size) is int and 0 <= size <= _MAX_ELEMENTS for size in found):
        raise NotShownError(f"its {what} is not valid")
    return tuple(found)


def _names(document: Mapping[str, Any], ndim: int) -> tuple[str | None, ...]:
    found = document.get("dimension_names")
    if not isinstance(found, list) or len(found) != ndim:
        return (None,) * ndim
    return tuple(name if isinstance(name, str) and name else None for name in found)


def _codecs(document: Mapping[str, Any]) -> list[Codec]:
    found = document.get("codecs")
    codecs = []
    for codec in found if isinstance(found, list) else ():
        named = {"name": codec} if isinstance(codec, str) else codec
        if not isinstance(named, dict) or not isinstance(named.get("name"), str):
            raise NotShownError("its codecs are not valid")
        configuration = named.get("configuration")
        codecs.append(Codec(named["name"], configuration if isinstance(configuration, dict) else {}))
    return codecs

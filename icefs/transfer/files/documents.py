"""The `zarr.json` of arrays that libraries describe."""

import json
import math
import warnings
from typing import Any, Final

import numpy as np

from icefs.transfer.files.model import Document

_EXTENSION_TYPES: Final = (
    "null_terminated_bytes",
    "raw_bytes",
    "fixed_length_utf32",
    "numpy.datetime64",
    "numpy.timedelta64",
    "string",
)


def document_of(metadata: Any) -> Document:
    """Returns the `zarr.json` of an array's metadata as zarr-python has it, with default chunk keys.

    Raises:
        ValueError: its type is none that readers know.
    """
    from zarr.core.buffer import default_buffer_prototype

    data = metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes()
    document: Document = json.loads(data)
    document["chunk_key_encoding"] = {"name": "default", "configuration": {"separator": "/"}}
    kind = document["data_type"]
    if isinstance(kind, dict) and kind.get("name") not in _EXTENSION_TYPES:
        raise ValueError(f"its type {kind.get('name')!r} is none that readers of Zarr v3 share")
    if math.prod(document["shape"]) and not all(document["chunk_grid"]["configuration"]["chunk_shape"]):
        raise ValueError("its chunks are empty")
    document["attributes"] = as_json(document.get("attributes") or {})
    return document


def itemsize_of(document: Document) -> int:
    """Returns how many bytes an element of an array has in memory."""
    return native_type(document).itemsize


def native_type(document: Document) -> np.dtype[Any]:
    """Returns the type that an array's values have in memory, in the machine's byte order."""
    dtype: np.dtype[Any] = _metadata_of(document).dtype.to_native_dtype()
    return dtype.newbyteorder("=")


def fill_value_of(document: Document) -> Any:
    """Returns the value of chunks that are not there."""
    return _metadata_of(document).fill_value


def _metadata_of(document: Document) -> Any:
    from zarr.core.metadata.v3 import ArrayV3Metadata

    with warnings.catch_warnings(action="ignore"):  # of types that the specification lacks
        return ArrayV3Metadata.from_dict(document)


def as_json(attributes: Any) -> dict[str, Any]:
    """Returns attributes as JSON holds them; numbers that are none become text, as xarray writes them."""
    found: dict[str, Any] = json.loads(json.dumps(attributes, default=_plain), parse_constant=str)
    return found


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    return str(value)

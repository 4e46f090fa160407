"""The attribute `_FillValue` as xarray writes and reads it in Zarr v3, where JSON lacks the values themselves.

Source: xarray, `FillValueCoder` of `backends/zarr.py`.
"""

import base64
import struct
from typing import Any

import numpy as np


def encode_fill_value(value: Any, dtype: np.dtype[Any]) -> Any:
    """Returns what the attribute holds for a value of an array's type.

    Raises:
        ValueError, TypeError: the type has no such values.
    """
    if dtype.kind in "TUO":
        return value.decode() if isinstance(value, bytes) else str(value)
    [single] = np.asarray(value).reshape(-1).astype(dtype)
    if dtype.kind == "f":
        return _encode_float(single)
    if dtype.kind == "c":
        return [_encode_float(single.real), _encode_float(single.imag)]
    if dtype.kind == "S":
        return base64.standard_b64encode(bytes(single)).decode()
    if dtype.kind in "biu":
        return single.item()
    raise ValueError(f"no _FillValue can have the type {dtype}")


def decode_fill_value(value: Any, dtype: np.dtype[Any]) -> Any:
    """Returns the number that the attribute of an array of integers or floating-point numbers holds.

    Raises:
        ValueError: it holds none.
    """
    if dtype.kind == "f" and isinstance(value, str):
        try:
            [single] = struct.unpack("<d", base64.standard_b64decode(value))
        except struct.error:
            raise ValueError(f"{value!r} is no number") from None
        return dtype.type(single)
    return dtype.type(value)


def _encode_float(value: Any) -> str:
    return base64.standard_b64encode(struct.pack("<d", float(value))).decode()

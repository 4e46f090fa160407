"""Fill values: the element that a chunk which does not exist is full of, as `zarr.json` spells it.

Source: Zarr v3 "fill_value" of each data type; zarr-extensions for texts and times.
"""

from typing import Any

import numpy as np

_NOT_FINITE = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


def fill_number(spelled: Any, dtype: np.dtype) -> np.ndarray | None:
    """Returns the fill value of an array of integers or floats, as an array of one element; None if there is none.

    Args:
        spelled: The member `fill_value` of a `zarr.json`.
        dtype: The array's type.
    """
    if isinstance(spelled, bool) or not isinstance(spelled, int | float | str):
        return None
    if dtype.kind in "iu":
        if not isinstance(spelled, int):
            return None
        limits = np.iinfo(dtype)
        return np.array([spelled], dtype) if limits.min <= spelled <= limits.max else None
    if dtype.kind != "f":
        return None
    if isinstance(spelled, str):
        if spelled.startswith("0x"):
            return _from_bits(spelled, dtype)
        if spelled not in _NOT_FINITE:
            return None
        return np.array([_NOT_FINITE[spelled]], dtype)
    with np.errstate(over="ignore"):
        return np.array([float(spelled)], dtype)


def marks_missing(fill: np.ndarray) -> bool:
    """Tells whether a fill value can be NetCDF's `_FillValue`, which programs take for missing data.

    Zero cannot: it is the default of all Zarr libraries, and what most arrays hold as ordinary values. A program that
    took each zero for missing would compute wrong means without a word.
    """
    return bool(fill[0] != 0)


def _from_bits(spelled: str, dtype: np.dtype) -> np.ndarray | None:
    try:
        bits = bytes.fromhex(spelled[2:])
    except ValueError:
        return None
    return np.frombuffer(bits, dtype.newbyteorder(">")).astype(dtype) if len(bits) == dtype.itemsize else None

"""Attributes as no reader of Zarr v2 stumbles over them.

netCDF-C 4.9.0 opens no data set, or shows wrong numbers, where an attribute of any of its nodes is

    null, an empty list                      "Not a valid data type": they become JSON text
    a list of texts, or of lists, objects    "Invalid argument", "internal library error": JSON text
    a list of numbers of both kinds          the first one's type holds for all, 2.5 becomes 2: floats
    a list of integers                       the same, and larger ones are "not representable": floats, where exact
    an integer beyond 64 bits                another number: a float where it is exact, else JSON text
    an empty, long or odd name               "NC_MAX_NAME exceeded", no dump: another name

NaN and Infinity, which JSON does not have, are texts in Zarr v3, and stay that.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

from icefs.views.names import Names

_MAX_NAME_BYTES: Final = 200
_MAX_DEPTH: Final = 16
_EXACT: Final = 2**53
_NARROWEST: Final = tuple(
    (-(2 ** (bits - 1)) if signed else 0, 2 ** (bits - signed) - 1) for bits in (8, 16, 32, 64) for signed in (1, 0)
)
"""The ranges of the types that netCDF-C takes for a number, the first that holds it."""


def harmless(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns attributes that every reader can read, with values that mean the same."""
    names = Names(max_bytes=_MAX_NAME_BYTES)
    return {names.give(name): _value(value) for name, value in attributes.items()}


def dump(document: Any) -> bytes:
    """Writes JSON, in UTF-8 without escapes; a lone surrogate becomes a question mark."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, indent=4).encode(errors="replace")


def _value(value: Any) -> Any:
    match value:
        case bool() | str():
            return value
        case int():
            return _integer(value)
        case float():
            return value if math.isfinite(value) else _constant(value)
        case list():
            return _list(value)
        case dict() if _depth(value) <= _MAX_DEPTH:
            return _strict(value)
    return _text(value)


def _integer(value: int) -> Any:
    if -(2**63) <= value < 2**64:
        return value
    return float(value) if int(float(value)) == value else str(value)


def _list(values: list[Any]) -> Any:
    if not values:
        return _text(values)
    if all(isinstance(value, bool) for value in values):
        return values
    if not all(type(value) in (int, float) for value in values):
        return _text(values)
    if all(isinstance(value, float) for value in values):
        return values if all(map(math.isfinite, values)) else _text(values)
    if all(isinstance(value, int) for value in values) and _are_of_the_type_of_the_first(values):
        return values
    if all(math.isfinite(value) and abs(value) <= _EXACT for value in values):
        return [float(value) for value in values]
    return _text(values)


def _are_of_the_type_of_the_first(values: list[int]) -> bool:
    for low, high in _NARROWEST:
        if low <= values[0] <= high:
            return all(low <= value <= high for value in values)
    return False


def _text(value: Any) -> str:
    try:
        return json.dumps(_strict(value), ensure_ascii=False)
    except RecursionError:
        return "(its JSON nests too deep)"


def _strict(value: Any) -> Any:
    """Writes NaN and infinities in a value as Zarr does."""
    match value:
        case float() if not math.isfinite(value):
            return _constant(value)
        case list():
            return [_strict(each) for each in value]
        case dict():
            return {name: _strict(each) for name, each in value.items()}
    return value


def _constant(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _depth(value: Any) -> int:
    """Returns how deep lists and objects are nested, up to one more than is allowed."""
    depth, level = 0, [value]
    while level and depth <= _MAX_DEPTH:
        nested = [each for each in level if isinstance(each, list | dict)]
        level = [below for each in nested for below in (each.values() if isinstance(each, dict) else each)]
        depth += bool(nested)
    return depth

"""Zarr's attributes, which are JSON, as the typed values of NetCDF.

    text                         text
    true, false                  a number of one byte, 1 or 0
    whole number                 32 bits where it fits, else 64; text if it does not fit
    other number                 64-bit float
    list of numbers              numbers, all of one type; "NaN", "Infinity" and "-Infinity" count among numbers
    list of texts                several texts
    null, {…}, any other list    JSON text

Attributes that CF gives a number's meaning are numbers also where Zarr has to spell them as text: not finite ones, and
`_FillValue`, which xarray writes as the base64 of a little-endian 64-bit float.
"""

import base64
import binascii
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from icefs.views.cf.limits import MAX_ATTRIBUTE_BYTES, MAX_ATTRIBUTES
from icefs.views.cf.model import Value, value_bytes
from icefs.views.cf.names import RESERVED_ATTRIBUTES, shown_name
from icefs.words import quoted

PACKING: Final = frozenset({"scale_factor", "add_offset"})
"""Attributes that are floats whatever the variable's type is."""

OF_VARIABLES_TYPE: Final = frozenset(
    {"_FillValue", "missing_value", "valid_min", "valid_max", "valid_range", "flag_values", "flag_masks"}
)
"""Attributes that are in the type of the variable."""

_NUMERIC: Final = PACKING | OF_VARIABLES_TYPE | {"actual_range"}
_NOT_FINITE: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_MIN_I32, _MAX_I32, _MIN_I64, _MAX_I64, _MAX_U64 = -(2**31), 2**31 - 1, -(2**63), 2**63 - 1, 2**64 - 1


def shown_attributes(
    attributes: Mapping[str, Any], leave_out: Callable[[str], None], own: Mapping[str, Value] | None = None
) -> dict[str, Value]:
    """Makes the attributes of a group or variable.

    Args:
        attributes: As `zarr.json` has them.
        leave_out: Receives a sentence about each attribute that is not shown.
        own: Attributes that the view sets; they are in place of those of the same name.
    """
    shown: dict[str, Value] = {}
    mapped: dict[str, str] = {}
    own = own or {}
    for count, (name, value) in enumerate(attributes.items()):
        if count == MAX_ATTRIBUTES:
            leave_out(f"{len(attributes) - count} attributes: there are more than {MAX_ATTRIBUTES}")
            break
        made = value_of(name, value)
        if value_bytes(made) > MAX_ATTRIBUTE_BYTES:
            leave_out(f"attribute {quoted(name[:64])}: it is larger than {MAX_ATTRIBUTE_BYTES >> 20} MiB")
            continue
        shown_as = shown_name(name, RESERVED_ATTRIBUTES)
        if shown_as != name:
            mapped[shown_as] = name
        shown[shown_as] = made
    if mapped:
        shown["icefs_attribute_names"] = json_text(mapped)
    return {**shown, **own}


def value_of(name: str, value: Any) -> Value:
    """Makes the typed value of an attribute; `name` decides whether CF has it as a number."""
    is_numeric = name in _NUMERIC
    if name in PACKING and (number := _number(value, is_numeric)) is not None:
        return np.array([number], "f8")
    if isinstance(value, str):
        number = _number(value, is_numeric)
        return text_of(value) if number is None else np.array([number], "f8")
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value) and not is_numeric:
            return tuple(map(text_of, value))
        numbers = _numbers(value)
    else:
        numbers = _numbers([value])
    return json_text(value) if numbers is None else numbers


def text_of(text: str) -> str:
    r"""Returns a text that UTF-8 and C can hold: surrogates and the character 0 become `\udc80`, `\x00`."""
    return text.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


def json_text(value: Any) -> str:
    """Returns a value as JSON."""
    try:
        return text_of(json.dumps(value, ensure_ascii=False))
    except RecursionError:
        return "(nested too deep)"


def in_type(value: Value, dtype: np.dtype) -> np.ndarray | None:
    """Returns numbers in another type; None where the value is text, or one of them would change."""
    if not isinstance(value, np.ndarray) or dtype.kind not in "iuf":
        return None
    return exact(value, dtype)


def exact(values: np.ndarray, dtype: np.dtype) -> np.ndarray | None:
    """Converts numbers to another type; None where one of them would change.

    Numbers of floats may be rounded to those of shorter floats: a JSON 1e20 is the `_FillValue` of a 32-bit float.
    """
    if values.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        if values.size and (int(values.min()) < limits.min or int(values.max()) > limits.max):
            return None
        return values.astype(dtype)
    with np.errstate(all="ignore"):
        made = values.astype(dtype)
        if dtype.kind == "f" and values.dtype.kind == "f":
            is_same = np.isfinite(made) == np.isfinite(values)
        elif dtype.kind == "f":
            is_same = _returns(made, values)
        else:
            limits = np.iinfo(dtype)
            is_same = (values == np.trunc(values)) & (values >= limits.min) & (values < float(limits.max) + 1)
    return made if bool(np.all(is_same)) else None


def _returns(floats: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """Tells which integers come back from floats; the largest one must not overflow on its way."""
    top = float(np.iinfo(integers.dtype).max) + 1
    fits = floats < top
    returned: np.ndarray = fits & (np.where(fits, floats, 0).astype(integers.dtype) == integers)
    return returned


def _number(value: Any, is_numeric: bool) -> float | None:
    if isinstance(value, bool) or not is_numeric:
        return None
    if isinstance(value, int | float):
        return float(value)
    if not isinstance(value, str):
        return None
    if value in _NOT_FINITE:
        return _NOT_FINITE[value]
    try:
        (number,) = struct.unpack("<d", base64.b64decode(value, validate=True))
    except (binascii.Error, struct.error, ValueError):
        return None
    return float(number)


def _numbers(values: list[Any]) -> np.ndarray | None:
    if all(isinstance(value, bool) for value in values):
        return np.array(values, "i1")
    numbers: list[int | float] = []
    for value in values:
        number = _NOT_FINITE.get(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, int | float):
            return None
        numbers.append(number)
    if any(isinstance(value, float) for value in numbers):
        floats = [float(value) for value in numbers]
        if any(isinstance(value, int) and int(number) != value for value, number in zip(numbers, floats, strict=True)):
            return None  # JSON text keeps each digit
        return np.array(floats, "f8")
    low, high = min(numbers), max(numbers)
    for lowest, highest, dtype in (
        (_MIN_I32, _MAX_I32, "i4"),
        (_MIN_I64, _MAX_I64, "i8"),
        (0, _MAX_U64, "u8"),
    ):
        if lowest <= low and high <= highest:
            return np.array(numbers, dtype)
    return None

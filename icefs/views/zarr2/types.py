"""How the elements of an array are shown in Zarr v2.

netCDF-C 4.9.0 dies of a data set in which any array holds something else than integers and floats of 32 or 64 bits. So
plain arrays show

    booleans            |u1, with the attribute `dtype = "bool"`, which xarray understands
    integers            as they are
    floats of 16 bits   32 bits
    floats              as they are
    complex numbers     two arrays, NAME_real and NAME_imag
    dates, durations    64-bit integers, with CF's units as an attribute
    everything else     not at all

and libraries of Zarr v2 get all that numpy has a name for. All numbers are little-endian: netCDF-C does not swap.
"""

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from icefs.errors import NotShownError
from icefs.views.cf.fill import fill_number

type Convert = Callable[[np.ndarray], np.ndarray]

_EPOCH: Final = "1970-01-01 00:00:00"
_UNITS: Final = {
    "W": ("days", 7),
    "D": ("days", 1),
    "h": ("hours", 1),
    "m": ("minutes", 1),
    "s": ("seconds", 1),
    "ms": ("milliseconds", 1),
    "us": ("microseconds", 1),
    "ns": ("nanoseconds", 1),
}
# With one of these xarray takes numbers for spans again.
_SPANS: Final = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}
_NOT_A_TIME: Final = int(np.iinfo(np.int64).min)
_BASE64_KINDS: Final = "SV"


@dataclass(frozen=True, slots=True)
class Shown:
    """An array of the view, made of the elements of an array of the hierarchy, one for one.

    Attributes:
        dtype: The type of its elements: little-endian.
        convert: Makes them, in a type that casts to `dtype`.
        fill_value: Its fill value, as JSON of Zarr v2 has it; None where there is none.
        suffix: What its name has besides the array's.
        attributes: Those that tell of the type.
    """

    dtype: np.dtype
    convert: Convert
    fill_value: Any = None
    suffix: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)


def plain(dtype: np.dtype, fill: Any) -> list[Shown]:
    """Decides how an array is shown to programs that know numbers only.

    Args:
        dtype: The type of its elements.
        fill: The `fill_value` of its `zarr.json`.

    Raises:
        NotShownError: it is not shown.
    """
    match dtype.kind:
        case "b":
            return [Shown(np.dtype("u1"), _same, int(fill is True), attributes={"dtype": "bool"})]
        case "i" | "u":
            return [_number(dtype, fill)]
        case "f" if dtype.itemsize <= 8:
            return [_number(np.dtype("f4") if dtype.itemsize == 2 else dtype, fill)]
        case "c" if dtype.itemsize in (8, 16):
            part = np.dtype(f"f{dtype.itemsize // 2}")
            fills = fill if isinstance(fill, list) and len(fill) == 2 else [0, 0]
            parts = zip(("_real", "_imag"), (np.real, np.imag), fills, strict=True)
            return [_number(part, fill, convert, suffix) for suffix, convert, fill in parts]
        case "M" | "m":
            return [_time(dtype, fill)]
    what = "structures" if dtype.names else {"V": "raw bits"}.get(dtype.kind, "texts")
    raise NotShownError(f"programs that read Zarr v2 as NetCDF know no arrays of {what}")


def native(dtype: np.dtype, fill: Any) -> Shown:
    """Decides how an array is shown to libraries of Zarr v2, which know numpy's types.

    Raises:
        NotShownError: it is not shown.
    """
    if dtype.hasobject or dtype.kind not in "biufcMmSUV" or (dtype.kind == "V" and dtype.itemsize == 0):
        raise NotShownError(f"Zarr v2 has no name for the data type {dtype}"[:200])
    return Shown(dtype.newbyteorder("<"), _same, _native_fill(dtype, fill))


def dtype_name(dtype: np.dtype) -> Any:
    """Returns the `dtype` of a `.zarray`: the fields of structures, else numpy's name."""
    return [[name, *map(_described, rest)] for name, *rest in dtype.descr] if dtype.names else dtype.str


def _described(part: Any) -> Any:
    return [list(field) for field in part] if isinstance(part, list) else part


def spelled(number: np.generic) -> Any:
    """Writes a number as Zarr v2 does: not finite ones by name."""
    value = number.item()
    if isinstance(value, float) and not np.isfinite(value):
        return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _number(dtype: np.dtype, fill: Any, convert: Convert | None = None, suffix: str = "") -> Shown:
    found = fill_number(fill, dtype)
    value = 0 if found is None else spelled(found[0])
    return Shown(dtype.newbyteorder("<"), convert or _same, value, suffix)


def _time(dtype: np.dtype, fill: Any) -> Shown:
    unit, count = np.datetime_data(dtype)
    if unit not in _UNITS:
        raise NotShownError(f"CF has no unit for the data type {dtype}")
    name, factor = _UNITS[unit]
    factor *= count
    value = fill if type(fill) is int and abs(fill) * factor < 2**63 else _NOT_A_TIME
    value = value * factor if value != _NOT_A_TIME else value
    attributes = {"units": name}
    if dtype.kind == "M":
        attributes = {"units": f"{name} since {_EPOCH}", "calendar": "proleptic_gregorian"}
    elif name in _SPANS:
        attributes["dtype"] = f"timedelta64[{_SPANS[name]}]"
    return Shown(np.dtype("<i8"), _Multiplied(factor), value, attributes=attributes)


@dataclass(frozen=True, slots=True)
class _Multiplied:
    """Makes integers of times, in units of which theirs is several."""

    factor: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        found = values.astype(values.dtype.newbyteorder("=")).view("i8")
        return found if self.factor == 1 else np.where(found == _NOT_A_TIME, found, found * self.factor)


def _native_fill(dtype: np.dtype, fill: Any) -> Any:
    """Writes a fill value of Zarr v3 as that of Zarr v2."""
    match dtype.kind:
        case "b":
            return fill is True
        case "i" | "u" | "f":
            return _number(dtype, fill).fill_value
        case "c":
            part = np.dtype(f"f{dtype.itemsize // 2}")
            fills = fill if isinstance(fill, list) and len(fill) == 2 else [0, 0]
            return [_number(part, each).fill_value for each in fills]
        case "M" | "m":
            return fill if type(fill) is int else _NOT_A_TIME
        case "U":
            return fill if isinstance(fill, str) else ""
    # Texts of bytes and structures: both versions have them in base64.
    try:
        data = base64.b64decode(fill, validate=True)
    except (ValueError, TypeError):
        data = b""
    return base64.b64encode(data[: dtype.itemsize].ljust(dtype.itemsize, b"\0")).decode()


def _same(values: np.ndarray) -> np.ndarray:
    return values

"""How the elements of an array are shown: in which types, and converted how.

    integers       as they are; what the format does not have in the next larger type; 64 bits as 32 bits or as 64-bit
                   floats, where each value is exact
    floats         as they are; 16 bits as 32 bits where half floats are not asked for
    true, false    bytes 1 and 0, with the attribute `dtype = "bool"`, which xarray understands
    complex        two variables, `_real` and `_imag`
    times, spans   integers, with CF's `units` and `calendar`
    texts          texts, or characters with a dimension more

A 64-bit integer that a 64-bit float cannot hold is an error for the reads that meet it, never another number. Anything
else, such as structures and raw bits, is not shown (`NotShownError`).

Source: CF conventions, "Time coordinate", "Packed data"; NumPy "Datetimes and timedeltas".
"""

from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np

from icefs.errors import DecodeError, NotShownError
from icefs.views.cf.attributes import exact
from icefs.views.cf.fill import fill_number, marks_missing
from icefs.views.cf.model import Value
from icefs.views.cf.values import SmallArrays, element_count
from icefs.views.extents import Convert, ElementSource, Literal
from icefs.views.interface import Elements, Source

_NOT_A_TIME: Final = np.iinfo(np.int64).min
_EPOCH: Final = "1970-01-01"
# numpy's unit: CF's unit, and how many of those numpy's is. CF has no name that programs know below nanoseconds.
_UNITS: Final = {
    "W": ("days", 7), "D": ("days", 1), "h": ("hours", 1), "m": ("minutes", 1), "s": ("seconds", 1),
    "ms": ("milliseconds", 1), "us": ("microseconds", 1), "ns": ("nanoseconds", 1),
}  # fmt: skip
_SPANS: Final = {"seconds": "s", "milliseconds": "ms", "microseconds": "us", "nanoseconds": "ns"}
_FINER: Final = {"ps": "picoseconds", "fs": "femtoseconds", "as": "attoseconds"}
# From coarse to fine, with how many nanoseconds one has.
_NANOSECONDS: Final = {
    "days": 86_400 * 10**9, "hours": 3_600 * 10**9, "minutes": 60 * 10**9, "seconds": 10**9,
    "milliseconds": 10**6, "microseconds": 10**3, "nanoseconds": 1,
}  # fmt: skip
_MAX_TEXT_BYTES: Final = 4096
_UTF32_BYTES: Final = 4
TEXTS: Final = np.dtype(object)
CHARACTERS: Final = np.dtype("S1")


@dataclass(frozen=True, slots=True)
class Rules:
    """What a format has.

    Attributes:
        has_wide_integers: Integers of 64 bits.
        has_unsigned: Unsigned integers.
        has_half: Floats of 16 bits.
        has_texts: Texts of any length.
        is_big_endian: Whether all numbers are big-endian; otherwise each array keeps its own order.
    """

    has_wide_integers: bool
    has_unsigned: bool
    has_half: bool
    has_texts: bool
    is_big_endian: bool

    def ordered(self, dtype: np.dtype) -> np.dtype:
        """Returns a type in the byte order that the format has."""
        return dtype.newbyteorder(">") if self.is_big_endian else dtype

    def allows(self, dtype: np.dtype) -> bool:
        """Tells whether the format has an integer type."""
        if dtype.kind == "u" and not self.has_unsigned:
            return False
        return dtype.itemsize < 8 or self.has_wide_integers


@dataclass(frozen=True, slots=True)
class Shown:
    """A variable that shows an array, or a part of each element.

    Attributes:
        dtype: The type of an element in the file; `TEXTS` for texts, `CHARACTERS` for characters.
        content: The bytes; for texts of any length the texts.
        suffix: What its name has besides the array's.
        width: How many characters an element has; 0 for all but characters.
        fill: `_FillValue` as the array's metadata give it, an array of one element.
        attributes: Those that tell of the type.
        is_time: Whether it shows times or spans of time.
    """

    dtype: np.dtype
    content: Source | np.ndarray
    suffix: str = ""
    width: int = 0
    fill: np.ndarray | None = None
    attributes: dict[str, Value] = field(default_factory=dict)
    is_time: bool = False


def shown_as(
    elements: Elements, spelled_fill: Any, rules: Rules, small: SmallArrays, is_coordinate: bool
) -> list[Shown]:
    """Decides how an array is shown.

    Args:
        elements: The array.
        spelled_fill: The `fill_value` of its `zarr.json`.
        rules: What the format has.
        small: Reads the array where the types of its values depend on them.
        is_coordinate: Whether it is the coordinate of a dimension, which old programs do not read in 64 bits.

    Raises:
        NotShownError: it cannot be shown.
        DecodeError, StorageError, FormatError: it had to be read and cannot be.
    """
    dtype = elements.dtype
    match dtype.kind:
        case "b":
            return [_booleans(elements, rules)]
        case "i" | "u":
            return [_integers(elements, fill_number(spelled_fill, dtype), rules, small, is_coordinate)]
        case "f" if dtype.itemsize <= 8:
            return [_floats(elements, fill_number(spelled_fill, dtype), rules)]
        case "c" if dtype.itemsize in (8, 16):
            return _complex(elements, spelled_fill, rules)
        case "M" | "m":
            return [_times(elements, rules, small, is_coordinate)]
        case "S" | "U" | "T" | "O":
            return [_texts(elements, rules, small)]
        case _:
            raise NotShownError(f"NetCDF has no type for {_named(dtype)}")


def _named(dtype: np.dtype) -> str:
    if dtype.names:
        return "structures"
    return "raw bits" if dtype.kind == "V" else f"the data type {dtype}"[:100]


def _booleans(elements: Elements, rules: Rules) -> Shown:
    dtype = np.dtype("u1" if rules.has_unsigned else "i1")
    return Shown(dtype, ElementSource(elements, dtype), attributes={"dtype": "bool"})


def _floats(elements: Elements, fill: np.ndarray | None, rules: Rules) -> Shown:
    dtype = elements.dtype
    if dtype.itemsize == 2 and not rules.has_half:
        dtype = np.dtype("f4").newbyteorder(dtype.byteorder)
    dtype = rules.ordered(dtype)
    return Shown(dtype, ElementSource(elements, dtype), fill=_fill_in(fill, dtype))


def _complex(elements: Elements, spelled_fill: Any, rules: Rules) -> list[Shown]:
    dtype = np.dtype(f"f{elements.dtype.itemsize // 2}").newbyteorder(elements.dtype.byteorder)
    fills = spelled_fill if isinstance(spelled_fill, list) and len(spelled_fill) == 2 else [None, None]
    numbers = [fill_number(fill, dtype) for fill in fills]
    # A zero in one part is as ordinary as one in both, so both parts have to mark what is missing.
    is_marked = all(number is not None and marks_missing(number) for number in numbers)
    made = rules.ordered(dtype)
    return [
        Shown(
            made,
            ElementSource(elements, made, convert),
            suffix=suffix,
            fill=_fill_in(number, made) if is_marked else None,
        )
        for suffix, convert, number in zip(("_real", "_imag"), (np.real, np.imag), numbers, strict=True)
    ]


def _integers(
    elements: Elements, fill: np.ndarray | None, rules: Rules, small: SmallArrays, is_coordinate: bool
) -> Shown:
    dtype = elements.dtype
    if rules.allows(dtype) and not (is_coordinate and dtype.itemsize == 8):
        dtype = rules.ordered(dtype)
        return Shown(dtype, ElementSource(elements, dtype), fill=_fill_in(fill, dtype))
    if dtype.itemsize < 8:
        larger = rules.ordered(np.dtype({1: "i2", 2: "i4", 4: "f8"}[dtype.itemsize]))
        return Shown(larger, ElementSource(elements, larger), fill=_fill_in(fill, larger))
    values = small.read(elements)
    if values is not None:
        return _small_integers(elements, values, fill, rules)
    return _checked_floats(elements, None, fill, rules)


def _small_integers(elements: Elements, values: np.ndarray, fill: np.ndarray | None, rules: Rules) -> Shown:
    for dtype in map(np.dtype, ("i4", "f8")):
        made = exact(values, dtype)
        if made is not None:
            ordered = rules.ordered(dtype)
            return Shown(ordered, Literal(_bytes(made, ordered)), fill=_fill_in(fill, ordered))
    return _checked_floats(elements, None, fill, rules)


def _checked_floats(elements: Elements, convert: Convert | None, fill: np.ndarray | None, rules: Rules) -> Shown:
    """Shows 64-bit integers as they are, where the format has them; otherwise as floats, each of which is exact."""
    if rules.allows(elements.dtype):
        dtype = rules.ordered(elements.dtype if elements.dtype.kind in "iu" else np.dtype("i8"))
        return Shown(dtype, ElementSource(elements, dtype, convert), fill=_fill_in(fill, dtype))
    dtype = rules.ordered(np.dtype("f8"))
    return Shown(dtype, ElementSource(elements, dtype, _ExactFloats(convert)), fill=_fill_in(fill, dtype))


@dataclass(frozen=True, slots=True)
class _ExactFloats:
    """Makes floats of integers, or of what others make integers of."""

    convert: Convert | None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        made = exact(values if self.convert is None else self.convert(values), np.dtype("f8"))
        if made is None:
            reason = "a 64-bit integer is not exact as a float, and classic NetCDF has no 64-bit integers"
            raise DecodeError(reason, hint="read the array in the view netcdf", reason=reason)
        return made


def _times(elements: Elements, rules: Rules, small: SmallArrays, is_coordinate: bool) -> Shown:
    unit, convert = _unit(elements.dtype)
    values = small.read(elements) if is_coordinate else None
    if values is not None:
        integers = convert(values)
        if not bool(np.any(integers == _NOT_A_TIME)):
            unit, integers = _coarser(unit, integers)
            return _with_units(_of_times(elements, integers, rules), elements.dtype, unit)
    missing = np.array([_NOT_A_TIME])
    return _with_units(_checked_floats(elements, convert, missing, rules), elements.dtype, unit)


def _of_times(elements: Elements, integers: np.ndarray, rules: Rules) -> Shown:
    shown = _small_integers(elements, integers, None, rules)
    if isinstance(shown.content, Literal):
        return shown
    # Neither 32 bits nor floats hold them.
    if not rules.has_wide_integers:
        raise NotShownError("its times are too fine for 64-bit floats, and classic NetCDF has no 64-bit integers")
    dtype = rules.ordered(np.dtype("i8"))
    return Shown(dtype, Literal(_bytes(integers, dtype)))


def _with_units(shown: Shown, dtype: np.dtype, unit: str) -> Shown:
    if not unit:
        return replace(shown, is_time=True)
    if unit in _FINER.values():
        # Programs that decode times stop at units that they do not know.
        attributes: dict[str, Value] = {"icefs_units": f"{unit} since {_EPOCH}" if dtype.kind == "M" else unit}
    elif dtype.kind == "M":
        attributes = {"units": f"{unit} since {_EPOCH}", "calendar": "proleptic_gregorian"}
    else:
        attributes = {"units": unit}
        if unit in _SPANS:
            attributes["dtype"] = f"timedelta64[{_SPANS[unit]}]"  # xarray takes numbers with it for spans again
    return replace(shown, attributes=attributes, is_time=True)


def _unit(dtype: np.dtype) -> tuple[str, Convert]:
    """Returns the unit of times as CF has it, empty for none, and what makes integers of times."""
    unit, count = np.datetime_data(dtype)
    if unit == "generic":
        return "", _as_integers
    if unit in ("Y", "M"):
        if dtype.kind == "m":
            raise NotShownError("its spans of months or years have no fixed length")
        return "days", _to_days
    if unit in _FINER:
        cf_unit, factor = _FINER[unit], 1
    elif unit in _UNITS:
        cf_unit, factor = _UNITS[unit]
    else:
        raise NotShownError(f"NetCDF has no unit for {dtype}")
    if count * factor == 1:
        return cf_unit, _as_integers
    return cf_unit, _Multiplied(count * factor)


def _as_integers(values: np.ndarray) -> np.ndarray:
    return values.view(values.dtype.str.replace(values.dtype.kind, "i", 1).partition("[")[0])


def _to_days(values: np.ndarray) -> np.ndarray:
    days: np.ndarray = values.astype("M8[D]").view("i8")
    if not np.array_equal(days.view("M8[D]").astype(values.dtype), values, equal_nan=True):
        raise _too_far()
    return days


def _too_far() -> DecodeError:
    reason = "a time is too far from 1970 for 64 bits in the unit that NetCDF has for it"
    return DecodeError(reason, hint="read the array with a Zarr library", reason=reason)


@dataclass(frozen=True, slots=True)
class _Multiplied:
    """Makes integers of times whose unit is several of CF's."""

    factor: int

    def __call__(self, values: np.ndarray) -> np.ndarray:
        integers = _as_integers(values).astype("i8")
        is_time = integers != _NOT_A_TIME
        most = np.iinfo(np.int64).max // self.factor
        if bool(np.any(is_time & ((integers > most) | (integers < -most)))):
            raise _too_far()
        return np.where(is_time, integers * np.where(is_time, self.factor, 1), _NOT_A_TIME)


def _coarser(unit: str, integers: np.ndarray) -> tuple[str, np.ndarray]:
    """Returns times in the coarsest unit that all of them are whole multiples of: hours are read with less trouble."""
    if unit not in _NANOSECONDS:
        return unit, integers
    for coarser, nanoseconds in _NANOSECONDS.items():
        factor = nanoseconds // _NANOSECONDS[unit]
        if coarser == unit:
            break
        if not bool(np.any(integers % factor)):
            return coarser, integers // factor
    return unit, integers


def _texts(elements: Elements, rules: Rules, small: SmallArrays) -> Shown:
    dtype = elements.dtype
    if dtype.kind == "S":
        return _characters(elements, max(dtype.itemsize, 1), None)
    values = small.read(elements)
    if values is not None:
        texts = _plain_texts(values)
        size = sum(map(len, texts))
        if not small.keep(size):
            raise NotShownError(small.refusal(len(texts), size))
        if rules.has_texts:
            return Shown(TEXTS, np.array([text.decode() for text in texts] or [], object))
        width = max([1, *map(len, texts)])
        data = np.array(texts, f"S{width}")
        return Shown(CHARACTERS, Literal(_bytes(data, data.dtype)), width=width, attributes=_encoding())
    if dtype.kind != "U":
        raise NotShownError(small.refusal(element_count(elements.shape)))
    return _characters(elements, max(dtype.itemsize, _UTF32_BYTES), _encoded)


def _characters(elements: Elements, width: int, convert: Convert | None) -> Shown:
    if width > _MAX_TEXT_BYTES:
        raise NotShownError(f"its texts have up to {width} bytes each, and a view shows at most {_MAX_TEXT_BYTES}")
    source = ElementSource(elements, np.dtype(f"S{width}"), convert)
    attributes = {} if elements.dtype.kind == "S" else _encoding()
    return Shown(CHARACTERS, source, width=width, attributes=attributes)


def _encoding() -> dict[str, Value]:
    return {"_Encoding": "utf-8"}


def _encoded(values: np.ndarray) -> np.ndarray:
    return np.strings.encode(values, "utf-8", "surrogatepass")


def _plain_texts(values: np.ndarray) -> list[bytes]:
    texts = values.tolist()
    if not all(isinstance(text, str) for text in texts):
        raise NotShownError("its elements are neither numbers nor texts")
    try:
        encoded = [text.encode() for text in texts]
    except UnicodeEncodeError:
        raise NotShownError("one of its texts is no Unicode text") from None
    if any(b"\0" in text for text in encoded):
        raise NotShownError("one of its texts has the character 0, where texts end in NetCDF")
    return encoded


def _fill_in(fill: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    return None if fill is None or not marks_missing(fill) else exact(fill, dtype)


def _bytes(values: np.ndarray, dtype: np.dtype) -> bytes:
    return np.ascontiguousarray(values, dtype).tobytes()

"""The header of a classic file, byte by byte.

    header = "CDF" 2, numrecs, dim_list, gatt_list, var_list
    list   = 0 0, or tag, count, items
    name   = length, UTF-8, padding to 4 bytes
    dim    = name, length (0 for the record dimension)
    attr   = name, type, count, values, padding to 4 bytes
    var    = name, rank, dimension ids, list of attributes, type, vsize, begin (8 bytes)

All numbers are big-endian.

Source: Unidata, "NetCDF Classic Format Specification", BNF.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from icefs.views.cf.attributes import exact
from icefs.views.cf.model import Dataset, Value, Variable

_MAGIC: Final = b"CDF\x02"
_DIMENSIONS, _VARIABLES, _ATTRIBUTES = 0x0A, 0x0B, 0x0C
_CHAR: Final = 2
_TYPES: Final = {"i1": 1, "S1": _CHAR, "i2": 3, "i4": 4, "f4": 5, "f8": 6}
_MAX_VSIZE: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Placed:
    """A variable and its place.

    Attributes:
        variable: The variable.
        size: Its bytes, or those of one record, padded.
        begin: Where it begins.
    """

    variable: Variable
    size: int
    begin: int


def encode_header(dataset: Dataset, placed: Sequence[Placed], record: int | None) -> bytes:
    """Returns the header; its length does not depend on where variables begin.

    Args:
        dataset: Dimensions and attributes.
        placed: The variables that the file has, in order.
        record: The position of the record dimension among the dataset's.
    """
    used = sorted({position for one in placed for position in one.variable.dimensions})
    ids = {position: number for number, position in enumerate(used)}
    records = 0 if record is None else dataset.dimensions[record].size
    dimensions = [
        _name(dataset.dimensions[position].name)
        + _number(0 if position == record else dataset.dimensions[position].size)
        for position in used
    ]
    return b"".join(
        (
            _MAGIC,
            _number(records),
            _list(_DIMENSIONS, dimensions),
            _attributes(dataset.attributes),
            _list(_VARIABLES, [_variable(one, ids) for one in placed]),
        )
    )


def type_number(dtype: np.dtype) -> int:
    """Returns the number of a type that classic NetCDF has."""
    return _TYPES[dtype.str[1:]]


def padded(size: int) -> int:
    """Returns a size, rounded up to four bytes."""
    return -(-size // 4) * 4


def _variable(placed: Placed, ids: Mapping[int, int]) -> bytes:
    variable = placed.variable
    return b"".join(
        (
            _name(variable.name),
            _number(len(variable.dimensions)),
            *(_number(ids[position]) for position in variable.dimensions),
            _attributes(variable.attributes),
            _number(type_number(variable.dtype)),
            _number(min(placed.size, _MAX_VSIZE)),
            struct.pack(">q", placed.begin),
        )
    )


def _attributes(attributes: Mapping[str, Value]) -> bytes:
    return _list(_ATTRIBUTES, [_name(name) + _value(value) for name, value in attributes.items()])


def _value(value: Value) -> bytes:
    if isinstance(value, np.ndarray):
        numbers = _classic_numbers(value)
        if numbers is not None:
            data = numbers.astype(numbers.dtype.newbyteorder(">")).tobytes()
            return _number(type_number(numbers.dtype)) + _number(numbers.size) + _pad(data)
        value = json.dumps(value.tolist() if value.size != 1 else value.item())
    if isinstance(value, tuple):
        value = json.dumps(value, ensure_ascii=False)
    text = value.encode()
    return _number(_CHAR) + _number(len(text)) + _pad(text)


def _classic_numbers(numbers: np.ndarray) -> np.ndarray | None:
    """Returns numbers in a type that classic NetCDF has, each exact; None if there is none."""
    if numbers.dtype.str[1:] in _TYPES:
        return numbers
    made = exact(numbers, np.dtype("i4"))
    return exact(numbers, np.dtype("f8")) if made is None else made


def _list(tag: int, items: Sequence[bytes]) -> bytes:
    return b"".join((_number(tag), _number(len(items)), *items)) if items else bytes(8)


def _name(name: str) -> bytes:
    text = name.encode()
    return _number(len(text)) + _pad(text)


def _number(number: int) -> bytes:
    return struct.pack(">I", number)


def _pad(data: bytes) -> bytes:
    return data + bytes(padded(len(data)) - len(data))

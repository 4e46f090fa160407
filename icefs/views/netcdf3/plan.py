"""The record dimension of a classic file, and variables that do not fit into it.

CDF-2 bounds a variable at 4 GiB, with two ways out: the last one may be larger if no variable has records; and of a
variable with records only each record is bounded. Records are along one dimension, the first of all variables that have
it. A length of 0 in the header means the record dimension, so a dimension of no elements is that one or cannot be.

Source: NetCDF classic format specification, "Note on vsize", "Offset".
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from icefs.paths import NodePath
from icefs.views.cf.model import Dataset, Variable
from icefs.views.cf.values import element_count
from icefs.views.interface import LeftOut

MAX_DIMENSION: Final = 2**31 - 1
MAX_BYTES: Final = 2**32 - 4


@dataclass(frozen=True, slots=True)
class Plan:
    """How the variables of a dataset lie in a classic file.

    Attributes:
        fixed: Variables without records, in the order of the file.
        records: Variables with records, in the order of the file.
        record_dimension: The position of the record dimension, if there is one.
        left_out: The arrays that do not fit; one of two variables is named once.
    """

    fixed: list[Variable]
    records: list[Variable]
    record_dimension: int | None
    left_out: list[LeftOut]


def plan_of(dataset: Dataset) -> Plan:
    """Decides how variables lie in a file."""
    reasons: dict[NodePath, str] = {}
    variables = []
    for variable in dataset.variables:
        if any(size > MAX_DIMENSION for size in dataset.shape(variable)):
            reasons[variable.array] = f"classic NetCDF has dimensions of at most {MAX_DIMENSION} elements"
        else:
            variables.append(variable)
    large = [variable for variable in variables if byte_count(dataset, variable) > MAX_BYTES]
    empty = [variable for variable in variables if 0 in dataset.shape(variable)]
    if len(large) <= 1 and not empty:
        return Plan([one for one in variables if one not in large] + large, [], None, _left_out(reasons))
    chosen = _record_dimension(dataset, [*large, *empty])
    fixed, records = [], []
    for variable in variables:
        reason = _reason(dataset, variable, chosen)
        if reason:
            reasons[variable.array] = reason
        elif chosen is not None and variable.dimensions[:1] == (chosen,):
            records.append(variable)
        else:
            fixed.append(variable)
    return Plan(fixed, records, chosen, _left_out(reasons))


def _left_out(reasons: Mapping[NodePath, str]) -> list[LeftOut]:
    return [LeftOut(array, reason) for array, reason in reasons.items()]


def byte_count(dataset: Dataset, variable: Variable) -> int:
    """Returns the bytes of a variable."""
    return element_count(dataset.shape(variable)) * variable.dtype.itemsize


def slice_bytes(dataset: Dataset, variable: Variable) -> int:
    """Returns the bytes of one record of a variable."""
    return element_count(dataset.shape(variable)[1:]) * variable.dtype.itemsize


def _record_dimension(dataset: Dataset, troubled: list[Variable]) -> int | None:
    """Returns the dimension along which most of the variables fit that would not fit otherwise."""
    counts = Counter(
        variable.dimensions[0]
        for variable in troubled
        if variable.dimensions and not _reason(dataset, variable, variable.dimensions[0])
    )
    return counts.most_common(1)[0][0] if counts else None


def _reason(dataset: Dataset, variable: Variable, record: int | None) -> str:
    """Returns why a variable does not fit with a record dimension; empty if it does."""
    inner = variable.dimensions
    if record is not None and inner[:1] == (record,):
        inner = inner[1:]
        size = slice_bytes(dataset, variable)
    else:
        size = byte_count(dataset, variable)
    if record is not None and record in inner:
        name = dataset.dimensions[record].name
        return f"classic NetCDF has the dimension {name}, which has records here, only as the first of a variable"
    if any(dataset.dimensions[position].size == 0 for position in inner):
        return "classic NetCDF has dimensions of no elements only as the first of a variable, and only one of them"
    return "it is larger than classic NetCDF allows" if size > MAX_BYTES else ""

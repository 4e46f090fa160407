"""The description of a NetCDF file: dimensions, variables and attributes, and the bytes of variables."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from icefs.paths import NodePath
from icefs.views.interface import Source

type Value = str | tuple[str, ...] | np.ndarray
"""An attribute's value: a text, several texts, or numbers in one dimension."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A dimension of a group.

    Attributes:
        name: As NetCDF has it.
        size: How many elements it has.
    """

    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable.

    Attributes:
        name: As NetCDF has it.
        array: The path of the array that it shows.
        dimensions: Its dimensions: positions among its group's.
        dtype: The type of an element in the file; of characters `S1`; of texts of any length `object`.
        attributes: Its attributes.
        content: What makes its bytes, in C order; or, for texts of any length, the texts, in one dimension.
    """

    name: str
    array: NodePath
    dimensions: tuple[int, ...]
    dtype: np.dtype
    attributes: dict[str, Value]
    content: Source | np.ndarray


@dataclass(slots=True)
class Dataset:
    """A group with what a file shows of it.

    Attributes:
        dimensions: Its dimensions, of names that differ.
        variables: Its variables, of names that differ, coordinates first.
        attributes: Its attributes.
        groups: Groups inside, by name.
    """

    dimensions: list[Dimension] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    attributes: dict[str, Value] = field(default_factory=dict)
    groups: "dict[str, Dataset]" = field(default_factory=dict)

    def shape(self, variable: Variable) -> tuple[int, ...]:
        """Returns a variable's shape."""
        return tuple(self.dimensions[position].size for position in variable.dimensions)

    def is_coordinate(self, variable: Variable) -> bool:
        """Tells whether a variable is the coordinate of a dimension: its only one, and of the same name."""
        return len(variable.dimensions) == 1 and self.dimensions[variable.dimensions[0]].name == variable.name

    def all_groups(self) -> Iterator["Dataset"]:
        """Yields this group and all groups inside of it."""
        yield self
        for group in self.groups.values():
            yield from group.all_groups()


def value_bytes(value: Value) -> int:
    """Returns how many bytes a value takes, about."""
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, tuple):
        return sum(len(text.encode()) + 16 for text in value)
    return value.nbytes

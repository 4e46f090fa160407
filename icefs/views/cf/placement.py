"""Which arrays of a group share a file.

In a NetCDF group a dimension has one size. Where arrays of a Zarr group give a name two sizes, as the levels of an
image pyramid do, most of them stay together and the others are shown apart.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from icefs.views.cf.nodes import ArrayNode


@dataclass(frozen=True, slots=True)
class Placement:
    """The arrays of a group, placed.

    Attributes:
        together: Those whose dimensions agree.
        apart: Those that disagree with them, each with the coordinates that fit it.
    """

    together: Sequence[ArrayNode]
    apart: Sequence[tuple[ArrayNode, Sequence[ArrayNode]]]


def place(arrays: Sequence[ArrayNode]) -> Placement:
    """Places the arrays of a group.

    A dimension has the size of its coordinate; without one, the size that most arrays give it, and of several such
    sizes that of the first array.
    """
    sizes = _sizes(arrays)
    together: list[ArrayNode] = []
    apart: list[ArrayNode] = []
    for array in arrays:
        agrees = all(name is None or sizes[name] == size for name, size in _dimensions(array))
        (together if agrees else apart).append(array)
    coordinates = [array for array in arrays if array.is_coordinate]
    return Placement(together, [(array, _fitting(coordinates, array)) for array in apart])


def _fitting(coordinates: Sequence[ArrayNode], array: ArrayNode) -> list[ArrayNode]:
    """Returns the coordinates of dimensions that an array has."""
    dimensions = set(_dimensions(array))
    return [one for one in coordinates if one is not array and dimensions.issuperset(_dimensions(one))]


def _sizes(arrays: Sequence[ArrayNode]) -> dict[str, int]:
    counts: dict[str, Counter[int]] = {}
    for array in arrays:
        for name, size in set(_dimensions(array)):
            if name is not None:
                counts.setdefault(name, Counter())[size] += 1
    sizes = {name: count.most_common(1)[0][0] for name, count in counts.items()}
    return sizes | {array.name: array.shape[0] for array in arrays if array.is_coordinate}


def _dimensions(array: ArrayNode) -> list[tuple[str | None, int]]:
    return [*zip(array.dimensions, array.shape, strict=True)]

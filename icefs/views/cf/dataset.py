"""Makes the description of a file: of the arrays of a group, or of a group with all groups inside."""

from collections.abc import Sequence

import numpy as np

from icefs.errors import NotShownError
from icefs.paths import NodePath
from icefs.views.cf.attributes import OF_VARIABLES_TYPE, PACKING, in_type, json_text, shown_attributes
from icefs.views.cf.limits import (
    MAX_DIMENSIONS,
    MAX_FILE_BYTES,
    MAX_HEADER_BYTES,
    MAX_NAMED_BYTES,
    MAX_VARIABLES,
)
from icefs.views.cf.model import Dataset, Dimension, Value, Variable, value_bytes
from icefs.views.cf.names import UniqueNames, shown_name
from icefs.views.cf.nodes import ArrayNode, GroupNode
from icefs.views.cf.types import Rules, Shown, shown_as
from icefs.views.cf.values import SmallArrays, element_count
from icefs.views.interface import Decoder, HierarchyFacts, LeftOut
from icefs.words import quoted


class DatasetBuilder:
    """Describes one file; made for one.

    Attributes:
        left_out: What it does not show.
    """

    def __init__(self, decoder: Decoder, rules: Rules, small: SmallArrays | None = None) -> None:
        """Takes the decoder of the arrays.

        Args:
            decoder: Opens arrays.
            rules: What the format has.
            small: Reads arrays that the layout depends on.
        """
        self._decoder = decoder
        self._rules = rules
        self._small = SmallArrays() if small is None else small
        self._variables = 0
        self._bytes = 0
        self.left_out: list[LeftOut] = []

    def group(self, group: GroupNode, arrays: Sequence[ArrayNode], taken: Sequence[str] = ()) -> Dataset:
        """Describes arrays of a group.

        Args:
            group: The group.
            arrays: Those of its arrays that are shown.
            taken: Names that no variable or dimension may have: those of groups inside.

        Raises:
            NotShownError: they are too many, or their attributes too large.
            DecodeError, StorageError, FormatError: an array that the layout depends on cannot be read.
        """
        for path, reason in group.unread.items():
            self.left_out.append(LeftOut(path, reason))
        self._variables += len(arrays)
        if self._variables > MAX_VARIABLES:
            raise NotShownError(
                f"{quoted(group.path)} has more than {MAX_VARIABLES} arrays, too many for one NetCDF file of a view",
                hint="read them in the view zarr2 or npy",
            )
        made = _Group(_Subject(self.left_out, group.path), taken, arrays)
        for array in _in_order(arrays):
            try:
                parts = self._shown(array)
            except NotShownError as error:
                self.left_out.append(LeftOut(array.path, error.own_message))
            else:
                made.add(array, parts)
        dataset = made.dataset
        dataset.attributes = shown_attributes(group.attributes, _Subject(self.left_out, group.path))
        self._count(group.path, dataset)
        return dataset

    def _shown(self, array: ArrayNode) -> list[Shown]:
        if len(array.shape) > MAX_DIMENSIONS:
            raise NotShownError(f"it has {len(array.shape)} dimensions, NetCDF has at most {MAX_DIMENSIONS}")
        elements = self._decoder.open(array.path)
        if (
            element_count(tuple(max(size, 1) for size in array.shape)) * 2 * max(elements.dtype.itemsize, 4)
            > MAX_FILE_BYTES
        ):
            raise NotShownError("it is larger than a file can be")
        return shown_as(elements, array.fill, self._rules, self._small, array.is_coordinate)

    def _count(self, path: NodePath, dataset: Dataset) -> None:
        self._bytes += sum(len(name) + value_bytes(value) for name, value in dataset.attributes.items())
        for variable in dataset.variables:
            self._bytes += len(variable.name)
            self._bytes += sum(len(name) + value_bytes(value) for name, value in variable.attributes.items())
        if self._bytes > MAX_HEADER_BYTES:
            raise NotShownError(
                f"the attributes of {quoted(path)} and its arrays are larger than {MAX_HEADER_BYTES >> 20} MiB, too "
                "large for the header of a NetCDF file of a view",
                hint="read the arrays in the view zarr2 or npy",
            )


def tell_origin(
    dataset: Dataset, facts: HierarchyFacts, left_out: Sequence[LeftOut], elsewhere: Sequence[str] = ()
) -> None:
    """Adds what a file says of itself: where it comes from, and what it leaves out.

    Args:
        dataset: Its outermost group.
        facts: Where it comes from.
        left_out: What it does not show.
        elsewhere: A line for each array that is in a file of its own.
    """
    own: dict[str, Value] = {"icefs_repository": facts.repository, "icefs_snapshot": facts.snapshot}
    if facts.branch:
        own["icefs_branch"] = facts.branch
    if facts.is_staged:
        own["icefs_uncommitted_changes"] = "shown"
    if elsewhere:
        own["icefs_elsewhere"] = "\n".join(elsewhere)[:MAX_NAMED_BYTES]
    if left_out:
        lines = [f"{quoted(one.path)}: {one.reason}" for one in left_out]
        own["icefs_left_out"] = _within_limit(lines)
    dataset.attributes |= own


def _within_limit(lines: Sequence[str]) -> str:
    """Returns as many of the lines as an attribute holds."""
    size = 0
    for count, line in enumerate(lines):
        size += len(line) + 1
        if size > MAX_NAMED_BYTES:
            return "\n".join((*lines[:count], f"and {len(lines) - count} more"))
    return "\n".join(lines)


class _Subject:
    """Records what of one node is left out."""

    def __init__(self, left_out: list[LeftOut], path: NodePath) -> None:
        self._left_out = left_out
        self._path = path

    def __call__(self, reason: str) -> None:
        self._left_out.append(LeftOut(self._path, reason))

    def below(self, path: NodePath) -> "_Subject":
        """Returns the same for another node."""
        return _Subject(self._left_out, path)


class _Group:
    """The description of one group, as its arrays are added."""

    def __init__(self, left_out: _Subject, taken: Sequence[str], arrays: Sequence[ArrayNode]) -> None:
        self.dataset = Dataset()
        self._left_out = left_out
        variables = {shown_name(array.name) for array in arrays}
        dimensions = {shown_name(name) for array in arrays for name in array.dimensions if name is not None}
        # Groups inside have their names already; a derived name avoids all that are yet to come.
        self._names = {array.path: shown_name(array.name) for array in arrays}
        self._derived = UniqueNames({*taken, *variables, *dimensions})
        self._groups = set(taken)
        self._positions: dict[tuple[str, int, bool], int] = {}
        self._named: set[str] = set()

    def add(self, array: ArrayNode, parts: list[Shown]) -> None:
        """Adds the variables that show an array, with their dimensions."""
        names = [name if name is not None else f"{array.name}_dim{axis}" for axis, name in enumerate(array.dimensions)]
        dimensions = tuple(
            self._dimension(name, size, is_invented=given is None)
            for name, size, given in zip(names, array.shape, array.dimensions, strict=True)
        )
        shown_names = [self.dataset.dimensions[position].name for position in dimensions]
        about: dict[str, Value] = {}
        if any(
            given is not None and given != shown for given, shown in zip(array.dimensions, shown_names, strict=True)
        ):
            about["icefs_dimension_names"] = json_text(array.dimensions)
        for part in parts:
            name = self._names[array.path]
            if part.suffix:
                name = self._derived.take(f"{name}{part.suffix}")
            own = about | ({"icefs_name": quoted(array.name)} if name != array.name else {})
            along = (
                (*dimensions, self._dimension(f"string{part.width}", part.width, True)) if part.width else dimensions
            )
            attributes = _variable_attributes(array, part, self._left_out.below(array.path))
            self.dataset.variables.append(
                Variable(name, array.path, along, part.dtype, {**attributes, **own}, part.content)
            )

    def _dimension(self, name: str, size: int, is_invented: bool) -> int:
        position = self._positions.get((name, size, is_invented))
        if position is None:
            shown = shown_name(name)
            if is_invented or shown in self._groups or shown in self._named:
                shown = self._derived.take(shown)
            self._named.add(shown)
            position = self._positions[name, size, is_invented] = len(self.dataset.dimensions)
            self.dataset.dimensions.append(Dimension(shown, size))
        return position


def _in_order(arrays: Sequence[ArrayNode]) -> list[ArrayNode]:
    """Returns coordinates first, in the order of the dimensions of the array that has most of them."""
    order: dict[str | None, int] = {}
    for array in sorted(arrays, key=lambda array: -len(array.shape)):
        for name in array.dimensions:
            order.setdefault(name, len(order))
    coordinates = sorted((array for array in arrays if array.is_coordinate), key=lambda array: order[array.name])
    return coordinates + [array for array in arrays if not array.is_coordinate]


def _variable_attributes(array: ArrayNode, part: Shown, left_out: _Subject) -> dict[str, Value]:
    attributes = shown_attributes(array.attributes, left_out, part.attributes)
    for name in OF_VARIABLES_TYPE & attributes.keys():
        made = in_type(attributes[name], part.dtype)
        if made is not None:
            attributes[name] = made
        elif name == "_FillValue":
            left_out(f"attribute _FillValue: it is no value of the type {part.dtype} that it is shown in")
            del attributes[name]
    if part.is_time:
        attributes = {name: value for name, value in attributes.items() if name not in PACKING}
    # CF has no missing values in coordinates; programs stumble over them.
    is_said = array.is_coordinate or attributes.keys() & {"_FillValue", "missing_value"}
    if part.fill is not None and (part.is_time or not is_said):
        attributes["_FillValue"] = part.fill
    fill = attributes.get("_FillValue")
    if isinstance(fill, np.ndarray):
        attributes["_FillValue"] = fill[:1]
    return attributes

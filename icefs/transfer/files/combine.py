"""Several files as one tree: joined along a dimension, or side by side.

Arrays with the dimension are joined in the order of the files. All others must be the same in each file.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from icefs.errors import InvalidInputError
from icefs.transfer.files.model import Document, FileArray, FileTree, chunk_shape_of
from icefs.transfer.files.times import is_time

# They say what the stored numbers mean, so that joined arrays must have the same.
_CODING: Final = (
    "units",
    "calendar",
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "_Unsigned",
    "dtype",
    "flag_values",
    "flag_masks",
)
_CHUNKS: Final = "the chunks"
_CODECS: Final = "the codecs"
_UNITS: Final = "the attributes units"


def combine[A: FileArray](
    trees: Sequence[FileTree[A]],
    dimension: str | None,
    join: Callable[[Sequence[A], str], A],
    same: Callable[[Sequence[A]], A],
) -> FileTree[A]:
    """Returns several files' arrays and groups as one tree; an array that one file leaves out is left out.

    Args:
        trees: The files'.
        dimension: The dimension that arrays are joined along, if any.
        join: Joins the arrays of one path along it.
        same: Makes one of the arrays of one path that must be the same in each file.

    Raises:
        InvalidInputError: two files do not fit together, which names both (kind `not-alike`); or no array has the
            dimension.
    """
    result = FileTree[A](trees[0].file)
    for tree in trees:
        result.left_out.extend(tree.left_out)
        for path, attributes in tree.groups.items():
            result.groups.setdefault(path, attributes)
    left_out = {one.path for one in result.left_out}
    parts: dict[str, list[A]] = {}
    for tree in trees:
        for path, array in tree.arrays.items():
            if path not in left_out:
                parts.setdefault(path, []).append(array)
    if dimension is not None and parts:
        known = {name for arrays in parts.values() for name in arrays[0].dimensions if name is not None}
        if dimension not in known:
            raise InvalidInputError(
                f"no array of {trees[0].file} has the dimension {dimension!r}",
                hint=f"the dimensions are {', '.join(sorted(known))}" if known else None,
            )
    for path, arrays in parts.items():
        if dimension is not None and dimension in arrays[0].dimensions:
            _check_everywhere(path, arrays, trees)
            result.arrays[path] = join(arrays, dimension)
        else:
            result.arrays[path] = same(arrays)
    return result


def _check_everywhere[A: FileArray](path: str, arrays: Sequence[A], trees: Sequence[FileTree[A]]) -> None:
    if len(arrays) == len(trees):
        return
    having = {array.file for array in arrays}
    lacking = next(tree.file for tree in trees if tree.file not in having)
    raise InvalidInputError(
        f"{path} is in {arrays[0].file} and not in {lacking}, and cannot be joined",
        kind="not-alike",
        hint=f"leave it out with --drop {path}",
    )


def check_alike(
    path: str,
    one: Document,
    one_name: str,
    other: Document,
    other_name: str,
    *,
    axis: int | None = None,
    chunks_matter: bool = True,
    codecs_matter: bool = True,
) -> None:
    """Refuses two arrays that are not the same but for their length along `axis`.

    Args:
        path: The arrays' path.
        one: What the one is.
        one_name: Where it is.
        other: What the other is.
        other_name: Where it is.
        axis: The axis that they are joined along.
        chunks_matter: Whether the chunks must have the same shape.
        codecs_matter: Whether the codecs must be the same.

    Raises:
        InvalidInputError: they are not (kind `not-alike`); the message names both.
    """
    for what, mine, theirs in _compared(one, other, axis):
        if mine == theirs or (what == _CHUNKS and not chunks_matter) or (what == _CODECS and not codecs_matter):
            continue
        hint = f"leave it out with --drop {path}"
        if what == _CHUNKS:
            hint = f"copy its values with --loadable {path}, or {hint}"
        if what == _UNITS and is_time(mine) and is_time(theirs):
            hint = f"--copy translates times; or {hint}"
        raise InvalidInputError(
            f"{what} of {path} differ: {mine} in {one_name}, {theirs} in {other_name}", kind="not-alike", hint=hint
        )


def _compared(one: Document, other: Document, axis: int | None) -> Iterator[tuple[str, Any, Any]]:
    for what, member in (("the dimensions", "dimension_names"), ("the types", "data_type")):
        yield what, one.get(member), other.get(member)
    mine, theirs = ([size for at, size in enumerate(each["shape"]) if at != axis] for each in (one, other))
    yield "the sizes", mine, theirs
    yield _CODECS, one.get("codecs"), other.get("codecs")
    yield _CHUNKS, list(chunk_shape_of(one)), list(chunk_shape_of(other))
    yield "the fill values", one.get("fill_value"), other.get("fill_value")
    for name in _CODING:
        ours, others = ((each.get("attributes") or {}).get(name) for each in (one, other))
        yield _UNITS if name == "units" else f"the attributes {name}", ours, others

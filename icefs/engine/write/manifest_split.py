"""How an array's chunk references are spread over manifests, and which manifests a commit can keep.

A splitting configuration cuts the chunk grid into equal boxes, given by how many chunks a box has along each axis;
each box that holds references gets one manifest. Nothing here loops over the grid: boxes are found from the
references and the manifests that there are.

Source: format notes §7.9.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from icefs.engine.read.boxes import Box
from icefs.engine.read.patterns import is_found, is_in_name, is_in_path
from icefs.engine.write.changeset import ChunkChanges
from icefs.format.chunk_indices import ChunkIndices, Int64Array, Uint32Array, pack_keys
from icefs.format.config.manifest import (
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    SplitAny,
    SplitAxis,
    SplitDimensionName,
)
from icefs.format.manifest.refs import ArrayRefs
from icefs.paths import NodePath

_U32_MAX: Final = 2**32 - 1

_NO_ROWS: Final[Int64Array] = np.empty(0, np.int64)

type BoxKey = tuple[int, ...]
"""Which box: the number of boxes before it along each axis."""

type LoadManifests = Callable[[Sequence[int]], Iterable[ArrayRefs | None]]
"""Fetches the references of manifests of an array, given their positions; None for one without any."""


@dataclass(frozen=True, slots=True)
class BoxRewrite:
    """One manifest to write: what the references in (a part of) a split box become.

    Nothing is copied or fetched before `refs` is called, so that a commit need hold no more than the few boxes that
    it is working on.

    Attributes:
        grid_shape: Chunks along each axis.
        old: The positions of manifests that lie within the box, to be fetched.
        parts: References of manifests that lie across several boxes, cut to this one.
        sets: The references that were set, in all boxes, and the rows of those in this one.
        deletes: The same for the chunks that were deleted.
    """

    grid_shape: Sequence[int]
    old: Sequence[int]
    parts: Sequence[ArrayRefs]
    sets: tuple[ArrayRefs, Int64Array]
    deletes: tuple[ChunkIndices, Int64Array]

    def refs(self, load: LoadManifests) -> ArrayRefs:
        """Fetches and joins the references; there may be none left."""
        parts = [inside_grid(refs, self.grid_shape) for refs in load(self.old) if refs is not None]
        parts += self.parts
        (sets, set_rows), (deletes, delete_rows) = self.sets, self.deletes
        return ArrayRefs.merge(
            ArrayRefs.concat(parts) if parts else None,
            sets if len(set_rows) == len(sets) else sets.select(set_rows),
            deletes.select(delete_rows),
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """The manifests of an array after a commit: old ones kept as they are, by position, and new ones to write."""

    kept: list[int]
    rewrites: list[BoxRewrite]


def keys_of(box: Box, sizes: Sequence[int]) -> BoxKey | None:
    """Returns the split box that holds all of an index box, or None if it lies across several."""
    key = []
    for (low, high), size in zip(box, sizes, strict=True):
        if low // size != (high - 1) // size:
            return None
        key.append(low // size)
    return tuple(key)


def split_rows(coords: Sequence[Uint32Array], count: int, sizes: Sequence[int]) -> Iterator[tuple[BoxKey, Int64Array]]:
    """Yields each split box that has indices, with their ascending row numbers."""
    if not count:
        return
    keys = [column // np.uint32(size) for column, size in zip(coords, sizes, strict=True)]
    if all(int(column.min()) == int(column.max()) for column in keys):
        yield tuple(int(column[0]) for column in keys), np.arange(count)
        return
    packed = pack_keys(keys)[0]
    order = np.argsort(packed, kind="stable")
    cuts = np.flatnonzero(np.diff(packed[order])) + 1
    for rows in np.split(order, cuts):
        yield tuple(int(column[rows[0]]) for column in keys), rows


def plan(
    old: Sequence[Box],
    load: LoadManifests,
    changes: ChunkChanges | None,
    grid_shape: Sequence[int],
    sizes: Sequence[int],
    *,
    empty: ArrayRefs,
    rewrite: bool = False,
) -> Layout:
    """Decides which manifests an array keeps and what the new ones hold.

    A manifest is kept where nothing in its split box changed and it lies within one box and the grid. References
    outside of the grid, which a resize left behind, go with the manifests that are not kept.

    A box in which something changed gets one manifest. In other boxes each old manifest is kept or cut by itself:
    joining cuts could make a manifest whose extents enclose those of one that is kept, and hide its chunks.

    Args:
        old: The extents of the array's manifests.
        load: Fetches manifests by position.
        changes: The chunks that were set and deleted, or None.
        grid_shape: Chunks along each axis, as the array is now.
        sizes: Chunks along each axis of a split box.
        empty: References of the array with no rows.
        rewrite: Keep nothing, and write one manifest for each box.
    """
    sets = inside_grid(changes.sets() if changes else empty, grid_shape)
    deletes = changes.deletes() if changes else ChunkIndices(empty.coords, 0)
    set_rows = dict(split_rows(sets.coords, len(sets), sizes))
    delete_rows = dict(split_rows(deletes.coords, len(deletes), sizes))
    touched = set_rows.keys() | delete_rows.keys()

    kept: list[int] = []
    whole: dict[BoxKey, list[int]] = {}
    alone: list[int] = []
    across: list[int] = []
    for position, box in enumerate(old):
        if any(low >= min(high, size) for (low, high), size in zip(box, grid_shape, strict=True)):
            continue  # a resize left nothing of it
        inside = tuple((low, min(high, size)) for (low, high), size in zip(box, grid_shape, strict=True))
        key = keys_of(inside, sizes)
        if key is None:
            across.append(position)
        elif rewrite or key in touched:
            whole.setdefault(key, []).append(position)
        elif inside == box:
            kept.append(position)
        else:
            alone.append(position)

    parts: dict[BoxKey, list[ArrayRefs]] = {}
    for refs in load(across):
        visible = inside_grid(empty if refs is None else refs, grid_shape)
        for key, rows in split_rows(visible.coords, len(visible), sizes):
            parts.setdefault(key, []).append(visible if len(rows) == len(visible) else visible.select(rows))

    nothing = (empty, _NO_ROWS), (ChunkIndices(empty.coords, 0), _NO_ROWS)
    rewrites = [BoxRewrite(grid_shape, [position], (), *nothing) for position in alone]
    for key in sorted(whole.keys() | parts.keys() | touched):
        if rewrite or key in touched:
            set_here, deleted_here = set_rows.get(key, _NO_ROWS), delete_rows.get(key, _NO_ROWS)
            changed = (sets, set_here), (deletes, deleted_here)
            rewrites.append(BoxRewrite(grid_shape, whole.get(key, ()), parts.get(key, ()), *changed))
        else:
            rewrites.extend(BoxRewrite(grid_shape, (), [part], *nothing) for part in parts[key])
    return Layout(kept, rewrites)


def inside_grid(refs: ArrayRefs, grid_shape: Sequence[int]) -> ArrayRefs:
    """Returns the references that are in a grid."""
    if not len(refs):
        return refs
    if all(high <= size for (_, high), size in zip(refs.bounding_box(), grid_shape, strict=True)):
        return refs
    visible = np.ones(len(refs), np.bool_)
    for column, size in zip(refs.coords, grid_shape, strict=True):
        visible &= column < size
    return refs.select(visible)


def split_sizes(
    config: ManifestSplittingConfig | None, path: NodePath, ndim: int, dimension_names: Sequence[str | None] | None
) -> tuple[int, ...]:
    """Returns how many chunks along each axis one manifest of an array holds.

    Rules are looked at in order; for each axis the first dimension condition that matches counts. An axis that none
    matches is not split.
    """
    sizes: list[int | None] = [None] * ndim
    names = list(dimension_names or ())[:ndim]
    names += [None] * (ndim - len(names))
    for condition, dimensions in (config.split_sizes if config is not None else None) or ():
        if not _matches_array(condition, path):
            continue
        for axis, name in enumerate(names):
            if sizes[axis] is None:
                sizes[axis] = next((size for rule, size in dimensions if _matches_axis(rule, axis, name)), None)
    return tuple(max(1, min(_U32_MAX, _U32_MAX if size is None else size)) for size in sizes)


def _matches_array(condition: ManifestSplitCondition, path: NodePath) -> bool:
    match condition.kind:
        case "any_array":
            return True
        case "or":
            return any(_matches_array(part, path) for part in condition.conditions)
        case "and":
            return all(_matches_array(part, path) for part in condition.conditions)
        case "path_matches":
            return is_in_path(condition.regex, path)
        case "name_matches":
            return is_in_name(condition.regex, path)


def _matches_axis(condition: ManifestSplitDimCondition, axis: int, name: str | None) -> bool:
    match condition:
        case SplitAxis():
            return condition.axis == axis
        case SplitDimensionName():
            return name is not None and is_found(condition.regex, name)
        case _:
            return isinstance(condition, SplitAny)

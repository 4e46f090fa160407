"""How an array's chunk references are spread over manifests, and which manifests a commit can keep.

A splitting configuration cuts the chunk grid into equal boxes, given by how many chunks a box has along each axis;
each box that holds references gets one manifest. Nothing here loops over the grid: boxes are found from the
references and the manifests that there are.

Source: format notes §7.9.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from icefs.engine.boxes import Box
from icefs.engine.changeset import ChunkChanges
from icefs.format.chunk_indices import ChunkIndices, Int64Array, Uint32Array, pack_keys
from icefs.format.config_manifest import (
    ManifestSplitCondition,
    ManifestSplitDimCondition,
    ManifestSplittingConfig,
    SplitAny,
    SplitAxis,
    SplitDimensionName,
)
from icefs.format.manifest import ArrayRefs
from icefs.format.nodes import ManifestRef

_U32_MAX: Final = 2**32 - 1

type BoxKey = tuple[int, ...]
"""Which box: the number of boxes before it along each axis."""


@dataclass(frozen=True, slots=True)
class OldManifest:
    """A manifest of the array as it was.

    Attributes:
        ref: Where it is and what it answers for.
        load: Returns the references that it answers for, or None if it has none of the array.
    """

    ref: ManifestRef
    load: Callable[[], ArrayRefs | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """The manifests of an array after a commit: old ones kept as they are, and references for new ones."""

    kept: list[ManifestRef]
    written: list[ArrayRefs]


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
    old: Iterable[OldManifest],
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

    Args:
        old: The array's manifests.
        changes: The chunks that were set and deleted, or None.
        grid_shape: Chunks along each axis, as the array is now.
        sizes: Chunks along each axis of a split box.
        empty: References of the array with no rows.
        rewrite: Keep nothing.
    """
    sets = _inside_grid(changes.sets() if changes else empty, grid_shape)
    deletes = changes.deletes() if changes else ChunkIndices(empty.coords, 0)
    set_rows = dict(split_rows(sets.coords, len(sets), sizes))
    delete_rows = dict(split_rows(deletes.coords, len(deletes), sizes))
    touched = set_rows.keys() | delete_rows.keys()

    kept: list[ManifestRef] = []
    sources: dict[BoxKey, list[ArrayRefs]] = {key: [] for key in touched}
    for manifest in old:
        box = manifest.ref.extents
        key = keys_of(box, sizes)
        inside = all(high <= size for (_, high), size in zip(box, grid_shape, strict=True))
        if key is not None and inside and not rewrite and key not in touched:
            kept.append(manifest.ref)
            continue
        refs = manifest.load()
        if refs is None:
            continue
        refs = _inside_grid(refs, grid_shape)
        for part_key, rows in split_rows(refs.coords, len(refs), sizes):
            part = refs if len(rows) == len(refs) else refs.select(rows)
            sources.setdefault(part_key, []).append(part)

    written = []
    for key, parts in sources.items():
        base = ArrayRefs.concat(parts) if parts else None
        ours = set_rows.get(key)
        updates = empty if ours is None else sets if len(ours) == len(sets) else sets.select(ours)
        gone = delete_rows.get(key)
        merged = ArrayRefs.merge(base, updates, None if gone is None else deletes.select(gone))
        if len(merged):
            written.append(merged)
    return Layout(kept, written)


def _inside_grid(refs: ArrayRefs, grid_shape: Sequence[int]) -> ArrayRefs:
    if not len(refs):
        return refs
    if all(high <= size for (_, high), size in zip(refs.bounding_box(), grid_shape, strict=True)):
        return refs
    visible = np.ones(len(refs), np.bool_)
    for column, size in zip(refs.coords, grid_shape, strict=True):
        visible &= column < size
    return refs.select(visible)


def split_sizes(
    config: ManifestSplittingConfig | None, path: str, ndim: int, dimension_names: Sequence[str | None] | None
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


def _matches_array(condition: ManifestSplitCondition, path: str) -> bool:
    match condition.kind:
        case "any_array":
            return True
        case "or":
            return any(_matches_array(part, path) for part in condition.conditions)
        case "and":
            return all(_matches_array(part, path) for part in condition.conditions)
        case "path_matches":
            return _search(condition.regex, path)
        case "name_matches":
            return _search(condition.regex, path.rpartition("/")[2])


def _matches_axis(condition: ManifestSplitDimCondition, axis: int, name: str | None) -> bool:
    match condition:
        case SplitAxis():
            return condition.axis == axis
        case SplitDimensionName():
            return name is not None and _search(condition.regex, name)
        case _:
            return isinstance(condition, SplitAny)


def _search(regex: str, text: str) -> bool:
    pattern = _compiled(regex)
    return pattern is not None and pattern.search(text) is not None


@functools.cache
def _compiled(regex: str) -> re.Pattern[str] | None:
    """Compiles a regular expression; one that is none matches nothing, as in the official library."""
    try:
        return re.compile(regex)
    except re.error:
        return None

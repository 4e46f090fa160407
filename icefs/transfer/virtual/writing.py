"""A tree of references into a session: what would be written first, so that a dry run and a refusal write nothing."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from icefs.engine.read.chunks import ALL_ROWS
from icefs.engine.read.session import Session
from icefs.engine.write.session import WritableSession
from icefs.errors import InvalidInputError
from icefs.format.manifest.refs import ArrayRefs, ChunkKind
from icefs.format.snapshot.nodes import NodeSnapshot
from icefs.paths import NodePath
from icefs.transfer.files.combine import check_alike
from icefs.transfer.files.model import Document, chunk_shape_of
from icefs.transfer.files.placing import Placement, below, document_of_node, place_appended, place_new
from icefs.transfer.virtual import plain
from icefs.transfer.virtual.model import References, VirtualArray, VirtualTree
from icefs.zarr.virtual_refs import set_virtual_columns

_THERE = "the repository"


@dataclass(slots=True)
class ArrayPlan:
    """What becomes of one array.

    Attributes:
        path: The node's.
        document: Its `zarr.json` afterwards.
        refs: The references that are set.
        chunks: The chunks that are stored, encoded.
        is_new: Whether the array does not exist yet.
    """

    path: NodePath
    document: Document
    refs: References
    chunks: Mapping[tuple[int, ...], bytes]
    is_new: bool = True


@dataclass(slots=True)
class TreePlan:
    """What becomes of a repository.

    Attributes:
        placement: The other nodes.
        arrays: The arrays.
    """

    placement: Placement
    arrays: list[ArrayPlan]


def plan_new(base: Session, tree: VirtualTree, top: NodePath, *, overwrite: bool) -> TreePlan:
    """Returns what makes a tree's groups and arrays below `top`; raises as `place_new`."""
    placement = place_new(base, tree, top, overwrite=overwrite)
    arrays = [
        ArrayPlan(below(top, each.path), each.document, each.refs, _encoded(each)) for each in tree.arrays.values()
    ]
    return TreePlan(placement, arrays)


def plan_append(base: Session, tree: VirtualTree, top: NodePath, dimension: str) -> TreePlan:
    """Returns what adds a tree's arrays to those below `top` along a dimension.

    Raises:
        InvalidInputError: an array is not there, or does not fit the one that is (kind `not-alike`).
    """
    grown = (_append(base, node, array, dimension) for array, node in place_appended(base, tree, top, dimension))
    return TreePlan(Placement(), [plan for plan in grown if plan is not None])


def apply(session: WritableSession, plan: TreePlan) -> None:
    """Makes the changes of a plan.

    Raises:
        InvalidMetadataError: an array's metadata are none that Icechunk can hold.
        StorageError: a chunk cannot be stored.
    """
    plan.placement.apply(session)
    for array in plan.arrays:
        session.nodes.put(array.path, json.dumps(array.document, indent=2).encode())
        if len(array.refs):
            _set(session, array)
        for index, data in array.chunks.items():
            session.chunks.set(array.path, index, data)


def _set(session: WritableSession, array: ArrayPlan) -> None:
    refs = array.refs
    rows = refs.rows.tolist()
    locations = [file.location for file in refs.files]
    checksums = [file.checksum for file in refs.files]
    set_virtual_columns(
        session,
        array.path,
        refs.coords,
        [locations[row] for row in rows],
        refs.offsets,
        refs.lengths,
        checksums=[checksums[row] for row in rows],
        validate_containers=False,
    )


def _append(base: Session, node: NodeSnapshot, array: VirtualArray, dimension: str) -> ArrayPlan | None:
    """Returns what adds an array to a node; None where it has another dimension, and there is nothing to add."""
    there = document_of_node(node)
    axis = array.dimensions.index(dimension) if dimension in array.dimensions else None
    check_alike(
        array.path,
        there,
        _THERE,
        array.document,
        array.file,
        axis=axis,
        chunks_matter=array.values is None,
    )
    is_copied = array.values is not None
    if is_copied and _has_references(base, node):
        raise InvalidInputError(
            f"{array.path} is referred to in the repository, and its values would be copied from {array.file}",
            kind="not-alike",
            hint=f"leave it out with --drop {array.path}",
        )
    if axis is None:
        if array.values is not None and not np.array_equal(
            _values(base, node), array.values, equal_nan=array.values.dtype.kind in "fc"
        ):
            raise InvalidInputError(f"the values of {array.path} in {array.file} and {_THERE} differ", kind="not-alike")
        return None
    length, size = there["shape"][axis], chunk_shape_of(there)[axis]
    shape = [one + (array.shape[axis] if at == axis else 0) for at, one in enumerate(there["shape"])]
    document = {**there, "shape": shape}
    if array.values is not None:
        values = np.concatenate([_values(base, node), array.values.astype(array.values.dtype)], axis=axis)
        chunks = dict(plain.encode(values, chunk_shape_of(there), length, axis))
        return ArrayPlan(node.path, document, References.none(len(shape)), chunks, is_new=False)
    if length % size:
        raise InvalidInputError(
            f"{array.path} has {length} values of {dimension}, which do not fill its chunks of {size}: {array.file} "
            "cannot be appended",
            kind="not-alike",
            hint="import all files again, with --overwrite",
        )
    start = length // size
    moved = {(*index[:axis], index[axis] + start, *index[axis + 1 :]): data for index, data in array.chunks.items()}
    return ArrayPlan(node.path, document, array.refs.shifted(axis, start), moved, is_new=False)


def _encoded(array: VirtualArray) -> Mapping[tuple[int, ...], bytes]:
    if array.values is None:
        return array.chunks
    return dict(plain.encode(array.values, array.chunk_shape, 0, 0))


def _values(base: Session, node: NodeSnapshot) -> Any:
    """Returns the values of an array whose chunks are the repository's own."""
    refs = _refs(base, node)
    chunks = {}
    for row in range(0 if refs is None else len(refs)):
        assert refs is not None  # it has rows
        index = tuple(int(column[row]) for column in refs.coords)
        chunks[index] = base.read_chunk(refs.ref(row))
    return plain.decode(document_of_node(node), chunks)


def _has_references(base: Session, node: NodeSnapshot) -> bool:
    refs = _refs(base, node)
    return refs is not None and bool((refs.kinds == ChunkKind.VIRTUAL).any())


def _refs(base: Session, node: NodeSnapshot) -> ArrayRefs | None:
    parts: Sequence[ArrayRefs] = [batch.refs for batch in base.array_chunks(node).iter_batches(ALL_ROWS) if len(batch)]
    return ArrayRefs.concat(parts) if parts else None

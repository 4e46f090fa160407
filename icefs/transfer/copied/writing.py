"""A tree of values into a session: what would be written first, so that a dry run and a refusal write nothing."""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from icefs.engine.read.session import Session
from icefs.engine.write.session import WritableSession
from icefs.paths import NodePath
from icefs.transfer.copied.joining import check_equal, in_coding
from icefs.transfer.copied.model import Box, CopiedArray, CopiedTree, Values, boxes, shifted
from icefs.transfer.files.combine import check_alike
from icefs.transfer.files.model import Document, chunk_shape_of
from icefs.transfer.files.placing import Placement, below, document_of_node, place_appended, place_new
from icefs.transfer.files.times import coding_of
from icefs.transfer.tasks import carry_out

_THERE: Final = "the repository"
# Reading waits for a store, and compressing needs a processor: some of both.
_THREADS: Final = min(16, 2 * (os.cpu_count() or 1) + 2)


@dataclass(slots=True)
class ArrayPlan:
    """What becomes of one array.

    Attributes:
        path: The node's.
        document: Its `zarr.json` afterwards.
        array: Where its values come from.
        axis: The axis that it grows along; None of a new array.
        start: Where the values begin along that axis.
    """

    path: NodePath
    document: Document
    array: CopiedArray
    axis: int | None = None
    start: int = 0

    def boxes(self) -> Iterator[Box]:
        """Yields the parts that are written: each is in one chunk."""
        return boxes(self.document["shape"], chunk_shape_of(self.document), self.axis, self.start)

    @property
    def num_chunks(self) -> int:
        """How many chunks are written at most: those of fill values alone are not."""
        counts = []
        for at, (size, chunk) in enumerate(zip(self.document["shape"], chunk_shape_of(self.document), strict=True)):
            low = self.start // chunk if at == self.axis else 0
            counts.append(max(math.ceil(size / chunk) - low, 0))
        return math.prod(counts)


@dataclass(slots=True)
class TreePlan:
    """What becomes of a repository.

    Attributes:
        placement: The other nodes.
        arrays: The arrays.
    """

    placement: Placement
    arrays: list[ArrayPlan]


def plan_new(base: Session, tree: CopiedTree, top: NodePath, *, overwrite: bool) -> TreePlan:
    """Returns what makes a tree's groups and arrays below `top`; raises as `place_new`."""
    placement = place_new(base, tree, top, overwrite=overwrite)
    return TreePlan(placement, [ArrayPlan(below(top, each.path), each.document, each) for each in tree.arrays.values()])


def plan_append(session: WritableSession, tree: CopiedTree, top: NodePath, dimension: str) -> TreePlan:
    """Returns what adds a tree's arrays to those below `top` along a dimension.

    Raises:
        InvalidInputError: an array is not there, or does not fit the one that is (kind `not-alike`).
        ObjectModifiedError, StorageError: values that must be the same cannot be read.
    """
    plans = []
    found = place_appended(session, tree, top, dimension)
    documents = {array.path: document_of_node(node) for array, node in found}
    for array, node in found:
        there = documents[array.path]
        axis = array.dimensions.index(dimension) if dimension in array.dimensions else None
        array = in_coding(array, coding_of(array.path, documents), there, _THERE)
        check_alike(
            array.path,
            there,
            _THERE,
            array.document,
            array.file,
            axis=axis,
            chunks_matter=False,
            codecs_matter=False,
        )
        if axis is None:
            check_equal(array, partial(_read, session, node.path), _THERE, array)
            continue
        shape = list(there["shape"])
        shape[axis] += array.shape[axis]
        plans.append(ArrayPlan(node.path, {**there, "shape": shape}, array, axis, there["shape"][axis]))
    return TreePlan(Placement(), plans)


def apply(session: WritableSession, plan: TreePlan, wrote: Callable[[int], None], beat: Callable[[], None]) -> None:
    """Makes the changes of a plan, chunk by chunk, some side by side.

    Args:
        session: The session.
        plan: The plan.
        wrote: Called with the bytes of the values of each chunk that is written.
        beat: Called several times a second meanwhile; what it raises ends the work.

    Raises:
        InvalidMetadataError: an array's metadata are none that Icechunk can hold.
        InvalidInputError: values cannot be decoded.
        ObjectModifiedError, StorageError: a file changed, or a store failed.
    """
    plan.placement.apply(session)
    for array in plan.arrays:
        session.nodes.put(array.path, json.dumps(array.document, indent=2).encode())
    with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(_THREADS, "icefs-copy") as pool:
        carry_out(pool, _tasks(session, plan.arrays), _THREADS, wrote, beat)


def _tasks(session: WritableSession, plans: Sequence[ArrayPlan]) -> Iterator[Callable[[], int]]:
    for plan in plans:
        target = _open(session, plan.path, "r+")
        for box in plan.boxes():
            yield partial(_copy, target, plan, box)


def _copy(target: Any, plan: ArrayPlan, box: Box) -> int:
    values = plan.array.read(shifted(box, plan.axis, plan.start))
    target[box] = values
    return int(values.size) * plan.array.itemsize


def _read(session: Session, path: NodePath, box: Box) -> Values:
    with warnings.catch_warnings(action="ignore"):
        return np.asarray(_open(session, path, "r")[box])


def _open(session: Session, path: NodePath, mode: str) -> Any:
    """Opens an array of a session in zarr-python, which warns of codecs and types that the specification lacks."""
    import zarr

    from icefs.zarr.store import IcechunkStore

    return zarr.open_array(IcechunkStore(session), path=path[1:], mode=mode, zarr_format=3)

"""The tables that manifests and transaction logs share: arrays, each with a vector of tables that have a chunk index.

The tables of all arrays are read as one, field by field, so that ten thousand arrays of a few chunks cost no more
than one array of many; what belongs to one array is a slice.
"""

import numpy as np
import numpy.typing as npt

from icefs.format.chunk_indices import ChunkIndices, Int64Array, Uint32Array, increases
from icefs.format.flat.reader import FlatBuffer, TableArray
from icefs.format.ids import NodeId

MAX_DIMENSIONS = 128
"""More dimensions than any Zarr implementation has; a bound on the work that a file can cause."""


class IndexColumns:
    """The chunk indices of all arrays of a file; `of` returns those of one."""

    __slots__ = ("_columns", "_counts", "_dimensions", "_starts")

    def __init__(self, tables: TableArray, slot: int, bounds: Int64Array) -> None:
        """Reads the field `slot` of `tables`, of which those from `bounds[i]` to `bounds[i + 1]` are array i's.

        Raises:
            FormatError: the field is missing; the indices of an array have different numbers of dimensions, are not
                sorted, or are not distinct.
        """
        buffer = tables.buffer
        positions, dimensions, present = tables.vectors(slot, 4)
        if not present.all():
            raise buffer.error("a chunk has no index")
        self._counts = np.diff(bounds)
        self._dimensions = np.zeros(len(self._counts), np.int64)
        filled = self._counts > 0
        self._dimensions[filled] = dimensions[bounds[:-1][filled]]
        if not np.array_equal(np.repeat(self._dimensions, self._counts), dimensions):
            raise buffer.error("the chunk indices of an array differ in their number of dimensions")
        self._starts = np.zeros(len(self._counts), np.int64)
        self._columns: dict[int, list[Uint32Array]] = {}
        # Not np.unique, whose first use imports numpy.ma: 60 ms that the first chunk of a mount would wait for.
        for ndim in sorted(set(self._dimensions.tolist())):
            if ndim > MAX_DIMENSIONS:
                raise buffer.error(f"a chunk index has {ndim} dimensions, more than {MAX_DIMENSIONS}")
            arrays = self._dimensions == ndim
            ends = np.cumsum(self._counts[arrays])
            self._starts[arrays] = ends - self._counts[arrays]
            everything = bool(arrays.all())
            chosen = positions if everything else positions[np.repeat(arrays, self._counts)]
            self._columns[ndim] = self._read(buffer, chosen, ndim, ends)

    @staticmethod
    def _read(buffer: FlatBuffer, positions: Int64Array, ndim: int, ends: Int64Array) -> list[Uint32Array]:
        """Reads indices of `ndim` dimensions; those of one array end at one of `ends`."""
        buffer.charge(4 * ndim * len(positions))
        rows = buffer.rows(positions, 4 * ndim).view("<u4").reshape(len(positions), ndim)
        columns = [rows[:, axis].astype(np.uint32) for axis in range(ndim)]
        if len(positions) > 1:
            greater = increases(columns, len(positions))
            first_of_next = ends[(ends > 0) & (ends < len(positions))]
            greater[first_of_next - 1] = True
            if not greater.all():
                raise buffer.error("the chunk indices of an array are not sorted, or one is there twice")
        return columns

    @property
    def nbytes(self) -> int:
        """Memory that they take."""
        return sum(column.nbytes for columns in self._columns.values() for column in columns)

    def of(self, number: int) -> ChunkIndices:
        """Returns the chunk indices of array `number`."""
        start, count = int(self._starts[number]), int(self._counts[number])
        columns = self._columns[int(self._dimensions[number])]
        return ChunkIndices([column[start : start + count] for column in columns], count)


def parse_node_ids(arrays: TableArray, slot: int) -> dict[NodeId, int]:
    """Reads the node id of each array; they must ascend.

    Returns:
        The number of each array by its node id.
    """
    raw, present = arrays.structs(slot, NodeId.SIZE)
    if not present.all():
        raise arrays.buffer.error("an array has no node id")
    check_ascending(arrays.buffer, raw, "the node ids of its arrays")
    return {node_id: number for number, node_id in enumerate(node_ids(raw))}


def node_ids(raw: npt.NDArray[np.uint8]) -> list[NodeId]:
    """Turns `uint8[n, 8]` into ids."""
    data = raw.tobytes()
    return [NodeId(data[start : start + NodeId.SIZE]) for start in range(0, len(data), NodeId.SIZE)]


def check_ascending(buffer: FlatBuffer, raw: npt.NDArray[np.uint8], what: str) -> None:
    """Checks that the node ids `uint8[n, 8]` ascend.

    Raises:
        FormatError: they are not sorted, or one is there twice.
    """
    keys = np.ascontiguousarray(raw).view(">u8").reshape(len(raw))
    if (keys[1:] <= keys[:-1]).any():
        raise buffer.error(f"{what} are not sorted, or one is there twice")

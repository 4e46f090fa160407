"""Transaction logs: the changes of one commit, for conflict detection, diffs and cache invalidation.

    table TransactionLog      0 id: 12 bytes   1 new_groups   2 new_arrays   3 deleted_groups   4 deleted_arrays
                              5 updated_arrays   6 updated_groups: [8 bytes] each
                              7 updated_chunks: [ArrayUpdatedChunks]   8 moved_nodes: [MoveOperation]   9 extra
    table ArrayUpdatedChunks  0 node_id: 8 bytes   1 chunks: [ChunkIndices]
    table ChunkIndices        0 coords: [u32]
    table MoveOperation       0 from: string   1 to: string   2 node_id: 8 bytes   3 node_type: u8 (0 group, 1 array)

The order of node ids in the six lists says nothing and is not relied upon; arrays ascend by node id and chunks by
index, and that is checked.

Source: spec 2.1 and 1 "Transaction logs"; format notes §7.3 and §7.10.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from icefs.errors import InvalidInputError
from icefs.format.chunk_indices import ChunkIndices, Int64Array
from icefs.format.chunk_tables import IndexColumns, node_ids, parse_node_ids
from icefs.format.flat.bulk import BodyPlan, TableShape, align_all, padded_sizes, put_offsets, put_vectors
from icefs.format.flat.columns import BuiltMapping, ByteColumn, place_rows
from icefs.format.flat.reader import FlatBuffer, TableArray
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.snapshot.nodes import NodeType, is_canonical_path
from icefs.paths import NodePath

type ByteArray = npt.NDArray[np.uint8]

_NODE_TYPES = (NodeType.GROUP, NodeType.ARRAY)
_ID_LISTS = ("new_groups", "new_arrays", "deleted_groups", "deleted_arrays", "updated_arrays", "updated_groups")
"""In the order of their slots, from 1 on."""
_UPDATED_CHUNKS, _MOVED_NODES = 7, 8

_ROOT_SHAPE = TableShape([(0, f"V{SnapshotId.SIZE}"), *((slot, "<u4") for slot in range(1, _MOVED_NODES + 1))])
_ARRAY_SHAPE = TableShape([(0, f"V{NodeId.SIZE}"), (1, "<u4")])
_CHUNK_SHAPE = TableShape([(0, "<u4")])
_MOVE_SHAPE = TableShape([(0, "<u4"), (1, "<u4"), (2, f"V{NodeId.SIZE}"), (3, "u1")])


@dataclass(frozen=True, slots=True)
class Move:
    """A node that changed its path; the nodes below it have moves of their own."""

    from_path: NodePath
    to_path: NodePath
    node_id: NodeId
    node_type: NodeType


@dataclass(frozen=True, slots=True)
class TransactionLog:
    """The changes of one commit.

    Attributes:
        id: The snapshot that it led to.
        new_groups: Groups that it made; all lists ascend.
        new_arrays: Arrays that it made.
        deleted_groups: Groups that it deleted.
        deleted_arrays: Arrays that it deleted.
        updated_arrays: Arrays whose metadata it changed, except new ones.
        updated_groups: Groups whose metadata it changed, except new ones.
        updated_chunks: The chunks whose references it set or deleted, of each array, new ones too.
        moved_nodes: Sorted by components of the new path.
    """

    id: SnapshotId
    new_groups: tuple[NodeId, ...] = ()
    new_arrays: tuple[NodeId, ...] = ()
    deleted_groups: tuple[NodeId, ...] = ()
    deleted_arrays: tuple[NodeId, ...] = ()
    updated_arrays: tuple[NodeId, ...] = ()
    updated_groups: tuple[NodeId, ...] = ()
    updated_chunks: Mapping[NodeId, ChunkIndices] = field(default_factory=lambda: MappingProxyType({}))
    moved_nodes: tuple[Move, ...] = ()

    __hash__ = None  # type: ignore[assignment]


def parse_transaction_log(data: bytes | memoryview, *, name: str) -> TransactionLog:
    """Reads a transaction log file.

    Args:
        data: The whole file; not kept.
        name: The file's key, for errors.

    Raises:
        FormatError: it is malformed.
    """
    _, body = decode_file(data, file_type=FileType.TRANSACTION_LOG, name=name)
    buffer = FlatBuffer(body, name=name)
    root = buffer.root()
    snapshot_id = SnapshotId(buffer.require(root.struct(0, SnapshotId.SIZE), "id"))
    lists = {}
    for slot, list_name in enumerate(_ID_LISTS, start=1):
        raw = buffer.require(root.struct_vector(slot, NodeId.SIZE), list_name)
        buffer.charge(raw.nbytes)
        lists[list_name] = tuple(sorted(set(node_ids(raw))))
    arrays = buffer.require(root.tables(_UPDATED_CHUNKS), "updated_chunks")
    numbers = parse_node_ids(arrays, 0)
    chunks = IndexColumns(*_chunk_tables(arrays))
    moves = root.tables(_MOVED_NODES)
    return TransactionLog(
        id=snapshot_id,
        updated_chunks=BuiltMapping(numbers, lambda _, number: chunks.of(number)),
        moved_nodes=() if moves is None else _parse_moves(moves),
        **lists,
    )


def _chunk_tables(arrays: TableArray) -> tuple[TableArray, int, Int64Array]:
    chunks, bounds = arrays.nested(1)
    return chunks, 0, bounds


def _parse_moves(moves: TableArray) -> tuple[Move, ...]:
    buffer = moves.buffer
    raw_ids, has_id = moves.structs(2, NodeId.SIZE)
    if not has_id.all():
        raise buffer.error("a move has no node id")
    types = moves.column(3, "u1").tolist()
    if any(code >= len(_NODE_TYPES) for code in types):
        raise buffer.error("a moved node is neither a group nor an array")
    found = []
    columns = (moves.strings(0), moves.strings(1), node_ids(raw_ids), types)
    for from_path, to_path, node_id, code in zip(*columns, strict=True):
        if from_path is None or to_path is None or not (is_canonical_path(from_path) and is_canonical_path(to_path)):
            raise buffer.error("a move has no valid path")
        found.append(Move(from_path, to_path, node_id, _NODE_TYPES[code]))
    return tuple(sorted(found, key=_by_components))


def _by_components(move: Move) -> list[str]:
    return move.to_path.split("/")


def merge(snapshot_id: SnapshotId, logs: Sequence[TransactionLog]) -> TransactionLog:
    """Joins the logs of successive commits, the oldest first, into the log of one commit, as `amend` writes it.

    Lists and chunks are plain unions, so that a node may be in several of them. Moves are chained: a node moved twice
    went from where it was first to where it is last, and one that is back where it was did not move. Nor did one that
    an earlier one of these commits made: it was nowhere before.

    Where the number of an array's dimensions changed in between, the newest log's chunks count: indices of another
    shape are no chunks of the array any more.
    """
    made: set[NodeId] = set()
    moves: dict[NodeId, Move] = {}
    parts: dict[NodeId, list[ChunkIndices]] = {}
    for log in logs:
        for node_id, chunks in log.updated_chunks.items():
            sets = parts.setdefault(node_id, [])
            if len(chunks) and any(len(earlier) and earlier.ndim != chunks.ndim for earlier in sets):
                sets.clear()
            sets.append(chunks)
        for move in log.moved_nodes:
            if move.node_id in made:
                moves.pop(move.node_id, None)
                continue
            first = moves.get(move.node_id, move)
            moves[move.node_id] = Move(first.from_path, move.to_path, first.node_id, first.node_type)
        made.update(log.new_groups, log.new_arrays)
    return TransactionLog(
        id=snapshot_id,
        updated_chunks={node_id: parts[node_id][0].union(*parts[node_id][1:]) for node_id in sorted(parts)},
        moved_nodes=tuple(
            sorted((move for move in moves.values() if move.from_path != move.to_path), key=_by_components)
        ),
        **{name: tuple(sorted({node_id for log in logs for node_id in getattr(log, name)})) for name in _ID_LISTS},
    )


def encode_transaction_log(log: TransactionLog, *, spec_version: int, level: int = 3) -> bytes:
    """Writes a transaction log file; the lists need not be sorted.

    Args:
        log: The changes.
        spec_version: 1 or 2; they differ in the header's byte alone, but for moves, which spec 1 does not know.
        level: zstd's.

    Raises:
        InvalidInputError: moves in spec 1, or more than fits into a file.
    """
    if log.moved_nodes and spec_version < 2:
        raise InvalidInputError("moved nodes cannot be recorded in spec version 1", kind="unsupported-spec-version")
    arrays = sorted(log.updated_chunks.items(), key=lambda item: item[0])
    moves = sorted(log.moved_nodes, key=_by_components)

    plan = BodyPlan()
    vtables = {shape: plan.put(shape.vtable, 2) for shape in (_ROOT_SHAPE, _ARRAY_SHAPE, _CHUNK_SHAPE, _MOVE_SHAPE)}
    root = plan.reserve(_ROOT_SHAPE.size_bytes, 4)
    vectors = [plan.put(_id_vector(getattr(log, name)), 4) for name in _ID_LISTS]
    array_vector = plan.reserve(4 + 4 * len(arrays), 4)
    move_vector = plan.reserve(4 + 4 * len(moves), 4)
    tables = plan.reserve(_ARRAY_SHAPE.size_bytes * len(arrays), 4) + _ARRAY_SHAPE.size_bytes * np.arange(len(arrays))
    layouts = [_ChunksLayout(chunks, plan) for _, chunks in arrays]
    move_layout = _MovesLayout(moves, plan)

    out = plan.build(root)
    head = _ROOT_SHAPE.records(np.array([root]), vtables[_ROOT_SHAPE])
    head["0"] = np.void(bytes(log.id))
    for slot, target in enumerate((*vectors, array_vector, move_vector), start=1):
        head[str(slot)] = target - (root + _ROOT_SHAPE.offsets[slot])
    place_rows(out, np.array([root]), head)
    put_offsets(out, array_vector, tables)
    heads = _ARRAY_SHAPE.records(tables, vtables[_ARRAY_SHAPE])
    heads["0"] = np.frombuffer(b"".join(node_id for node_id, _ in arrays), f"V{NodeId.SIZE}")
    heads["1"] = np.array([layout.vector for layout in layouts], np.int64) - (tables + _ARRAY_SHAPE.offsets[1])
    place_rows(out, tables, heads)
    for layout in layouts:
        layout.write(out, vtables[_CHUNK_SHAPE])
    put_offsets(out, move_vector, move_layout.starts)
    move_layout.write(out, vtables[_MOVE_SHAPE])
    return encode_file(out.data, file_type=FileType.TRANSACTION_LOG, spec_version=spec_version, level=level)


def _id_vector(ids: Iterable[NodeId]) -> bytes:
    ordered = sorted(set(ids))
    return len(ordered).to_bytes(4, "little") + b"".join(ordered)


class _ChunksLayout:
    """Where one array's chunk indices go."""

    __slots__ = ("_chunks", "_starts", "vector")

    def __init__(self, chunks: ChunkIndices, plan: BodyPlan) -> None:
        self._chunks = chunks
        self.vector = plan.reserve(4 + 4 * len(chunks), 4)
        stride = _CHUNK_SHAPE.size_bytes + 4 + 4 * chunks.ndim
        self._starts = plan.reserve(stride * len(chunks), 4) + stride * np.arange(len(chunks), dtype=np.int64)

    def write(self, out: ByteArray, vtable: int) -> None:
        put_offsets(out, self.vector, self._starts)
        records = _CHUNK_SHAPE.records(self._starts, vtable, self._chunks.ndim)
        records["0"] = _CHUNK_SHAPE.size_bytes - _CHUNK_SHAPE.offsets[0]
        for axis, column in enumerate(self._chunks.coords):
            records["index"][:, axis] = column
        place_rows(out, self._starts, records)


class _MovesLayout:
    """Where the moves go: each table is followed by its two paths."""

    __slots__ = ("_from", "_moves", "_to", "starts")

    def __init__(self, moves: Sequence[Move], plan: BodyPlan) -> None:
        self._moves = moves
        self._from = ByteColumn.from_items(move.from_path.encode() for move in moves)
        self._to = ByteColumn.from_items(move.to_path.encode() for move in moves)
        sizes = _MOVE_SHAPE.size_bytes + padded_sizes(self._from, nul=1) + padded_sizes(self._to, nul=1)
        ends = np.cumsum(align_all(sizes, 4))
        self.starts = plan.reserve(int(ends[-1]) if len(ends) else 0, 4) + ends - sizes

    def write(self, out: ByteArray, vtable: int) -> None:
        records = _MOVE_SHAPE.records(self.starts, vtable)
        from_at = self.starts + _MOVE_SHAPE.size_bytes
        to_at = from_at + padded_sizes(self._from, nul=1)
        records["0"] = from_at - (self.starts + _MOVE_SHAPE.offsets[0])
        records["1"] = to_at - (self.starts + _MOVE_SHAPE.offsets[1])
        records["2"] = np.frombuffer(b"".join(move.node_id for move in self._moves), f"V{NodeId.SIZE}")
        records["3"] = [_NODE_TYPES.index(move.node_type) for move in self._moves]
        place_rows(out, self.starts, records)
        put_vectors(out, from_at, self._from)
        put_vectors(out, to_at, self._to)

"""Transaction logs: real ones, everything a log can say, what is refused, and the merge that `amend` writes."""

from dataclasses import replace

import flatbuffers
import numpy as np
import pytest

from icefs.errors import FormatError, InvalidInputError
from icefs.format.chunk_indices import ChunkIndices
from icefs.format.flat.reader import FlatBuffer
from icefs.format.header import FileType, decode_file, encode_file
from icefs.format.ids import NodeId, SnapshotId
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import (
    Move,
    TransactionLog,
    encode_transaction_log,
    merge,
    parse_transaction_log,
)
from tests.property.strategies_refs import sample_indices
from tests.support.fixture_files import fixture_files

NAME = "transactions/X"
SNAPSHOT = SnapshotId(b"snapshot-id.")
IDS = tuple(NodeId(bytes(7) + bytes((number,))) for number in range(1, 9))
MOVES = (
    Move("/x", "/a", IDS[0], NodeType.GROUP),
    Move("/x/ü", "/a/ü", IDS[1], NodeType.ARRAY),
    Move("/b", "/a-b", IDS[2], NodeType.ARRAY),
)


def everything() -> TransactionLog:
    return TransactionLog(
        SNAPSHOT,
        new_groups=IDS[:3],
        new_arrays=IDS[3:4],
        deleted_groups=IDS[4:5],
        deleted_arrays=IDS[5:7],
        updated_arrays=IDS[7:],
        updated_groups=IDS[1:2],
        updated_chunks=sample_indices(),
        moved_nodes=MOVES,
    )


def encode(log: TransactionLog, spec_version: int = 2) -> bytes:
    return encode_transaction_log(log, spec_version=spec_version)


def parse(data: bytes) -> TransactionLog:
    return parse_transaction_log(data, name=NAME)


def parse_body(body: bytes) -> TransactionLog:
    return parse(encode_file(body, file_type=FileType.TRANSACTION_LOG, spec_version=2))


def test_the_fixtures_survive_reading_and_writing() -> None:
    files = fixture_files("transactions")
    num_chunks = 0
    for path in files:
        log = parse_transaction_log(path.read_bytes(), name=path.name)
        assert str(log.id) == path.name
        num_chunks += sum(map(len, log.updated_chunks.values()))
        for spec_version in (1, 2):
            assert parse(encode(log, spec_version)) == log
    assert len(files) > 40
    assert num_chunks > 1000


def test_everything_survives_writing_and_reading() -> None:
    log = everything()
    assert parse(encode(log)) == log
    first = replace(log, moved_nodes=())
    assert parse(encode(first, 1)) == first
    assert parse(encode(TransactionLog(SNAPSHOT))) == TransactionLog(SNAPSHOT)


def test_the_lists_are_sorted_whatever_their_order() -> None:
    log = everything()
    shuffled = replace(
        log,
        new_groups=log.new_groups[::-1] + log.new_groups,
        updated_chunks=dict(reversed(sample_indices().items())),
        moved_nodes=MOVES[::-1],
    )
    assert parse(encode(shuffled)) == log
    assert encode(shuffled) == encode(log)


def test_moves_are_sorted_by_components() -> None:
    """`/a/b` comes before `/a-b`, which the bytes of the paths would order otherwise."""
    assert [move.to_path for move in parse(encode(everything())).moved_nodes] == ["/a", "/a/ü", "/a-b"]


def test_spec_1_knows_no_moves() -> None:
    with pytest.raises(InvalidInputError, match="moved"):
        encode(everything(), 1)


def test_an_empty_vector_of_moves_is_written() -> None:
    """As the official writer does, in spec 1 too; a file without the vector has no moves either."""
    for spec_version in (1, 2):
        data = encode(TransactionLog(SNAPSHOT), spec_version)
        version, body = decode_file(data, file_type=FileType.TRANSACTION_LOG, name=NAME)
        root = FlatBuffer(body, name=NAME).root()
        assert version == spec_version
        assert all(root.has(slot) for slot in range(9))


def test_chunk_indices_of_an_array() -> None:
    chunks = ChunkIndices.from_indices(2, [(5, 0), (1, 7), (1, 2), (5, 0)])
    found = parse(encode(TransactionLog(SNAPSHOT, updated_chunks={IDS[0]: chunks}))).updated_chunks[IDS[0]]
    assert list(found) == [(1, 2), (1, 7), (5, 0)]
    assert (1, 7) in found
    assert (1, 3) not in found
    assert (1,) not in found
    assert "x" not in found
    assert found.bounding_box() == ((1, 6), (0, 8))
    assert repr(found) == "ChunkIndices(2 dimensions, 3 chunks)"


# Merging


def test_merging_joins_lists_and_chunks() -> None:
    """Plain unions: a node that one commit made and the next deleted is in both lists."""
    one = TransactionLog(
        SNAPSHOT, new_groups=IDS[:2], updated_chunks={IDS[0]: ChunkIndices.from_indices(1, [(1,), (2,)])}
    )
    two = TransactionLog(
        SNAPSHOT,
        new_groups=IDS[1:3],
        deleted_groups=IDS[:1],
        updated_chunks={
            IDS[3]: ChunkIndices.from_indices(2, [(1, 1)]),
            IDS[0]: ChunkIndices.from_indices(1, [(2,), (0,)]),
        },
    )
    other = SnapshotId(b"another.....")
    merged = merge(other, [one, two])
    assert merged == TransactionLog(
        other,
        new_groups=IDS[:3],
        deleted_groups=IDS[:1],
        updated_chunks={
            IDS[0]: ChunkIndices.from_indices(1, [(0,), (1,), (2,)]),
            IDS[3]: ChunkIndices.from_indices(2, [(1, 1)]),
        },
    )
    assert parse(encode(merged)) == merged
    assert merge(other, []) == TransactionLog(other)
    log = everything()
    assert merge(SNAPSHOT, [log]) == log
    assert merge(SNAPSHOT, [log, replace(log, moved_nodes=())]) == log


def test_merging_chains_moves() -> None:
    def log(*moves: tuple[str, str, int]) -> TransactionLog:
        found = tuple(Move(old, new, IDS[number], NodeType.GROUP) for old, new, number in moves)
        return TransactionLog(SNAPSHOT, moved_nodes=found)

    merged = merge(
        SNAPSHOT,
        [
            log(("/a", "/b", 0), ("/x", "/y", 1), ("/z", "/q", 2)),
            log(("/b", "/c", 0), ("/y", "/x", 1)),
            log(("/c", "/a/deep", 0)),
        ],
    )
    assert merged.moved_nodes == (
        Move("/a", "/a/deep", IDS[0], NodeType.GROUP),
        Move("/z", "/q", IDS[2], NodeType.GROUP),
    )


def test_what_was_made_on_the_way_has_not_moved() -> None:
    made = TransactionLog(SNAPSHOT, new_groups=IDS[:1])
    moved = TransactionLog(SNAPSHOT, moved_nodes=(Move("/a", "/b", IDS[0], NodeType.GROUP),))
    again = TransactionLog(SNAPSHOT, moved_nodes=(Move("/b", "/c", IDS[0], NodeType.GROUP),))
    both = replace(made, moved_nodes=moved.moved_nodes)  # as the official library amends
    for logs in ([made, moved], [made, moved, again], [both, again]):
        assert merge(SNAPSHOT, logs) == made
    assert merge(SNAPSHOT, [moved, again]).moved_nodes == (Move("/a", "/c", IDS[0], NodeType.GROUP),)


def test_of_chunks_of_different_dimensions_the_newest_count() -> None:
    logs = [
        TransactionLog(SNAPSHOT, updated_chunks={IDS[0]: ChunkIndices.from_indices(ndim, [(0,) * ndim])})
        for ndim in (1, 2)
    ]
    assert merge(SNAPSHOT, logs) == logs[1]
    assert merge(SNAPSHOT, [*logs, logs[0]]) == logs[0]
    empty = TransactionLog(SNAPSHOT, updated_chunks={IDS[0]: ChunkIndices([])})
    assert merge(SNAPSHOT, [empty, logs[1], empty]) == logs[1]


# What is refused


def make(move: dict[int, object] | None = None, chunks: list[list[int]] | None = None, missing: int = -1) -> bytes:
    """Builds a log with the flatbuffers runtime, with one move (of these slots) and one array (of these chunks)."""
    builder = flatbuffers.Builder(64)
    tables = []
    for coords in chunks or []:
        vector = builder.CreateNumpyVector(np.array(coords, np.uint32))
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, vector, 0)
        tables.append(builder.EndObject())
    vector = _offsets(builder, tables)
    builder.StartObject(2)
    _struct(builder, 0, IDS[0])
    builder.PrependUOffsetTRelativeSlot(1, vector, 0)
    array = builder.EndObject()
    arrays = _offsets(builder, [array] if chunks is not None else [])
    moves = []
    if move is not None:
        texts = {slot: builder.CreateByteVector(value) for slot, value in move.items() if slot in (0, 1)}
        builder.StartObject(4)
        for slot, offset in texts.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        if 2 in move:
            _struct(builder, 2, move[2])
        builder.PrependUint8Slot(3, move.get(3, 0), 0)
        moves.append(builder.EndObject())
    moved = _offsets(builder, moves)
    nothing = _offsets(builder, [])
    builder.StartObject(10)
    if missing != 0:
        _struct(builder, 0, SNAPSHOT)
    for slot in range(1, 7):
        if slot != missing:
            builder.PrependUOffsetTRelativeSlot(slot, nothing, 0)
    if missing != 7:
        builder.PrependUOffsetTRelativeSlot(7, arrays, 0)
    if missing != 8:
        builder.PrependUOffsetTRelativeSlot(8, moved, 0)
    builder.Finish(builder.EndObject())
    return bytes(builder.Output())


def _offsets(builder: flatbuffers.Builder, tables: list[int]) -> int:
    builder.StartVector(4, len(tables), 4)
    for offset in reversed(tables):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _struct(builder: flatbuffers.Builder, slot: int, raw: bytes) -> None:
    builder.Prep(1, len(raw))
    for byte in reversed(raw):
        builder.PrependByte(byte)
    builder.PrependStructSlot(slot, builder.Offset(), 0)


GOOD_MOVE: dict[int, object] = {0: b"/a", 1: b"/b", 2: IDS[0], 3: 1}


def test_a_log_of_another_writer() -> None:
    log = parse_body(make(GOOD_MOVE, [[1, 2], [3, 4]]))
    assert log.moved_nodes == (Move("/a", "/b", IDS[0], NodeType.ARRAY),)
    assert list(log.updated_chunks[IDS[0]]) == [(1, 2), (3, 4)]
    assert parse_body(make(missing=8)) == TransactionLog(SNAPSHOT)


@pytest.mark.parametrize("slot", range(8))
def test_required_fields(slot: int) -> None:
    with pytest.raises(FormatError, match="required field"):
        parse_body(make(missing=slot))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({0: None}, "path"),
        ({1: None}, "path"),
        ({2: None}, "node id"),
        ({3: 2}, "neither a group nor an array"),
        ({0: b"a"}, "path"),
        ({0: b""}, "path"),
        ({1: b"/a/"}, "path"),
        ({1: b"/a/../b"}, "path"),
        ({1: b"/\xff"}, "UTF-8"),
    ],
)
def test_bad_moves(change: dict[int, object], reason: str) -> None:
    move = {slot: value for slot, value in {**GOOD_MOVE, **change}.items() if value is not None}
    with pytest.raises(FormatError, match=reason) as caught:
        parse_body(make(move))
    assert caught.value.facts["file"] == NAME


@pytest.mark.parametrize("chunks", [[[2], [1]], [[1], [1]], [[1], [1, 2]], [[], []]])
def test_bad_chunk_indices(chunks: list[list[int]]) -> None:
    with pytest.raises(FormatError, match=r"sorted|number of dimensions"):
        parse_body(make(chunks=chunks))


def test_node_ids_out_of_order_in_a_list_are_no_fault() -> None:
    data = encode(TransactionLog(SNAPSHOT, new_groups=IDS[:2]))
    _, body = decode_file(data, file_type=FileType.TRANSACTION_LOG, name=NAME)
    swapped = body.replace(IDS[0] + IDS[1], IDS[1] + IDS[0])
    assert swapped != body
    assert parse_body(swapped).new_groups == IDS[:2]

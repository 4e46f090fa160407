"""Chunk references and chunk indices, against dictionaries and sets; and through files and back."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from icefs.errors import InvalidInputError
from icefs.format.chunk_indices import ChunkIndices, check_coords, pack_keys
from icefs.format.flat.columns import ByteColumn, place
from icefs.format.ids import ManifestId, NodeId, SnapshotId
from icefs.format.manifest.locations import LocationCompression
from icefs.format.manifest.reader import parse_manifest
from icefs.format.manifest.refs import ArrayRefs
from icefs.format.manifest.writer import encode_manifest
from icefs.format.snapshot.nodes import NodeType
from icefs.format.transaction_log import Move, TransactionLog, encode_transaction_log, parse_transaction_log
from tests.property.strategies_refs import ANY_COORDINATE, NODE_IDS, SMALL, Index, as_map, index_maps, index_sets

NODE = NodeId(b"node-id.")
DIMENSIONS = st.integers(0, 4)
COMPRESSION = st.sampled_from([None, LocationCompression(min_num_chunks=1), LocationCompression(1, 4, 256)])


def any_indices(ndim: int) -> st.SearchStrategy[set[Index]]:
    return st.one_of(index_sets(ndim), index_sets(ndim, ANY_COORDINATE))


# Files


@given(st.data())
def test_manifests_survive_writing_and_reading(data: st.DataObject) -> None:
    ids = data.draw(st.lists(NODE_IDS, min_size=1, max_size=4, unique=True))
    arrays = []
    for node_id in ids:
        ndim = data.draw(DIMENSIONS)
        model = data.draw(index_maps(ndim, ANY_COORDINATE))
        arrays.append((ArrayRefs.from_refs(node_id, ndim, model.items()), model))
    chosen = [(refs, model) for refs, model in arrays if model]
    if not chosen:
        return
    spec_version = data.draw(st.sampled_from([1, 2]))
    encoded = encode_manifest(
        ManifestId(b"manifest-id."),
        [refs for refs, _ in arrays],
        spec_version=spec_version,
        level=1,
        location_compression=data.draw(COMPRESSION),
    )
    manifest = parse_manifest(encoded, name="x")
    assert set(manifest.arrays) == {refs.node_id for refs, _ in chosen}
    assert manifest.num_chunk_refs == sum(len(model) for _, model in chosen)
    for refs, model in chosen:
        assert manifest.arrays[refs.node_id] == refs
        assert as_map(manifest.arrays[refs.node_id]) == model


@given(st.data())
def test_transaction_logs_survive_writing_and_reading(data: st.DataObject) -> None:
    def ids() -> tuple[NodeId, ...]:
        return tuple(sorted(data.draw(st.sets(NODE_IDS, max_size=3))))

    chunks = {}
    for node_id in ids():
        ndim = data.draw(DIMENSIONS)
        chunks[node_id] = ChunkIndices.from_indices(ndim, data.draw(any_indices(ndim)))
    path = st.lists(st.text("aü-", min_size=1, max_size=3), max_size=3).map(lambda parts: "/" + "/".join(parts))
    moves = data.draw(
        st.lists(st.builds(Move, path, path, NODE_IDS, st.sampled_from(NodeType)), unique_by=lambda m: m.to_path)
    )
    moves.sort(key=lambda move: move.to_path.split("/"))
    log = TransactionLog(SnapshotId(b"snapshot-id."), ids(), ids(), ids(), ids(), ids(), ids(), chunks, tuple(moves))
    assert parse_transaction_log(encode_transaction_log(log, spec_version=2, level=1), name="x") == log


# References


@given(st.data())
def test_references_are_a_sorted_map(data: st.DataObject) -> None:
    ndim = data.draw(DIMENSIONS)
    model = data.draw(index_maps(ndim))
    refs = ArrayRefs.from_refs(NODE, ndim, model.items())
    assert len(refs) == len(model)
    assert list(as_map(refs)) == sorted(model)
    assert as_map(refs) == model
    assert refs.lengths.tolist() == [model[index].length_bytes for index in sorted(model)]
    assert refs == ArrayRefs.from_refs(NODE, ndim, reversed(model.items()))
    for index in data.draw(index_sets(ndim)) | set(model):
        row = refs.find(index)
        assert (row >= 0) == (index in model)
        if row >= 0:
            assert refs.ref(row) == model[index]


@given(st.data())
def test_selecting(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 3))
    model = data.draw(index_maps(ndim))
    refs = ArrayRefs.from_refs(NODE, ndim, model.items())
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(refs), max_size=len(refs))), np.bool_)
    expected = {index: ref for (index, ref), chosen in zip(as_map(refs).items(), mask, strict=True) if chosen}
    assert as_map(refs.select(mask)) == expected
    assert refs.select(np.flatnonzero(mask)) == refs.select(mask)
    assert refs.select(mask) == ArrayRefs.from_refs(NODE, ndim, expected.items())


@given(st.data())
def test_merging_is_updating_a_dictionary(data: st.DataObject) -> None:
    ndim = data.draw(DIMENSIONS)
    coordinate = data.draw(st.sampled_from([SMALL, ANY_COORDINATE]))
    base, updates = data.draw(index_maps(ndim, coordinate)), data.draw(index_maps(ndim, coordinate))
    deleted = data.draw(st.sets(st.sampled_from(sorted(base) or [(0,) * ndim]))) | data.draw(index_sets(ndim))
    merged = ArrayRefs.merge(
        ArrayRefs.from_refs(NODE, ndim, base.items()) if base or data.draw(st.booleans()) else None,
        ArrayRefs.from_refs(NODE, ndim, updates.items()),
        ChunkIndices.from_indices(ndim, deleted) if deleted or data.draw(st.booleans()) else None,
    )
    expected = {index: ref for index, ref in base.items() if index not in deleted} | updates
    assert merged == ArrayRefs.from_refs(NODE, ndim, expected.items())
    assert as_map(merged) == expected


@given(st.data())
def test_joining_parts(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 3))
    model = data.draw(index_maps(ndim))
    parts: list[dict] = [{}, {}, {}]
    for index, ref in model.items():
        parts[data.draw(st.integers(0, 2))][index] = ref
    joined = ArrayRefs.concat([ArrayRefs.from_refs(NODE, ndim, part.items()) for part in parts])
    assert joined == ArrayRefs.from_refs(NODE, ndim, model.items())


# Indices


@given(st.data())
def test_indices_are_a_sorted_set(data: st.DataObject) -> None:
    ndim = data.draw(DIMENSIONS)
    model = data.draw(any_indices(ndim))
    indices = ChunkIndices.from_indices(ndim, model)
    assert list(indices) == sorted(model)
    assert [tuple(row) for row in indices.rows().tolist()] == sorted(model)
    assert [indices.index(row) for row in range(len(indices))] == sorted(model)
    if model:
        assert indices.bounding_box() == tuple((min(axis), max(axis) + 1) for axis in zip(*model, strict=True))
    for index in data.draw(any_indices(ndim)) | model:
        assert (index in indices) == (index in model)


@given(st.data())
def test_prefixes_and_children(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 3))
    model = sorted(data.draw(any_indices(ndim)))
    indices = ChunkIndices.from_indices(ndim, model)
    prefixes = {index[:depth] for index in model for depth in range(ndim + 1)} | {(9,), (2**40,), (-1,), ()}
    for prefix in prefixes:
        below = [row for row, index in enumerate(model) if index[: len(prefix)] == prefix]
        start, end = indices.range(prefix)
        assert list(range(start, end)) == below
        if len(prefix) < ndim:
            children, bounds = indices.children(prefix)
            assert children.tolist() == sorted({model[row][len(prefix)] for row in below})
            assert len(bounds) == len(children) + 1
            for child, first, last in zip(children.tolist(), bounds[:-1], bounds[1:], strict=True):
                assert indices.range((*prefix, child)) == (first, last)


@given(st.data())
def test_unions(data: st.DataObject) -> None:
    ndim = data.draw(DIMENSIONS)
    models = data.draw(st.lists(any_indices(ndim), min_size=1, max_size=3))
    first, *others = (ChunkIndices.from_indices(ndim, model) for model in models)
    assert list(first.union(*others)) == sorted(set().union(*models))


@given(st.data())
def test_columns_in_any_order(data: st.DataObject) -> None:
    ndim = data.draw(st.integers(1, 4))
    model = data.draw(any_indices(ndim))
    shuffled = data.draw(st.permutations(sorted(model)))
    columns = [np.array([index[axis] for index in shuffled], np.int64) for axis in range(ndim)]
    assert ChunkIndices.from_coords(columns) == ChunkIndices.from_indices(ndim, model)
    if model:
        twice = [np.append(column, column[:1]) for column in columns]
        with pytest.raises(InvalidInputError, match="twice"):
            ChunkIndices.from_coords(twice)


@given(st.data())
def test_keys_order_as_indices_do(data: st.DataObject) -> None:
    """Also where the indices together need more than 64 bits."""
    ndim = data.draw(st.integers(1, 5))
    index = st.tuples(*[ANY_COORDINATE] * ndim)
    sets = data.draw(st.lists(st.lists(index, max_size=6), min_size=1, max_size=3))
    keys = pack_keys(
        *[check_coords([np.array([i[axis] for i in part], np.int64) for axis in range(ndim)]) for part in sets]
    )
    assert [len(some) for some in keys] == [len(part) for part in sets]
    pairs = [
        (key, index)
        for some, part in zip(keys, sets, strict=True)
        for key, index in zip(some.tolist(), part, strict=True)
    ]
    for key, some_index in pairs:
        for other_key, other_index in pairs:
            assert (key < other_key) == (some_index < other_index)


# Columns of byte strings

byte_lists = st.lists(st.one_of(st.binary(max_size=5), st.binary(min_size=3, max_size=3)), max_size=12)


@given(byte_lists, st.data())
def test_byte_columns_are_lists_of_bytes(items: list[bytes], data: st.DataObject) -> None:
    column = ByteColumn.from_items(items)
    assert list(column) == items == [column[row] for row in range(len(items))]
    assert column.lengths.tolist() == list(map(len, items))
    rows = data.draw(st.lists(st.sampled_from(range(len(items))))) if items else []
    taken = column.take(np.array(rows, np.int64))
    assert list(taken) == [items[row] for row in rows]
    assert taken == ByteColumn.from_items(items[row] for row in rows)
    start = data.draw(st.integers(0, len(items)))
    end = data.draw(st.integers(start, len(items)))
    assert column.slice(start, end) == ByteColumn.from_items(items[start:end])
    assert list(ByteColumn.concat([column, taken, column])) == [*items, *taken, *items]


@given(byte_lists)
def test_byte_columns_are_placed_where_they_should_be(items: list[bytes]) -> None:
    column = ByteColumn.from_items(items)
    positions = np.array([7 * row for row in range(len(items))], np.int64)
    out = np.zeros(7 * len(items) + 5, np.uint8)
    column.place(out, positions)
    assert out.tobytes() == b"".join(item.ljust(7, b"\0") for item in items) + bytes(5)
    again = np.zeros_like(out)
    place(again, positions, column.blob, column.bounds[:-1], column.lengths)
    assert (again == out).all()


@given(
    st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3).map(str.encode), st.sampled_from([b"\xc3", b"\xbc"])))
)
def test_whether_each_is_utf8(items: list[bytes]) -> None:
    def is_utf8(item: bytes) -> bool:
        try:
            item.decode()
        except UnicodeDecodeError:
            return False
        return True

    assert ByteColumn.from_items(items).is_utf8() == all(map(is_utf8, items))


def test_strings_of_very_different_lengths() -> None:
    items = [bytes((number % 251,)) * size for number, size in enumerate((70_000, 0, 3, 70_000, 3, 65_536, 1))]
    column = ByteColumn.from_items(items)
    order = np.array([6, 5, 4, 3, 2, 1, 0])
    assert list(column.take(order)) == items[::-1]
